"""Images on turned and rescaled pixels, or with a larger beam."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.training.samples import Booleans, Floats, Integers, Plane
from cyclades.stages.core.products import Segments

_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Warp:
    """A linear map of an image's pixels about its middle.

    Parameters
    ----------
    shape : (h, w)
        Of the image, before and after.
    matrix : ndarray, shape (2, 2)
        From old offsets (x, y) from the middle to new ones.
    """

    shape: tuple[int, int]
    matrix: Floats

    @classmethod
    def about_middle(cls, shape: tuple[int, int], angle: float, zoom: float) -> "Warp":
        """Return a rotation by an angle (degrees, from x to y) with a change of scale."""
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        return cls(shape, zoom * np.array([[c, -s], [s, c]]))

    @cached_property
    def to_old(self) -> tuple[Floats, Floats]:
        """Matrix and offset that give the old (y, x) of a new pixel (y, x)."""
        back = np.linalg.inv(self.matrix)[::-1, ::-1]
        middle = np.asarray(0.5 * (np.array(self.shape) - 1.0), np.float64)
        return np.asarray(back, np.float64), middle - back @ middle

    @cached_property
    def _places(self) -> Floats:
        """Old y, and old x, of every new pixel, shape (2, h, w)."""
        back, offset = self.to_old
        new = np.indices(self.shape, np.float64)
        return np.asarray(np.tensordot(back, new, 1) + offset[:, None, None])

    @cached_property
    def outside(self) -> Booleans:
        """New pixels whose centre lies outside the old image, shape (h, w)."""
        y, x = self._places
        h, w = self.shape
        inside = (y > -0.5 - _TINY) & (y < h - 0.5 + _TINY) & (x > -0.5 - _TINY)
        return np.asarray(~(inside & (x < w - 0.5 + _TINY)))

    @cached_property
    def nearest(self) -> Integers:
        """Flat index of the old pixel nearest to each new one; -1 outside, shape (h, w)."""
        y, x = self._places
        h, w = self.shape
        row, column = (np.clip(np.rint(v), 0, n - 1) for v, n in ((y, h), (x, w)))
        return np.where(self.outside, -1, row * w + column).astype(np.int64)


def resample(plane: Plane, warp: Warp, *, order: int = 3, mirror: bool = False) -> Plane:
    """Interpolate an image by splines.

    Blank pixels take the value of their nearest neighbour for the interpolation, so that no
    ringing starts at their edges; new pixels to which a blank one is nearest are blank.

    Parameters
    ----------
    plane : ndarray, shape (h, w), float32
        NaN where blank.
    warp : Warp
    order : int
        Of the splines.
    mirror : bool
        Whether the outside shows the mirrored image; it is blank where not.
    """
    from scipy import ndimage

    blank = ~np.isfinite(plane)
    if blank.all():
        return np.full_like(plane, np.nan)
    filled = plane
    if blank.any():
        near = ndimage.distance_transform_edt(blank, return_distances=False, return_indices=True)
        filled = plane[tuple(near)]
    matrix, offset = warp.to_old
    result = ndimage.affine_transform(
        filled, matrix, offset, output=np.float32, order=order, mode="reflect"
    )
    if blank.any():
        hidden = ndimage.affine_transform(
            blank.view(np.uint8), matrix, offset, order=0, mode="reflect"
        )
        result[hidden > 0] = np.nan
    if not mirror:
        result[warp.outside] = np.nan
    return np.asarray(result)


def resample_mask(mask: Booleans, warp: Warp) -> NDArray[np.bool_]:
    """Carry a mask to the new pixels; False outside."""
    taken = mask.ravel()[np.maximum(warp.nearest, 0)]
    return np.asarray(taken & ~warp.outside)


def convolve(image: Plane, kernel: Floats) -> Plane:
    """Convolve with a Gaussian of unit sum; blank pixels count as nothing and stay blank.

    The weight that falls on blank pixels or beyond the edges is made up for.
    """
    from scipy import fft

    reach = int(np.ceil(4.0 * np.sqrt(max(kernel[0, 0], kernel[1, 1]))))
    shape = [int(fft.next_fast_len(n + reach, real=True)) for n in image.shape]
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    q = kernel[0, 0] * fx**2 + 2.0 * kernel[0, 1] * fx * fy + kernel[1, 1] * fy**2
    transfer = np.exp(-2.0 * np.pi**2 * q).astype(np.float32)
    known = np.isfinite(image)

    def run(plane: Plane) -> Plane:
        done = fft.irfft2(fft.rfft2(plane, shape) * transfer, shape)
        return np.asarray(done[: image.shape[0], : image.shape[1]], np.float32)

    level = np.float32(np.median(image[known])) if known.any() else np.float32(0.0)
    values = run(np.where(known, image - level, np.float32(0.0)))
    weight = np.maximum(run(known.astype(np.float32)), np.float32(1e-3))
    return np.where(known, values / weight + level, np.float32(np.nan))


def grow_segments(segments: Segments, known: Booleans, steps: int) -> Segments:
    """Grow each segment by some pixels, into pixels that are known only.

    Parameters
    ----------
    segments : Segments
        None of them empty.
    known : ndarray of bool, shape (h, w)
    steps : int
    """
    from scipy import ndimage

    h, w = known.shape
    rows = []
    for row in range(len(segments)):
        y, x = np.divmod(segments[row], w)
        y0, x0 = max(int(y.min()) - steps, 0), max(int(x.min()) - steps, 0)
        cut = np.s_[y0 : min(int(y.max()) + steps + 1, h), x0 : min(int(x.max()) + steps + 1, w)]
        mask = np.zeros(known[cut].shape, bool)
        mask[y - y0, x - x0] = True
        grown = (ndimage.binary_dilation(mask, iterations=steps) & known[cut]) | mask
        yy, xx = np.nonzero(grown)
        rows.append((yy + y0) * w + xx + x0)
    return Segments.from_lists(rows)
