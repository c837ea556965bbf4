"""Rows of simulated sources to learn measurements from, under several realisations of the noise.

Every source (`cyclades.pipeline.training.measured_objects`) has its row in every realisation,
detected or not, so that no cut selects what is learned from.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.plain import unit_noise
from cyclades.pipeline.training.measured_objects import (
    GAUSSIAN_KIND,
    KINDS,
    TrueObjects,
    draw_objects,
    light_at,
    random_beam,
    squared_distances,
)
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import (
    Floats,
    determinant,
    inverse,
)
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import NoiseAutocorrelation, gaussian_autocorrelation
from cyclades.stages.core.products import Detections, Integers, Segments
from cyclades.stages.core.rendering import add_gaussians
from cyclades.stages.core.segments import (
    label_segments,
    segment_boxes,
    segment_maximum,
    split_islands,
)
from cyclades.stages.core.summits import PERSISTENCE, Sharpening, find_summits
from cyclades.stages.networks.region_windows import Windows, cut_windows

__all__ = [
    "GAUSSIAN_KIND",
    "KINDS",
    "Examples",
    "RowTruth",
    "TrueObjects",
    "draw_objects",
    "field_examples",
    "find_rows",
    "random_beam",
    "row_truth",
    "whitened",
]

CLAIM = 9.0
"""Squared distance in sigmas of an element within which a detection may be of its object."""
SHARPNESS = 2.0
"""By how much an element's light goes to the nearest detection rather than to the next."""
SEEN = 1.0
"""Least brightness of the own light at a row's summit, in rms: below it is a peak of the noise."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows of sources, and what is true of them.

    Attributes
    ----------
    fine, coarse, numbers : ndarray
        See `cyclades.stages.networks.region_windows.Windows`; 16-bit floats.
    scale : ndarray, shape (n,)
    truth : ndarray, shape (n, 7)
        Peak in rms; offset from the centre in the beam's frame; elements (uu, uv, vv) of the
        logarithm of the profile's covariance in that frame; total flux in rms and beams.
    group : ndarray of int, shape (n,)
        Equal for realisations of one source that is alone in its rows; -1 for others.
    kind : ndarray of int, shape (n,)
    alone : ndarray of bool, shape (n,)
        Whether all the light of one object, and of no other, is in the row.
    island : ndarray of int, shape (n,)
        Equal for the rows of one island.
    region : ndarray, shape (n, channels, REGION, REGION)
        Features of a backbone; no channels where there are none.
    """

    fine: NDArray[np.float16]
    coarse: NDArray[np.float16]
    numbers: NDArray[np.float32]
    scale: NDArray[np.float32]
    truth: NDArray[np.float32]
    group: Integers
    kind: Integers
    alone: NDArray[np.bool_]
    island: Integers
    region: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.truth)

    @classmethod
    def join(cls, parts: "list[Examples]") -> "Examples":
        """Return the rows of all; groups and islands stay apart."""
        columns = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            if field.name in ("group", "island"):
                shift = np.cumsum([0] + [int(v.max(initial=-1)) + 1 for v in values])
                values = [np.where(v >= 0, v + s, -1) for v, s in zip(values, shift, strict=False)]
            columns[field.name] = np.concatenate(values)
        return cls(**columns)

    def take(self, rows: "NDArray[np.bool_] | Integers") -> "Examples":
        """Return some rows."""
        return Examples(*(getattr(self, field.name)[rows] for field in fields(self)))


