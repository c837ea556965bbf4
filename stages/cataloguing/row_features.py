"""What the rows of a catalogue, and the image's holes, tell of which rows are real.

Every feature is a ratio: it depends neither on the unit of the image, nor on the size of its
pixels, nor on that of its beam. What a catalogue does not tell is NaN.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.cataloguing.image_holes import Holes
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from astropy.table import QTable

    from cyclades.stages.core.beam import PointSpread

RISING, FALLING, FREE = 1, -1, 0
FEATURES: dict[str, int] = {
    "snr": RISING,
    "score": RISING,
    "size_major": FREE,
    "size_minor": FREE,
    "size_error": FREE,
    "pixels": FREE,
    "chi2": FREE,
    "residual": FREE,
    "rms_over_median": FREE,
    "level": FREE,
    "brighter_near": FALLING,
    "brighter_around": FALLING,
    "glare": FALLING,
    "nearest": FREE,
    "at_edge": FREE,
    "blended": FREE,
    "artefact": FREE,
    "smoothed": FREE,
    "over_near_holes": RISING,
    "over_wide_holes": RISING,
    "bright_rows": RISING,
}
"""Features, and how the probability may change with each, all others equal. Those that change with
a row's peak all rise or fall so that a higher S/N never makes a row less likely."""

NEAR, AROUND = 5.0, 20.0
"""Distances in beams within which brighter rows are looked for."""
HOLES_NEAR, HOLES_WIDE = 8.0, 25.0
"""Distances in beams within which the deepest hole is looked for."""
GLARE_SLOPE = 1.5
"""Sidelobes fall with about this power of the distance."""
BRIGHT = 7.0
"""S/N of rows whose density tells how rich in sources an image is."""
_EDGE = int(Flag.EDGE | Flag.BLANK_NEIGHBOUR)


def row_features(table: "QTable", psf: "PointSpread | None", holes: Holes) -> Floats:
    """Describe the rows of ``components``.

    Parameters
    ----------
    table : QTable
        With ``x``, ``y``, ``peak_flux``, ``snr`` and ``local_rms``; NaN stands for what further
        columns it lacks.
    psf : PointSpread, optional
        Without one, nothing is said of distances in beams.
    holes : Holes
        Of the image.

    Returns
    -------
    ndarray, shape (rows, features)
        In the order of `FEATURES`.
    """
    n = len(table)
    take = _Columns(table)
    x, y, rms = take("x"), take("y"), take("local_rms")
    peak = np.abs(take("peak_flux"))
    snr = np.abs(take("snr"))
    beam = np.nan if psf is None else psf.size
    flags = np.asarray(table["flags"], np.int64) if "flags" in table.colnames else np.zeros(n, int)
    score = take("detection_score")
    if np.all(score == 1.0):
        score = np.full(n, np.nan)  # the detector gives none
    with np.errstate(divide="ignore", invalid="ignore"):
        area = np.full(n, np.nan) if psf is None else psf.areas(x, y)
        near, around, glare, nearest = neighbourhood(x, y, peak, beam)
        features = {
            "snr": _log(snr),
            "score": score,
            "size_major": _log(take("major") / take("psf_major")),
            "size_minor": _log(take("minor") / take("psf_minor")),
            "size_error": _log(take("major_err") / take("major")),
            "pixels": _log(take("n_pixels") / area),
            "chi2": _log(take("chi2") / take("degrees_of_freedom")),
            "residual": _log(take("residual_rms") / rms),
            "rms_over_median": _log(rms / np.nanmedian(rms)) if n else rms,
            "level": take("local_background") / rms,
            "brighter_near": near,
            "brighter_around": around,
            "glare": glare,
            "nearest": nearest,
            "at_edge": (flags & _EDGE) != 0,
            "blended": (flags & int(Flag.BLENDED)) != 0,
            "artefact": (flags & int(Flag.ARTEFACT)) != 0,
            "smoothed": (flags & int(Flag.SMOOTHED)) != 0,
            "over_near_holes": _over(snr, rms, holes, x, y, HOLES_NEAR * beam),
            "over_wide_holes": _over(snr, rms, holes, x, y, HOLES_WIDE * beam),
            "bright_rows": np.full(n, _log((np.sum(snr >= BRIGHT) + 0.5) / (holes.beams + 1.0))),
        }
    made = np.column_stack([np.asarray(features[name], float) for name in FEATURES])
    return np.where(np.isfinite(made), made, np.nan)


