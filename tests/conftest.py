"""Fixtures and rules for all tests."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

# how long an example takes says something of the machine, and nothing of the code
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _own_logging() -> None:
    """Undo what a command that ran in this process before did to the log."""
    logging.getLogger("cyclades").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


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


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium driven by playwright; skips where either is not installed."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        unavailable("browser", "chromium is not installed")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        unavailable("browser", "the package playwright is not installed")
    quiet = ("background-networking", "component-update", "sync", "gpu")
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=options)
        yield made
        made.close()
