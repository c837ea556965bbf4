"""The score of the first SKA Science Data Challenge, by its published definition.

Bonaldi et al. (2021, MNRAS 500, 3821). Seven attributes of each matched source earn up to 1/7
each; every false detection costs one. The public scoring package (``ska-sdc``, version 2.0.0)
was run once on synthetic catalogues and the figures here agree with its.

What one should know before quoting a score:

- Candidate matches lie within the submitted source's convolved size on the (ra, dec) plane
  *without* cos(dec): away from the challenge's field (dec -30, ra around 0) the radius is wrong
  in ra, and a field across ra 0 must lie within 180 degrees of it. The later steps use angles on
  the sky.
- The radius is that of the *submitted* source: a large claimed size matches more.
- Beams are 0.25 arcsec x 1400 MHz / frequency, and only 560, 1400 and 9200 MHz exist.
- Position angles are folded: above 180 by 180, then above 90 by 90, then above 45 by 45 degrees,
  so that an error of 45 or 90 degrees may cost nothing and the ends of a fold lie far apart.
- The package leaves out its training area (ra below 0, dec above -29.94, smaller at higher
  frequency); here all rows that are given count.
- Where any core fraction, flux or size is negative, the package drops the zeros of that column
  too; here only the negative ones.
- A constant class earns its share of the truth; see `constant_class_baseline`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers

if TYPE_CHECKING:
    from cyclades.pipeline.comparison.tables import ComparisonTable

FREQUENCIES = (560, 1400, 9200)
"""MHz."""
COLUMNS = (
    "ra_core",
    "dec_core",
    "ra_cent",
    "dec_cent",
    "flux",
    "core_frac",
    "b_maj",
    "b_min",
    "pa",
    "size",
    "class",
)
"""Of truth and submissions: degrees, Jy, arcsec, degrees; see `LARGEST`, ... for ``size``."""
ATTRIBUTES = ("position", "flux", "b_maj", "b_min", "pa", "core_frac", "class")
LARGEST, GAUSSIAN, EXPONENTIAL = 1, 2, 3
"""Size classes: largest angular scale, Gaussian FWHM, exponential scale."""
BEAM_1400 = 0.25
POSITION_LIMIT, FLUX_LIMIT, SIZE_LIMIT, ANGLE_LIMIT, CORE_LIMIT = 0.3, 0.1, 0.3, 10.0, 0.05
MEAN_CORE_FRACTION = 0.75
DISTANCE_LIMIT = 5.0
_POSITION_ERROR, _FLUX_ERROR, _SIZE_ERROR = 0.31 * 3, 0.12 * 3, 1.46 * 3
_LARGEST_PER_GAUSSIAN = 5.0 / 2.355
_GAUSSIAN_PER = np.array([np.nan, 1.0 / _LARGEST_PER_GAUSSIAN, 1.0, np.sqrt(2.0)])
"""FWHM of the Gaussian that a size of each class stands for."""


@dataclass(frozen=True, eq=False)
class ChallengeScore:
    """A score and what it consists of.

    Parameters
    ----------
    value : float
        Sum over the matches of the mean of the seven attributes, minus the false detections.
    detections, rejected, matches : int
        Usable rows submitted; candidates too far off in position, flux and size together; and
        those accepted.
    attributes : dict of str to float
        Mean score of each attribute over the matches, 0 ... 1; NaN without matches.
    truth_rows, submitted_rows : ndarray of int, shape (matches,)
        The matches, as rows of what was given.
    """

    value: float
    detections: int
    rejected: int
    matches: int
    attributes: dict[str, float]
    truth_rows: Integers
    submitted_rows: Integers

    @property
    def false(self) -> int:
        """Detections without an accepted match; each costs one."""
        return self.detections - self.matches

    @property
    def matched_score(self) -> float:
        """The score before false detections are subtracted."""
        return self.value + self.false


def challenge_score(
    submitted: Mapping[str, ArrayLike],
    truth: Mapping[str, ArrayLike],
    frequency: int,
    *,
    centroid: bool = False,
) -> ChallengeScore:
    """Score a catalogue by the rules of SKA Data Challenge 1.

    Parameters
    ----------
    submitted, truth : mapping of str to array_like, shape (n,)
        The columns of `COLUMNS`. Rows with NaN, or with a negative flux, size or core fraction,
        are left out.
    frequency : int
        560, 1400 or 9200 MHz.
    centroid : bool
        Match by the centroids instead of the cores.

    Raises
    ------
    InputError
        For another frequency or a missing column.
    """
    if frequency not in FREQUENCIES:
        raise InputError(f"The challenge has no {frequency:g} MHz; use 560, 1400 or 9200 (MHz).")
    beam = BEAM_1400 * 1400.0 / frequency
    found, found_rows = _clean(submitted, "submission")
    true, true_rows = _clean(truth, "truth")
    place = "cent" if centroid else "core"
    i, j = _candidates(found, true, beam, place)
    distance = _distance(found, true, i, j, beam, place)
    i, j, distance = _one_to_one(i, j, distance)
    accepted = distance < DISTANCE_LIMIT
    i_good, j_good = i[accepted], j[accepted]
    scores = _attribute_scores(
        {name: values[i_good] for name, values in found.items()},
        {name: values[j_good] for name, values in true.items()},
        beam,
    )
    table = np.array([scores[name] for name in ATTRIBUTES])
    n_found, n_match = len(found_rows), len(i_good)
    return ChallengeScore(
        # the package gives nothing, and subtracts nothing, where nothing at all is matched
        float(table.mean(axis=0).sum()) - (n_found - n_match) if n_match else 0.0,
        n_found,
        int(np.count_nonzero(~accepted)),
        n_match,
        {
            name: float(values.mean()) if n_match else float("nan")
            for name, values in scores.items()
        },
        true_rows[j_good],
        found_rows[i_good],
    )


def constant_class_baseline(
    pairs: Sequence[tuple[Mapping[str, ArrayLike], Mapping[str, ArrayLike]]], frequency: int
) -> tuple[int, list[ChallengeScore]]:
    """Score the same catalogues with one class for all rows: the class that scores best.

    A classifier is worth what it gains over this.

    Parameters
    ----------
    pairs : sequence of (mapping, mapping)
        What was submitted and the truth, of every field.
    frequency : int
        MHz.

    Returns
    -------
    int
        The class, the same in all fields.
    list of ChallengeScore
        Of every field.
    """
    tried = {}
    classes = np.unique(np.concatenate([np.asarray(truth["class"]) for _, truth in pairs]))
    for name in classes if len(classes) else (1,):
        tried[int(name)] = [
            challenge_score(
                {**submitted, "class": np.full(np.shape(submitted["class"]), name)},
                truth,
                frequency,
            )
            for submitted, truth in pairs
        ]
    best = max(tried, key=lambda name: sum(score.value for score in tried[name]))
    return best, tried[best]


def challenge_columns(table: "ComparisonTable", beam: tuple[float, float]) -> dict[str, Any]:
    """Bring a catalogue of fitted Gaussians to the challenge's columns.

    Sizes are freed from the beam in quadrature, axis by axis, and are at least a tenth of the
    beam (the challenge drops what has no size). The core is the centroid, the core fraction 0,
    the size class Gaussian, and the class 1 (steep-spectrum AGN): the catalogue knows no better.

    Parameters
    ----------
    table : ComparisonTable
    beam : (float, float)
        Major and minor FWHM in arcsec.
    """
    sizes = [
        np.sqrt(np.maximum(table[name] ** 2 - width**2, (0.1 * width) ** 2))
        for name, width in zip(("major", "minor"), beam, strict=True)
    ]
    n = len(table)
    ra = np.where(table["ra"] > 180.0, table["ra"] - 360.0, table["ra"])
    return {
        "ra_core": ra,
        "dec_core": table["dec"],
        "ra_cent": ra,
        "dec_cent": table["dec"],
        "flux": table["total_flux"],
        "core_frac": np.zeros(n),
        "b_maj": sizes[0],
        "b_min": sizes[1],
        "pa": np.nan_to_num(table["position_angle"]),  # a round source has none
        "size": np.full(n, GAUSSIAN),
        "class": np.ones(n, int),
    }


def challenge_file(path: "str | PathLike[str]") -> dict[str, Floats] | None:
    """Read a table that has the challenge's own columns, in any case; None for all others."""
    from cyclades.pipeline.comparison.reading import read_table

    table = read_table(Path(path), "components")
    spelt = {name.lower(): name for name in table.colnames}
    if any(name not in spelt for name in COLUMNS):
        return None
    return {name: np.asarray(table[spelt[name]], float) for name in COLUMNS}