def find_rows(
    plane: NDArray[np.float32],
    psf: PointSpread,
    noise: NoiseAutocorrelation,
    objects: TrueObjects,
    seed: float,
    flood: float,
) -> Detections:
    """Islands of a plane of S/N as the chain finds them, and a row for each Gaussian not found."""
    segments = label_segments(plane, flood)
    bright = segment_maximum(plane, segments) >= seed
    islands = segments.take(np.flatnonzero(bright))
    sharpening = Sharpening.for_image(psf, noise)
    pixels, starts = find_summits(
        plane, islands, sharpening, persistence=PERSISTENCE, minimum_height=seed
    )
    segments, parent, summit = split_islands(islands, pixels, starts, plane, psf)
    rows = objects.values[objects.kind[objects.owner] == GAUSSIAN_KIND]
    known = np.isfinite(summit).all(1)
    missing = np.ones(len(rows), bool)
    if known.any() and len(rows):
        missing = squared_distances(rows, summit[known]).min(1) > 0.5 * CLAIM
    label = segments.label_map(plane.shape)
    pieces, places = [], []
    half = np.log(4.0)
    precision = inverse(psf.covariance)
    reach = int(np.ceil(np.sqrt(half * psf.covariance.diagonal().max()))) + 1
    step = np.arange(-reach, reach + 1)
    for x, y in rows[missing, 1:3]:
        xs, ys = np.meshgrid(round(x) + step, round(y) + step)
        d = np.stack([xs - x, ys - y], -1)
        inside = np.einsum("abi,ij,abj->ab", d, precision, d) <= half
        inside &= (xs >= 0) & (xs < plane.shape[1]) & (ys >= 0) & (ys < plane.shape[0])
        inside[inside] &= label[ys[inside], xs[inside]] == 0
        if inside[reach, reach]:
            pieces.append((ys[inside] * plane.shape[1] + xs[inside]).astype(np.int64))
            places.append([x, y])
    segments = Segments.concatenate([segments, Segments.from_lists(pieces)])
    return Detections(
        shape=plane.shape,
        box=segment_boxes(segments, plane.shape[1]),
        score=np.ones(len(segments)),
        parent=np.append(parent, np.full(len(pieces), -1)).astype(np.int64),
        segments=segments,
        summit=np.concatenate([summit, np.array(places, float).reshape(-1, 2)]),
    )


@dataclass(frozen=True, eq=False)
class RowTruth:
    """What is true of each row of detections.

    Attributes
    ----------
    values : ndarray, shape (n, 7)
        Peak, x, y, sxx, sxy, syy, total flux (in rms and beams); NaN where a row is noise.
    first : ndarray of int, shape (n,)
        Object of most of its light.
    alone : ndarray of bool, shape (n,)
        All light of that object, and hardly any other, is in the row.
    """

    values: Floats
    first: Integers
    alone: NDArray[np.bool_]


def row_truth(objects: TrueObjects, summit: Floats, beam: Floats) -> RowTruth:
    """Share the light of objects among the rows of detections.

    An object belongs to the rows within three sigmas of one of its elements; each element's light
    goes to the nearest of these, or to several where it reaches over them.
    """
    n = len(summit)
    values, owner = objects.values, objects.owner
    area = np.sqrt(values[:, 3] * values[:, 5] - values[:, 4] ** 2)
    flux = values[:, 0] * area / np.sqrt(determinant(beam))
    share = np.zeros((len(values), n), np.float32)
    reach = np.sqrt(CLAIM * values[:, [3, 5]])
    starts = np.searchsorted(owner, np.arange(len(objects.kind) + 1))
    for a, b in itertools.pairwise(starts):
        low = (values[a:b, 1:3] - reach[a:b]).min(0)
        high = (values[a:b, 1:3] + reach[a:b]).max(0)
        mine = np.flatnonzero(((summit >= low) & (summit <= high)).all(1))
        if mine.size:
            near = squared_distances(values[a:b], summit[mine])
            close = near.min(0) < CLAIM
            mine, near = mine[close], near[:, close]
        if mine.size:
            weight = np.exp(-SHARPNESS * (near - near.min(1, keepdims=True)))
            share[a:b, mine] = weight / weight.sum(1, keepdims=True)
    result = np.full((n, 7), np.nan)
    first = np.full(n, -1, np.int64)
    alone = np.zeros(n, bool)
    whole = np.bincount(owner, flux, minlength=len(objects.kind))
    for j in range(n):
        used = np.flatnonzero(share[:, j] > 1e-3)
        if not used.size:
            continue
        part = flux[used] * share[used, j]
        rows = values[used].copy()
        rows[:, 0] *= share[used, j]
        total = part.sum()
        x, y = part @ rows[:, 1] / total, part @ rows[:, 2] / total
        dx, dy = rows[:, 1] - x, rows[:, 2] - y
        moments = [
            part @ (rows[:, c] + d) / total for c, d in ((3, dx * dx), (4, dx * dy), (5, dy * dy))
        ]
        places = np.vstack([[[x, y]], summit[j : j + 1], rows[rows[:, 0].argsort()[-12:], 1:3]])
        light = light_at(rows, places)
        if light[1] < SEEN:
            continue
        result[j] = [light.max(), x, y, *moments, total]
        by = np.bincount(owner[used], part, minlength=len(objects.kind))
        first[j] = by.argmax()
        most = by[first[j]]
        alone[j] = most > 0.99 * whole[first[j]] and most > 0.99 * total
    return RowTruth(result, first, alone)


