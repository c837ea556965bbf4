"""What can be said of a route on a real image whose sources nobody knows."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.intervals import robust_sigma, wilson
from cyclades.pipeline.comparison.outcome import Outcome
from cyclades.pipeline.comparison.tables import ComparisonTable
from cyclades.stages.core.altered import NegativeSource
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import noise_autocorrelation

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Pipeline, Result
    from cyclades.stages.core.source import ImageSource

BRIGHT_SNR = 50.0
"""S/N from which a source's surroundings are left out: its sidelobes are not noise."""
BRIGHT_BEAMS = 10.0
"""Radius of the surroundings in beams, beyond the source's own extent."""
LEAST_NEGATIVES = 20
DISAGREEMENT = 0.01
"""Probability below which the count of negatives disagrees with Gaussian noise."""


@dataclass(frozen=True)
class InvertedField:
    """Islands of one image and of its negative, outside the surroundings of bright sources.

    Parameters
    ----------
    name : str
    positive, negative : int
        Islands of the image and of the inverted image.
    expected : float
        Maxima of Gaussian noise with the measured autocorrelation above the seed threshold;
        NaN where the detector has none and found nothing.
    threshold : float
        That threshold, in local rms.
    area, excluded : int
        Pixels judged, and pixels left out around bright sources.
    """

    name: str
    positive: int
    negative: int
    expected: float
    threshold: float
    area: int
    excluded: int


@dataclass(frozen=True)
class InvertedRate:
    """The inverted-image false-detection rate, pooled over fields.

    The noise of an image is as likely negative as positive, so the islands of the inverted image
    count the noise islands of the image itself, for any detector whose response to noise does
    not depend on its sign (after Serra et al. 2012, PASA 29, 296). What is positive only (side
    lobes of an instrument with a positive bias, CLEANed noise, unrelated structure) escapes it,
    and negative bowls raise it.
    """

    fields: tuple[InvertedField, ...]

    @property
    def positive(self) -> int:
        """Islands of the images."""
        return sum(field.positive for field in self.fields)

    @property
    def negative(self) -> int:
        """Islands of the inverted images."""
        return sum(field.negative for field in self.fields)

    @property
    def expected(self) -> float:
        """Negatives that Gaussian noise would give."""
        return float(sum(field.expected for field in self.fields))

    @property
    def percentage(self) -> float:
        """Negatives in percent of the real detections; NaN without any detection."""
        return 100.0 * self.negative / self.positive if self.positive else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """One-sigma interval of the percentage, from the binomial split of both counts."""
        low, high = wilson(self.negative, self.negative + self.positive)
        with np.errstate(divide="ignore", invalid="ignore"):
            bounds = 100.0 * np.array([low / (1 - low), high / (1 - high)])
        return float(bounds[0]), float(bounds[1])

    @property
    def enough(self) -> bool:
        """Whether there are at least 20 negatives, a fifth of uncertainty."""
        return self.negative >= LEAST_NEGATIVES

    @property
    def probability(self) -> float:
        """Two-sided Poisson probability of a count so far from the Gaussian expectation."""
        from scipy.stats import poisson

        if not np.isfinite(self.expected):
            return float("nan")
        tails = (
            poisson.cdf(self.negative, self.expected),
            poisson.sf(self.negative - 1, self.expected),
        )
        return float(min(1.0, 2.0 * min(tails)))

    @property
    def disagrees(self) -> bool:
        """Whether the negatives are not what Gaussian noise of the measured rms would give.

        Many more: artefacts, or an rms that is too small. Many fewer: an rms that is too large,
        or a detector that asks for more than a peak above its threshold.
        """
        return self.probability < DISAGREEMENT

    def __str__(self) -> str:
        low, high = self.interval
        fields = "1 field" if len(self.fields) == 1 else f"{len(self.fields)} fields"
        text = (
            f"{self.percentage:.2f} % false by inversion ({low:.2f} to {high:.2f} %): "
            f"{self.negative} negative and {self.positive} real islands in {fields}; Gaussian "
            f"noise would give {self.expected:.1f} negative ones"
        )
        if self.disagrees:
            text += f", which disagrees (probability {self.probability:.1g})"
        if not self.enough:
            text += f"; fewer than {LEAST_NEGATIVES} negatives, so pool more fields"
        return text + "."


def inverted_rate(
    pipeline: "Pipeline",
    images: "Iterable[str | Path | ImageSource | SkyImage]",
    *,
    workers: int | None = None,
    bright_snr: float = BRIGHT_SNR,
    bright_beams: float = BRIGHT_BEAMS,
) -> InvertedRate:
    """Run a route on images and on their negatives, and compare the numbers of islands.

    Parameters
    ----------
    pipeline : Pipeline
    images : iterable of path, ImageSource or SkyImage
        Give fields until `InvertedRate.enough`.
    workers : int, optional
        Threads.
    bright_snr, bright_beams : float
        Surroundings that are left out; see `bright_surroundings`.

    Raises
    ------
    InputError
        Where there is no image, or an image cannot be used.
    """
    fields = tuple(
        _inverted_field(pipeline, image, workers, bright_snr, bright_beams) for image in images
    )
    if not fields:
        raise InputError("the inverted-image rate needs at least one image.")
    return InvertedRate(fields)


