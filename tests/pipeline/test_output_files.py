"""Products and the writing of results: values, headers, all or nothing."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from matplotlib.figure import Figure

from cyclades.pipeline import products
from cyclades.pipeline.batch import plan
from cyclades.pipeline.panels import shrink
from cyclades.pipeline.products import PRODUCTS, image_stem
from cyclades.pipeline.provenance import plain, versions
from cyclades.pipeline.quicklook import _draw_beam, draw
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import ConfigurationError, InputError, OutputError
from cyclades.stages.core.geometry import covariance_from_shape
from cyclades.stages.core.image import SkyImage


@pytest.fixture
def result(toys, image):
    return toys.run(image)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_maps_have_the_geometry_the_beam_and_the_unit_of_the_image(result, image, out):
    result.write(out, products=tuple(PRODUCTS))
    for name in PRODUCTS:
        data, header = fits.getdata(out / f"field.{name}.fits", header=True)
        assert data.shape == image.shape
        wcs = WCS(header)
        for x, y in ((0, 0), (63, 47)):
            here = wcs.wcs_pix2world(x, y, 0)
            assert np.allclose(here, image.wcs.wcs_pix2world(x, y, 0), atol=1e-9)
        assert header["BMAJ"] == pytest.approx(6 / 3600)
        unitless = name in ("significance", "islands")
        assert header["BUNIT"] == ("" if unitless else "Jy/beam")


def test_values_of_the_maps(result, image, out):
    result.write(out, products=tuple(PRODUCTS))
    maps = {name: fits.getdata(out / f"field.{name}.fits") for name in PRODUCTS}
    assert np.all(maps["rms"] == 1)
    np.testing.assert_allclose(maps["significance"], image.data, rtol=1e-6)
    np.testing.assert_allclose(
        maps["residual"] + maps["model"] + maps["background"], image.data, atol=1e-4
    )
    assert maps["islands"].dtype.kind == "i"


def test_island_labels_are_the_identifiers_of_the_catalogue(toys, image):
    """On two islands whose order on the sky is not that of their rows."""
    y, x = np.mgrid[:48, :64]
    extra = 50 * np.exp(-4 * np.log(2) * ((x - 8) ** 2 + (y - 38) ** 2) / 36)
    both = image.replace(data=image.data + extra.astype(np.float32))
    result = toys.replace(detection={"name": "islands", "seed_threshold": 8}).run(both)
    labels = products.make_map("islands", result)
    islands = result.catalogue.islands
    assert len(islands) == 2
    for row in islands:
        assert np.count_nonzero(labels == row["island_id"]) == row["n_pixels"]
        assert labels[int(row["y"].value), int(row["x"].value)] == row["island_id"]
    assert set(np.unique(labels)) == {0, *islands["island_id"]}


def test_blank_pixels_are_blank_in_residual_and_significance(toys, image):
    data = image.data.copy()
    data[:, 40:] = np.nan
    result = toys.run(image.replace(data=data))
    for plane in (result.residual, products.make_map("significance", result)):
        assert np.array_equal(np.isnan(plane), np.isnan(data))
    assert np.isfinite(result.model).all()


def test_the_catalogue_is_put_in_place_last(result, out, monkeypatch):
    moved = []
    replace = products.os.replace

    def follow(source, target):
        replace(source, target)
        moved.extend([target.name] if target.parent == out else [])

    monkeypatch.setattr(products.os, "replace", follow)
    files = result.write(out, formats=("csv", "fits"), products=("rms",))
    assert moved[-1] == "field.catalogue.fits"
    assert files[0] == out / "field.catalogue.fits"
    assert sorted(moved) == sorted(p.name for p in out.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(result, out, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(products, "write_map", fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        result.write(out, products=("rms",))
    assert list(out.iterdir()) == []


def test_a_failure_while_moving_takes_back_what_was_moved(result, out, monkeypatch):
    replace = products.os.replace

    def fail(source, target):
        if target == out / "field.catalogue.fits":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(products.os, "replace", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        result.write(out)
    assert list(out.iterdir()) == []


def test_writing_twice_replaces(result, tmp_path):
    first = result.write(tmp_path)
    assert result.write(tmp_path) == first


def test_unknown_products_suggest(result, tmp_path):
    with pytest.raises(ConfigurationError, match="did you mean 'residual'"):
        result.write(tmp_path, products=("residul",))


def test_an_unfinished_run_cannot_be_written(toys, image, tmp_path):
    with pytest.raises(InputError, match="before cataloguing"):
        toys.run_until("detection", image).write(tmp_path)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/X.fits", "X"),
        ("X.FITS.gz", "X"),
        ("X.fits.fz", "X"),
        ("X.v2.fit", "X.v2"),
        ("X", "X"),
        ("X.image", "X.image"),
    ],
)
def test_stems(name, stem):
    assert image_stem(name) == stem


def test_plan_runs_an_image_given_twice_once(tmp_path):
    assert plan(["X.fits", "X.fits", "Y.fits"], tmp_path) == {
        path: path.stem for path in map(type(tmp_path), ("X.fits", "Y.fits"))
    }


def test_quicklook_of_an_image_without_coordinates_unit_or_sources(toys, image, tmp_path):
    bare = image.replace(wcs=None, unit=None, data=np.zeros((4, 300), np.float32))
    empty = toys.replace(detection="islands").run(bare)
    assert len(empty.catalogue) == 0
    draw(empty, tmp_path / "q.png")
    assert (tmp_path / "q.png").stat().st_size > 1000


def test_the_beam_of_a_quicklook_is_to_scale_and_inside_its_corner():
    beam = covariance_from_shape(20.0, 8.0, 30.0)
    plane = SkyImage(np.zeros((100, 150), np.float32), psf=PointSpread(beam))
    axes = Figure().add_subplot()
    _draw_beam(axes, plane, plane.shape)
    (drawn,) = axes.patches
    outline = drawn.get_patch_transform().transform(drawn.get_path().interpolated(50).vertices)
    assert outline.min() > 0.0
    assert outline.max() < 40.0
    # points of the half maximum
    away = outline - drawn.center
    level = np.exp(-0.5 * np.einsum("ki,ij,kj->k", away, np.linalg.inv(beam), away))
    assert level.max() == pytest.approx(0.5, abs=0.01)
    _draw_beam(axes, plane.replace(psf=None), plane.shape)
    assert len(axes.patches) == 1


def test_shrink_averages_blocks_without_blanks():
    data = np.arange(40, dtype=np.float32).reshape(5, 8)
    data[0, 0] = np.nan
    data[4] = np.nan
    small = shrink(data, 4)
    assert small.shape == (3, 4)
    assert small[0, 0] == pytest.approx((1 + 8 + 9) / 3)
    assert small[1, 3] == pytest.approx((22 + 23 + 30 + 31) / 4)
    assert np.isnan(small[2]).all()
    assert shrink(data, 8) is data


def test_provenance_is_plain_json(result):
    json.dumps(result.provenance, allow_nan=False)
    value = {"a": (np.float32(1.5), np.nan), 3: np.array([[1, 2]]), "b": {np.int64(4)}}
    assert plain(value) == {"a": [1.5, None], "3": [[1, 2]], "b": [4]}


def test_versions_name_the_required_packages_and_no_unused_extras():
    found = versions()
    assert {"python", "cyclades", "numpy", "astropy", "sep"} <= set(found)
    assert "missing" not in found.values()
    # other tests of this process may have used some of them
    unused = {"torch", "ultralytics", "ruff", "mypy"} - set(sys.modules)
    assert not unused & set(found)


def test_one_format_or_product_may_be_a_plain_string(result, out):
    files = result.write(out, formats="ds9", products="residual")
    assert {"field.catalogue.reg", "field.residual.fits"} < {path.name for path in files}


def test_coverage_needs_sky_coordinates_and_leaves_nothing_behind(result, image, out):
    blind = dataclasses.replace(result, image=image.replace(wcs=None))
    with pytest.raises(InputError, match="leave out the format moc"):
        blind.write(out, formats=("moc",))
    assert list(out.iterdir()) == []


def test_results_are_shown_in_a_few_lines(toys, image, result):
    for shown in (result, toys.run_until("detection", image), image, result.components):
        assert len(repr(shown)) < 800
        assert "array" not in repr(shown)
    assert "catalogue" in repr(result)
    assert "components" not in repr(toys.run_until("detection", image))


def test_an_array_is_refused_in_one_sentence(toys, image):
    with pytest.raises(InputError, match="SkyImage"):
        toys.run(image.data)
