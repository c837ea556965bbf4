"""Blank zeros, mask images, regions."""

import numpy as np
import pytest
from astropy.io import fits
from sky_grids import make_header, make_wcs

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import open_image, read_image
from cyclades.stages.core.masks import read_regions, zeros_are_blank
from cyclades.stages.core.tiling import Box

SHAPE = (200, 150)


def noise(seed=1):
    return np.random.default_rng(seed).normal(0, 1e-3, SHAPE).astype(np.float32)


def bordered(image):
    image[:20] = image[:, -15:] = 0
    return image


def round_field(image):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image[np.hypot(y - 100, x - 75) > 70] = 0
    return image


def dead_pixels(image):
    image.flat[:: SHAPE[0]] = 0
    return image


def counts():
    return np.random.default_rng(2).poisson(0.05, SHAPE).astype(np.float32)


def model():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.exp(-0.5 * ((y - 50) ** 2 + (x - 50) ** 2) / 30).astype(np.float32)
    image[image < 1e-4] = 0
    return image


def test_decision_about_zeros():
    blank = {
        "border": bordered(noise()),
        "pedestal": bordered(noise() + np.float32(0.1)),
        "round": round_field(noise()),
        "dead pixels": dead_pixels(noise()),
        "all": np.zeros(SHAPE, np.float32),
    }
    kept = {
        "noise": noise(),
        "counts": counts(),
        "quantised": bordered(np.round(noise() * 1e4)),
        "clipped": np.maximum(noise(), 0),
        "model": model(),
    }
    kept["few"] = noise()
    kept["few"][3, :5] = 0
    assert {k: zeros_are_blank([v], SHAPE) for k, v in blank.items()} == dict.fromkeys(blank, True)
    assert {k: zeros_are_blank([v], SHAPE) for k, v in kept.items()} == dict.fromkeys(kept, False)


def test_decision_does_not_depend_on_how_the_image_was_cut():
    for image in (bordered(noise()), np.maximum(noise(), 0), counts()):
        whole = zeros_are_blank([image], SHAPE)
        assert zeros_are_blank(np.array_split(image, 7), SHAPE) == whole


def test_sample_does_not_depend_on_how_the_image_was_cut():
    """A few columns are quantised; a sample that began anew in every row would see no others."""
    shape = (500, 300)
    image = np.random.default_rng(4).normal(0, 1, shape).astype(np.float32)
    image[:, ::7] = np.round(image[:, ::7])
    image[:50] = 0
    assert zeros_are_blank([image], shape)
    assert zeros_are_blank(np.array_split(image, 500), shape)


def test_zeros_are_judged_by_more_than_one_column():
    shape = (20_000, 60)  # one pixel in as many as there are columns would be sampled
    model = np.abs(np.random.default_rng(8).normal(size=shape)).astype(np.float32)
    model[:, 0] = 0.0
    assert not zeros_are_blank([model], shape)  # zero is the floor of a model without noise


def write(path, data, header=None):
    fits.PrimaryHDU(data, header).writeto(path)
    return path


def test_zero_filled_borders_are_blank_in_every_window(tmp_path):
    path = write(tmp_path / "a.fits", bordered(noise()))
    image = read_image(path)
    assert np.isnan(image.data[:20]).all()
    assert np.isnan(image.data[:, -15:]).all()
    assert np.isfinite(image.data[20:, :-15]).all()
    # this window alone could not tell: one zero column
    part = open_image(path).window(Box(50, 60, 100, 136))
    np.testing.assert_array_equal(part.data, image.data[50:60, 100:136])
    assert (read_image(path, blank_zeros=False).data[:20] == 0).all()


def test_zeros_of_integers_count_unless_the_user_says_so(tmp_path):
    path = write(tmp_path / "a.fits", bordered(noise() * 1e4).astype(np.int16))
    assert np.isfinite(read_image(path).data).all()
    assert np.isnan(read_image(path, blank_zeros=True).data[:20]).all()


