"""A catalogue taken out of an image, or put into it, as Aegean's AeRes does."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.products import FITS_SUFFIXES
from cyclades.stages.core.errors import InputError, OutputError
from cyclades.stages.core.geometry import (
    Floats,
    covariance_from_shape,
    gaussian_area,
    inverse,
    pixel_positions,
    sky_jacobian,
    transform_covariance,
)
from cyclades.stages.core.rendering import render_gaussians

if TYPE_CHECKING:
    from cyclades.pipeline.comparison.tables import ComparisonTable
    from cyclades.stages.core.image import SkyImage

logger = logging.getLogger("cyclades.subtraction")


def catalogue_gaussians(table: "ComparisonTable", image: "SkyImage") -> Floats:
    """Place the rows of a catalogue on the pixels of an image.

    Parameters
    ----------
    table : ComparisonTable
        Positions, peak fluxes and FWHM axes (beam included). A row without a shape gets that of
        the beam there; one without a peak flux gets it from its total flux.
    image : SkyImage
        With celestial coordinates; its unit must be Jy/beam or a multiple, otherwise the
        catalogue's numbers are taken to be in the image's unit.

    Returns
    -------
    ndarray, shape (n, 6)
        ``peak, x, y, sxx, sxy, syy``, see `render_gaussians`; NaN where a row lacks what is
        needed.

    Raises
    ------
    InputError
        Where the image has no sky coordinates.
    """
    if image.wcs is None:
        raise InputError(
            f"{image.name} has no sky coordinates, so that no catalogue can be placed on it."
        )
    if not len(table):
        return np.zeros((0, 6))
    x, y = pixel_positions(image.wcs, table["ra"], table["dec"])
    known = np.isfinite(x) & np.isfinite(y)
    shape = np.full((len(table), 2, 2), np.nan)
    sky = covariance_from_shape(table["major"], table["minor"], table["position_angle"])
    to_pixels = inverse(sky_jacobian(image.wcs, x[known], y[known]) * 3600.0)
    shape[known] = transform_covariance(sky[known], to_pixels)
    beam = np.full_like(shape, np.nan)
    if image.psf is not None:
        beam[known] = image.psf.covariances(x[known], y[known])
    # surveys write 0 or -1 for sizes that they do not tell
    sized = (table["major"] > 0.0) & (table["minor"] > 0.0)
    bare = ~(np.isfinite(shape).all(axis=(1, 2)) & sized)
    shape[bare] = beam[bare]
    with np.errstate(invalid="ignore"):
        from_total = table["total_flux"] * gaussian_area(beam) / gaussian_area(shape)
    peak = np.where(np.isfinite(table["peak_flux"]), table["peak_flux"], from_total)
    rows = [shape[:, 0, 0], shape[:, 0, 1], shape[:, 1, 1]]
    return np.column_stack([peak * _scale(image), x, y, *rows])


def _scale(image: "SkyImage") -> float:
    """Jy/beam (or a pixel) in the unit of an image."""
    import astropy.units as u

    unit = image.unit
    for flux in (u.Jy / u.beam, u.Jy / u.pix, u.Jy):
        if unit is not None and unit.is_equivalent(flux):
            return float(flux.to(unit))
    logger.warning(
        "%s is not in Jy/beam; the catalogue's fluxes are taken to be in its unit: convert the "
        "image where they are not.",
        image.name,
    )
    return 1.0


def subtract_catalogue(
    image: "SkyImage",
    table: "ComparisonTable",
    *,
    add: bool = False,
    mask_brighter: float | None = None,
) -> "SkyImage":
    """Return an image without the sources of a catalogue, or with them added.

    Parameters
    ----------
    image : SkyImage
        Its background level stays in it; blank pixels stay blank.
    table : ComparisonTable
        A catalogue of any origin; see `cyclades.pipeline.comparison.any_catalogue.read_any`.
    add : bool
        Add the sources instead.
    mask_brighter : float, optional
        Blank the pixels in which the absolute value of the model is above this, in the image's
        unit: what a model leaves of very bright sources is larger than the noise.

    Raises
    ------
    InputError
        Where the image has no sky coordinates, no row of the catalogue can be drawn on it, or
        all lie off it.
    """
    values = catalogue_gaussians(table, image)
    drawable = np.isfinite(values).all(axis=1)
    if not drawable.all():
        logger.warning(
            "%s: %d of %d rows of the catalogue lack a position, a flux or a size and are left "
            "out; give the image's beam with --beam where it has none.",
            image.name, np.count_nonzero(~drawable), len(values),
        )  # fmt: skip
    if len(values) and not drawable.any():
        raise InputError(
            f"No row of the catalogue has a position on {image.name}, a flux and a size; give "
            "the image's beam with --beam where it has none."
        )
    model = render_gaussians(image.shape, values)
    if len(values) and not model.any():
        raise InputError(
            f"No source of the catalogue lies on {image.name}; see that both are of the same sky."
        )
    data: NDArray[np.float32] = image.data + model if add else image.data - model
    if mask_brighter is not None:
        data[np.abs(model) > mask_brighter] = np.nan
    return image.replace(data=data)


def rows_on_image(table: "ComparisonTable", image: "SkyImage") -> NDArray[np.bool_]:
    """Return which rows of a catalogue have their position on an image's pixels."""
    assert image.wcs is not None
    x, y = pixel_positions(image.wcs, table["ra"], table["dec"])
    ny, nx = image.shape
    return (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)


def write_image(image: "SkyImage", path: str | Path, product: str) -> None:
    """Write an image as FITS with a clean header, completely or not at all.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    from astropy.io import fits

    from cyclades import __version__
    from cyclades.stages.core.formats import partial_file
    from cyclades.stages.core.headers import card_text, product_header

    path = Path(path)
    if path.suffix.lower() not in FITS_SUFFIXES:
        raise OutputError(f"{path} would be a FITS image; end its name with .fits.")
    header = product_header(image)
    header["PRODUCT"] = product
    header["CREATOR"] = f"cyclades {__version__}"
    header["IMAGE"] = card_text(image.name)[:68]
    partial: Path | None = None
    try:
        partial = partial_file(path)
        fits.PrimaryHDU(image.data, header).writeto(partial, overwrite=True)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(
            f"The image {path} could not be written ({error.strerror or error}); make room or "
            "choose another place."
        ) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()
