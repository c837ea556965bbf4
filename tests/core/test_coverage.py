"""Coverage maps as masks, and masks that keep what is inside."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from mocpy import MOC, TimeMOC
from sky_grids import make_header, make_wcs

from cyclades.stages.core.coverage import is_moc, read_moc
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import open_image, read_image
from cyclades.stages.core.tiling import Box

SHAPE = (121, 121)
SUFFIXES = {"fits": "fits", "json": "json", "ascii": "txt"}


def circle(wcs, x, y, radius, order=16):
    """A MOC around a pixel, with a radius in arcsec."""
    sky = wcs.pixel_to_world(x, y).icrs
    return MOC.from_cone(sky.ra, sky.dec, radius=radius * u.arcsec, max_depth=order)


def save(moc, folder, format="fits"):
    path = folder / f"coverage.{SUFFIXES[format]}"
    moc.save(str(path), format=format)
    return path


def write(folder, grid, shape=SHAPE):
    path = folder / "image.fits"
    data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    fits.PrimaryHDU(data, make_header(grid)).writeto(path)
    return path


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("grid", ["tan_rotated_oblong", "galactic_sin"])
def test_a_moc_masks_the_pixels_that_it_covers(tmp_path, grid, format):
    wcs = make_wcs(grid)
    moc = circle(wcs, 70, 40, 60)
    image, path = write(tmp_path, grid), save(moc, tmp_path, format)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = wcs.pixel_to_world(x, y).icrs
    covered = moc.contains_lonlat(sky.ra.ravel(), sky.dec.ravel()).reshape(SHAPE)
    assert 0.05 < covered.mean() < 0.5
    masked, kept = read_image(image, mask=path), read_image(image, include=str(path))
    np.testing.assert_array_equal(masked.mask, covered)
    np.testing.assert_array_equal(np.isnan(masked.data), covered)
    np.testing.assert_array_equal(np.isnan(kept.data), ~covered)
    part = open_image(image, include=str(path)).window(Box(20, 61, 33, 90))
    np.testing.assert_array_equal(part.mask, ~covered[20:61, 33:90])


@pytest.mark.parametrize("order", [6, 11, 18])
def test_blocks_are_decided_as_their_pixels(tmp_path, order):
    """Large windows, mostly decided by blocks, against every pixel."""
    wcs = make_wcs("sin_rotated")
    moc = circle(wcs, 300, 260, 320, order).union(circle(wcs, 620, 640, 150, order))
    path = save(moc, tmp_path)
    window = read_moc(path, wcs).window(Box(-50, 750, -30, 770))
    y, x = np.mgrid[-50:750, -30:770]
    sky = wcs.pixel_to_world(x.ravel(), y.ravel()).icrs
    np.testing.assert_array_equal(window.ravel(), moc.contains_lonlat(sky.ra, sky.dec))


def test_pixels_without_a_sky_are_not_covered(tmp_path):
    from astropy.wcs import WCS

    header = fits.Header()
    for axis, kind, step in ((1, "RA---SIN", -1.5), (2, "DEC--SIN", 1.5)):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"] = kind, 0.0
        header[f"CRPIX{axis}"], header[f"CDELT{axis}"] = 50.5, step
    path = save(MOC.from_str("0/0-11"), tmp_path)
    window = read_moc(path, WCS(header)).window(Box(0, 100, 0, 100))
    y, x = np.mgrid[:100, :100]
    assert (window == (np.hypot(x - 49.5, y - 49.5) * np.radians(1.5) < 1)).mean() > 0.99


def test_include_takes_regions_and_images_and_joins_the_mask(tmp_path):
    image = write(tmp_path, "tan")
    regions, drawn = tmp_path / "keep.reg", tmp_path / "drop.fits"
    # DS9 counts pixels from 1
    regions.write_text("image\nbox(51,31,40,20,0)\n")
    inside = np.zeros(SHAPE, bool)
    inside[20:40, 30:70] = True
    drop = np.zeros(SHAPE, np.float32)
    drop[25:30] = 1
    fits.PrimaryHDU(drop).writeto(drawn)
    both = read_image(image, include=str(regions), mask=drawn)
    kept = np.isfinite(both.data)
    rows = np.ones(SHAPE, bool)
    rows[25:30] = False
    assert kept[22:24, 32:68].all()
    assert not kept[~rows].any()
    assert not kept[:19].any()
    assert not kept[41:].any()
    keep = tmp_path / "keep.fits"
    fits.PrimaryHDU(inside.astype(np.uint8)).writeto(keep)
    again = read_image(image, include=str(keep))
    np.testing.assert_array_equal(np.isfinite(again.data), inside)


def test_what_is_a_moc_is_told_by_the_content(tmp_path):
    moc = MOC.from_str("5/1-3 9/4000")
    for format in SUFFIXES:
        assert is_moc(save(moc, tmp_path, format))
    plain = write(tmp_path, "tan")
    assert not is_moc(plain)
    assert not is_moc(tmp_path / "absent.fits")
    other = tmp_path / "notes.txt"
    other.write_text("a list of sources")
    assert not is_moc(other)


def test_useless_mocs_are_refused(tmp_path):
    wcs = make_wcs("tan")
    path = save(MOC.from_str("5/1-3"), tmp_path)
    with pytest.raises(InputError, match="no sky coordinates"):
        read_moc(path, None)
    bad = tmp_path / "bad.txt"
    bad.write_text("3/99999999")
    with pytest.raises(InputError, match="not a MOC of the sky"):
        read_moc(bad, wcs)
    times = tmp_path / "times.fits"
    TimeMOC.from_str("31/1").save(str(times), format="fits")
    with pytest.raises(InputError, match="not a MOC of the sky"):
        read_moc(times, wcs)
    image = write(tmp_path, "tan")
    with pytest.raises(InputError, match="blank"):
        read_image(image, include=str(path))
