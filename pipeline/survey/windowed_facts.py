"""What the survey needs of a field that was worked through in windows: strip by strip."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.survey.noise_grid import NoiseGrid, block_step, block_sums
from cyclades.stages.core.footprints import covered_blocks, moc_from_blocks, moc_step

if TYPE_CHECKING:
    from cyclades.pipeline.windowed_maps import WindowedMaps

_DROPPED = 10
"""Bits of single precision that the median of the noise does without: it is good to 1e-4."""


@dataclass
class Scatter:
    """Sums of values that are added part by part, for their scatter about their mean."""

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Take further values in; those that are not finite are left out (Chan et al. 1983)."""
        values = values[np.isfinite(values)].astype(np.float64)
        if not values.size:
            return
        mean = float(values.mean())
        squares = float(np.sum((values - mean) ** 2))
        total = self.number + values.size
        apart = mean - self.mean
        self.squares += squares + apart**2 * self.number * values.size / total
        self.mean += apart * values.size / total
        self.number = total

    @property
    def facts(self) -> dict[str, float]:
        """As `cyclades.pipeline.survey.facts.collect` returns them."""
        if not self.number:
            return {}
        rms = float(np.sqrt(self.squares / self.number))
        return {"residual_rms": rms, "residual_mean": self.mean}


@dataclass
class _Median:
    """Counts of positive values, for their median."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(1 << (32 - _DROPPED), np.int64)
    )

    def add(self, values: NDArray[np.float32]) -> None:
        bits = values.astype(np.float32).view(np.uint32) >> _DROPPED
        places, number = np.unique(bits, return_counts=True)
        self.counts[places] += number

    @property
    def value(self) -> float | None:
        total = int(self.counts.sum())
        if not total:
            return None
        place = int(np.searchsorted(np.cumsum(self.counts), 0.5 * total))
        middle = np.uint32((place << _DROPPED) + (1 << (_DROPPED - 1)))
        return float(middle.view(np.float32))


def measure(
    maps: "WindowedMaps", limit: float, coverage: Path, samples: int
) -> tuple[NoiseGrid | None, dict[str, Any]]:
    """Measure noise and residual of a field, and write its coverage.

    Parameters
    ----------
    maps : WindowedMaps
    limit : float
        Peak S/N above which sources were looked for.
    coverage : Path
        File for the coverage; not written without sky coordinates.
    samples : int
        Blocks of it along the longer side.

    Returns
    -------
    grid : NoiseGrid or None
        As for the image at once; None without sky coordinates.
    facts : dict
        ``rms``, ``residual_rms`` and ``residual_mean``.
    """
    plane = maps.survey.plane
    step, coarse = block_step(plane.shape), moc_step(plane.shape, samples)
    inside = np.ones(len(maps.islands.places), np.int32)
    median, scatter = _Median(), Scatter()
    sums, covered = [], []
    for rows in plane.strips(int(np.lcm(step, coarse))):
        image = plane.rows(rows)
        background = maps.survey.maps.window(image)
        known = np.isfinite(background.rms)
        valid = known & np.isfinite(image.data)
        median.add(background.rms[known])
        with np.errstate(divide="ignore", invalid="ignore"):
            residual = (image.data - background.level - maps.model(rows)) / background.rms
        scatter.add(residual[maps.islands.label_rows(rows, plane.shape[1], inside) == 0])
        sums.append(block_sums(background.rms, valid, step))
        covered.append(covered_blocks(np.isfinite(image.data), coarse))
    facts: dict[str, Any] = {"rms": median.value, **scatter.facts}
    frame = maps.frame
    if frame.wcs is None:
        return None, facts
    moc = moc_from_blocks(frame, plane.shape, np.concatenate(covered), coarse)
    moc.save(str(coverage), format="fits", overwrite=True)
    return NoiseGrid.from_sums(sums, step, frame, limit), facts
