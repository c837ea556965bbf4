"""Radio Galaxy Zoo labels of real fields, and the rules for judging with them.

Volunteers said which radio components belong together (Banfield et al. 2015, MNRAS 453, 2326).
They looked at three arcminutes around one FIRST source at a time, so other real sources of a
field are unlabelled: nothing farther than `JUDGED_RADIUS` from that source counts for or against
a catalogue. The share of volunteers who agreed, the consensus level, serves as a weight or as a
cut; since labels of one field are not independent, errors come from resampling whole fields.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.pipeline.comparison.intervals import bootstrap
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats

JUDGED_RADIUS = 90.0
"""Arcsec around the labelled FIRST source within which labels are complete."""
MARGIN_BEAMS = 2.0
"""Beams added to half the angular extent: it spans the labelled peaks, not their profiles."""
CONSENSUS_CUT = 0.8
_COLUMNS = ("field", "first_id", "component_ras", "component_decs", "ang_extent_arcsec")
_NAME = re.compile(r"J(\d\d)(\d\d)(\d\d(?:\.\d+)?)([+-])(\d\d)(\d\d)(\d\d(?:\.\d+)?)")


def tangent_offsets(
    ra: ArrayLike, dec: ArrayLike, ra0: float, dec0: float
) -> tuple[Floats, Floats]:
    """Offsets east and north of a position in arcsec, in the tangent plane there.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees; NaN gives NaN.
    ra0, dec0 : float
        The position, in degrees.
    """
    a, d = np.radians(np.asarray(ra, float) - ra0), np.radians(np.asarray(dec, float))
    s0, c0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    depth = np.sin(d) * s0 + np.cos(d) * c0 * np.cos(a)
    scale = np.degrees(3600.0) / depth
    return (
        np.asarray(np.cos(d) * np.sin(a) * scale),
        np.asarray((np.sin(d) * c0 - np.cos(d) * s0 * np.cos(a)) * scale),
    )


@dataclass(frozen=True, eq=False)
class Label:
    """One labelled radio source.

    Parameters
    ----------
    field : str
        File name of the image, without a compression suffix.
    name : str
        Name of the FIRST source that the volunteers were shown.
    ra, dec : ndarray, shape (n,)
        Positions of its components in degrees.
    extent : float
        Largest angular extent in arcsec.
    consensus : float
        Share of volunteers who agreed, 0 ... 1.
    target_ra, target_dec : float
        Position of the FIRST source of `name`, in degrees.
    """

    field: str
    name: str
    ra: Floats
    dec: Floats
    extent: float
    consensus: float
    target_ra: float
    target_dec: float

    def inside(
        self, ra: ArrayLike, dec: ArrayLike, beam: float, margin: float = MARGIN_BEAMS
    ) -> NDArray[np.bool_]:
        """Whether positions lie in the label's extent.

        The extent is a disc around the mean of its components, of half the angular extent and a
        margin.

        Parameters
        ----------
        ra, dec : array_like, shape (n,)
            Degrees.
        beam : float
            FWHM in arcsec.
        margin : float
            In beams.
        """
        return self.distance(ra, dec) <= 0.5 * self.extent + margin * beam

    def distance(self, ra: ArrayLike, dec: ArrayLike) -> Floats:
        """Distance of positions from the mean of the components, in arcsec."""
        east, north = tangent_offsets(self.ra, self.dec, self.target_ra, self.target_dec)
        x, y = tangent_offsets(ra, dec, self.target_ra, self.target_dec)
        return np.asarray(np.hypot(x - east.mean(), y - north.mean()))

    def judged(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Whether positions lie where the labels are complete, within 1.5 arcmin of the target."""
        x, y = tangent_offsets(ra, dec, self.target_ra, self.target_dec)
        return np.asarray(np.hypot(x, y) <= JUDGED_RADIUS)


def read_labels(path: "str | PathLike[str]") -> list[Label]:
    """Read a table of Radio Galaxy Zoo consensus sources.

    Parameters
    ----------
    path : path
        CSV with ``field``, ``first_id``, ``component_ras`` and ``component_decs`` (degrees,
        separated by semicolons), ``ang_extent_arcsec`` and ``consensus_level``.

    Raises
    ------
    InputError
        Where the file cannot be read, a column is missing or a name holds no position.
    """
    from astropy.table import Table

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the table of labels.")
    table = Table.read(path, format="ascii.csv")
    absent = [name for name in (*_COLUMNS, "consensus_level") if name not in table.colnames]
    if absent:
        raise InputError(
            f"{path} has no column {absent[0]!r}, so it is no table of Radio Galaxy Zoo labels."
        )
    labels = []
    for row in table:
        ra, dec = name_position(str(row["first_id"]))
        labels.append(
            Label(
                str(row["field"]).removesuffix(".gz"),
                str(row["first_id"]),
                _numbers(row["component_ras"]),
                _numbers(row["component_decs"]),
                float(row["ang_extent_arcsec"]),
                float(row["consensus_level"]),
                ra,
                dec,
            )
        )
    return labels


