"""How far catalogues agree with each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.field import ComparedField
from cyclades.pipeline.comparison.intervals import median
from cyclades.pipeline.comparison.match import match
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats, Integers

if TYPE_CHECKING:
    from astropy.table import Table


def agreement_table(fields: Sequence[ComparedField]) -> "Table":
    """Return how far every two catalogues agree.

    Returns
    -------
    astropy.table.Table
        ``first``, ``second``, their rows, ``matched``, the shares of both that are matched (of
        all rows and of those with S/N of 5 and 10 and above), the median separation (arcsec) and
        the median ratios of peak and total flux, second over first.
    """
    from astropy.table import Table

    rows = []
    for one, other in combinations(fields[0].catalogues, 2):
        parts = [Agreement.of(f.detections[one], f.detections[other], f.beam) for f in fields]
        rows.append({"first": one, "second": other, **Agreement.joined(parts).row()})
    return Table(rows) if rows else Table()


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two catalogues and which of their rows are matched."""

    tables: tuple[ComparisonTable, ComparisonTable]
    matched: tuple[Integers, Integers]
    separation: Floats

    @classmethod
    def of(cls, first: ComparisonTable, second: ComparisonTable, beam: float) -> "Agreement":
        """Match two catalogues of one field."""
        pairs = match(first, second, beam=beam)
        rows = (pairs.first_rows, pairs.second_rows)
        return cls((first, second), rows, pairs.separation_arcsec)

    @classmethod
    def joined(cls, parts: "Sequence[Agreement]") -> "Agreement":
        """Pool fields."""
        tables, matched = [], []
        for k in (0, 1):
            starts = np.cumsum([0, *(len(part.tables[k]) for part in parts)])
            moved = [part.matched[k] + s for part, s in zip(parts, starts, strict=False)]
            tables.append(ComparisonTable.concatenate([part.tables[k] for part in parts]))
            matched.append(np.concatenate(moved))
        separation = np.concatenate([part.separation for part in parts])
        return cls((tables[0], tables[1]), (matched[0], matched[1]), separation)

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        first, second = self.tables
        i, j = self.matched
        made: dict[str, Any] = {"first_rows": len(first), "second_rows": len(second)}
        made["matched"] = len(i)
        for label, table, rows in (("first", first, i), ("second", second, j)):
            found = np.zeros(len(table), bool)
            found[rows] = True
            made[f"{label}_share"] = float(np.mean(found)) if len(found) else np.nan
            for cut in (5, 10):
                strong = table["snr"] >= cut
                made[f"{label}_share_snr{cut}"] = (
                    float(np.mean(found[strong])) if strong.any() else np.nan
                )
        made["separation"] = float(median(self.separation))
        with np.errstate(divide="ignore", invalid="ignore"):
            for name in ("peak_flux", "total_flux"):
                ratio = second[name][j] / first[name][i]
                made[f"{name}_ratio"] = float(median(ratio[np.isfinite(ratio)]))
        return made
