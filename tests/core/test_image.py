"""One plane in memory."""

import astropy.units as u
import numpy as np
import pytest
import radio_beam
from hypothesis import given
from hypothesis import strategies as st
from sky_grids import GRIDS, make_wcs

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import sky_positions
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.source import MemorySource, cutout
from cyclades.stages.core.tiling import Box

BEAM = radio_beam.Beam(9 * u.arcsec, 6 * u.arcsec, 25 * u.deg)


def make_image(name="tan", **changes):
    wcs = make_wcs(name)
    data = np.arange(121 * 121, dtype=np.float32).reshape(121, 121)
    values = {"unit": u.Jy / u.beam, "wcs": wcs, "psf": PointSpread.from_beam(BEAM, wcs)}
    return SkyImage(data, **{**values, **changes})


@pytest.mark.parametrize(
    "data",
    [
        np.ones((3, 4), ">f4"),
        np.ones((3, 4), ">f8"),
        np.ones((4, 3), "<f4").T,
        np.ones((6, 8), "<f4")[::2, ::2],
        np.ones((3, 4), np.int16),
        [[1, 1, 1, 1]] * 3,
    ],
)
def test_pixels_are_native_contiguous_float32(data):
    image = SkyImage(data)
    assert image.data.dtype == np.dtype("=f4")
    assert image.data.dtype.isnative
    assert image.data.flags.c_contiguous
    assert image.shape == image.full_shape == (3, 4)
    assert (image.data == 1).all()


@pytest.mark.parametrize("shape", [(5,), (0, 3), (1, 2, 3)])
def test_only_planes_are_images(shape):
    with pytest.raises(InputError, match="one plane"):
        SkyImage(np.ones(shape))


def test_masked_and_infinite_pixels_are_blank_and_the_input_is_left_alone():
    data = np.ones((3, 3), np.float32)
    data[0, 0] = np.inf
    mask = np.zeros((3, 3), bool)
    mask[1, 1] = True
    image = SkyImage(data, mask=mask)
    assert np.isnan(image.data[0, 0])
    assert np.isnan(image.data[1, 1])
    assert np.isfinite(image.data).sum() == 7
    assert np.isfinite(data).sum() == 8


@pytest.mark.parametrize("label", ["mask", "weight"])
def test_planes_of_another_shape_are_refused(label):
    with pytest.raises(InputError, match=f"{label} has shape"):
        SkyImage(np.ones((3, 3)), **{label: np.ones((3, 4), bool)})


@pytest.mark.parametrize("name", GRIDS)
def test_cutout_keeps_sky_positions_and_beam(name):
    image = make_image(name)
    part = image.cutout(Box(40, 90, 30, 70))
    assert part.shape == (50, 40)
    assert part.origin == (40, 30)
    assert part.full_shape == (121, 121)
    np.testing.assert_array_equal(part.data, image.data[40:90, 30:70])
    x, y = np.array([0.0, 39.0, 11.5]), np.array([49.0, 0.0, 20.25])
    offset = sky_positions(part.wcs, x, y).separation(sky_positions(image.wcs, x + 30, y + 40))
    assert offset.arcsec.max() < 1e-6
    np.testing.assert_allclose(
        part.psf.covariances(x, y), image.psf.covariances(x + 30, y + 40), rtol=1e-9, atol=1e-9
    )
    assert part.beam.major.to_value("arcsec") == pytest.approx(9, rel=1e-6)


BOXES = st.builds(
    lambda y, x, dy, dx: Box(y, y + dy, x, x + dx),
    st.integers(0, 60), st.integers(0, 60), st.integers(40, 60), st.integers(40, 60),
)  # fmt: skip


@given(BOXES, BOXES)
def test_cutout_of_a_cutout_is_the_cutout_of_the_common_part(first, second):
    image = make_image(wcs=None, psf=None, mask=np.eye(121, dtype=bool), weight=np.ones((121, 121)))
    common = first.intersect(second)
    if common.empty:
        with pytest.raises(InputError, match="outside"):
            image.cutout(first).cutout(second)
        return
    twice, once = image.cutout(first).cutout(second), image.cutout(common)
    np.testing.assert_array_equal(twice.data, once.data)
    np.testing.assert_array_equal(twice.mask, once.mask)
    assert twice.weight.shape == once.shape
    assert twice.origin == once.origin == (common.y0, common.x0)
    assert twice.box == common


def test_box_outside_is_an_error():
    with pytest.raises(InputError, match="outside"):
        make_image().cutout(Box(500, 510, 0, 10))


def test_memory_source_and_cutout_around_a_position():
    source = MemorySource(make_image())
    assert source.shape == (121, 121)
    assert source.read() is source.image
    part = cutout(source, x=100.4, y=20.0, size=11)
    assert part.origin == (15, 95)
    assert part.data[5, 5] == source.image.data[20, 100]
    assert cutout(source, 0.0, 0.0, 11).shape == (6, 6)


def test_image_without_beam_or_wcs():
    image = SkyImage(np.ones((4, 4)), psf=PointSpread(np.eye(2)))
    assert image.beam is None
    assert image.cutout(Box(1, 3, 1, 3)).psf is image.psf
    assert SkyImage(np.ones((1, 1))).beam is None
