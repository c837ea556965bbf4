"""The options of other source finders in our terms, for ``cyclades run --like``."""