def whitened(truth: Floats, windows: Windows) -> Floats:
    """Truth of rows (see `RowTruth`) in the frame of their windows (see `Examples`)."""
    inward = inverse(windows.frame)
    offset = np.einsum("nij,nj->ni", inward, truth[:, 1:3] - windows.centre)
    shape = inward @ truth[:, [3, 4, 4, 5]].reshape(-1, 2, 2) @ np.swapaxes(inward, 1, 2)
    size, axes = np.linalg.eigh(shape)
    log = axes @ (np.log(size)[..., None] * np.swapaxes(axes, 1, 2))
    elements = log[:, [0, 0, 1], [0, 1, 1]]
    return np.column_stack([truth[:, 0], offset, elements, truth[:, 6]])


def field_examples(
    seed: int,
    *,
    side: int = 448,
    realisations: int = 4,
    beam: Floats | None = None,
    features: Callable[[SkyImage, Windows], NDArray[np.float16]] | None = None,
    **options: object,
) -> Examples:
    """Simulate a plane of objects under several realisations of the noise, and cut out the rows.

    Parameters
    ----------
    seed : int
    side : int
    realisations : int
    beam : ndarray, shape (2, 2), optional
        In place of a random one.
    features : callable, optional
        Gives features around windows of an image.
    **options
        Of `draw_objects`.
    """
    generator = np.random.default_rng(seed)
    beam = random_beam(generator) if beam is None else beam
    psf = PointSpread(beam)
    objects = draw_objects(generator, beam, side, **options)  # type: ignore[arg-type]
    sky = np.zeros((side, side), np.float32)
    add_gaussians(sky, np.ascontiguousarray(objects.values))
    mix = generator.choice([0.0, 1.0, generator.random()], p=[0.5, 0.2, 0.3])
    reach = int(np.ceil(3.0 * np.sqrt(beam.diagonal().max()))) + 2
    rho = (1.0 - mix) * gaussian_autocorrelation(beam, reach)
    rho += mix * gaussian_autocorrelation(2.0 * beam, reach)
    noise = NoiseAutocorrelation(rho, "measured")
    c = noise.curvature
    size = -0.5 * np.log((c[0, 0] * c[1, 1] - c[0, 1] ** 2) * determinant(beam))
    level = float(generator.uniform(3.5, 5.0))
    flood = float(generator.uniform(2.3, 3.3))
    parts, objects_of = [], []
    for _ in range(realisations):
        plane = sky + np.float32((1.0 - mix) ** 0.5) * unit_noise(sky.shape, beam, generator)
        if mix:
            plane += np.float32(mix**0.5) * unit_noise(
                sky.shape, beam, generator, autocorrelation="beam"
            )
        found = find_rows(plane, psf, noise, objects, level, flood)
        leaves = found.leaves
        assert found.summit is not None
        true = row_truth(objects, found.summit[leaves], beam)
        good = np.isfinite(true.values[:, 0])
        windows = cut_windows(
            plane, np.ones_like(plane), found, leaves[good], psf,
            float(size + 0.03 * generator.standard_normal()),
        )  # fmt: skip
        parts.append(
            Examples(
                np.clip(windows.fine, -1e3, 1e3).astype(np.float16),
                np.clip(windows.coarse, -1e3, 1e3).astype(np.float16),
                windows.numbers,
                windows.scale.astype(np.float32),
                whitened(true.values[good], windows).astype(np.float32),
                np.full(int(good.sum()), -1, np.int64),
                objects.kind[true.first[good]],
                true.alone[good],
                found.island_of[leaves[good]],
                np.zeros((int(good.sum()), 0, 0, 0), np.float16)
                if features is None
                else features(SkyImage(plane, psf=psf), windows),
            )
        )
        objects_of.append(true.first[good])
    joined = Examples.join(parts)
    owner = np.concatenate(objects_of)
    realisation = np.repeat(np.arange(realisations), [len(part) for part in parts])
    for number in range(len(objects.kind)):
        mine = np.flatnonzero((owner == number) & joined.alone)
        if len(mine) == realisations and len(np.unique(realisation[mine])) == realisations:
            joined.group[mine] = number
    return joined
