"""``python -m cyclades`` is the command line."""

from cyclades.pipeline.cli import main

if __name__ == "__main__":
    main()
