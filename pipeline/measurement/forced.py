"""Forced measurement of a catalogue on one image."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclades.pipeline.chain import default_workers
from cyclades.pipeline.config import DEFAULT_ROUTE, RouteConfig
from cyclades.pipeline.measurement.prior import Prior, read_prior
from cyclades.pipeline.progress import Progress
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import FitsSource
from cyclades.stages.core.products import Background
from cyclades.stages.core.source import ImageSet, ImageSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table

FREE_LIMIT = 0.5
"""How far free positions may move, in beams, where nothing else is said."""
SIGNIFICANCE = 3.0
"""Sigmas of a detection and of an upper limit, where nothing else is said."""


def measure_at(
    image: "str | Path | ImageSource | SkyImage",
    catalogue: "Catalogue | Table | str | Path | Prior",
    *,
    free_positions: bool | float = False,
    significance: float = SIGNIFICANCE,
    background: Background | None = None,
    route: "str | Path | Mapping[str, Any] | RouteConfig" = DEFAULT_ROUTE,
    workers: int | None = None,
    context: Context | None = None,
    progress: Progress | None = None,
) -> Catalogue:
    """Measure the fluxes of known components on an image, detected there or not.

    The shapes of the catalogue, without its beam, are convolved with the beam of the image.
    Components that blend at that beam are fitted together. Positions are carried through the sky.

    Parameters
    ----------
    image : path, ImageSource or SkyImage
        Needs a beam. Its pixels need not be those of the image that the catalogue is of.
    catalogue : Catalogue, astropy table, or path
        What to measure; see `cyclades.pipeline.measurement.prior.read_prior`.
    free_positions : bool or float
        Whether positions are fitted too, and how far they may move in beams (0.5 for True).
        Components below 5 sigma at the given position are held in any case.
    significance : float
        Sigmas of a detection: ``total_flux_is_limit`` is set below, and ``total_flux_limit`` is
        the positive part of the flux plus this many of its errors.
    background : Background, optional
        Level and rms; estimated by the route's background stage where left out.
    route : route name, path, mapping or RouteConfig
        Gives the background stage, and how a path is read.
    workers : int, optional
        Threads in all.
    context : Context, optional
        Used instead of a new one.
    progress : callable, optional
        Called with ``"background"`` and ``"fit"`` before these begin, and with the share that is
        done where a stage tells it, as ``"background 40 %"``.

    Returns
    -------
    Catalogue
        The rows, names and numbers of the prior, in its order; fluxes are NaN, with the flag
        ``not_covered``, where the image has no usable pixels. Rows with a fixed position keep the
        prior's position and its errors.

    Raises
    ------
    InputError
        Where image or catalogue cannot be used.
    ConfigurationError
        For a significance or a limit that is not positive.
    """
    limit = FREE_LIMIT if free_positions is True else float(free_positions)
    if not 0.0 <= limit <= 2.0:
        raise ConfigurationError(
            f"Positions may move by at most 2 beams, not {limit:g}; further away lies another "
            "source."
        )
    if not significance > 0.0:
        raise ConfigurationError(f"The significance must be positive, not {significance:g}.")
    config = route if isinstance(route, RouteConfig) else RouteConfig.from_route(route)
    if context is None:
        threads = default_workers() if workers is None else workers
        with Context(workers=threads, seed=config.seed) as own:
            return measure_at(
                image, catalogue, free_positions=free_positions, significance=significance,
                background=background, route=config, context=own, progress=progress,
            )  # fmt: skip
    prior = catalogue if isinstance(catalogue, Prior) else read_prior(catalogue)
    plane = read_plane(image, config)
    if plane.psf is None:
        raise InputError(
            f"{plane.name} has no beam, which forced measurement needs; give it with "
            "--beam 5.4arcsec (Python: read_image(path, beam='5.4arcsec'))."
        )
    from cyclades.pipeline.measurement.rows import forced_catalogue
    from cyclades.stages.characterization.forced import measure_forced

    x, y, intrinsic, errors = prior.place(plane)
    tell = progress or (lambda _: None)
    tell("background")
    if background is None:
        context.listener = lambda share: tell(f"background {100 * share:.0f} %")
        try:
            background = config.background.estimate(plane, context=context)
        finally:
            context.listener = None
    tell("fit")
    measured = measure_forced(
        plane, background, x, y, intrinsic, free_positions=limit, context=context
    )
    made = forced_catalogue(plane, background, prior, measured, errors, significance)
    made.meta["prior"] = prior.label
    made.meta["forced"] = {"free_positions": limit, "significance": float(significance)}
    return made


def read_plane(image: "str | Path | ImageSource | SkyImage", config: RouteConfig) -> SkyImage:
    """Return the pixels of whatever stands for an image."""
    if isinstance(image, SkyImage):
        return image
    if isinstance(image, (str, Path)):
        return FitsSource(image, config.image).read()
    given: Any = image
    if isinstance(given, ImageSet) or not hasattr(given, "read"):
        raise InputError(
            "measure_at takes one image; give an ImageSet or several images to measure_planes."
        )
    return image.read()
