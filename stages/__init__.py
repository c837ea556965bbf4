"""The swappable stages and their contracts.

Import it as ``cyclades.stages``; the bare name belongs to other packages.
"""

if __name__ == "stages":
    raise ImportError(
        "import this package as 'cyclades.stages' (install it with 'pip install -e .')"
    )
