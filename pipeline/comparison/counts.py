"""Survey products: visibility area, corrections, and Euclid-normalised source counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.pipeline.comparison.intervals import LEVEL
from cyclades.pipeline.comparison.metrics import by_bin
from cyclades.pipeline.comparison.outcome import Outcome
from cyclades.stages.core.geometry import Floats, determinant, sky_jacobian

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS

DEGREES2_PER_STERADIAN = float(np.degrees(1.0) ** 2)
_SAMPLES = 1_000_000


@dataclass(frozen=True, eq=False)
class VisibilityArea:
    """How much sky an image or survey covers down to which noise.

    Parameters
    ----------
    rms : ndarray, shape (n,)
        Ascending, in the unit of the map.
    area : ndarray, shape (n,)
        Sky with a noise of at most `rms`, in square degrees.
    """

    rms: Floats
    area: Floats

    @classmethod
    def from_map(cls, rms: NDArray[np.floating], wcs: "WCS") -> "VisibilityArea":
        """Measure it on an rms map.

        Parameters
        ----------
        rms : ndarray, shape (ny, nx)
            NaN where blank. Maps of more than a million pixels are sampled on a regular grid.
        wcs : astropy.wcs.WCS
            Gives the area of every pixel on the sky.
        """
        ny, nx = rms.shape
        step = max(1, int(np.ceil(np.sqrt(ny * nx / _SAMPLES))))
        # the middle of each cell of the grid stands for the cell
        y, x = np.mgrid[min(step // 2, ny - 1) : ny : step, min(step // 2, nx - 1) : nx : step]
        values = np.asarray(rms[y, x], float).ravel()
        good = np.isfinite(values)
        areas = np.abs(determinant(sky_jacobian(wcs, x.ravel()[good], y.ravel()[good])))
        weight = float(np.isfinite(rms).sum()) / max(1.0, float(good.sum()))
        return cls.of(values[good], areas * weight)

    @classmethod
    def pooled(cls, parts: Sequence["VisibilityArea"]) -> "VisibilityArea":
        """Join fields that do not overlap."""
        return cls.of(
            np.concatenate([part.rms for part in parts]),
            np.concatenate([np.diff(part.area, prepend=0.0) for part in parts]),
        )

    @classmethod
    def of(cls, rms: Floats, areas: Floats) -> "VisibilityArea":
        """Put pieces of sky, of `areas` square degrees with a noise of `rms`, in order."""
        order = np.argsort(rms, kind="stable")
        return cls(rms[order], np.cumsum(areas[order]))

    @property
    def total(self) -> float:
        """All the sky covered, in square degrees."""
        return float(self.area[-1]) if len(self.area) else 0.0

    def within(self, rms: ArrayLike) -> Floats:
        """Area with a noise of at most the given, in square degrees."""
        at = np.searchsorted(self.rms, np.asarray(rms, float), side="right")
        return np.concatenate([[0.0], self.area])[at]

    def for_peak(self, peak: ArrayLike, threshold: float) -> Floats:
        """Area in which a peak exceeds `threshold` times the noise, in square degrees."""
        return self.within(np.asarray(peak, float) / threshold)

    def table(self, points: int = 100) -> "Table":
        """The curve at equal steps of area: ``rms`` and ``area`` (square degrees)."""
        from astropy.table import Table

        if not len(self.rms):
            return Table({"rms": np.zeros(0), "area": np.zeros(0)})
        area = np.linspace(0.0, self.total, points + 1)[1:]
        at = np.minimum(np.searchsorted(self.area, area), len(self.rms) - 1)
        return Table({"rms": self.rms[at], "area": area}, units={"area": "deg2"})


def correction_table(outcome: Outcome, edges: Sequence[float]) -> "Table":
    """Completeness and reliability in bins of total flux, and the factor that counts need.

    A catalogue's number in a bin times ``correction = reliability / completeness`` estimates the
    true number. True sources are sorted by true flux and rows by their own, so that the factor
    also corrects, on average, for flux errors that carry sources across bins (Eddington bias), as
    long as the simulated counts resemble the real ones.

    Parameters
    ----------
    outcome : Outcome
        Of a simulation or an injection; pool several with `Outcome.concatenate`.
    edges : sequence of float
        Bins of total flux in Jy.

    Returns
    -------
    astropy.table.Table
        Columns of `by_bin`, ``correction`` and its one-sigma ``correction_err``; NaN where
        nothing was to be found or nothing was.
    """
    table = by_bin(outcome, edges, "total_flux")
    values = {
        name: tuple(np.asarray(table[f"{name}{suffix}"]) for suffix in ("", "_low", "_high"))
        for name in ("completeness", "reliability")
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = values["reliability"][0] / values["completeness"][0]
        relative = [0.5 * (high - low) / mid for mid, low, high in values.values()]
        error = correction * np.hypot(*relative)
    unknown = ~np.isfinite(correction)
    table["correction"] = np.where(unknown, np.nan, correction)
    table["correction_err"] = np.where(unknown, np.nan, error)
    return table


def poisson_interval(number: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Central confidence interval of a Poisson mean (Garwood 1936; Gehrels 1986, ApJ 303, 336).

    Parameters
    ----------
    number : array_like
        Counts, or effective counts of weighted sources.
    level : float
        Coverage.
    """
    from scipy.stats import chi2

    n = np.asarray(number, float)
    tail = 0.5 * (1.0 - level)
    low = np.where(n > 0, 0.5 * chi2.ppf(tail, 2.0 * np.maximum(n, 1e-9)), 0.0)
    return low, np.asarray(0.5 * chi2.ppf(1.0 - tail, 2.0 * (n + 1.0)))


