"""The catalogue of a route on tiles, as boxes that the scorer of detectors takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.chain import Pipeline, Result
from cyclades.pipeline.comparison.any_catalogue import from_catalogue
from cyclades.pipeline.comparison.instances import found_objects, table_objects
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.training.samples import Sample
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.image import SkyImage

Floats = NDArray[np.float64]
PIXEL = 1.0
"""Arcsec that a pixel of a tile is taken for; nothing depends on it."""


def run_route(
    config: Any, tiles: Sequence[Sample], *, boxes: str, device: str, threads: int
) -> list[Objects]:
    """Run a route on tiles, each for itself, and draw boxes around what it found.

    Parameters
    ----------
    config : RouteConfig
    tiles : sequence of Sample
    boxes : str
        ``sources``: one FWHM to either side of the components of each source of the catalogue;
        ``detections``: what was detected.
    device : str
    threads : int

    Returns
    -------
    list of Objects
        With (0, 0) the outer corner of the first pixel, cut at the tile's edges.
    """
    pipeline = Pipeline(config)
    made = []
    with Context(workers=threads, seed=config.seed, device=device) as context:
        for tile in tiles:
            image = as_image(tile.image, tile.beam)
            made.append(_objects(pipeline.run(image, context=context), boxes))
    return made


def as_image(plane: NDArray[np.float32], beam: Floats | None) -> SkyImage:
    """Give a tile the sky coordinates and the beam that stages need.

    Parameters
    ----------
    plane : ndarray, shape (h, w)
    beam : ndarray, shape (2, 2)
        Covariance in pixels squared.

    Raises
    ------
    ConfigurationError
        Without a beam.
    """
    from astropy import units
    from astropy.wcs import WCS

    if beam is None:
        raise ConfigurationError(
            "Routes measure sources by the beam, which these tiles do not say; give one in the "
            "option image.beam of the data."
        )
    ny, nx = plane.shape
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [180.0, 0.0]
    wcs.wcs.crpix = [0.5 * (nx + 1), 0.5 * (ny + 1)]
    wcs.wcs.cdelt = [-PIXEL / 3600.0, PIXEL / 3600.0]
    wcs.wcs.cunit = ["deg", "deg"]
    return SkyImage(
        np.ascontiguousarray(plane, np.float32),
        unit=units.Jy / units.beam,
        wcs=wcs,
        psf=PointSpread(np.asarray(beam, float), wcs),
        frequency=1.4e9,
        name="tile",
    )


def mosaic(tiles: Sequence[Sample]) -> tuple[NDArray[np.float32], Floats | None]:
    """Join tiles to a square image, each in units of its noise, with the beam of the first."""
    side = max(1, int(np.sqrt(len(tiles))))
    planes = []
    for tile in tiles[: side * side]:
        noise = 1.0 if tile.rms is None else float(np.nanmedian(tile.rms))
        planes.append(tile.image / np.float32(noise or 1.0))
    rows = [np.concatenate(planes[k : k + side], 1) for k in range(0, side * side, side)]
    return np.concatenate(rows, 0), tiles[0].beam


def _objects(result: Result, boxes: str) -> Objects:
    assert result.image is not None
    assert result.catalogue is not None
    assert result.image.wcs is not None
    if boxes == "detections":
        found = found_objects(result)
    else:
        found = table_objects(from_catalogue(result.catalogue), result.image.wcs)
    ny, nx = result.image.shape
    # edges of pixels count from -0.5 there and from 0 in tiles
    cut = np.clip(found.boxes + 0.5, 0.0, np.array([nx, ny, nx, ny], float))
    labels = found.labels
    if labels is not None and not any(labels):
        labels = None
    return Objects(cut, found.scores, labels)
