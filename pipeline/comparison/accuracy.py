"""How far measured values lie from the true ones, and whether the errors say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.intervals import bootstrap, median, robust_sigma
from cyclades.pipeline.comparison.match import Matches, common_beam
from cyclades.pipeline.comparison.outcome import Outcome, detection_snr, geometric_kind
from cyclades.pipeline.comparison.tables import ComparisonTable, Floats, Integers
from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    covariance_from_shape,
    inverse,
    transform_covariance,
)

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.pipeline.simulation.truth import Truth
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background, Detections
    from cyclades.stages.core.stage import CharacterizationStage

PULLED = ("ra", "dec", "peak_flux", "total_flux", "major", "minor", "position_angle")
PULL_BINS = (5.0, 7.0, 10.0, 20.0, 50.0, np.inf)
OVERALL = (5.0, 7.0)
"""Lowest S/N of the rows that take all bins together."""
KINDS = ("point", "resolved", "blended")
BEYOND = 3.0
ELONGATED = 1.1
FEWEST = 5
ARCSEC = 3600.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """True and measured rows side by side.

    Parameters
    ----------
    name : str
    truth, measured : ComparisonTable
        Row k of one is row k of the other.
    snr : ndarray, shape (n,)
        What the pairs are binned by.
    kind : ndarray of str, shape (n,)
        ``point``, ``resolved`` or ``blended``.
    """

    name: str
    truth: ComparisonTable
    measured: ComparisonTable
    snr: Floats
    kind: NDArray[np.str_]

    @classmethod
    def of_outcome(cls, outcome: Outcome) -> "Pairs":
        """Take the matched rows of an outcome."""
        i, j = outcome.matches.first_rows, outcome.matches.second_rows
        truth = outcome.truth.take(i)
        if not truth.meta.get("comparable_fluxes", True):
            unknown = np.full(len(i), np.nan)
            truth = truth.replace(peak_flux=unknown, total_flux=unknown)
        return cls(
            outcome.name,
            truth,
            outcome.catalogue.take(j),
            outcome.row_snr[i],
            outcome.truth_kind[i],
        )

    @classmethod
    def of_matches(
        cls, name: str, first: ComparisonTable, second: ComparisonTable, matches: Matches
    ) -> "Pairs":
        """Take the matched rows of two catalogues; all count as points."""
        one = first.take(matches.first_rows)
        other = second.take(matches.second_rows)
        return cls(name, one, other, one["snr"], np.full(len(matches), "point"))


def difference(pairs: Pairs, quantity: str) -> Floats:
    """Measured minus true: arcsec on the sky for positions, degrees in +-90 for angles."""
    true, measured = pairs.truth[quantity], pairs.measured[quantity]
    if quantity == "ra":
        turn = (measured - true + 180.0) % 360.0 - 180.0
        return np.asarray(turn * np.cos(np.radians(pairs.truth["dec"])) * ARCSEC)
    if quantity == "dec":
        return np.asarray((measured - true) * ARCSEC)
    if quantity == "position_angle":
        return np.asarray((measured - true + 90.0) % 180.0 - 90.0)
    return np.asarray(measured - true)


def pull(pairs: Pairs, quantity: str) -> Floats:
    """Difference over its reported error (both errors together where both tables have one).

    NaN without a positive error, and for angles of shapes rounder than 1.1.
    """
    own = pairs.measured[f"{quantity}_err"]
    error = np.hypot(own, np.nan_to_num(pairs.truth[f"{quantity}_err"]))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(own > 0, difference(pairs, quantity) / error, np.nan)
        if quantity == "position_angle":
            ratio = pairs.truth["major"] / pairs.truth["minor"]
            values = np.where(ratio > ELONGATED, values, np.nan)
    return np.asarray(values)


def pull_table(pairs: Pairs, edges: Sequence[float] = PULL_BINS) -> "Table":
    """Pulls of every reported error by S/N bin, and above 5 and 7, for each kind of source.

    Parameters
    ----------
    pairs : Pairs
    edges : sequence of float
        S/N bins.

    Returns
    -------
    astropy.table.Table
        ``quantity``, ``kind``, ``snr_low``, ``snr_high``, ``number``, ``median`` and ``sigma``
        (robust) with bootstrap intervals, ``beyond_3`` (share). Quantities without errors and
        bins of fewer than five sources are left out.
    """
    from astropy.table import Table

    spans = [*((low, np.inf) for low in OVERALL), *pairwise(edges)]
    rows = []
    for quantity in PULLED:
        values = pull(pairs, quantity)
        for kind in KINDS:
            for low, high in spans:
                pick = (pairs.kind == kind) & (pairs.snr >= low) & (pairs.snr < high)
                v = values[pick & np.isfinite(values)]
                if len(v) >= FEWEST:
                    rows.append((pairs.name, quantity, kind, low, high, len(v), *_spread(v)))
    names = ("catalogue", "quantity", "kind", "snr_low", "snr_high", "number", "median",
             "median_low", "median_high", "sigma", "sigma_low", "sigma_high",
             "beyond_3")  # fmt: skip
    types = ("U64", "U16", "U8", "f8", "f8", "i8", *("f8",) * 7)
    return Table(rows=rows or None, names=names, dtype=types)


def _spread(values: Floats) -> tuple[float, ...]:
    return (
        float(median(values)),
        *bootstrap(values, median),
        float(robust_sigma(values)),
        *bootstrap(values, robust_sigma),
        float(np.mean(np.abs(values) > BEYOND)),
    )


def accuracy_table(pairs: Pairs, edges: Sequence[float] = PULL_BINS) -> "Table":
    """Ratios of fluxes and sizes and offsets of positions, by S/N bin and kind of source.

    Returns
    -------
    astropy.table.Table
        ``quantity`` (``peak_flux``, ``total_flux``, ``major``, ``minor``: measured over true;
        ``ra``, ``dec``: arcsec; ``separation``: arcsec), ``kind``, ``snr_low``, ``snr_high``,
        ``number``, ``median`` with bootstrap interval, ``scatter`` (robust sigma).
    """
    from astropy.table import Table

    values = {name: difference(pairs, name) for name in ("ra", "dec")}
    values["separation"] = np.hypot(values["ra"], values["dec"])
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in ("peak_flux", "total_flux", "major", "minor"):
            values[name] = pairs.measured[name] / pairs.truth[name]
    spans = [*((low, np.inf) for low in OVERALL), *pairwise(edges)]
    rows = []
    for name, held in values.items():
        for kind in KINDS:
            for low, high in spans:
                pick = (pairs.kind == kind) & (pairs.snr >= low) & (pairs.snr < high)
                v = held[pick & np.isfinite(held)]
                if len(v) >= FEWEST:
                    rows.append(
                        (pairs.name, name, kind, low, high, len(v), float(median(v)),
                         *bootstrap(v, median), float(robust_sigma(v)))
                    )  # fmt: skip
    names = ("catalogue", "quantity", "kind", "snr_low", "snr_high", "number", "median",
             "median_low", "median_high", "scatter")  # fmt: skip
    types = ("U64", "U16", "U8", "f8", "f8", "i8", *("f8",) * 4)
    return Table(rows=rows or None, names=names, dtype=types)


def truth_detections(
    image: "SkyImage", background: "Background", x: Floats, y: Floats, covariance: Floats
) -> "tuple[Detections, Integers]":
    """Detections at true positions, whatever the image shows there.

    Each source has the pixels inside its half-peak ellipse. Sources whose pixels meet form an
    island and share them by nearest centre, so that they are fitted together.

    Parameters
    ----------
    image : SkyImage
    background : Background
        Sources on its blank pixels get none.
    x, y : ndarray, shape (n,)
        0-based pixels.
    covariance : ndarray, shape (n, 2, 2)
        Of the profiles as observed, in pixels squared.

    Returns
    -------
    detections : Detections
    rows : ndarray of int, shape (len(detections),)
        The source of every leaf; -1 for islands of several sources.
    """
    from cyclades.stages.core.products import Detections, Segments
    from cyclades.stages.core.segments import label_segments, segment_boxes

    owner, pixels = _ellipse_pixels(image.shape, x, y, covariance)
    good = np.isfinite(image.data.ravel()[pixels]) & np.isfinite(background.rms.ravel()[pixels])
    owner, pixels = owner[good], pixels[good]
    centre_x, centre_y = pixels % image.shape[1] - x[owner], pixels // image.shape[1] - y[owner]
    order = np.lexsort((np.hypot(centre_x, centre_y), pixels))
    pixels, first = np.unique(pixels[order], return_index=True)
    owner = owner[order][first]
    mask = np.zeros(image.shape, bool)
    mask.ravel()[pixels] = True
    islands = label_segments(mask, 0.5)
    island_map = islands.label_map(image.shape).ravel() - 1
    rows = np.unique(owner)
    members = [pixels[owner == row] for row in rows]
    parents = np.array([island_map[held[0]] for held in members], np.int64)
    number = len(islands)
    many = np.bincount(parents, minlength=number) > 1
    joint = np.flatnonzero(many)
    place = np.full(number, -1)
    place[joint] = np.arange(len(joint))
    segments = Segments.concatenate([islands.take(joint), Segments.from_lists(members)])
    n = len(joint) + len(rows)
    summit = np.full((n, 2), np.nan)
    summit[len(joint) :] = np.column_stack([x[rows], y[rows]])
    detections = Detections(
        shape=image.shape,
        box=segment_boxes(segments, image.shape[1]),
        score=np.ones(n),
        parent=np.concatenate([np.full(len(joint), -1), place[parents]]),
        segments=segments,
        summit=summit,
    )
    return detections, np.concatenate([np.full(len(joint), -1), rows])


def _ellipse_pixels(
    shape: tuple[int, int], x: Floats, y: Floats, covariance: Floats
) -> tuple[Integers, Integers]:
    """Rows and flat pixels inside the half-peak ellipses, by pixel centres."""
    owners, flats = [], []
    precision = inverse(covariance)
    half = 0.5 * SIGMA_TO_FWHM
    reach = half * np.sqrt(np.stack([covariance[:, 0, 0], covariance[:, 1, 1]], -1))
    for row, (a, b, p, r) in enumerate(zip(x, y, precision, reach, strict=True)):
        if not np.isfinite([a, b, *r]).all():
            continue
        xs = np.arange(max(0, int(np.ceil(a - r[0]))), min(shape[1], int(a + r[0]) + 1))
        ys = np.arange(max(0, int(np.ceil(b - r[1]))), min(shape[0], int(b + r[1]) + 1))
        dx, dy = xs[None, :] - a, ys[:, None] - b
        inside = p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2 <= half**2
        flat = (ys[:, None] * shape[1] + xs[None, :])[inside]
        owners.append(np.full(len(flat), row))
        flats.append(flat)
    if not flats:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(owners).astype(np.int64), np.concatenate(flats).astype(np.int64)


def truth_started_pairs(
    image: "SkyImage",
    background: "Background",
    truth: "ComparisonTable | Truth",
    characterization: "CharacterizationStage",
) -> Pairs:
    """Measure every true source where it is, without a detection cut.

    A cut keeps the sources that noise has raised and so truncates the noise: even perfect errors
    then have a robust pull of 0.81 at S/N 5-7. Fits that start at the truth show the errors
    themselves.

    Parameters
    ----------
    image : SkyImage
    background : Background
        The one to measure against; the true one isolates the characterizer.
    truth : ComparisonTable or Truth
    characterization : CharacterizationStage

    Returns
    -------
    Pairs
        Truth and measurement of every source on good pixels whose fit converged.
    """
    from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
    from cyclades.stages.cataloguing.components import ComponentsCatalogue
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.errors import InputError
    from cyclades.stages.core.flags import Flag
    from cyclades.stages.core.geometry import pixel_positions, sky_jacobian

    table = truth if isinstance(truth, ComparisonTable) else from_truth(truth)
    if image.wcs is None or image.psf is None:
        raise InputError(
            f"{image.name} lacks a beam or celestial coordinates, which fits started at the truth "
            "need; give an image that has both."
        )
    x, y = pixel_positions(image.wcs, table["ra"], table["dec"])
    sky = covariance_from_shape(table["major"], table["minor"], table["position_angle"])
    jacobian = ARCSEC * sky_jacobian(image.wcs, x, y)
    pixels = transform_covariance(sky, inverse(jacobian))
    detections, source = truth_detections(image, background, x, y, pixels)
    with Context() as context:
        components = characterization.measure(image, background, detections, context=context)
        catalogue = ComponentsCatalogue().build(
            image, background, detections, components, context=context
        )
    rows = source[components.detection]
    # the catalogue is in sky order; its pixel positions are the components' own
    from_x, from_y = components.x + image.origin[1], components.y + image.origin[0]
    own = catalogue.components
    held = np.lexsort((own["y"].value, own["x"].value))
    back = np.empty(len(rows), np.int64)
    back[np.lexsort((from_y, from_x))] = held
    converged = (components.flags & int(Flag.FIT_FAILED)) == 0
    measured = from_catalogue(catalogue).take(back[converged])
    pick = rows[converged]
    return Pairs(
        "fits from the truth",
        table.take(pick),
        measured,
        detection_snr(table)[pick],
        geometric_kind(table, common_beam([measured]))[pick],
    )


def truth_started_pulls(
    image: "SkyImage",
    background: "Background",
    truth: "ComparisonTable | Truth",
    characterization: "CharacterizationStage",
) -> "Table":
    """Pulls of fits that start at the truth; see `truth_started_pairs` and `pull_table`."""
    return pull_table(truth_started_pairs(image, background, truth, characterization))