def differential_counts(
    total_flux: ArrayLike,
    peak_flux: ArrayLike,
    area: VisibilityArea,
    edges: Sequence[float],
    *,
    threshold: float,
    correction: "Table | None" = None,
) -> "Table":
    """Euclid-normalised differential counts ``S^2.5 dN/dS``.

    Every source counts ``1 / area`` in which its peak exceeds the threshold. A correction table
    must then be that of sources which exceed the threshold where they lie, or the area be the
    total one: visibility must not be corrected twice.

    Parameters
    ----------
    total_flux, peak_flux : array_like, shape (n,)
        Jy and Jy per beam, of sources; NaN rows are left out. An infinite peak is seen
        everywhere.
    area : VisibilityArea
    edges : sequence of float
        Bins of total flux in Jy.
    threshold : float
        Peak S/N of the faintest sources.
    correction : Table, optional
        Of `correction_table` with the same edges.

    Returns
    -------
    astropy.table.Table
        One row a bin: ``flux_low``, ``flux_high``, ``flux`` (geometric mean of the edges, Jy),
        ``number``, ``effective_area`` (square degrees), ``counts`` (Jy^1.5 sr^-1), and
        ``counts_low``, ``counts_high``: Poisson errors of the effective number, and those of the
        correction in quadrature. Empty bins have zero counts and an upper limit, NaN where no
        source of the bin could have been seen.
    """
    from astropy.table import Table

    limits = np.asarray(edges, float)
    flux, peak = np.asarray(total_flux, float), np.asarray(peak_flux, float)
    visible = area.for_peak(peak, threshold)
    bins = np.searchsorted(limits, flux, side="right") - 1
    use = np.isfinite(flux) & ~np.isnan(peak) & (visible > 0)
    use &= (bins >= 0) & (bins < len(limits) - 1)
    bins, weights = bins[use], DEGREES2_PER_STERADIAN / visible[use]
    size = len(limits) - 1
    number = np.bincount(bins, minlength=size)
    density = np.bincount(bins, weights, size)
    squares = np.bincount(bins, weights**2, size)
    centre = np.sqrt(limits[:-1] * limits[1:])
    whole = DEGREES2_PER_STERADIAN / np.maximum(area.for_peak(centre, threshold), 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(number > 0, density**2 / squares, 0.0)
        # an empty bin's limit is that of one source of its flux
        unit = np.where(number > 0, density / np.where(number > 0, effective, 1.0), whole)
    low, high = (unit * bound for bound in poisson_interval(effective))
    factor, factor_err = np.ones(size), np.zeros(size)
    if correction is not None:
        factor = np.asarray(correction["correction"], float)
        factor_err = np.asarray(correction["correction_err"], float)
    scale = centre**2.5 / np.diff(limits)
    below = np.hypot((density - low) * factor, density * factor_err)
    above = np.hypot((high - density) * factor, density * factor_err)
    unseen = (number == 0) & (area.for_peak(centre, threshold) <= 0)
    scale = np.where(unseen, np.nan, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_area = DEGREES2_PER_STERADIAN * number / density
    return Table(
        {
            "flux_low": limits[:-1],
            "flux_high": limits[1:],
            "flux": centre,
            "number": number,
            "effective_area": np.where(number > 0, mean_area, np.nan),
            "counts": scale * density * factor,
            "counts_low": scale * np.maximum(density * factor - below, 0.0),
            "counts_high": scale * (density * factor + above),
        },
        units={
            "flux_low": "Jy",
            "flux_high": "Jy",
            "flux": "Jy",
            "effective_area": "deg2",
            "counts": "Jy1.5 / sr",
            "counts_low": "Jy1.5 / sr",
            "counts_high": "Jy1.5 / sr",
        },
    )
