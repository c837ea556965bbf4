"""Pictures of the package firstgalaxydata as images of the sky."""

import numpy as np
from galaxies import sky_grid
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

from cyclades.pipeline.studies.tasks.pictures import find_pictures, read_pictures
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import sky_positions
from cyclades.stages.core.image import SkyImage


def some_pictures(number, split="test", seed=0):
    """Draw pictures of a split."""
    held = read_pictures(find_pictures(None))
    rows = np.flatnonzero(held.splits == split)
    return held.images[np.random.default_rng(seed).choice(rows, number, replace=False)]


def as_image(picture, *, flux=1.0, pixel=1.8, seed=0, **grid):
    """A picture as the image that it was made from, but for the noise below the clip.

    Parameters
    ----------
    picture : ndarray of uint8, shape (300, 300)
        FIRST's pixels of 1.8 arcsec, first row south, east to the left.
    flux : float
        Brightness of white.
    pixel, grid
        Of the image: the picture is resampled to it by cubic splines.
    """
    import astropy.units as u
    import radio_beam

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=picture.shape), 1.27)
    sigma = 1.0 / 100.0
    noise *= sigma / noise.std()
    # noise above the clip would be in the picture
    noise = np.where(noise > 2.9 * sigma, 0.0, noise)
    # below the clip sources fall off as the beam does: a step there would be no image of a beam
    wing = np.exp(-0.5 * (distance_transform_edt(picture == 0) / 1.27) ** 2)
    below = 2.9 * sigma * wing + noise * (1.0 - wing)
    sky = np.where(picture > 0, 3.0 * sigma + (picture + 0.5) / 255.0, below)
    wcs, size = sky_grid(pixel, size=int(300 * 1.8 / pixel), **grid)
    if pixel != 1.8 or grid:
        y, x = np.mgrid[:size, :size]
        here = sky_positions(wcs, x.ravel(), y.ravel())
        centre = type(here)(150.0, 20.0, unit="deg", frame="icrs")
        east, north = centre.spherical_offsets_to(here)
        at = (149.5 + north.arcsec / 1.8, 149.5 - east.arcsec / 1.8)
        inside = (np.minimum(*at) > 0) & (np.maximum(*at) < 299)
        values = map_coordinates(sky, at, order=3, mode="nearest")
        sky = np.where(inside, values, np.nan).reshape(size, size)
    beam = radio_beam.Beam(5.4 * u.arcsec)
    return SkyImage(
        (flux * sky).astype(np.float32),
        u.Jy / u.beam,
        wcs,
        PointSpread.from_beam(beam, wcs),
        name="picture",
    )