def test_mask_image_leaves_out_what_is_not_zero(tmp_path):
    mask = np.zeros(SHAPE, np.float32)
    mask[10:30, 40:60] = 1
    mask[100, 100] = np.nan
    image = write(tmp_path / "a.fits", noise())
    drawn = write(tmp_path / "mask.fits", mask)
    left_out = mask == 1
    for given in (str(drawn), drawn, left_out):
        read = read_image(image, mask=given)
        np.testing.assert_array_equal(read.mask, left_out)
        np.testing.assert_array_equal(np.isnan(read.data), left_out)
    part = open_image(image, mask=drawn).window(Box(20, 40, 50, 70))
    np.testing.assert_array_equal(part.mask, left_out[20:40, 50:70])
    np.testing.assert_array_equal(np.isnan(part.data), left_out[20:40, 50:70])


def test_mask_of_another_shape_is_refused(tmp_path):
    image = write(tmp_path / "a.fits", noise())
    other = write(tmp_path / "mask.fits", np.zeros((5, 5), np.float32))
    for mask in (other, np.zeros((5, 5), bool)):
        with pytest.raises(InputError, match=r"mask.*shape \(5, 5\)"):
            read_image(image, mask=mask)


REGIONS = """# Region file format: DS9 version 4.1
{frame}
circle({x},{y},20")
-circle({x},{y},6")
# text({x},{y}) text={{a remark}}
point({x},{y})
"""


@pytest.mark.parametrize("grid", ["tan", "sin_rotated", "galactic_sin"])
def test_sky_regions_with_a_hole(tmp_path, grid):
    header = make_header(grid)
    image = write(tmp_path / "a.fits", np.ones((121, 121), np.float32), header)
    wcs = make_wcs(grid)
    centre = wcs.pixel_to_world(60, 50).icrs
    path = tmp_path / "holes.reg"
    path.write_text(REGIONS.format(frame="icrs", x=centre.ra.deg, y=centre.dec.deg))
    read = read_image(image, mask=path)
    y, x = np.mgrid[:121, :121]
    distance = wcs.pixel_to_world(x, y).icrs.separation(centre).arcsec
    sure = (np.abs(distance - 20) > 0.5) & (np.abs(distance - 6) > 0.5)
    expected = (distance < 20) & (distance > 6)
    np.testing.assert_array_equal(read.mask[sure], expected[sure])
    part = open_image(image, mask=str(path)).window(Box(45, 80, 0, 58))
    np.testing.assert_array_equal(part.mask, read.mask[45:80, :58])


def test_pixel_regions_need_no_sky(tmp_path):
    path = tmp_path / "box.reg"
    # DS9 counts pixels from 1: this covers the first ten columns and five rows
    path.write_text("image\nbox(5.5,3,10,5,0)\n")
    mask = read_regions(path, None, SHAPE).window(Box(0, *SHAPE[:1], 0, SHAPE[1]))
    assert mask.sum() == 50
    assert mask[:5, :10].all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('icrs\ncircle(10,10,5")\n', "no sky coordinates"),
        ("image\npoint(5,5)\n", "no region in it has an area"),
        ("image\ncircle(a,b,c)\n", "region"),
        ("", "no region"),
    ],
)
def test_useless_region_files_are_refused(tmp_path, text, reason):
    path = tmp_path / "a.reg"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_regions(path, None, SHAPE)
    with pytest.raises(InputError, match="no such file"):
        read_regions(tmp_path / "none.reg", None, SHAPE)


def test_region_outside_the_image_is_said(tmp_path, caplog):
    path = tmp_path / "a.reg"
    path.write_text("image\ncircle(5000,5000,5)\n")
    assert not read_regions(path, None, SHAPE).window(Box(0, 10, 0, 10)).any()
    assert "no region lies on the image" in caplog.text


def test_weight_map(tmp_path):
    weight = np.ones(SHAPE, np.float32)
    weight[:5], weight[5], weight[6] = 0, np.nan, 4
    image = write(tmp_path / "a.fits", noise())
    path = write(tmp_path / "w.fits", weight)
    for given in (path, weight):
        read = read_image(image, weight=given)
        assert np.isnan(read.data[:6]).all()
        assert np.isfinite(read.data[6:]).all()
        np.testing.assert_array_equal(read.weight, weight)
    np.testing.assert_array_equal(
        open_image(image, weight=path).window(Box(5, 9, 0, 3)).weight, weight[5:9, :3]
    )
