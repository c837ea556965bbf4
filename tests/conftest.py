"""Fixtures and rules for all tests."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRED = {name.strip() for name in os.environ.get("CYCLADES_REQUIRE", "").split(",")} - {""}


def unavailable(tool: str, reason: str) -> NoReturn:
    """Skip a test for want of a tool; fail it where CYCLADES_REQUIRE names the tool."""
    if tool in REQUIRED:
        pytest.fail(f"CYCLADES_REQUIRE names {tool!r}, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images, from CYCLADES_DATA or beside the checkout; skips where absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CYCLADES_DATA", beside))
    if not folder.is_dir():
        unavailable("data", f"there are no real images at {folder}")
    return folder
