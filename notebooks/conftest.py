"""Notebooks run as tests (``make test``); together they have four minutes on an idle machine."""

import pytest

LONGEST = 240.0
"""Seconds after which a notebook hangs; how fast it is, a busy machine cannot say."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stop a notebook that hangs."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(LONGEST))
