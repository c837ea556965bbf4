"""Augmentation that an astronomer would accept: what it makes could have been observed.

Positions, shapes, fluxes in units of the beam, and the labels change together; whatever would
break photometry (brightness curves, colour jitter, cut-outs pasted in) is left out. Every step
can be switched off by a probability of 0, and all random draws come from the generator given.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from cyclades.pipeline.options import Options
from cyclades.pipeline.simulation.plain import unit_noise
from cyclades.pipeline.training.samples import (
    FLOOR,
    LEAST_INSIDE,
    Booleans,
    Floats,
    Sample,
    carry_segments,
    grown_boxes,
    keep_pixels,
)
from cyclades.pipeline.training.warping import (
    Warp,
    convolve,
    grow_segments,
    resample,
    resample_mask,
)
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, determinant
from cyclades.stages.core.stage import parameter

Pair = tuple[float, float]
_MAD_TO_SIGMA = 1.4826
_NO_ZOOM = 0.01
"""Pixels that differ by less are not worth an interpolation."""


class AugmentationOptions(Options):
    """How often each step is taken, and how far it goes."""

    flip: bool = parameter(True, "Mirror and turn by quarters, all eight ways alike.")
    rotate: float = parameter(
        0.2, "Probability of a rotation by an angle of the whole circle.", ge=0.0, le=1.0
    )
    rescale: float = parameter(
        0.2, "Probability of other pixels, within `rescale_factor` and `beam`.", ge=0.0, le=1.0
    )
    rescale_factor: Pair = parameter((0.8, 1.25), "Least and largest number of new pixels an old.")
    beam: Pair | None = parameter(
        (3.5, 8.0),
        "Least and largest beam (geometric mean FWHM). Other pixels and beams keep to it; samples "
        "that do not are always brought to it by other pixels.",
        unit="pixels",
    )
    mirror_corners: bool = parameter(
        False,
        "Whether what a rotation brings in from outside shows the mirrored image, without labels, "
        "instead of being blank.",
    )
    smooth: float = parameter(
        0.1, "Probability of a larger beam, within `smooth_factor` and `beam`.", ge=0.0, le=1.0
    )
    smooth_factor: Pair = parameter((1.05, 1.4), "Least and largest ratio of new beam and old.")
    noise: float = parameter(0.2, "Probability of added noise.", ge=0.0, le=1.0)
    noise_factor: Pair = parameter((1.1, 2.5), "Least and largest ratio of new rms and old.")
    natural_noise: bool = parameter(
        True,
        "Whether added noise has the beam as autocorrelation, as naturally weighted noise has, or "
        "is white noise convolved with the beam.",
    )
    flux: float = parameter(
        0.2,
        "Probability of another flux scale, which the network's input does not show.",
        ge=0.0,
        le=1.0,
    )
    flux_factor: Pair = parameter((0.01, 100.0), "Least and largest flux scale.")
    blank: float = parameter(
        0.1, "Probability of a blank strip or corner, as at the edge of a mosaic.", ge=0.0, le=1.0
    )
    blank_share: float = parameter(
        0.4, "Largest part of the image's side that it takes.", gt=0.0, lt=1.0
    )
    floor: float = parameter(FLOOR, "Objects that fall below this S/N are ignored.", ge=0.0)

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentationOptions":
        for name, value in self:
            if isinstance(value, tuple) and not 0.0 < value[0] <= value[1]:
                raise ValueError(f"{name} needs two positive numbers, the smaller one first")
        for name in ("smooth_factor", "noise_factor"):
            if getattr(self, name)[0] < 1.0:
                raise ValueError(f"{name} cannot be below 1: nothing takes noise or beams away")
        return self

    @classmethod
    def off(cls) -> "AugmentationOptions":
        """Return options that change nothing."""
        steps = ("rotate", "rescale", "smooth", "noise", "flux", "blank")
        return cls.from_mapping({"flip": False, "beam": None, **dict.fromkeys(steps, 0.0)})


def augment(
    sample: Sample, generator: np.random.Generator, options: AugmentationOptions | None = None
) -> Sample:
    """Return a changed copy of a sample, its labels changed with it.

    Objects that a step leaves fewer than half of their pixels, or brings below the floor, are
    ignored; those left without any pixel are dropped. Steps that need a beam are left out where
    the sample has none.

    Parameters
    ----------
    sample : Sample
    generator : numpy.random.Generator
        The same state gives the same result.
    options : AugmentationOptions, optional
    """
    options = AugmentationOptions() if options is None else options
    # every draw is made whether used or not, so that one option does not change the others' draws
    turn = int(generator.integers(8))
    angle = float(generator.uniform(0.0, 360.0))
    chance = generator.random(6)
    place = generator.random(6)
    noise_generator = generator.spawn(1)[0]
    if options.flip:
        sample = flip(sample, turn)
    rotated = chance[0] < options.rotate
    zoom = _zoom(sample, options, bool(chance[1] < options.rescale), place[0])
    if rotated or zoom != 1.0:
        sample = warp(sample, angle if rotated else 0.0, zoom, mirror=options.mirror_corners)
    if chance[2] < options.smooth:
        factor = _between(options.smooth_factor, place[1])
        if sample.beam is not None and options.beam is not None:
            factor = min(factor, options.beam[1] / beam_size(sample.beam))
        sample = smooth(sample, factor)
    if chance[3] < options.noise:
        factor = _between(options.noise_factor, place[2])
        sample = add_noise(sample, factor, noise_generator, natural=options.natural_noise)
    if chance[4] < options.flux:
        sample = scale_flux(sample, _between(options.flux_factor, place[3]))
    if chance[5] < options.blank:
        sample = blank(sample, _blank_region(sample.shape, options.blank_share, place[4:], turn))
    faint = sample.snr < options.floor
    return sample.replace(ignore=sample.ignore | faint) if faint.any() else sample


def flip(sample: Sample, turn: int) -> Sample:
    """Mirror and turn a sample: one of eight ways, exactly.

    Parameters
    ----------
    sample : Sample
    turn : int
        0 ... 7: quarters, counter-clockwise as seen with x to the right and y upwards, plus 4
        where the x axis is mirrored before.
    """
    if turn % 8 == 0:
        return sample
    quarters, mirrored = turn % 4, turn >= 4

    def turned(plane: NDArray[Any]) -> NDArray[Any]:
        plane = plane[..., ::-1] if mirrored else plane
        # rot90 turns clockwise in this view, since rows count upwards
        return np.ascontiguousarray(np.rot90(plane, -quarters, axes=(-2, -1)))

    matrix = np.diag([-1.0 if mirrored else 1.0, 1.0])
    for _ in range(quarters):
        matrix = np.array([[0.0, -1.0], [1.0, 0.0]]) @ matrix
    return _moved(sample, turned, matrix)


def warp(sample: Sample, angle: float, zoom: float, *, mirror: bool = False) -> Sample:
    """Rotate a sample about its middle, and give it other pixels.

    Images are interpolated by cubic splines, maps of the rms take the nearest pixel; the size in
    pixels stays. Fluxes in units of the beam stay, since the beam changes with the pixels.

    Parameters
    ----------
    sample : Sample
    angle : float
        Degrees, counter-clockwise as seen with x to the right and y upwards.
    zoom : float
        New pixels along the side of an old one.
    mirror : bool
        Whether what comes in from outside shows the mirrored image, without labels; it is blank
        where not.
    """
    way = Warp.about_middle(sample.shape, angle, zoom)
    outside = way.outside
    unlabelled = sample.unlabelled
    if unlabelled is not None:
        unlabelled = resample_mask(unlabelled, way)
    if mirror and outside.any():
        unlabelled = outside if unlabelled is None else unlabelled | outside
    changed = sample.replace(
        image=_each(sample.image, lambda plane: resample(plane, way, mirror=mirror)),
        unlabelled=unlabelled,
        beam=None if sample.beam is None else way.matrix @ sample.beam @ way.matrix.T,
        rms=None
        if sample.rms is None
        else _each(sample.rms, lambda plane: resample(plane, way, order=0, mirror=mirror)),
    )
    if sample.segments is None:
        boxes, inside = _moved_boxes(sample, way.matrix)
        changed = changed.replace(boxes=boxes, ignore=sample.ignore | (inside < LEAST_INSIDE))
        return changed.keep(inside > 0)
    pixels = sample.shape[0] * sample.shape[1]
    segments = carry_segments(sample.segments, way.nearest, pixels)
    return keep_pixels(changed, segments, sample.segments.lengths * zoom**2)


def smooth(sample: Sample, factor: float) -> Sample:
    """Convolve a sample to a beam that is larger by a factor, of the same shape.

    The unit stays one of flux a beam, so that the peaks of point sources stay; the rms changes
    as the noise's own autocorrelation has it, and with it the signal to noise (of resolved
    objects, which gain, it is then a lower limit). Pixels of objects are grown by what the
    profile grows.

    Parameters
    ----------
    sample : Sample
        Returned as it is where it has no beam.
    factor : float
        From 1.
    """
    if sample.beam is None or factor <= 1.0:
        return sample
    kernel = sample.beam * (factor**2 - 1.0)
    image = _each(sample.image, lambda plane: convolve(plane, kernel)) * np.float32(factor**2)
    # white noise falls alike in all planes
    ratios = [
        noise_level(after) / before if (before := noise_level(plane)) > 0.0 else 1.0
        for plane, after in zip(_as_planes(sample.image), _as_planes(image), strict=True)
    ]
    ratio = float(np.median(ratios))
    changed = sample.replace(
        image=image,
        beam=sample.beam * factor**2,
        rms=None if sample.rms is None else sample.rms * np.float32(ratio),
        snr=sample.snr / ratio,
    )
    steps = round(0.5 * (factor - 1.0) * beam_size(sample.beam))
    if sample.segments is None or steps == 0:
        return changed
    grown = grow_segments(sample.segments, sample.known, steps)
    return keep_pixels(changed, grown, grown.lengths)


def add_noise(
    sample: Sample, factor: float, generator: np.random.Generator, *, natural: bool = True
) -> Sample:
    """Add noise to a sample until its rms is larger by a factor.

    Parameters
    ----------
    sample : Sample
        Returned as it is where it has no beam. Where it has no rms, the image's median absolute
        deviation serves. Several planes get white noise, each its own.
    factor : float
        From 1.
    generator : numpy.random.Generator
    natural : bool
        See `AugmentationOptions`.
    """
    if sample.beam is None or factor <= 1.0:
        return sample
    rms = sample.rms
    if rms is None:
        levels = [noise_level(plane) for plane in _as_planes(sample.image)]
        rms = np.array(levels, np.float32).reshape((-1, 1, 1)[-sample.image.ndim :])
    if sample.planes:
        noise = generator.standard_normal(sample.image.shape, np.float32)
    else:
        kind = "natural" if natural else "beam"
        noise = unit_noise(sample.shape, sample.beam, generator, autocorrelation=kind)
    added = noise * rms * np.float32(np.sqrt(factor**2 - 1.0))
    return sample.replace(
        image=sample.image + added,
        rms=None if sample.rms is None else sample.rms * np.float32(factor),
        snr=sample.snr / factor,
    )


def scale_flux(sample: Sample, factor: float) -> Sample:
    """Multiply image and rms by a factor."""
    scale = np.float32(factor)
    rms = None if sample.rms is None else sample.rms * scale
    return sample.replace(image=sample.image * scale, rms=rms)


def blank(sample: Sample, region: Booleans) -> Sample:
    """Make a region blank; objects lose their pixels there.

    Parameters
    ----------
    sample : Sample
    region : ndarray of bool, shape (h, w)
    """
    changed = sample.replace(image=np.where(region, np.float32(np.nan), sample.image))
    if sample.segments is None:
        # of a box it is not known which pixels belong to the object
        visible = np.array([1.0 - _mean_inside(region, box) for box in sample.boxes])
        changed = changed.replace(ignore=sample.ignore | (visible < LEAST_INSIDE))
        return changed.keep(visible > 0.0)
    origin = np.where(region.ravel(), -1, np.arange(region.size))
    segments = carry_segments(sample.segments, origin, region.size)
    return keep_pixels(changed, segments, sample.segments.lengths)


def noise_level(image: NDArray[np.floating]) -> float:
    """Return the noise of an image from its median absolute deviation; 0 where all is blank."""
    values = image[np.isfinite(image)]
    if not values.size:
        return 0.0
    return float(_MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def beam_size(beam: Floats) -> float:
    """Geometric mean FWHM of a beam of a covariance."""
    return float(SIGMA_TO_FWHM * determinant(beam) ** 0.25)


def _as_planes(image: NDArray[Any]) -> NDArray[Any]:
    """Planes of an image along the first axis, also where it is a single one."""
    return image.reshape(-1, *image.shape[-2:])


def _each(image: NDArray[Any], change: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Change each plane of an image."""
    return np.stack([change(plane) for plane in _as_planes(image)]).reshape(image.shape)