def _inverted_field(
    pipeline: "Pipeline",
    image: "str | Path | ImageSource | SkyImage",
    workers: int | None,
    bright_snr: float,
    bright_beams: float,
) -> InvertedField:
    from cyclades.pipeline.chain import default_workers

    threads = default_workers() if workers is None else workers
    with Context(workers=threads, seed=pipeline.config.seed) as context:
        result = pipeline.run(image, context=context)
        if result.windows is not None:
            raise InputError(
                f"{result.windows.survey.plane.source.name}: the image was worked through in "
                "windows, and the inverted-image rate needs it as a whole; put image.window=0 "
                "into the route, or cut out a part."
            )
        plane, background = result.image, result.background
        assert plane is not None
        assert background is not None
        noise = noise_autocorrelation(plane, background, context=context)
        found = search_negative(pipeline, result, context, bright_snr, bright_beams)
    lowest = float(np.min(found.real)) if len(found.real) else float("nan")
    threshold = lowest if found.threshold is None else found.threshold
    zone = bright_surroundings(plane, _islands(result), bright_snr, bright_beams)
    area = int(np.count_nonzero(np.isfinite(background.rms) & ~zone))
    expected = float(noise.expected_maxima(threshold, area))
    return InvertedField(
        plane.name,
        len(found.positive),
        len(found.negative),
        expected,
        threshold,
        area,
        int(np.count_nonzero(zone)),
    )


class NegativeSearch(NamedTuple):
    """Islands of an image and of its negative, as their S/N."""

    positive: Floats
    negative: Floats
    """Outside the surroundings of bright sources."""
    real: Floats
    """All of the image."""
    threshold: float | None
    """Seed threshold, in local rms; None where the detector has none."""


def search_negative(
    pipeline: "Pipeline",
    result: "Result",
    context: Context,
    bright_snr: float = BRIGHT_SNR,
    bright_beams: float = BRIGHT_BEAMS,
) -> NegativeSearch:
    """Search the negative of an image as the image was, with the same thresholds.

    Parameters
    ----------
    pipeline : Pipeline
    result : Result
        Of the image, with its products, or in windows: then the negative is searched in windows.
    context : Context
    bright_snr, bright_beams : float
        Surroundings that are left out; see `bright_surroundings`.
    """
    negative: ImageSource | SkyImage
    if result.windows is not None:
        negative = NegativeSource(result.windows.survey.plane.source)
    else:
        assert result.image is not None
        negative = result.image.replace(data=-result.image.data)
    thresholds = result.provenance["notes"].get("detection_thresholds", {})
    seed = thresholds.get("seed")
    # The noise is to be searched as the image was, not with a threshold of its own.
    detection = pipeline.config.detection
    if seed is not None and "seed_threshold" in type(detection).model_fields:
        held = detection.model_copy(
            update={"seed_threshold": seed, "flood_threshold": thresholds["flood"]}
        )
        pipeline = pipeline.replace(detection=held)
    inverted = pipeline.run(negative, keep=False, context=context)
    real, false = _islands(result), _islands(inverted)
    reach = bright_beams * (1.0 if negative.psf is None else negative.psf.size)
    apart = [t["snr"][~near_bright(t["x"], t["y"], real, bright_snr, reach)] for t in (real, false)]
    threshold = None if seed is None else float(seed)
    return NegativeSearch(apart[0], apart[1], real["snr"], threshold)


def _islands(result: "Result") -> dict[str, NDArray[Any]]:
    """Positive islands of a result as plain columns."""
    assert result.catalogue is not None
    table = result.catalogue.islands
    columns = {
        name: np.asarray(table[name])
        for name in ("x", "y", "snr", "x_min", "x_max", "y_min", "y_max")
    }
    positive = columns["snr"] > 0
    return {name: values[positive] for name, values in columns.items()}


def near_bright(
    x: NDArray[Any], y: NDArray[Any], islands: dict[str, NDArray[Any]], snr: float, reach: float
) -> NDArray[np.bool_]:
    """Whether pixels lie within some pixels of the bounding boxes of islands above an S/N.

    The same pixels as those of `bright_surroundings`.
    """
    from scipy.spatial import cKDTree

    near = np.zeros(len(x), bool)
    bright = np.flatnonzero(islands["snr"] >= snr)
    if not len(bright) or not len(near):
        return near
    low, high = (
        np.stack([islands[f"x_{end}"], islands[f"y_{end}"]], -1)[bright].astype(float)
        for end in ("min", "max")
    )
    points = np.stack([x, y], -1).astype(float)
    radii = 0.5 * np.linalg.norm(high - low, axis=1) + reach + 1.0
    around = cKDTree(points).query_ball_point(0.5 * (low + high), radii)
    for box, rows in enumerate(around):
        beyond = np.maximum(np.maximum(low[box] - points[rows], points[rows] - high[box]), 0.0)
        near[rows] |= np.hypot(beyond[:, 0], beyond[:, 1]) <= reach
    return near


