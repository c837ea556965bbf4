"""What a network found in an image, as detections of it or of any window of it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.core.products import Detections, Integers, Segments
from cyclades.stages.core.tiling import Box
from cyclades.stages.detection.wide import Objects, box_segments
from cyclades.stages.networks.specification import NetworkSpec

if TYPE_CHECKING:
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background

_MASKED = 0.5


def as_detections(objects: Objects, spec: NetworkSpec, image: "SkyImage") -> Detections:
    """Detections of objects in pixels of an image."""
    segments = None
    if objects.masks is not None:
        segments = mask_segments(objects.boxes, objects.masks, image.data)
    if any(pixels is not None for pixels in objects.pixels):
        if segments is None:
            segments = box_segments(objects.boxes, image.shape)
        segments = Segments.from_lists(
            [segments[i] if own is None else own for i, own in enumerate(objects.pixels)]
        )
    chances = objects.scores[:, list(spec.real_classes)].astype(float)
    chances /= np.maximum(chances.sum(1, keepdims=True), 1e-9)
    return Detections(
        image.shape,
        objects.boxes - np.array([0.0, 0.0, 1.0, 1.0]),
        objects.likely,
        np.full(len(objects.boxes), -1, np.int64),
        segments=segments,
        class_probabilities=chances,
        classes=tuple(spec.classes[i] for i in spec.real_classes),
    )


@dataclass(frozen=True, eq=False)
class FoundDetection:
    """What a network found in a whole image, for any window of it.

    Parameters
    ----------
    objects : Objects
        In pixels of the full image.
    spec : NetworkSpec
    shape : (ny, nx)
        Of the full image.
    name : str
        Of the detection.
    """

    objects: Objects
    spec: NetworkSpec
    shape: tuple[int, int]
    name: str

    def detect(
        self, image: "SkyImage", background: "Background", *, context: "Context"
    ) -> Detections:
        """Return the objects that lie in a window as a whole."""
        window = image.box
        rows = np.flatnonzero(self._inside(window))
        objects = self.objects.take(rows)
        y0, x0 = image.origin
        inside = []
        for own in objects.pixels:
            if own is not None:
                y, x = np.divmod(own, self.shape[1])
                own = (y - y0) * image.shape[1] + x - x0
            inside.append(own)
        boxes = objects.boxes - np.array([x0, y0, x0, y0], float)
        return as_detections(objects._replace(boxes=boxes, pixels=tuple(inside)), self.spec, image)

    def doubtful(self, image: "SkyImage", background: "Background") -> Integers:
        """Boxes ``y0, y1, x0, x1`` of the objects that a window cuts."""
        window, boxes = image.box, self._whole_pixels()
        cut = ~self._inside(window)
        cut &= (boxes[:, 0] < window.y1) & (boxes[:, 1] > window.y0)
        cut &= (boxes[:, 2] < window.x1) & (boxes[:, 3] > window.x0)
        return boxes[cut]

    def of_rows(self, rows: slice) -> tuple["FoundDetection", Box] | None:
        """Objects whose boxes begin in some rows, and the rows that hold them as a whole."""
        boxes = self._whole_pixels()
        own = np.flatnonzero((boxes[:, 0] >= rows.start) & (boxes[:, 0] < rows.stop))
        if not len(own):
            return None
        held = Box(int(boxes[own, 0].min()), int(boxes[own, 1].max()), 0, self.shape[1])
        return replace(self, objects=self.objects.take(own)), held

    def _whole_pixels(self) -> Integers:
        """Boxes ``y0, y1, x0, x1`` of all pixels that objects touch."""
        low = np.floor(self.objects.boxes[:, [1, 0]]).astype(np.int64)
        high = np.ceil(self.objects.boxes[:, [3, 2]]).astype(np.int64)
        return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], -1)

    def _inside(self, window: Box) -> NDArray[np.bool_]:
        boxes = self._whole_pixels()
        inside = (boxes[:, 0] >= window.y0) & (boxes[:, 1] <= window.y1)
        return np.asarray(inside & (boxes[:, 2] >= window.x0) & (boxes[:, 3] <= window.x1))


def mask_segments(
    boxes: NDArray[np.float64], masks: NDArray[np.floating], data: NDArray[np.float32]
) -> Segments:
    """Pixels whose centres lie in a cell of a mask that is more likely in than out.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        With (0, 0) the outer corner of the first pixel.
    masks : ndarray, shape (n, m, m)
        Probabilities in the frame of each box, interpolated between the cells' centres.
    data : ndarray, shape (ny, nx)
        Blank pixels belong to no object.

    Returns
    -------
    Segments
        One row a box; where a mask holds no pixel, that of its highest cell.
    """
    found = _mask_pixels(
        np.ascontiguousarray(boxes, np.float64), np.ascontiguousarray(masks, np.float32), data
    )
    return Segments(*found)


@njit(
    "Tuple((int64[::1], int64[::1]))(float64[:, ::1], float32[:, :, ::1], float32[:, ::1])",
    cache=True,
    nogil=True,
)
def _mask_pixels(
    boxes: NDArray[np.float64], masks: NDArray[np.float32], data: NDArray[np.float32]
) -> tuple[Integers, Integers]:
    """See `mask_segments`."""
    ny, nx = data.shape
    number, m = len(boxes), masks.shape[1]
    offsets = np.zeros(number + 1, np.int64)
    size = 0
    for i in range(number):
        size += int((boxes[i, 2] - boxes[i, 0] + 2) * (boxes[i, 3] - boxes[i, 1] + 2)) + 1
    indices = np.empty(size, np.int64)
    n = 0
    for i in range(number):
        x0, y0, x1, y1 = boxes[i]
        best, highest = -1, -1.0
        start = n
        for y in range(max(0, int(y0)), min(ny, int(np.ceil(y1)))):
            for x in range(max(0, int(x0)), min(nx, int(np.ceil(x1)))):
                if not np.isfinite(data[y, x]):
                    continue
                u = (x + 0.5 - x0) / (x1 - x0) * m - 0.5
                v = (y + 0.5 - y0) / (y1 - y0) * m - 0.5
                if u < -0.5 or v < -0.5 or u > m - 0.5 or v > m - 0.5:
                    continue
                u, v = min(max(u, 0.0), m - 1.0), min(max(v, 0.0), m - 1.0)
                a, b = min(int(u), m - 2), min(int(v), m - 2)
                s, t = u - a, v - b
                p = (1 - t) * ((1 - s) * masks[i, b, a] + s * masks[i, b, a + 1]) + t * (
                    (1 - s) * masks[i, b + 1, a] + s * masks[i, b + 1, a + 1]
                )
                if p > highest:
                    highest, best = p, y * nx + x
                if p > _MASKED:
                    indices[n] = y * nx + x
                    n += 1
        if n == start and best >= 0:
            indices[n] = best
            n += 1
        offsets[i + 1] = n
    return indices[:n].copy(), offsets