def _between(limits: Pair, share: float) -> float:
    """A number between two limits, uniform in the logarithm for a uniform share."""
    return float(limits[0] * (limits[1] / limits[0]) ** share)


def _zoom(sample: Sample, options: AugmentationOptions, wanted: bool, share: float) -> float:
    """How many new pixels an old one gets."""
    low, high = options.rescale_factor if wanted else (1.0, 1.0)
    if sample.beam is not None and options.beam is not None:
        size = beam_size(sample.beam)
        least, most = options.beam[0] / size, options.beam[1] / size
        low, high = (float(np.clip(value, least, most)) for value in (low, high))
    zoom = _between((low, high), share)
    return zoom if abs(zoom - 1.0) > _NO_ZOOM else 1.0


def _moved(sample: Sample, move: Callable[[NDArray[Any]], NDArray[Any]], matrix: Floats) -> Sample:
    """Carry a sample through an exchange of pixels and its linear map of (x, y)."""

    def plane(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else move(values)

    h, w = sample.shape
    centre = np.array([w, h]) / 2.0
    corners = (sample.boxes.reshape(-1, 2, 2) - centre) @ matrix.T
    image = move(sample.image)
    corners += np.array(image.shape[:-3:-1]) / 2.0
    boxes = np.concatenate([corners.min(1), corners.max(1)], -1).astype(np.float32)
    segments = sample.segments
    if segments is not None:
        origin = move(np.arange(h * w).reshape(h, w))
        segments = carry_segments(segments, origin, h * w)
    return sample.replace(
        image=image,
        boxes=boxes,
        segments=segments,
        unlabelled=plane(sample.unlabelled),
        beam=None if sample.beam is None else matrix @ sample.beam @ matrix.T,
        rms=plane(sample.rms),
    )


def _moved_boxes(sample: Sample, matrix: Floats) -> tuple[NDArray[np.float32], Floats]:
    """Boxes around the ellipses that fill the old boxes, and the shares of them inside."""
    h, w = sample.shape
    middle = np.array([w, h]) / 2.0
    corners = sample.boxes.reshape(-1, 2, 2).astype(float)
    half = 0.5 * (corners[:, 1] - corners[:, 0])
    centre = (corners.mean(1) - middle) @ matrix.T + middle
    reach = np.sqrt(half**2 @ (matrix**2).T)
    boxes = np.concatenate([centre - reach, centre + reach], -1)
    cut = np.clip(boxes, 0.0, [w, h, w, h])
    area = np.prod(cut[:, 2:] - cut[:, :2], axis=1)
    return grown_boxes(boxes, sample.shape), area / np.prod(2.0 * reach, axis=1)


def _mean_inside(region: Booleans, box: NDArray[np.float32]) -> float:
    """Share of a box's pixels that lie in a region."""
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.ceil(box[2:]).astype(int)
    cut = region[y0:y1, x0:x1]
    return float(cut.mean()) if cut.size else 1.0


def _blank_region(
    shape: tuple[int, int], share: float, place: NDArray[np.float64], way: int
) -> Booleans:
    """A strip along one of the edges, or a corner cut off at an angle."""
    h, w = shape
    y, x = (np.arange(n)[:, None] / n if k == 0 else np.arange(n) / n for k, n in enumerate(shape))
    depth = share * max(float(place[0]), 2.0 / min(h, w))
    x = 1.0 - x if way & 1 else x
    y = 1.0 - y if way & 2 else y
    if place[1] < 0.5:
        slope = np.tan(np.pi * (place[1] - 0.25))  # within 45 degrees of an edge
        distance = (
            (x + slope * (y - 0.5)) + 0.0 * y if way & 4 else (y + slope * (x - 0.5)) + 0.0 * x
        )
        return np.asarray(distance < depth)
    return np.asarray(x + y * (0.5 + place[1]) < depth * 1.5)