def _clean(catalogue: Mapping[str, ArrayLike], what: str) -> tuple[dict[str, Floats], Integers]:
    """Columns without unusable rows, ra between -180 and 180, and which rows are left."""
    absent = [name for name in COLUMNS if name not in catalogue]
    if absent:
        raise InputError(
            f"The {what} has no column {absent[0]!r}; the challenge needs {', '.join(COLUMNS)}."
        )
    columns = {name: np.asarray(catalogue[name], float) for name in COLUMNS}
    good = np.all([np.isfinite(values) for values in columns.values()], axis=0)
    for name in ("flux", "core_frac", "b_maj", "b_min"):
        good &= columns[name] >= 0
    if not np.isin(columns["size"][good], (LARGEST, GAUSSIAN, EXPONENTIAL)).all():
        raise InputError(
            f"The {what} has a size class that is not 1 (largest angular scale), 2 (Gaussian) or "
            "3 (exponential); correct the column 'size'."
        )
    columns = {name: values[good] for name, values in columns.items()}
    for name in ("ra_core", "ra_cent"):
        columns[name] = np.where(columns[name] > 180.0, columns[name] - 360.0, columns[name])
    return columns, np.flatnonzero(good)


def _convolved_size(columns: Mapping[str, Floats], beam: float) -> Floats:
    size = np.maximum(columns["b_maj"], columns["b_min"])
    return np.asarray(np.hypot(size * _GAUSSIAN_PER[columns["size"].astype(int)], beam))


