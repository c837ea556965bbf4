"""The `sep` detector."""

from collections.abc import Callable

import deblending_cases as cases
import pytest

CHECKS = [value for name, value in vars(cases).items() if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sep(check: Callable[[str], None]) -> None:
    check("sep")
