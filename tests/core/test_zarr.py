"""Images in Zarr stores: the windows that are asked for, with the header in the attributes."""

import numpy as np
import pytest
from astropy.io import fits

from cyclades.pipeline.chain import Pipeline
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import open_image, read_image
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.core.tiling import Box
from tests.skies import correlated_noise, source_rows
from tests.windowed import differences

zarr = pytest.importorskip("zarr")


def header():
    cards = fits.Header()
    cards["CTYPE1"], cards["CTYPE2"] = "RA---SIN", "DEC--SIN"
    cards["CRVAL1"], cards["CRVAL2"], cards["CRPIX1"], cards["CRPIX2"] = 150.0, 2.0, 90.0, 80.0
    cards["CDELT1"], cards["CDELT2"] = -2 / 3600, 2 / 3600
    cards["BMAJ"], cards["BMIN"], cards["BPA"] = 10 / 3600, 8 / 3600, 0.0
    cards["BUNIT"], cards["RADESYS"] = "Jy/beam", "ICRS"
    return cards


def plane(shape=(160, 180)):
    rng = np.random.default_rng(4)
    rows = source_rows(20.0, rng.uniform(20, 140, 8), rng.uniform(20, 140, 8))
    return (correlated_noise(shape, rng) + render_gaussians(shape, rows)).astype(np.float32)


def store(path, data, **attributes):
    array = zarr.create_array(str(path), shape=data.shape, chunks=(64,) * data.ndim, dtype="f4")
    array[...] = data
    array.attrs.update(attributes)
    return path


@pytest.mark.parametrize("kind", ["keywords", "mapping", "text"])
def test_window_of_a_store(tmp_path, kind):
    data, cards = plane(), header()
    attributes = {
        "keywords": dict(cards),
        "mapping": {"fits_header": dict(cards)},
        "text": {"header": cards.tostring(sep="\n")},
    }[kind]
    path = store(tmp_path / "sky.zarr", data, **attributes)
    fits.PrimaryHDU(data, cards).writeto(tmp_path / "sky.fits")
    source, file = open_image(path), open_image(tmp_path / "sky.fits")
    assert source.name == file.name == "sky"
    box = Box(30, 70, 50, 120)
    found, expected = source.window(box), file.window(box)
    np.testing.assert_array_equal(found.data, expected.data)
    assert found.unit == expected.unit
    assert found.psf.size == pytest.approx(expected.psf.size)
    assert found.wcs.wcs.compare(expected.wcs.wcs)


def test_catalogue_of_a_store_is_that_of_the_file(tmp_path):
    data, cards = plane(), header()
    path = store(tmp_path / "sky.zarr", data, **dict(cards))
    fits.PrimaryHDU(data, cards).writeto(tmp_path / "sky.fits")
    chosen = Pipeline.from_route("classical").replace(image={"window": 100})
    found = chosen.run(path, workers=1)
    expected = chosen.run(tmp_path / "sky.fits", workers=1)
    assert len(found.catalogue) > 4
    assert differences(found.catalogue, expected.catalogue, relative=1e-9) == {}
    assert found.provenance["input"]["sha256"] is None


def test_plane_of_a_cube_and_array_of_a_group(tmp_path):
    data = np.stack([plane(), 2 * plane()])
    group = zarr.open_group(str(tmp_path / "many.zarr"), mode="w")
    cube = group.create_array("cube", shape=data.shape, chunks=(1, 64, 64), dtype="f4")
    cube[...] = data
    group.create_array("weights", shape=(5,), dtype="f4")
    found = read_image(tmp_path / "many.zarr", plane=(1,), beam="4pixel")
    np.testing.assert_array_equal(found.data, data[1])
    second = group.create_array("other", shape=(9, 9), dtype="f4")
    second[...] = 1.0
    with pytest.raises(InputError, match="cube, "):
        open_image(tmp_path / "many.zarr")
    assert open_image(tmp_path / "many.zarr", extension="other").shape == (9, 9)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="Zarr"):
        open_image(tmp_path / "none.zarr")