def _candidates(
    found: Mapping[str, Floats], true: Mapping[str, Floats], beam: float, place: str
) -> tuple[Integers, Integers]:
    """Pairs within the submitted source's convolved size, on the plane of ra and dec."""
    from scipy.spatial import cKDTree

    radius = _convolved_size(found, beam) / 3600.0
    here, there = (np.column_stack([c[f"ra_{place}"], c[f"dec_{place}"]]) for c in (found, true))
    if not len(here) or not len(there):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(there).query_ball_point(here, radius)
    i = np.repeat(np.arange(len(near)), [len(rows) for rows in near])
    return i, np.array([row for rows in near for row in rows], np.int64)


def _separation(one: Mapping[str, Floats], other: Mapping[str, Floats], place: str) -> Floats:
    """Angle on the sky in arcsec."""
    a, b = (np.radians(c[f"dec_{place}"]) for c in (one, other))
    dra = np.radians(one[f"ra_{place}"] - other[f"ra_{place}"])
    half = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(dra / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(half))) * 3600.0)


def _distance(
    found: Mapping[str, Floats],
    true: Mapping[str, Floats],
    i: Integers,
    j: Integers,
    beam: float,
    place: str,
) -> Floats:
    """Distance of pairs in position, flux and size together, in units of the expected errors."""
    a = {name: values[i] for name, values in found.items()}
    b = {name: values[j] for name, values in true.items()}
    size = _convolved_size(b, beam)
    mean = [0.5 * (c["b_maj"] + c["b_min"]) * _GAUSSIAN_PER[c["size"].astype(int)] for c in (a, b)]
    return np.asarray(
        np.sqrt(
            (_separation(a, b, place) / size / _POSITION_ERROR) ** 2
            + ((a["flux"] - b["flux"]) / b["flux"] / _FLUX_ERROR) ** 2
            + ((mean[0] - mean[1]) / size / _SIZE_ERROR) ** 2
        )
    )


def _one_to_one(i: Integers, j: Integers, distance: Floats) -> tuple[Integers, Integers, Floats]:
    """The best candidate of every submitted row, then the best of those for every true one."""
    for first in (0, 1):
        rows = (i, j)[first]
        order = np.lexsort((distance, rows))
        keep = order[np.unique(rows[order], return_index=True)[1]]
        i, j, distance = i[keep], j[keep], distance[keep]
    order = np.argsort(i)
    return i[order], j[order], distance[order]


def _attribute_scores(
    found: Mapping[str, Floats], true: Mapping[str, Floats], beam: float
) -> dict[str, Floats]:
    """Score of each attribute of every match, 0 ... 1."""
    extent = np.sqrt(4 * beam**2 + (0.5 * (true["b_maj"] + true["b_min"])) ** 2)
    off = np.minimum(_separation(found, true, "core"), _separation(found, true, "cent"))
    size, true_size = found["size"].astype(int), true["size"].astype(int)
    conversion = _GAUSSIAN_PER[size] / _GAUSSIAN_PER[true_size]
    steep = true_size == LARGEST
    axes = {
        name: _within(np.abs(found[name] * conversion - true[name]) / true[name], SIZE_LIMIT)
        for name in ("b_maj", "b_min")
    }
    angle = _within(np.abs(_folded(found["pa"]) - _folded(true["pa"])), ANGLE_LIMIT)
    core = np.abs(found["core_frac"] - true["core_frac"]) / MEAN_CORE_FRACTION
    return {
        "position": _within(off / extent, POSITION_LIMIT),
        "flux": _within(np.abs(found["flux"] - true["flux"]) / true["flux"], FLUX_LIMIT),
        "b_maj": axes["b_maj"],
        # a source of lobes has neither a minor axis nor an angle: full marks for all
        "b_min": np.where(steep, 1.0, axes["b_min"]),
        "pa": np.where(steep, 1.0, angle),
        "core_frac": _within(core, CORE_LIMIT),
        "class": (found["class"] == true["class"]).astype(float),
    }


def _within(error: Floats, limit: float) -> Floats:
    """Full marks up to the limit, then falling as its inverse."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(1.0, limit / error))


def _folded(angle: Floats) -> Floats:
    """Position angles as the challenge folds them."""
    for limit in (180.0, 90.0, 45.0):
        angle = np.where(angle > limit, angle - limit, angle)
    return np.where(angle < -45.0, angle + 45.0, angle)
