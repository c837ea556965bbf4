"""The user's cache: what can be fetched or computed again."""

import os
from pathlib import Path


def user_cache() -> Path:
    """Folder of cyclades in the user's cache (``XDG_CACHE_HOME``); may not exist yet."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "cyclades"