def name_position(name: str) -> tuple[float, float]:
    """Position in degrees that a name such as ``FIRSTJ074816.0+454503`` tells.

    Raises
    ------
    InputError
        Where the name holds no such position.
    """
    found = _NAME.search(name)
    if found is None:
        raise InputError(
            f"The name {name!r} of a label holds no position; use names like FIRSTJhhmmss.s+ddmmss."
        )
    h, m, s, sign, degrees, minutes, seconds = found.groups()
    dec = float(degrees) + float(minutes) / 60 + float(seconds) / 3600
    return 15.0 * (float(h) + float(m) / 60 + float(s) / 3600), -dec if sign == "-" else dec


def _numbers(value: object) -> Floats:
    return np.array([float(part) for part in str(value).split(";")])


def group_rows(
    labels: Sequence[Label], ra: ArrayLike, dec: ArrayLike, beam: float
) -> NDArray[np.int64]:
    """Which label each position of a field belongs to.

    Parameters
    ----------
    labels : sequence of Label
        All labels of the field.
    ra, dec : array_like, shape (n,)
        Degrees.
    beam : float
        FWHM in arcsec.

    Returns
    -------
    ndarray of int64, shape (n,)
        Row of the label whose extent holds the position (the nearest of several); -1 where the
        labels are complete but none holds it; -2 where nothing is known.
    """
    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    known = np.zeros(len(ra), bool)
    nearest = np.full(len(ra), np.inf)
    rows = np.full(len(ra), -1, np.int64)
    for row, label in enumerate(labels):
        known |= label.judged(ra, dec)
        distance = np.where(label.inside(ra, dec, beam), label.distance(ra, dec), np.inf)
        rows[distance < nearest] = row
        nearest = np.minimum(nearest, distance)
    return np.where(known, rows, -2)


def component_recall(label: Label, ra: ArrayLike, dec: ArrayLike, radius: float) -> int:
    """How many of a label's components have a position within a radius (arcsec)."""
    x, y = tangent_offsets(ra, dec, label.target_ra, label.target_dec)
    east, north = tangent_offsets(label.ra, label.dec, label.target_ra, label.target_dec)
    distance = np.hypot(np.subtract.outer(east, x), np.subtract.outer(north, y))
    return int(np.count_nonzero((distance <= radius).any(axis=1)))


class Share(NamedTuple):
    """A weighted share with its uncertainty from resampling fields."""

    value: float
    low: float
    """16th percentile of the resamples."""
    high: float
    """84th percentile."""
    number: int
    """Labels that count."""

    def __str__(self) -> str:
        return f"{self.value:.3f} (-{self.value - self.low:.3f} +{self.high - self.value:.3f})"


def bootstrap_share(
    hits: ArrayLike, weights: ArrayLike, fields: Sequence[str], *, seed: int = 0
) -> Share:
    """Return the share ``sum(hits) / sum(weights)`` with its spread over resampled fields.

    Parameters
    ----------
    hits : array_like, shape (n,)
        Weighted hits of each label.
    weights : array_like, shape (n,)
        Weight of each label, times what could be hit in it.
    fields : sequence of str, length n
        Field of each label; whole fields are drawn with replacement.
    seed : int
    """
    hits, weights = np.asarray(hits, float), np.asarray(weights, float)
    number = int(np.count_nonzero(weights > 0))
    _, field = np.unique(np.asarray(fields, str), return_inverse=True)
    above = np.bincount(field, hits)
    below = np.bincount(field, weights)
    if not below.sum() > 0:
        return Share(np.nan, np.nan, np.nan, number)
    with np.errstate(invalid="ignore"):  # a draw of fields none of whose labels count
        low, high = bootstrap(
            np.stack([above, below], -1),
            lambda drawn: drawn[..., 0].sum(axis=-1) / drawn[..., 1].sum(axis=-1),
            seed=seed,
        )
    return Share(float(above.sum() / below.sum()), low, high, number)


class LabelledShares(NamedTuple):
    """One quantity over labels: each counted alike, by consensus, and above the cut."""

    plain: Share
    weighted: Share
    cut: Share


def labelled_shares(
    labels: Sequence[Label],
    hits: ArrayLike,
    number: ArrayLike | None = None,
    *,
    seed: int = 0,
) -> LabelledShares:
    """Share of hits over labels, by every use of the consensus level.

    Parameters
    ----------
    labels : sequence of Label
    hits : array_like, shape (n,)
        Hits of each label.
    number : array_like, shape (n,), optional
        What could be hit in each label (its components, say); 1 where not given.
    seed : int
    """
    hits = np.asarray(hits, float)
    number = np.ones(len(labels)) if number is None else np.asarray(number, float)
    fields = [label.field for label in labels]
    consensus = np.array([label.consensus for label in labels])
    return LabelledShares(
        *(
            bootstrap_share(hits * weight, number * weight, fields, seed=seed)
            for weight in (np.ones(len(labels)), consensus, 1.0 * (consensus >= CONSENSUS_CUT))
        )
    )
