"""Cut-outs: the same source gives the same picture whatever the grid, the beam and the unit."""

import importlib.util

import numpy as np
import pytest
from galaxies import galaxy, middle

from cyclades.stages.core.geometry import SIGMA_TO_FWHM
from cyclades.stages.core.source import MemorySource
from cyclades.stages.networks.cutouts import FrameSpec, Place, cut_out, sky_plane
from cyclades.stages.networks.pictures import centred

FRAME = FrameSpec(side=200, beam=5.4)
SIZE = 96


def picture(image, x=None, y=None, frame=FRAME):
    at = middle(image) if x is None else (x, y)
    return cut_out(Place.of(MemorySource(image), *at), frame, SIZE)


@pytest.fixture(scope="module")
def wanted():
    return picture(galaxy()).picture.astype(float)


GRIDS = {
    "small pixels": {"pixel": 1.2},
    "large pixels": {"pixel": 2.4},
    "turned": {"rotation": 37.0},
    "turned by 90": {"rotation": 90.0, "pixel": 1.2},
    "mirrored": {"mirrored": True},
    "mirrored and turned, small pixels": {"mirrored": True, "rotation": -130.0, "pixel": 1.3},
    "tangential": {"ctype": "TAN", "rotation": 10.0},
    "sharper beam": {"beam": 3.0, "pixel": 0.9},
    "much sharper beam": {"beam": 1.5, "pixel": 0.5},
    "oblong beam": {"beam": (5.4, 2.5), "pixel": 0.8, "rotation": 63.0},
    "fluxes in mJy": {"flux": 1000.0},
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_source_gives_the_same_picture(wanted, grid):
    found = picture(galaxy(**grid)).picture.astype(float)
    # noise of 1/3000 of the peak leaves the clip at a thousandth; 8-bit steps are 1/255. Splines
    # on pixels of up to 0.45 beams are good to 1 % of the peak
    assert np.abs(found - wanted).max() <= 6.0
    # a picture that is turned or mirrored differs by nearly all there is
    for other in (wanted[::-1], wanted[:, ::-1], np.rot90(wanted), wanted.T):
        assert np.abs(found - other).max() > 100.0


def test_north_is_up_and_east_to_the_left_as_fits_has_it(wanted):
    row, column = np.unravel_index(wanted.argmax(), wanted.shape)
    # the brightest part lies 16 arcsec west and 12 north of the middle
    assert row == pytest.approx(47.5 + 12 / 1.8, abs=1.0)
    assert column == pytest.approx(47.5 + 16 / 1.8, abs=1.0)
    assert wanted.max() == 255


@pytest.mark.parametrize(("beam", "pixel", "wide"), [(1.8, 0.6, 5.4), (5.4, 1.8, 5.4), (9, 3, 9)])
def test_sharp_beams_are_smoothed_to_the_frame_s_and_coarse_ones_stay(beam, pixel, wide):
    image = galaxy(pixel, beam, parts=((0.0, 0.0, 1.0),), noise=1e-6)
    plane = sky_plane(Place.of(MemorySource(image), *middle(image)), FRAME)
    # the second moment of a Gaussian, over a square of 6 standard deviations and more
    offset = (np.arange(200) - 99.5) * 1.8
    variance = np.sum(plane.sum(0) * offset**2) / plane.sum()
    assert SIGMA_TO_FWHM * np.sqrt(variance) == pytest.approx(wide, rel=0.02)


def interpolated(image, x, y):
    """The square that a survey's server cuts out of FIRST: linear between pixels."""
    from scipy.ndimage import map_coordinates

    row, column = np.mgrid[:SIZE, :SIZE] - 0.5 * (SIZE - 1)
    return map_coordinates(image.data.astype(float), [y + row, x + column], order=1)


def test_the_frame_has_the_beam_that_linear_interpolation_makes_of_first_s():
    image = galaxy(1.8, 5.4, parts=((0.0, 0.0, 1.0),), noise=0.0)
    x, y = middle(image)
    offset = (np.arange(SIZE) - 0.5 * (SIZE - 1)) * 1.8
    variances = []
    for shift in np.arange(16) / 16:
        plane = interpolated(image, x + shift, y)
        profile = plane.sum(0) / plane.sum()
        variances.append(profile @ offset**2 - (profile @ offset) ** 2)
    assert SIGMA_TO_FWHM * np.sqrt(np.mean(variances)) == pytest.approx(FrameSpec().beam, rel=3e-3)


def test_first_s_images_look_as_the_interpolated_pictures_do():
    image = galaxy(noise=1e-3)
    generator = np.random.default_rng(6)
    errors = {5.4: [], FrameSpec().beam: []}
    for dx, dy in generator.uniform(-0.5, 0.5, (8, 2)):
        x, y = middle(image)[0] + dx, middle(image)[1] + dy
        risen = np.clip(interpolated(image, x, y) - 3e-3, 0, None)
        wanted = np.floor(255 * risen / risen.max())
        for beam, found in errors.items():
            made = picture(image, x, y, FrameSpec(beam=beam)).picture
            found.append(np.abs(made - wanted).max())
    # 16 and 4 grey levels in the pictures of the training; the interpolation of each is its own
    assert np.mean(errors[FrameSpec().beam]) < 0.7 * np.mean(errors[5.4])
    assert np.mean(errors[FrameSpec().beam]) < 8


def test_pictures_are_clipped_at_three_standard_deviations_and_linear_above():
    noise, level = 0.01, 5.0
    image = galaxy(parts=((0.0, 0.0, 1.0),), noise=noise)
    made = picture(image.replace(data=image.data + np.float32(level))).picture.astype(float)
    # the frame's middle lies between pixels: half a pixel from that of the source, as its pixels
    offset = (np.arange(SIZE) - 47.5) * 1.8
    radius = np.hypot(offset[:, None], offset[None, :])
    profile = np.exp(-0.5 * (radius / (5.4 / SIGMA_TO_FWHM)) ** 2)
    wanted = 255 * np.clip(profile - 3 * noise, 0, None) / (profile.max() - 3 * noise)
    # four standard deviations of the noise, interpolated, and the rounding to 8 bits twice
    assert np.abs(made - wanted)[radius < 8].max() < 255 * 4 * noise * 1.2 + 2
    # of white noise 0.13 % lies above three sigma: 12.4 of 9216, give or take 3.5
    assert 0 < np.count_nonzero(made[radius > 20]) < 12.4 + 4 * 3.5


def test_what_is_blank_is_counted_and_black():
    image = galaxy()
    x = middle(image)[0]
    data = image.data.copy()
    data[:, round(x) + 12 :] = np.nan
    made = picture(image.replace(data=data))
    # columns from 12 pixels to the right of the middle on: 36 of 96
    assert made.blank == pytest.approx(36 / 96, abs=1.5 / 96)
    assert not made.picture[:, 61:].any()
    assert not made.empty
    corner = picture(image, 0.0, 0.0)
    assert corner.blank == pytest.approx(0.75, abs=0.02)
    nothing = picture(image.replace(data=np.full_like(data, np.nan)))
    assert nothing.blank == 1.0
    assert nothing.empty


def test_places_outside_and_images_without_coordinates_have_none():
    image = galaxy()
    for x, y in ((-1.0, 5.0), (5.0, 1e6), (np.nan, 3.0)):
        assert Place.of(MemorySource(image), x, y) is None
    assert Place.of(MemorySource(image.replace(wcs=None)), 10.0, 10.0) is None
    assert Place.of(MemorySource(image.replace(psf=None)), 10.0, 10.0) is None


def test_a_brighter_neighbour_outside_the_picture_does_not_matter(wanted):
    # 150 arcsec to the north: beyond the picture, within the square of the noise
    parts = ((0.0, 0.0, 1.0), (-16.0, 12.0, 3.0), (14.0, -9.0, 2.0), (20.0, -20.0, 1.5))
    found = picture(galaxy(parts=(*parts, (0.0, 150.0, 30.0)))).picture.astype(float)
    # the first of the two scalings leaves 255 / 10 steps
    assert np.abs(found - wanted).max() <= 255 / 25 + 6


def test_a_varying_window_reads_only_what_it_needs():
    image = galaxy(size=1001)

    class Watched(MemorySource):
        def window(self, box):
            assert box.shape[0] <= 240
            return super().window(box)

    x, y = middle(image)
    assert not cut_out(Place.of(Watched(image), x, y), FRAME, SIZE).empty


def test_pictures_of_the_package_come_back_from_fits():
    """8-bit pictures of FIRST, written as images in Jy with noise, give themselves again."""
    if importlib.util.find_spec("firstgalaxydata") is None:
        pytest.skip("the pictures of firstgalaxydata are not installed")
    from picture_files import as_image, some_pictures

    for one in some_pictures(12):
        image = as_image(one, flux=10.0 ** np.random.default_rng(2).uniform(-5, 1))
        found = picture(image, *middle(image), FrameSpec()).picture.astype(int)
        known = centred(one[None], SIZE)[0].astype(int)
        assert np.abs(found - known).max() <= 4
        assert np.mean((found > 0) != (known > 0)) < 0.01
