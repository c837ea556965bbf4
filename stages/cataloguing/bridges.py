"""Emission between parts, below the threshold of detection: jets, cores and insides of lobes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.cataloguing.parts import Parts, reach
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, inverse
from cyclades.stages.core.products import Integers
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.stages.core.source import ImageSource

LIGHT = (
    "bridge",
    "saddle",
    "saddle_share",
    "excess",
    "contrast",
    "lit",
    "bright",
    "middle",
    "tail_of_brighter",
    "tail_of_fainter",
)
"""Names of the columns that `BridgeLight` returns."""
SAMPLES = 24
"""Places along the line between two parts."""
ACROSS = 0.4
"""Beams to either side of the line: three places are averaged."""
BLOCK = 1024
"""Pixels; pairs that lie in one block share a window of the image."""
BESIDE = 2.0
"""Beams to either side at which it is looked how bright the surroundings of a line are."""
_FAINT = 0.5
"""A part's own light is passed where its Gaussian has fallen to this many rms."""
_SHORTEST = 0.5
"""Beams; nothing is said of a shorter gap."""
_LIT, _BRIGHT = 1.0, 3.0
"""Rms."""


@dataclass(frozen=True)
class BridgeLight:
    """The emission on the line between two parts and behind them, read from the image.

    Parameters
    ----------
    source : ImageSource
    """

    source: "ImageSource"

    def __call__(self, parts: Parts, first: Integers, second: Integers) -> Floats:
        """Describe the light along the lines between pairs of parts.

        Values are over the rms, as arsinh where they may be large. What lies outside the image or
        is blank counts as empty.

        Parameters
        ----------
        parts : Parts
        first, second : ndarray of int, shape (pairs,)

        Returns
        -------
        ndarray, shape (pairs, len(LIGHT))
            Where both parts' own light has faded: the median times the root of the length in
            beams (0 where less than half a beam is left). On the whole line: the lowest value,
            alone and as a share of the lower end. Between the half-width contours: the median of
            what is above the two Gaussians, times the root of the length, and the same less that
            of the two lines beside it (stripes and sidelobes of real images light all three);
            shares above 1 and above 3 rms. In the middle two fifths: the highest above the
            Gaussians. For either part: its light at one FWHM towards the other less that at one
            FWHM behind.
        """
        if not len(first):
            return np.zeros((0, len(LIGHT)))
        line = _Lines(parts, first, second)
        share = (np.arange(SAMPLES) + 0.5) / SAMPLES
        places = np.broadcast_to(share, (len(first), SAMPLES))
        seen, bare = self._profile(line, places)
        beside = 0.5 * sum(self._profile(line, places, side)[1] for side in (-BESIDE, BESIDE))
        lower = np.minimum(line.peaks[0], line.peaks[1])
        ends = np.concatenate([line.inner, 1.0 - line.outer], 1)
        wide = ends[:, 0] + ends[:, 1] < 1.0
        inner = np.where(wide[:, None], (share > ends[:, :1]) & (share < 1.0 - ends[:, 1:]),
                         np.abs(share - 0.5) < 0.25)  # fmt: skip
        inner |= np.abs(share - 0.5) < 0.5 / SAMPLES + 1e-9
        length = np.maximum(inner.mean(1) * line.beams, 1.0)
        clear = (share > line.faded[0][:, None]) & (share < 1.0 - line.faded[1][:, None])
        gap = (1.0 - line.faded[0] - line.faded[1]) * line.beams
        bridge = np.where(
            (gap >= _SHORTEST) & clear.any(1),
            _median(seen, clear) * np.sqrt(np.maximum(gap, 1.0)),
            0.0,
        )
        middle = np.where(np.abs(share - 0.5) < 0.2, bare, -np.inf).max(1)
        saddle = seen.min(1)
        tails = self._tails(line)
        columns = {
            "bridge": np.arcsinh(bridge),
            "saddle": np.arcsinh(saddle),
            "saddle_share": np.clip(saddle / np.maximum(lower, 1e-9), -1.0, 2.0),
            "excess": np.arcsinh(_median(bare, inner) * np.sqrt(length)),
            "contrast": np.arcsinh(_median(bare - beside, inner) * np.sqrt(length)),
            "lit": (inner & (seen > _LIT)).sum(1) / inner.sum(1),
            "bright": (inner & (seen > _BRIGHT)).sum(1) / inner.sum(1),
            "middle": np.arcsinh(middle),
            "tail_of_brighter": tails[0],
            "tail_of_fainter": tails[1],
        }
        return np.stack([columns[name] for name in LIGHT], -1)

    def _tails(self, line: "_Lines") -> tuple[Floats, Floats]:
        """Light of both parts towards each other less that behind them."""
        made = []
        for end, own in enumerate(line.widths):
            step = np.minimum(own, 0.45)[:, None]
            towards, behind = (step, -step) if end == 0 else (1.0 - step, 1.0 + step)
            share = np.concatenate([towards, behind], 1)
            seen, _ = self._profile(line, share)
            seen = seen - line.model(1 - end, share)
            made.append(np.arcsinh(seen[:, 0]) - np.arcsinh(seen[:, 1]))
        return made[0], made[1]

    def _profile(self, line: "_Lines", share: Floats, side: float = 0.0) -> tuple[Floats, Floats]:
        """Light over the rms at shares of the lines, and the same without the two Gaussians.

        The line may be moved to a side, by beams.
        """
        place = line.start[:, None] + share[..., None] * line.step[:, None]
        across = np.array([-1.0, 0.0, 1.0]) + side / ACROSS
        wide = place[:, :, None] + across[:, None] * line.aside[:, None, None]
        values = line.sign[:, None, None] * (self._values(wide) - line.level[:, None, None])
        values = np.nan_to_num(values / line.rms[:, None, None], posinf=0.0, neginf=0.0)
        seen = values.mean(-1)
        return seen, seen - line.model(0, share, side) - line.model(1, share, side)

    def _values(self, places: Floats) -> Floats:
        """Pixels interpolated at places (..., x y); NaN outside the image; first axis of pairs."""
        ny, nx = self.source.shape
        result = np.full(places.shape[:-1], np.nan)
        block = np.floor(places[:, 0, 0] / BLOCK)
        _, index = np.unique(np.nan_to_num(block), axis=0, return_inverse=True)
        index = np.ravel(index)
        order = np.argsort(index, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
            x, y = places[rows, ..., 0], places[rows, ..., 1]
            low_x, low_y = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
            inside = (low_x >= 0) & (low_y >= 0) & (low_x < nx - 1) & (low_y < ny - 1)
            if not inside.any():
                continue
            box = Box(
                int(low_y[inside].min()),
                int(low_y[inside].max()) + 2,
                int(low_x[inside].min()),
                int(low_x[inside].max()) + 2,
            )
            data = self.source.window(box).data
            j, i = low_x[inside] - box.x0, low_y[inside] - box.y0
            dx, dy = x[inside] - low_x[inside], y[inside] - low_y[inside]
            made = np.full(x.shape, np.nan)
            made[inside] = (
                (1.0 - dy) * ((1.0 - dx) * data[i, j] + dx * data[i, j + 1])
                + dy * ((1.0 - dx) * data[i + 1, j] + dx * data[i + 1, j + 1])
            )  # fmt: skip
            result[rows] = made
        return result


class _Lines:
    """The lines between pairs of parts, in pixels and on the sky."""

    def __init__(self, parts: Parts, first: Integers, second: Integers) -> None:
        there = parts.offsets(first, second)
        self.apart = np.maximum(np.hypot(*there.T), 1e-9)
        beam = np.sqrt(parts.beam_size[first] * parts.beam_size[second])
        self.beams = self.apart / beam
        self.there = there
        self.start = np.stack([parts.x[first], parts.y[first]], -1)
        self.step = np.stack([parts.x[second], parts.y[second]], -1) - self.start
        across = (ACROSS * beam / self.apart)[:, None]
        # which side is which does not matter, since both are averaged
        self.aside = across * np.stack([-self.step[:, 1], self.step[:, 0]], -1)
        self.across = across * np.stack([there[:, 1], -there[:, 0]], -1)
        self.level = 0.5 * (parts.level[first] + parts.level[second])
        self.rms = 0.5 * (parts.rms[first] + parts.rms[second])
        self.sign = parts.sign[first]
        self.peaks = tuple(parts.peak[rows] / self.rms for rows in (first, second))
        self.shapes = tuple(inverse(parts.shape[rows]) for rows in (first, second))
        reached = [reach(parts, rows, there) / self.apart for rows in (first, second)]
        self.inner, self.outer = reached[0][:, None], 1.0 - reached[1][:, None]
        self.widths = tuple(2.0 * own for own in reached)
        self.faded = tuple(
            2.0 * own / SIGMA_TO_FWHM * np.sqrt(2.0 * np.log(np.maximum(peak / _FAINT, 1.0)))
            for own, peak in zip(reached, self.peaks, strict=True)
        )

    def model(self, end: int, share: Floats, side: float = 0.0) -> Floats:
        """Light of one part's Gaussian over the rms, at shares of the lines (see `_profile`)."""
        along = (share - end)[..., None, None] * self.there[:, None, None]
        across = np.array([-1.0, 0.0, 1.0]) + side / ACROSS
        step = along + across[:, None] * self.across[:, None, None]
        depth = np.einsum("psai,pij,psaj->psa", step, self.shapes[end], step)
        return np.asarray(self.peaks[end][:, None] * np.exp(-0.5 * depth).mean(-1))


def _median(values: Floats, chosen: "np.typing.NDArray[np.bool_]") -> Floats:
    """Median of the chosen values of every row; 0 without any."""
    held = np.sort(np.where(chosen, values, np.inf), axis=1)
    number = chosen.sum(1)
    rows = np.arange(len(values))
    low, high = np.maximum(number - 1, 0) // 2, np.minimum(number // 2, values.shape[1] - 1)
    with np.errstate(invalid="ignore"):
        middle = 0.5 * (held[rows, low] + held[rows, high])
    return np.where(number > 0, middle, 0.0)