def neighbourhood(
    x: Floats, y: Floats, peak: Floats, beam: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """How much brighter the rows around each row are, and how near the nearest one is.

    Returns
    -------
    near, around : ndarray, shape (n,)
        Logarithm of the largest ratio of another row's peak to this one's within 5 and 20 beams;
        at least 0.
    glare : ndarray, shape (n,)
        The largest logarithm of that ratio over the power 1.5 of one plus the distance in beams,
        within 40 beams; at least -1.
    nearest : ndarray, shape (n,)
        Logarithm of one plus the distance of the nearest row in beams, at most 2.
    """
    from scipy.spatial import cKDTree

    n = len(x)
    near, around, glare, nearest = np.zeros(n), np.zeros(n), np.full(n, -1.0), np.full(n, 2.0)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(peak) & (peak > 0.0))
    if not beam > 0.0:
        return (np.full(n, np.nan),) * 4
    if len(known) < 2:
        return near, around, glare, nearest
    places = np.column_stack([x, y])[known] / beam
    height = np.log10(peak[known])
    tree = cKDTree(places)
    nearest[known] = np.minimum(np.log10(1.0 + tree.query(places, k=2)[0][:, 1]), 2.0)
    brighter = _Brightest(places, height)
    near[known] = brighter.ratio(NEAR)
    around[known] = brighter.ratio(AROUND)
    glare[known] = brighter.glare()
    return near, around, glare, nearest


class _Brightest:
    """Brighter rows around rows; only rows that can matter are looked at."""

    def __init__(self, places: Floats, height: Floats) -> None:
        self.places, self.height = places, height
        i, j = _pairs(places, 2.0 * AROUND)
        self.i, self.j = np.concatenate([i, j]), np.concatenate([j, i])
        self.ratios = height[self.j] - height[self.i]
        self.apart = np.hypot(*(places[self.j] - places[self.i]).T)

    def ratio(self, reach: float) -> Floats:
        """The largest ratio within a distance, as a logarithm of at least 0."""
        result = np.zeros(len(self.height))
        inside = self.apart <= reach
        np.maximum.at(result, self.i[inside], self.ratios[inside])
        return result

    def glare(self) -> Floats:
        """The largest ratio over a power of the distance, as a logarithm of at least -1."""
        result = np.full(len(self.height), -1.0)
        np.maximum.at(result, self.i, self.ratios - GLARE_SLOPE * np.log10(1.0 + self.apart))
        return result


def _pairs(places: Floats, reach: float) -> tuple[Integers, Integers]:
    from scipy.spatial import cKDTree

    pairs = cKDTree(places).query_pairs(reach, output_type="ndarray")
    return pairs[:, 0], pairs[:, 1]


class _Columns:
    """Columns of a table as plain floats; NaN where it has none."""

    def __init__(self, table: "QTable") -> None:
        self.table = table

    def __call__(self, name: str) -> Floats:
        if name not in self.table.colnames:
            return np.full(len(self.table), np.nan)
        held: Any = self.table[name]
        return np.asarray(getattr(held, "value", held), float)


def _log(values: Any) -> NDArray[Any]:
    return np.asarray(np.log10(np.asarray(values, float)))


def _over(snr: Floats, rms: Floats, holes: Holes, x: Floats, y: Floats, radius: float) -> Floats:
    """Logarithm of a row's height over the depth of the deepest hole around it, at least 2 rms."""
    if not np.isfinite(radius):
        return np.full(len(snr), np.nan)
    depth = np.maximum(holes.deepest(x, y, radius) / rms, 2.0)
    return np.asarray(np.log10(snr / depth))
