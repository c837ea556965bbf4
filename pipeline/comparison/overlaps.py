"""Objects with boxes and masks, and how much they overlap."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    Floats,
    covariance_from_shape,
    inverse,
    pixel_positions,
    sky_jacobian,
    transform_covariance,
)
from cyclades.stages.core.products import Detections, Integers, Segments

if TYPE_CHECKING:
    from astropy.wcs import WCS

LEAST_BOX = 6.0
"""Least side of a box drawn around a catalogue's ellipse, in pixels."""
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Objects:
    """Truth or detections of one image.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1``: outer edges in pixel coordinates, so that a single pixel at 0 is
        -0.5 ... 0.5 and the area is ``(x1 - x0) (y1 - y0)``.
    scores : ndarray, shape (n,), optional
        Of detections; larger is better. All equal where not given.
    labels : tuple of str, optional
        Classes; without them all objects are of one class.
    masks : Segments, optional
        Pixels of each object.
    ignored : ndarray of bool, shape (n,), optional
        Truth that is neither to be found nor false when found (below the S/N floor).
    """

    boxes: Floats
    scores: Floats | None = None
    labels: tuple[str, ...] | None = None
    masks: Segments | None = None
    ignored: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, float).reshape(-1, 4)
        object.__setattr__(self, "boxes", boxes)
        for name in ("scores", "labels", "masks", "ignored"):
            value = getattr(self, name)
            if value is not None and len(value) != len(boxes):
                raise InputError(
                    f"{len(value)} {name} were given for {len(boxes)} boxes; give one a box."
                )

    def __len__(self) -> int:
        return len(self.boxes)

    def of_class(self, label: str | None) -> "Objects":
        """Return the objects of one class; all of them for None."""
        if label is None:
            return self
        rows = np.flatnonzero(np.array([own == label for own in self.labels or ()], bool))
        return self.take(rows)

    def take(self, rows: Integers) -> "Objects":
        """Return some of the objects, in the order given."""
        return Objects(
            self.boxes[rows],
            None if self.scores is None else self.scores[rows],
            None if self.labels is None else tuple(self.labels[i] for i in rows),
            None if self.masks is None else self.masks.take(rows),
            None if self.ignored is None else self.ignored[rows],
        )

    def unclassed(self) -> "Objects":
        """Return the same without classes, for which any class is right."""
        return Objects(self.boxes, self.scores, None, self.masks, self.ignored)

    @classmethod
    def from_detections(cls, detections: Detections, *, rows: Integers | None = None) -> "Objects":
        """Boxes, masks, scores and most probable classes of a detector's rows (islands if None)."""
        rows = detections.islands if rows is None else np.asarray(rows, np.int64)
        labels = None
        if detections.class_probabilities is not None:
            best = np.argmax(detections.class_probabilities[rows], axis=1)
            labels = tuple(detections.classes[i] for i in best)
        masks = None if detections.segments is None else detections.segments.take(rows)
        return cls(pixel_edges(detections.box[rows]), detections.score[rows], labels, masks)


def pixel_edges(box: ArrayLike) -> Floats:
    """Outer edges of boxes whose corners are pixel centres: half a pixel added on each side."""
    edges = np.array([-0.5, -0.5, 0.5, 0.5])
    return np.asarray(np.asarray(box, float).reshape(-1, 4) + edges)


def ellipse_boxes(
    wcs: "WCS",
    ra: ArrayLike,
    dec: ArrayLike,
    major: ArrayLike,
    minor: ArrayLike,
    position_angle: ArrayLike,
    *,
    least: float = LEAST_BOX,
) -> Floats:
    """Boxes of catalogue rows: one FWHM of the ellipse to either side of the position.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Of the image whose pixels the boxes are in.
    ra, dec : array_like, shape (n,)
        Degrees, ICRS.
    major, minor : array_like, shape (n,)
        FWHM in arcsec.
    position_angle : array_like, shape (n,)
        Degrees east of north at the source.
    least : float
        Least side in pixels.

    Returns
    -------
    ndarray, shape (n, 4)
        ``x0, y0, x1, y1``; NaN where a position or a size is.
    """
    x, y = pixel_positions(wcs, ra, dec)
    sky = covariance_from_shape(
        np.atleast_1d(major) / 3600.0, np.atleast_1d(minor) / 3600.0, np.atleast_1d(position_angle)
    )
    covariance = transform_covariance(sky, inverse(sky_jacobian(wcs, x, y)))
    half_x = np.maximum(SIGMA_TO_FWHM * np.sqrt(covariance[:, 0, 0]), least / 2)
    half_y = np.maximum(SIGMA_TO_FWHM * np.sqrt(covariance[:, 1, 1]), least / 2)
    return np.stack([x - half_x, y - half_y, x + half_x, y + half_y], -1)


class Overlaps(NamedTuple):
    """Pairs of objects that overlap, as linked arrays sorted by first row, then second."""

    first: Integers
    second: Integers
    iou: Floats


def box_overlaps(first: Floats, second: Floats) -> Overlaps:
    """Pairs of boxes that share some area, with their IoU; NaN boxes overlap nothing."""
    parts = []
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (first, second)]
    step = max(1, _CHUNK // max(1, len(second)))
    for start in range(0, len(first), step):
        a = first[start : start + step, None, :]
        width = np.minimum(a[..., 2], second[:, 2]) - np.maximum(a[..., 0], second[:, 0])
        height = np.minimum(a[..., 3], second[:, 3]) - np.maximum(a[..., 1], second[:, 1])
        i, j = np.nonzero((width > 0) & (height > 0))
        shared = width[i, j] * height[i, j]
        i = i + start
        parts.append((i, j, shared / (areas[0][i] + areas[1][j] - shared)))
    if not parts:
        return Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Overlaps(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def mask_overlaps(first: Segments, second: Segments) -> Overlaps:
    """Pairs of masks that share pixels, with their IoU."""
    from scipy import sparse

    pixels = 1 + max((int(s.indices.max()) for s in (first, second) if len(s.indices)), default=0)
    planes = [
        sparse.csr_matrix(
            (np.ones(len(s.indices), np.int64), s.indices, s.offsets), shape=(len(s), pixels)
        )
        for s in (first, second)
    ]
    shared = (planes[0] @ planes[1].T).tocoo()
    order = np.lexsort((shared.col, shared.row))
    i, j = shared.row[order].astype(np.int64), shared.col[order].astype(np.int64)
    common = shared.data[order].astype(float)
    return Overlaps(i, j, common / (first.lengths[i] + second.lengths[j] - common))


def overlaps(first: Objects, second: Objects, kind: str) -> Overlaps:
    """Overlapping pairs of two sets of objects by ``"box"`` or by ``"mask"``."""
    if kind == "box":
        return box_overlaps(first.boxes, second.boxes)
    if first.masks is None or second.masks is None:
        raise InputError(
            "mask metrics need masks of both the truth and the detections; use boxes instead."
        )
    return mask_overlaps(first.masks, second.masks)
