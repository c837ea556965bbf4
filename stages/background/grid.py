"""Background by clipped statistics in overlapping boxes on a grid, as BANE does."""

from typing import ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cyclades.stages.background.base import MeshBackground, clipping_correction, stride
from cyclades.stages.background.mesh import Floats, Map, Mesh
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.stage import parameter
from cyclades.stages.core.streaming import Plane

MINIMUM_FRACTION = 0.25
"""Of usable pixels in a box, over the pixels of a whole box."""


class GridBackground(MeshBackground):
    """Clipped medians and deviations in overlapping boxes (after Hancock et al. 2012, 2018)."""

    name: ClassVar[str] = "grid"
    summary: ClassVar[str] = "clipped statistics in overlapping boxes on a grid, as BANE does"

    box_beams: float = parameter(
        30.0, "Side of a box in geometric mean FWHMs of the beam.", unit="beams", gt=0
    )
    clip: float = parameter(3.0, "Values beyond this are clipped.", unit="rms of a box", ge=1.5)

    def mesh(self, image: SkyImage | Plane) -> Mesh:
        """Return boxes that overlap by half, read twice a beam: the noise holds no more."""
        step = max(1, self.box(image) // 2)
        margin = (self.box(image) - step) // 2
        return Mesh.anchored(image.shape, image.origin, step, margin, stride(image.psf))

    def statistics(self, data: Map, usable: NDArray[np.bool_], mesh: Mesh) -> tuple[Floats, Floats]:
        """Return clipped median and scale of each box (see `MeshBackground.statistics`)."""
        nominal = (mesh.y.step + 2 * mesh.y.margin) * (mesh.x.step + 2 * mesh.x.margin)
        location, scale = box_statistics(
            data,
            usable,
            mesh.y.starts,
            mesh.y.stops,
            mesh.x.starts,
            mesh.x.stops,
            mesh.stride,
            self.clip,
            clipping_correction(self.clip),
            MINIMUM_FRACTION * nominal / mesh.stride**2,
        )
        return location, scale


SAMPLE = 16
"""Every so many values of a box tell where its median is to be looked for."""

BOX_SIGNATURE = (
    "UniTuple(float64[:,::1], 2)(float32[:,::1], boolean[:,::1], int64[::1], int64[::1], "
    "int64[::1], int64[::1], int64, float64, float64, float64)"
)


@njit(cache=True, nogil=True)
def select(values: NDArray[np.float32], count: int, rank: int) -> float:
    """Value of a rank among the first `count` values, which are reordered (quickselect)."""
    low, high = 0, count - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return np.float64(values[rank])


@njit(cache=True, nogil=True)
def narrow(
    values: NDArray[np.float32], count: int, low: float, high: float, window: NDArray[np.float32]
) -> tuple[int, int]:
    """Copy the values from `low` to `high` into a window; how many are below, and how many inside.

    Without branches, which no processor could predict.
    """
    below, inside = 0, 0
    for k in range(count):
        window[inside] = values[k]
        inside += (values[k] >= low) & (values[k] <= high)
        below += values[k] < low
    return below, inside


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def clipped_sums(
    values: NDArray[np.float32], count: int, centre: float, low: float, high: float
) -> tuple[int, int, float, float]:
    """Numbers of offsets from a centre below and above limits; sum and square sum of the others.

    Sums in any order, so that the compiler may add several values at once.
    """
    below, above, total, square = 0, 0, 0.0, 0.0
    for k in range(count):
        offset = values[k] - centre
        below += offset < low
        above += offset > high
        kept = offset if (offset >= low) & (offset <= high) else 0.0
        total += kept
        square += kept * kept
    return below, above, total, square


@njit(BOX_SIGNATURE, cache=True, nogil=True)
def box_statistics(
    data: Map,
    usable: NDArray[np.bool_],
    y_starts: NDArray[np.int64],
    y_stops: NDArray[np.int64],
    x_starts: NDArray[np.int64],
    x_stops: NDArray[np.int64],
    stride: int,
    clip: float,
    correction: float,
    minimum: float,
) -> tuple[Floats, Floats]:
    """Clipped median and standard deviation in boxes.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
        Plane.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that count.
    y_starts, y_stops, x_starts, x_stops : ndarray of int64
        Rows and columns of the boxes, which may overlap.
    stride : int
        Every so many pixels are read along both axes.
    clip : float
        Values beyond this many standard deviations from the median are clipped, until none is.
    correction : float
        Ratio of the standard deviation of a Gaussian to that of its clipped part.
    minimum : float
        Values read below which a box gives NaN.

    Returns
    -------
    location, scale : ndarray, shape (len(y_starts), len(x_starts))
        Median, and standard deviation corrected for the clipping.
    """
    shape = (y_starts.size, x_starts.size)
    location, scale = np.full(shape, np.nan), np.full(shape, np.nan)
    values = np.empty(np.max(y_stops - y_starts) * np.max(x_stops - x_starts) + 1, np.float32)
    window = np.empty(values.size, np.float32)
    for j in range(shape[0]):
        for i in range(shape[1]):
            n = 0
            for y in range(y_starts[j], y_stops[j], stride):
                for x in range(x_starts[i], x_stops[i], stride):
                    values[n] = data[y, x]
                    n += usable[y, x]
            if n == 0 or n < minimum:
                continue
            # Clipping only moves the rank of the median among all values; a window that a sample
            # gives holds the medians of all rounds, as a rule (Floyd & Rivest 1975).
            sampled = n // SAMPLE
            for k in range(sampled):
                window[k] = values[k * SAMPLE]
            reach = int(1.5 * np.sqrt(sampled))
            under, held = 0, 0
            if sampled > 2 * reach:
                floor = select(window, sampled, sampled // 2 - reach)
                ceiling = select(window, sampled, sampled // 2 + reach)
                under, held = narrow(values, n, floor, ceiling, window)
            below, above, inside = 0, 0, n
            low, high = -np.inf, np.inf
            for _ in range(20):
                rank = below + (inside - 1) // 2
                if under <= rank < under + held:
                    centre = select(window, held, rank - under)
                else:
                    centre = select(values, n, rank)
                below, above, total, square = clipped_sums(values, n, centre, low, high)
                previous, inside = inside, n - below - above
                mean = total / inside
                spread = np.sqrt(max(square / inside - mean * mean, 0.0))
                if low > -np.inf:
                    spread *= correction
                    if inside == previous:
                        break
                low, high = -clip * spread, clip * spread
            location[j, i], scale[j, i] = centre, spread
    return location, scale
