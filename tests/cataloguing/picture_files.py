"""Pictures of the package firstgalaxydata as images of the sky."""

import numpy as np
from galaxies import sky_grid
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, shift
from scipy.optimize import minimize

from cyclades.pipeline.studies.tasks.pictures import find_pictures, read_pictures
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import sky_positions
from cyclades.stages.core.image import SkyImage
from cyclades.stages.networks.cutouts import FrameSpec, Place, sky_plane


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
    beam = radio_beam.Beam(FrameSpec().beam * u.arcsec)
    return SkyImage(
        (flux * sky).astype(np.float32),
        u.Jy / u.beam,
        wcs,
        PointSpread.from_beam(beam, wcs),
        name="picture",
    )


def middle_of(picture, source, x, y, inner=96):
    """Find the pixel of an image that is the middle of a picture of the same sky.

    Names of pictures give places to a thousandth of a degree, which is two pixels. The middle is
    where picture and clipped image differ least. (Phase correlation errs by 0.1 pixels in half of
    the cases and by up to 0.4: 10 to 40 of 255 grey levels on the flanks of a point source.)

    Parameters
    ----------
    picture : ndarray of uint8, shape (300, 300)
    source : ImageSource
        On pixels of the picture's size, north up.
    x, y : float
        Near the middle.
    inner : int
        Side of the square that is compared.

    Returns
    -------
    x, y : float
    residual : float
        Root mean square of what differs where the picture is not black, in its grey levels.
    """
    plane = np.nan_to_num(sky_plane(Place.of(source, x, y), FrameSpec()))
    first = (len(picture) - inner) // 2
    reach = 8
    wide = slice(first - reach, first + inner + reach)
    plane, known = plane[wide, wide], picture[wide, wide][reach:-reach, reach:-reach].astype(float)
    lit = (known > 0) & (known < 255)
    design = np.ones((lit.sum(), 2))

    def differing(place):
        moved = shift(plane, place, order=3, mode="nearest")[reach:-reach, reach:-reach]
        design[:, 0] = moved[lit]
        scale, level = np.linalg.lstsq(design, known[lit], rcond=None)[0]
        return float(np.sqrt(np.mean((scale * moved[lit] + level - known[lit]) ** 2)))

    grid = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    best = min(grid, key=differing)
    found = minimize(differing, best, method="Nelder-Mead", options={"xatol": 0.005})
    dy, dx = found.x
    return x - dx, y - dy, found.fun
