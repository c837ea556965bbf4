"""Drives the stages: chain, configuration, command line, products.

Import it as ``cyclades.pipeline``; the bare name belongs to other packages.
"""

if __name__ == "pipeline":
    raise ImportError(
        "import this package as 'cyclades.pipeline' (install it with 'pip install -e .')"
    )