def bright_surroundings(
    image: SkyImage, islands: dict[str, NDArray[Any]], snr: float, beams: float
) -> NDArray[np.bool_]:
    """Pixels around islands above an S/N: within some beams of their bounding boxes."""
    from scipy import ndimage

    bright = np.zeros(image.shape, bool)
    for row in np.flatnonzero(islands["snr"] >= snr):
        box = [int(islands[name][row]) for name in ("y_min", "y_max", "x_min", "x_max")]
        bright[box[0] : box[1] + 1, box[2] : box[3] + 1] = True
    if not bright.any():
        return bright
    reach = beams * (1.0 if image.psf is None else image.psf.size)
    return np.asarray(ndimage.distance_transform_edt(~bright) <= reach)


def deep_agreement(
    shallow: ComparisonTable, deep: ComparisonTable, rms: Floats | float | None = None
) -> Outcome:
    """Judge a catalogue of a shallow image by that of a deep image of the same sky.

    The deep catalogue serves as truth, with the S/N that its peaks would have in the shallow
    image, so that every metric of an `Outcome` applies. Variable sources, another resolution or
    another frequency, and what the deep catalogue itself lacks count against the shallow one.
    Restrict both to the area that they share first.

    Parameters
    ----------
    shallow, deep : ComparisonTable
    rms : float or ndarray, shape (deep rows,), optional
        Noise of the shallow image at the deep positions, in Jy per beam; by default the median
        of the shallow catalogue's.

    Raises
    ------
    InputError
        Where the noise of the shallow image is not known.
    """
    return Outcome.of(as_seen_by(deep, shallow, rms), shallow)


def as_seen_by(
    deep: ComparisonTable, shallow: ComparisonTable, rms: Floats | float | None = None
) -> ComparisonTable:
    """Give a deep catalogue the noise, and so the S/N, of a shallow image; see `deep_agreement`."""
    if rms is None:
        known = shallow["local_rms"][np.isfinite(shallow["local_rms"])]
        if not len(known):
            raise InputError(
                f"{shallow.name}: the noise of the shallow image is not known; give its rms."
            )
        rms = float(np.median(known))
    local = np.broadcast_to(np.asarray(rms, float), (len(deep),)).copy()
    return deep.replace(local_rms=local, snr=deep["peak_flux"] / local)


class ResidualStatistics(NamedTuple):
    """Scatter of a residual image, in units of the rms map."""

    rms: float
    """Root mean square about the mean."""
    mad: float
    """1.4826 times the median absolute deviation: as `rms` for Gaussian noise."""
    kurtosis: float
    """Excess kurtosis, 0 for Gaussian noise; large where sources are left or over-subtracted."""
    mean: float
    number: int
    """Pixels; neighbours are not independent."""


def residual_statistics(
    residual: NDArray[np.floating], rms: NDArray[np.floating]
) -> ResidualStatistics:
    """Robust and plain scatter of residual over rms; NaN pixels are left out.

    Parameters
    ----------
    residual, rms : ndarray, any one shape
        Image minus model, and the noise map in the same unit.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (np.asarray(residual, float) / np.asarray(rms, float)).ravel()
    values = values[np.isfinite(values)]
    if not len(values):
        return ResidualStatistics(np.nan, np.nan, np.nan, np.nan, 0)
    mean = float(values.mean())
    variance = float(np.mean((values - mean) ** 2))
    kurtosis = float(np.mean((values - mean) ** 4)) / variance**2 - 3.0 if variance else np.nan
    return ResidualStatistics(
        float(np.sqrt(variance)), float(robust_sigma(values)), kurtosis, mean, len(values)
    )


def residuals_of(result: "Result") -> dict[str, ResidualStatistics]:
    """Residual statistics of a run: of ``all`` pixels, on ``islands``, and ``elsewhere``.

    Raises
    ------
    InputError
        Where the run did not keep its products.
    """
    if result.background is None or result.detections is None or result.detections.segments is None:
        raise InputError("residual statistics need the products of the run; run it with keep=True.")
    residual, rms = result.residual, result.background.rms
    inside = np.zeros(residual.shape, bool)
    inside.ravel()[result.detections.segments.indices] = True
    return {
        "all": residual_statistics(residual, rms),
        "islands": residual_statistics(residual[inside], rms[inside]),
        "elsewhere": residual_statistics(residual[~inside], rms[~inside]),
    }
