"""Notebooks run as tests (``make test``); together they have four minutes."""

import pytest

BUDGET = 240.0
"""Seconds for all notebooks, an equal share for each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stop a notebook that takes more than its share."""
    notebooks = [item for item in items if item.path.suffix == ".ipynb"]
    for item in notebooks:
        item.add_marker(pytest.mark.timeout(BUDGET / len(notebooks)))
