"""How deep a survey of overlapping fields is, and the counts of its sources."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cyclades.pipeline.comparison.counts import VisibilityArea, differential_counts
from cyclades.pipeline.comparison.intervals import wilson
from cyclades.pipeline.comparison.match import unit_vectors
from cyclades.pipeline.survey.facts import SNR_EDGES
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.stages.core.geometry import Floats

if TYPE_CHECKING:
    from astropy.table import QTable, Table

    from cyclades.stages.core.catalogue import Catalogue

BINS_A_DECADE = 5
FEWEST = 20
"""Injected sources, or islands, a bin needs to correct anything."""


def survey_area(
    grids: Sequence[NoiseGrid], neighbours: Sequence[Sequence[int]]
) -> tuple[VisibilityArea, VisibilityArea]:
    """Return the sky covered against noise, and against the faintest peak that is looked for.

    Every piece of sky counts once, with the field that is deepest there.

    Parameters
    ----------
    grids : sequence of NoiseGrid
    neighbours : sequence of sequences of int
        Fields that may overlap each field.
    """
    rms, limit, area = [], [], []
    for number, grid in enumerate(grids):
        cells = grid.cells
        mine = grid.limit * cells.rms
        owned = np.ones(len(mine), bool)
        directions = unit_vectors(cells.ra, cells.dec)
        for other in neighbours[number]:
            rows, noise = grids[other].toward(directions)
            there = grids[other].limit * noise
            with np.errstate(invalid="ignore"):
                deeper = (there < mine[rows]) | ((there == mine[rows]) & (other < number))
            owned[rows[deeper]] = False
        rms.append(cells.rms[owned])
        limit.append(mine[owned])
        area.append(cells.area[owned])
    joined = [np.concatenate(parts) if parts else np.zeros(0) for parts in (rms, limit, area)]
    return VisibilityArea.of(joined[0], joined[2]), VisibilityArea.of(joined[1], joined[2])


class Sources(NamedTuple):
    """Sources of a survey as they count."""

    total_flux: Floats
    peak: Floats
    """What the threshold was held against: the brightest of fitted peak and pixel. Infinite of
    sources that were not found by their peaks, so that all of the sky counts. This and the total
    flux are in the unit of the catalogue."""
    snr: Floats
    """Of that peak."""


def counted_sources(catalogue: "Catalogue", limits: Mapping[str, float]) -> Sources:
    """Return the sources of a survey's catalogue as they count.

    Parameters
    ----------
    catalogue : Catalogue
        With the column ``field``.
    limits : mapping of str to float
        Peak S/N above which sources were looked for in each field.
    """
    islands = catalogue.islands
    brightest = np.full(int(np.max(islands["island_id"], initial=0)) + 1, -np.inf)
    brightest[np.asarray(islands["island_id"])] = _plain(islands["peak_flux"])
    return counted_rows(catalogue.sources, brightest, limits)


def counted_rows(sources: "QTable", brightest: Floats, limits: Mapping[str, float]) -> Sources:
    """Return some sources as they count.

    Parameters
    ----------
    sources : QTable
        With the column ``field``.
    brightest : ndarray
        Brightest pixel of each island, by its number.
    limits : mapping of str to float
        Peak S/N above which sources were looked for in each field.
    """
    total, peak, rms = (_plain(sources[n]) for n in ("total_flux", "peak_flux", "local_rms"))
    peak = np.fmax(peak, brightest[np.asarray(sources["island_id"])])
    snr = peak / rms
    limit = np.array([limits[name] for name in sources["field"]], float)
    # noise on the peak's pixel and at the fitted position differ by a little
    return Sources(total, np.where(snr < 0.9 * limit, np.inf, peak), snr)


def _plain(column: Any) -> Floats:
    return np.asarray(getattr(column, "value", column), float)


def snr_corrections(facts: Sequence[Mapping[str, Any]]) -> "Table | None":
    """Completeness and reliability by S/N, from injected sources and inverted images.

    Parameters
    ----------
    facts : sequence of mapping
        Of the fields; see `cyclades.pipeline.survey.facts.collect`.

    Returns
    -------
    Table or None
        ``snr_low``, ``snr_high``; ``injected``, ``found``, ``completeness`` and its interval;
        ``positive``, ``negative`` (islands of images and of their negatives), ``reliability`` and
        its interval. NaN below 20 injected sources, or islands. None where no field tells.
    """
    from astropy.table import Table

    totals = {
        name: np.sum([one[name] for one in facts if name in one] or [[0]], axis=0)
        for name in ("injected", "found", "positive", "negative")
    }
    size = len(SNR_EDGES) - 1
    totals = {n: v if len(v) == size else np.zeros(size, int) for n, v in totals.items()}
    if not any(total.any() for total in totals.values()):
        return None
    made = {"snr_low": np.array(SNR_EDGES[:-1]), "snr_high": np.array(SNR_EDGES[1:])} | totals
    injected, positive = totals["injected"], totals["positive"]
    # a false island has a negative one for its like
    true = np.maximum(positive - totals["negative"], 0)
    for name, hits, number in (
        ("completeness", totals["found"], injected), ("reliability", true, positive),
    ):  # fmt: skip
        enough = number >= FEWEST
        low, high = wilson(hits, number)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = hits / number
        for suffix, values in (("", share), ("_low", low), ("_high", high)):
            made[f"{name}{suffix}"] = np.where(enough, values, np.nan)
    return Table(made)


def flux_correction(
    snr: Floats, flux: Floats, edges: Floats, corrections: "Table | None"
) -> "Table | None":
    """Bring corrections by S/N to bins of total flux: the mean over the sources of each bin.

    Parameters
    ----------
    snr, flux : ndarray, shape (n,)
        Peak S/N, and total flux, of sources.
    edges : ndarray
        Of the bins of flux.
    corrections : Table, optional
        Of `snr_corrections`. Where one of the two is unknown, it counts as 1.

    Returns
    -------
    Table or None
        ``correction`` (reliability over completeness) and ``correction_err``, as
        `cyclades.pipeline.comparison.counts.differential_counts` takes them.
    """
    from astropy.table import Table

    if corrections is None:
        return None
    factor, variance = np.ones(len(corrections)), np.zeros(len(corrections))
    for name, power in (("completeness", -1.0), ("reliability", 1.0)):
        share, low, high = (np.asarray(corrections[name + end]) for end in ("", "_low", "_high"))
        known = np.isfinite(share) & (share > 0)
        value = np.where(known, share, 1.0)
        factor = factor * value**power
        variance = variance + np.where(known, (0.5 * (high - low) / value) ** 2, 0.0)
    at = np.clip(np.searchsorted(SNR_EDGES, snr, side="right") - 1, 0, len(factor) - 1)
    of = np.searchsorted(edges, flux, side="right") - 1
    size = len(edges) - 1
    use = (of >= 0) & (of < size)
    number = np.bincount(of[use], minlength=size)
    total = np.bincount(of[use], factor[at[use]], size)
    # sources of one bin of S/N share its error
    error = np.bincount(of[use], (factor * np.sqrt(variance))[at[use]], size)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, mean_err = total / number, error / number
    return Table(
        {
            "correction": np.where(number > 0, mean, 1.0),
            "correction_err": np.where(number > 0, mean_err, 0.0),
        }
    )


def janskys(unit: str | None) -> float | None:
    """What fluxes of an image in a unit are multiplied with to be in Jy; None for no way."""
    import astropy.units as u

    own = u.Unit(unit or "")
    fluxes = (own * area for area in (u.beam, u.pix, u.dimensionless_unscaled))
    return next((float(f.to(u.Jy)) for f in fluxes if f.is_equivalent(u.Jy)), None)


def source_counts(
    sources: Sources,
    limits: VisibilityArea,
    corrections: "Table | None" = None,
    *,
    unit: str | None = "Jy / beam",
) -> "Table | None":
    """Euclid-normalised counts of a survey's sources, corrected for what could not be seen where.

    Parameters
    ----------
    sources : Sources
    limits : VisibilityArea
        Area against the faintest peak that is looked for.
    corrections : Table, optional
        Of `snr_corrections`.
    unit : str, optional
        Of the images, and so of sources and limits.

    Returns
    -------
    Table or None
        See `cyclades.pipeline.comparison.counts.differential_counts`; with ``correction``. Fluxes
        that are no flux densities stay as they are, and have no unit. None without sources.
    """
    # a peak below all limits, by the noise at its position, is just above the lowest
    lowest = limits.rms[0] if len(limits.rms) else np.nan
    flux, peak, snr = sources.total_flux, np.maximum(sources.peak, lowest), sources.snr
    good = np.isfinite(flux) & ~np.isnan(peak) & (flux > 0)
    if not good.any() or not len(limits.rms):
        return None
    flux, peak, snr = flux[good], np.minimum(peak[good], limits.rms[-1]), snr[good]
    factor = janskys(unit)
    if factor is not None:
        flux, peak = factor * flux, factor * peak
        limits = VisibilityArea(factor * limits.rms, limits.area)
    # edges on a fixed grid, so that surveys compare
    low = np.floor(BINS_A_DECADE * np.log10(flux.min()))
    high = np.floor(BINS_A_DECADE * np.log10(flux.max())) + 1
    edges = 10.0 ** (np.arange(low, high + 1) / BINS_A_DECADE)
    correction = flux_correction(snr, flux, edges, corrections)
    made = differential_counts(
        flux, peak, limits, edges.tolist(), threshold=1.0, correction=correction
    )
    if correction is not None:
        made["correction"], made["correction_err"] = (
            correction[name] for name in ("correction", "correction_err")
        )
    if factor is None:
        for name in made.colnames:
            if "Jy" in str(made[name].unit):
                made[name].unit = None
    return made
