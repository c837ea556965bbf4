"""What a person is asked about: the objects that a route finds, with a guess of their class."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.chain import Pipeline, Result
from cyclades.pipeline.config import RouteConfig
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.products import Detections, Floats, Integers, Segments

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

MOST = 3000
"""Objects that a page is made of; more are not for a person to look at."""
CLASSES = ("compact", "extended", "multi-component", "diffuse")
"""Classes on offer unless told otherwise: those of the shipped networks."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Objects that a route finds in an image.

    Parameters
    ----------
    result : Result
        Of the route, with its products.
    rows : tuple of ndarray of int
        Of each object, the rows of the detections that are its islands or components.
    segments : Segments
        Pixels of each object.
    snr : ndarray
        Of the brightest pixel.
    suggestion : tuple of str
        A class for each, from how many components it was measured as and whether it is wider than
        the beam; the first class where the classes have other names.
    classes : tuple of str
    """

    result: Result
    rows: tuple[Integers, ...]
    segments: Segments
    snr: Floats
    suggestion: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image(self) -> "SkyImage":
        """The image."""
        assert self.result.image is not None
        return self.result.image

    @property
    def detections(self) -> Detections:
        """The detections that they are of."""
        assert self.result.detections is not None
        return self.result.detections

    @property
    def identity(self) -> str:
        """A hash of their pixels: decisions are about these objects and no others."""
        content = hashlib.sha256()
        for values in (np.array(self.image.shape), self.segments.offsets, self.segments.indices):
            content.update(np.ascontiguousarray(values, np.int64).tobytes())
        return content.hexdigest()


def find_candidates(
    image: "str | Path | SkyImage",
    config: RouteConfig,
    classes: Sequence[str] = CLASSES,
    *,
    workers: int | None = None,
) -> Candidates:
    """Run a route and take what it finds as candidates.

    Parameters
    ----------
    image : path or SkyImage
    config : RouteConfig
    classes : sequence of str
        That a person chooses from.
    workers : int, optional
        Threads in all.

    Raises
    ------
    ConfigurationError
        Where classes repeat or are missing.
    InputError
        Where the image cannot be used, nothing is found, or too much for a person.
    """
    if not classes or len(set(classes)) < len(classes) or not all(classes):
        raise ConfigurationError(
            f"Classes have to be different names, at least one, not {', '.join(classes) or 'none'}."
        )
    result = Pipeline(config).run(image, workers=workers)
    detections = result.detections
    assert detections is not None
    assert detections.segments is not None
    assert result.image is not None
    assert result.background is not None
    rows = objects_of(detections)
    if not rows:
        raise InputError(
            f"{result.image.name}: nothing is found, so there is nothing to label; lower the "
            "threshold, as --set detection.seed_threshold=4."
        )
    if len(rows) > MOST:
        raise InputError(
            f"{result.image.name}: {len(rows)} objects are too many for a page; cut the image, or "
            "raise the threshold, as --set detection.seed_threshold=20."
        )
    segments = Segments.from_lists(
        [np.unique(detections.segments.take(one).indices) for one in rows]
    )
    excess = result.image.data - result.background.level
    significance = (excess / result.background.rms).ravel()[segments.indices]
    with np.errstate(invalid="ignore"):
        snr = np.fmax.reduceat(np.nan_to_num(significance), segments.offsets[:-1])
    return Candidates(
        result, rows, segments, snr.astype(float), _suggested(result, rows, classes), tuple(classes)
    )


def objects_of(detections: Detections) -> tuple[Integers, ...]:
    """Rows of each object, its islands before its components, objects in order of their first row.

    An object is an island with its children, or what the detector tells apart (`source`).
    """
    owner = detections.island_of
    if detections.source is not None:
        leaf = detections.is_leaf
        owner = np.where(leaf, len(detections) + detections.source, -1)
    names, first, numbers = np.unique(owner, return_index=True, return_inverse=True)
    order = np.argsort(first[names >= 0], kind="stable")
    kept = np.flatnonzero(names >= 0)[order]
    return tuple(np.flatnonzero(numbers == number).astype(np.int64) for number in kept)


def _suggested(
    result: Result, rows: tuple[Integers, ...], classes: Sequence[str]
) -> tuple[str, ...]:
    """A class for each object from its components."""
    components, catalogue = result.components, result.catalogue
    assert components is not None
    assert catalogue is not None
    wide = components.resolved_probability > 0.99
    made = []
    for one in rows:
        mine = np.isin(components.detection, one)
        name = classes[0]
        if np.count_nonzero(mine) > 1 and "multi-component" in classes:
            name = "multi-component"
        elif wide[mine].any() and "extended" in classes:
            name = "extended"
        elif "compact" in classes:
            name = "compact"
        made.append(name)
    return tuple(made)


def edges_of(pixels: Integers, nx: int) -> NDArray[np.int64]:
    """Edges of a mask between its pixels and others.

    Parameters
    ----------
    pixels : ndarray of int
        Flat indices.
    nx : int
        Width of the image.

    Returns
    -------
    ndarray of int, shape (n, 3)
        ``x, y, along``: from the lower left corner of pixel (x, y) one pixel along x (0) or
        along y (1).
    """
    y, x = np.divmod(pixels, nx)
    x0, y0 = int(x.min()) - 1, int(y.min()) - 1
    mask = np.zeros((int(y.max()) - y0 + 2, int(x.max()) - x0 + 2), bool)
    mask[y - y0, x - x0] = True
    level, upright = (np.nonzero(np.diff(mask, axis=axis)) for axis in (0, 1))
    made = [
        np.stack([level[1] + x0, level[0] + y0 + 1, np.zeros_like(level[0])], -1),
        np.stack([upright[1] + x0 + 1, upright[0] + y0, np.ones_like(upright[0])], -1),
    ]
    return np.concatenate(made).astype(np.int64)
