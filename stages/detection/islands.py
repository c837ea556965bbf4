"""Islands: connected pixels above a flood threshold that hold a seed (Aegean-like).

After Hancock et al. (2012, MNRAS 422, 1812; 2018, PASA 35, e011): islands grow from seeds in
units of the local rms, and curvature decides how many components an island has. Here the
components are the persistent peaks of the beam-sharpened significance map
(`cyclades.stages.core.summits`), and the seed threshold follows from a wanted false-discovery
rate unless it is given.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import NoiseAutocorrelation, noise_autocorrelation
from cyclades.stages.core.products import Background, Detections, Segments
from cyclades.stages.core.segments import (
    label_segments,
    segment_boxes,
    segment_maximum,
    significance_map,
    split_islands,
)
from cyclades.stages.core.stage import Capabilities, DetectionStage, WindowMaps, parameter
from cyclades.stages.core.streaming import Plane, StripGroups, in_order, joined_peaks
from cyclades.stages.core.summits import DEFAULT_FWHM, PERSISTENCE, Sharpening, find_summits
from cyclades.stages.detection.false_discovery import SEARCH_RANGE, threshold_for_rate
from cyclades.stages.detection.scales import find_smooth_sources


def find_islands(
    significance: NDArray[np.float32],
    seed: float,
    flood: float,
    minimum_pixels: int,
    segments: Segments | None = None,
) -> Segments:
    """Connected groups of pixels above `flood` with at least one pixel above `seed`.

    `segments` are all groups above `flood` where they are known already.
    """
    if segments is None:
        segments = label_segments(significance, flood)
    bright = segment_maximum(significance, segments) >= seed
    return segments.take(np.flatnonzero(bright & (segments.lengths >= minimum_pixels)))


class IslandsDetection(DetectionStage):
    """Seed-and-flood islands, split into components by persistent curvature peaks."""

    name: ClassVar[str] = "islands"
    summary: ClassVar[str] = (
        "Connected pixels above a flood threshold that hold a seed, split at persistent peaks."
    )
    capabilities: ClassVar[Capabilities] = Capabilities(
        gives_segments=True, gives_summits=True, windows=True
    )

    seed_threshold: float | None = parameter(
        None,
        "Least peak significance of an island; by default false_discovery_rate sets it.",
        unit="local rms",
        gt=0,
    )
    flood_threshold: float = parameter(
        3.0, "Significance down to which an island grows.", unit="local rms", gt=0
    )
    false_discovery_rate: float = parameter(
        0.01,
        "Wanted share of false peaks among the detected sources: sets the seed threshold of each "
        "image from the expected maxima of its noise, and raises it to 5 at most where the "
        "inverted image holds more; not used where seed_threshold is given.",
        gt=0,
        lt=1,
    )
    minimum_pixels: int = parameter(1, "Least number of pixels of an island.", unit="pixels", ge=1)
    persistence: float = parameter(
        PERSISTENCE,
        "Least valley between two components of an island, in units of the noise of the "
        "beam-sharpened map; larger values split less.",
        unit="sharpened rms",
        gt=0,
    )
    scales: tuple[float, ...] = parameter(
        (),
        "FWHM of Gaussians with which the map is smoothed to find extended sources whose peaks "
        "lie below the threshold, as [2]; stripes and other artefacts are found more easily too.",
        unit="beams",
    )
    negative: bool = parameter(False, "Whether negative sources are detected too.")

    def model_post_init(self, context: object) -> None:
        """Check that the flood threshold is not above the seed threshold."""
        if self.seed_threshold is not None and self.flood_threshold > self.seed_threshold:
            raise ValueError(
                f"detection.flood_threshold ({self.flood_threshold:g}) must not exceed "
                f"detection.seed_threshold ({self.seed_threshold:g}); lower the former."
            )

    def detect(self, image: SkyImage, background: Background, *, context: Context) -> Detections:
        """Return complete detections: islands and, for blends, their components."""
        significance = significance_map(image, background)
        noise = noise_autocorrelation(image, background, context=context)
        sharpening = Sharpening.for_image(image.psf, noise)
        seed, segments = self.seed_threshold, None
        if seed is None:
            seed, segments = self.threshold(significance, noise)
        flood = min(self.flood_threshold, seed)
        if flood != min(self.flood_threshold, SEARCH_RANGE[0]):
            segments = None
        context.note("detection_thresholds", {"seed": round(seed, 2), "flood": flood})
        found = self._signed(significance, 1, seed, flood, sharpening, image, segments)
        if self.negative:
            holes = self._signed(-significance, -1, seed, flood, sharpening, image)
            found = _join(found, holes)
        return found

    def limits(self) -> tuple[float, tuple[int, ...]]:
        """Significance down to which islands reach, and the signs of sources."""
        seed = SEARCH_RANGE[0] if self.seed_threshold is None else self.seed_threshold
        return min(self.flood_threshold, seed), (1, -1) if self.negative else (1,)

    def survey(
        self, plane: Plane, maps: WindowMaps, *, context: Context
    ) -> "IslandsDetection | None":
        """Fix the seed threshold from all candidates of a plane that is read by strips.

        None where further scales are searched, whose noise is measured on the whole plane.
        """
        if self.scales:
            return None
        if self.seed_threshold is not None:
            return self
        flood = min(self.flood_threshold, SEARCH_RANGE[0])

        def one(rows: slice) -> tuple[StripGroups, StripGroups, int]:
            image = plane.rows(rows)
            significance = significance_map(image, maps.window(image))
            number = int(np.count_nonzero(np.isfinite(significance)))
            positive, negative = (StripGroups.find(significance, flood, s)[0] for s in (1, -1))
            return positive, negative, number

        found = list(in_order(one, plane.strips(), context.workers))
        _, peaks = joined_peaks([part[0] for part in found])
        _, negative = joined_peaks([part[1] for part in found])
        area = float(sum(part[2] for part in found))
        rate = self.false_discovery_rate
        seed = threshold_for_rate(peaks, context.whole_image_noise, area, rate, negative)
        return self.model_copy(update={"seed_threshold": seed})

    def threshold(
        self, significance: NDArray[np.float32], noise: NoiseAutocorrelation
    ) -> tuple[float, Segments]:
        """Seed threshold for the wanted false-discovery rate.

        Returns
        -------
        seed : float
        segments : Segments
            All groups of pixels above the flood threshold, or above 3 where that is lower.
        """
        flood = min(self.flood_threshold, SEARCH_RANGE[0])
        candidates = label_segments(significance, flood)
        peaks = segment_maximum(significance, candidates)
        negative = segment_maximum(significance, label_segments(significance, flood, -1), -1)
        area = float(np.count_nonzero(np.isfinite(significance)))
        rate = self.false_discovery_rate
        return threshold_for_rate(peaks, noise, area, rate, negative), candidates

    def _signed(
        self,
        significance: NDArray[np.float32],
        sign: int,
        seed: float,
        flood: float,
        sharpening: Sharpening,
        image: SkyImage,
        segments: Segments | None = None,
    ) -> Detections:
        islands = find_islands(significance, seed, flood, self.minimum_pixels, segments)
        pixels, starts = find_summits(
            significance, islands, sharpening, persistence=self.persistence, minimum_height=seed
        )
        segments, parent, summit = split_islands(islands, pixels, starts, significance, image.psf)
        flags = np.zeros(len(segments), np.int64)
        if self.scales:
            beam = DEFAULT_FWHM if image.psf is None else image.psf.size
            smooth, places = find_smooth_sources(
                significance, islands, beam, self.scales, seed, flood
            )
            segments = Segments.concatenate([segments, smooth])
            parent = np.append(parent, np.full(len(smooth), -1))
            summit = np.concatenate([summit, places])
            flags = np.append(flags, np.full(len(smooth), int(Flag.SMOOTHED)))
        return Detections(
            shape=image.shape,
            box=segment_boxes(segments, image.shape[1]),
            score=np.ones(len(segments)),
            parent=parent,
            segments=segments,
            summit=summit,
            sign=np.full(len(segments), sign, np.int64),
            flags=flags,
        )


def _join(first: Detections, second: Detections) -> Detections:
    """Positive and negative detections as one table, parents before children."""
    parent = np.where(second.parent >= 0, second.parent + len(first), -1)
    joined = np.concatenate([first.parent, parent])
    order = np.argsort(joined >= 0, kind="stable")
    new_row = np.full(len(order) + 1, -1, np.int64)
    new_row[order] = np.arange(len(order))
    segments = [s for s in (first.segments, second.segments) if s is not None]
    summits = [s for s in (first.summit, second.summit) if s is not None]
    return Detections(
        shape=first.shape,
        box=np.concatenate([first.box, second.box])[order],
        score=np.concatenate([first.score, second.score])[order],
        parent=new_row[joined[order]],
        segments=Segments.concatenate(segments).take(order),
        summit=np.concatenate(summits)[order],
        sign=np.concatenate([first.signs, second.signs])[order],
        flags=np.concatenate([flags for flags in (first.flags, second.flags) if flags is not None])[
            order
        ],
    )
