"""Sources injected into an image that is worked through in windows, for its completeness."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.injection import (
    InjectionOptions,
    draw_sky,
    inject,
    usable_pixels,
)
from cyclades.pipeline.simulation.render import drawn
from cyclades.stages.core.altered import BrighterSource
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.pipeline.comparison.tables import ComparisonTable
    from cyclades.pipeline.simulation.model import SkyModel
    from cyclades.pipeline.window_survey import Survey
    from cyclades.stages.core.geometry import Floats
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background, Integers

TILE = 512
"""Side of the parts that are read for the positions in them, without their halo."""
MOST = 100_000
"""Positions that are drawn at a time."""
LEAST = 1000
"""Positions of which one at least can be used, or else there is no more room."""


@dataclass(frozen=True, eq=False)
class WindowedInjection:
    """An image with injected sources, read window by window.

    Parameters
    ----------
    source : BrighterSource
    truth : ComparisonTable
        The injected sources.
    """

    source: BrighterSource
    truth: "ComparisonTable"


def inject_in_windows(
    survey: "Survey", options: InjectionOptions, generator: np.random.Generator
) -> WindowedInjection:
    """Inject sources as `cyclades.pipeline.simulation.injection.inject` does, without the plane.

    Positions are drawn all over the image, and those that cannot be used, or lie too near to one
    drawn before, are dropped: the same distribution as that of the positions in a plane at once.
    Only parts of 512 pixels that hold a position, with the halo of a window, are read.

    Parameters
    ----------
    survey : Survey
        What is known of the image.
    options : InjectionOptions
    generator : numpy.random.Generator

    Raises
    ------
    InputError
        Where the image has no beam, or no room for a single source.
    """
    from cyclades.pipeline.comparison.any_catalogue import from_truth
    from cyclades.pipeline.comparison.tables import ComparisonTable

    source, psf = survey.plane.source, survey.plane.psf
    if psf is None:
        raise InputError(f"{source.name} has no beam, which injected sources need.")
    x, y, rms = _places(survey, options, generator)
    if not len(x):
        raise InputError(f"{source.name} has no room for injected sources.")
    sky = draw_sky(x, y, rms, psf, options, generator, survey.plane.frame.frequency)
    parts = []
    for rows, image, background in _parts(survey, np.rint(y), np.rint(x)):
        y0, x0 = image.origin
        mine = _some(sky, rows).replace(x=x[rows] - x0, y=y[rows] - y0)
        parts.append(from_truth(inject(image, mine, background).truth))
    values = np.asarray(drawn(sky, psf).values, float)
    return WindowedInjection(BrighterSource(source, values), ComparisonTable.concatenate(parts))


def _some(sky: "SkyModel", rows: "Integers") -> "SkyModel":
    """Return some objects of a sky in which every object is one element."""
    names = ("x", "y", "flux", "sxx", "sxy", "syy", "kind", "spectral_index", "object_class")
    chosen = {name: getattr(sky, name)[rows] for name in names}
    return sky.replace(**chosen, owner=np.arange(len(rows)))


def _parts(
    survey: "Survey", y: "NDArray[np.number]", x: "NDArray[np.number]"
) -> "Iterator[tuple[Integers, SkyImage, Background]]":
    """Parts of the image that hold pixels, with a halo, and which of the pixels each holds."""
    nx = survey.plane.shape[1]
    number = y.astype(np.int64) // TILE * (nx // TILE + 1) + x.astype(np.int64) // TILE
    order = np.argsort(number, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        y0, x0 = (int(v[rows[0]]) // TILE * TILE for v in (y, x))
        box = Box(y0, y0 + TILE, x0, x0 + TILE).grow(survey.halo).intersect(survey.full)
        image = survey.plane.source.window(box)
        yield rows, image, survey.maps.window(image)


def _places(
    survey: "Survey", options: InjectionOptions, generator: np.random.Generator
) -> "tuple[Floats, Floats, Floats]":
    """Positions in the full image, and the noise there."""
    from scipy.spatial import cKDTree

    psf = survey.plane.psf
    assert psf is not None
    ny, nx = survey.plane.shape
    gap = options.separation * psf.size
    found: Floats = np.zeros((0, 3))
    in_vain = 0
    while len(found) < options.number and in_vain < LEAST:
        number = min(MOST, max(LEAST if in_vain else 16, 2 * (options.number - len(found))))
        y, x = generator.integers(0, ny, number), generator.integers(0, nx, number)
        rms = np.full(number, np.nan)
        for rows, image, background in _parts(survey, y, x):
            at = y[rows] - image.origin[0], x[rows] - image.origin[1]
            usable = usable_pixels(image, background, psf, options)[at]
            rms[rows] = np.where(usable, background.rms[at], np.nan)
        every = np.concatenate([found, np.stack([y, x, rms], -1)[np.isfinite(rms)]])
        kept = np.ones(len(every), bool)
        pairs = cKDTree(every[:, :2]).query_pairs(gap, output_type="ndarray")
        # those drawn first stay
        for first, second in sorted(np.sort(pairs, axis=1).tolist()):
            kept[second] &= not kept[first]
        before, found = len(found), every[kept][: options.number]
        in_vain = 0 if len(found) > before else in_vain + number
    jitter = generator.uniform(-0.5, 0.5, (2, len(found)))
    return found[:, 1] + jitter[0], found[:, 0] + jitter[1], found[:, 2]
