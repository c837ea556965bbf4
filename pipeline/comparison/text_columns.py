"""Numbers and aligned columns of text."""

from typing import Any

import numpy as np


def number(value: float) -> str:
    """Three decimals; a dash where there is no value."""
    return f"{value:.3f}" if np.isfinite(value) else "-"


def with_interval(row: Any, name: str) -> str:
    """A value of a row, and the ends of its interval from ``<name>_low`` and ``<name>_high``."""
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def columns(rows: list[dict[str, Any]], left: int = 1) -> str:
    """Rows of the same keys as aligned columns under their names; the first ``left`` hold words."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[str(row.get(name, "-")) for name in names] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )
