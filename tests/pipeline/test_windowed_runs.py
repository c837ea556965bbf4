"""One image in windows: the catalogue is that of the whole image, whatever the windows."""

import json
from functools import cache

import numpy as np
import pytest
from astropy.io import fits
from mocpy import MOC

import cyclades.stages.core.streaming as streaming
from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.island_runs import IslandRuns, runs_of
from cyclades.pipeline.rows_file import RowsFile
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Segments
from cyclades.stages.core.tiling import Box
from tests.windowed import SHAPE, differences, seamed_sky


@pytest.fixture(autouse=True)
def narrow_strips(monkeypatch):
    """Strips of 64 rows, so that islands lie over their seams."""
    monkeypatch.setattr(streaming, "STRIP_PIXELS", 64 * SHAPE[1])


@cache
def whole(route):
    return pipeline(route).run(seamed_sky(), workers=1)


def pipeline(route, **image):
    chosen = Pipeline.from_route("yolo" if route in {"yolo", "all learned"} else "classical")
    if route == "moments":
        chosen = chosen.replace(characterization="moments", detection="photutils")
    if route == "negative":
        chosen = chosen.replace(detection={"name": "islands", "negative": True}, background="none")
    if route in {"learned", "all learned"}:
        chosen = chosen.replace(characterization="learned")
    if route == "masked":
        chosen = chosen.replace(background="masked", detection="mask_rcnn")
    if route == "all learned":
        chosen = chosen.replace(background="dense")
    if route == "associate":
        chosen = chosen.replace(cataloguing=["components", "associate"])
    return chosen.replace(image=image) if image else chosen


def needs(route):
    if route in {"yolo", "learned", "masked", "all learned"}:
        pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("route", "window"),
    [
        ("classical", 128),
        ("classical", 192),
        ("classical", 256),
        ("yolo", 128),
        ("yolo", 256),
        ("moments", 192),
        ("negative", 192),
        ("associate", 128),
        ("learned", 128),
        ("learned", 192),
        ("masked", 128),
        ("masked", 192),
        ("all learned", 128),
        ("all learned", 192),
    ],
)
def test_catalogue_is_that_of_the_whole_image(route, window):
    needs(route)
    result = pipeline(route, window=window).run(seamed_sky(), workers=1)
    assert result.provenance["notes"]["windows"] == {"size": window}
    assert len(result.catalogue) > 30
    assert differences(result.catalogue, whole(route).catalogue) == {}
    counts = result.provenance["counts"]
    assert counts["blank_pixels"] == whole(route).provenance["counts"]["blank_pixels"]
    assert counts["components"] == len(result.catalogue)


def test_an_island_is_larger_than_the_windows_of_128():
    islands = whole("classical").catalogue.islands
    extent = np.maximum(
        np.asarray(islands["x_max"] - islands["x_min"]),
        np.asarray(islands["y_max"] - islands["y_min"]),
    )
    assert extent.max() > 64


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "seams.fits"
    image = seamed_sky()
    header = image.wcs.to_header()
    header["BUNIT"], header["BMAJ"], header["BMIN"] = "Jy/beam", 10 / 3600, 8 / 3600
    header["BPA"] = 20.0
    fits.PrimaryHDU(image.data, header).writeto(path)
    return path


def test_processes_do_not_change_it(file):
    alone = pipeline("classical", window=192).run(file, workers=1)
    two = pipeline("classical", window=192).run(file, workers=2)
    assert differences(two.catalogue, alone.catalogue, relative=0.0) == {}
    assert len(two.catalogue) > 30


def test_files_of_a_windowed_run(file, tmp_path):
    chosen = pipeline("classical", window=200)
    result = chosen.run(file, workers=1)
    out = tmp_path / "out"
    maps = ("background", "rms", "significance", "model", "residual")
    written = result.write(out, formats=["parquet"], products=[*maps, "quicklook"])
    assert (out / "seams.catalogue.fits") in written
    record = json.loads((out / "seams.provenance.json").read_text())
    assert record["notes"]["windows"] == {"size": 200}
    stages = {"background", "detection", "characterization", "cataloguing"}
    assert set(record["timings"]) == stages
    at_once = pipeline("classical").run(file, workers=1)
    at_once.write(tmp_path / "whole", products=maps)
    for name in maps:
        with (
            fits.open(out / f"seams.{name}.fits") as one,
            fits.open(tmp_path / "whole" / f"seams.{name}.fits") as other,
        ):
            assert one[0].header == other[0].header
            np.testing.assert_allclose(one[0].data, other[0].data, atol=1e-4)


def test_labels_and_coverage_are_those_of_the_whole_image(file, tmp_path):
    wanted = {"products": ["islands"], "formats": ["moc"]}
    in_windows = pipeline("classical", window=128).run(file, workers=1)
    in_windows.write(tmp_path / "out", **wanted)
    pipeline("classical").run(file, workers=1).write(tmp_path / "whole", **wanted)
    one, other = (fits.getdata(tmp_path / k / "seams.islands.fits") for k in ("out", "whole"))
    assert one.dtype == other.dtype == np.dtype(">i4")
    np.testing.assert_array_equal(one, other)
    # Every island has its pixels, and as many as the catalogue says.
    islands = in_windows.catalogue.islands
    np.testing.assert_array_equal(
        np.bincount(one.ravel())[islands["island_id"]], islands["n_pixels"]
    )
    mocs = [MOC.load(str(tmp_path / k / "seams.catalogue.moc.fits")) for k in ("out", "whole")]
    assert mocs[0] == mocs[1]
    assert not mocs[0].empty()


def test_later_of_islands_that_overlap_wins_as_in_a_label_map():
    segments = Segments.from_lists([np.array([7, 3, 4]), np.array([4, 5, 9, 10])])
    places = {"y": np.array([0, 1]), "x": np.array([3, 4])}
    islands = IslandRuns.of(runs_of(segments, 6, (0, 0)), places)
    made = islands.label_rows(slice(0, 2), 6, np.array([1, 2], np.int32))
    np.testing.assert_array_equal(made, segments.label_map((2, 6)))
    assert IslandRuns.of({}, {}).label_rows(slice(1, 3), 4, np.zeros(0, np.int32)).shape == (2, 4)


def test_route_that_needs_the_whole_image_says_so():
    chosen = pipeline("classical", window=128)
    chosen = chosen.replace(detection={"name": "islands", "scales": [2]})
    result = chosen.run(seamed_sky(), workers=1)
    assert result.provenance["notes"]["windows"].startswith("not used, since the detection")
    assert result.image is not None


def test_image_without_sources_gives_an_empty_catalogue():
    image = seamed_sky()
    rng = np.random.default_rng(5)
    noise = SkyImage(
        rng.normal(size=(200, 200)).astype(np.float32), unit=image.unit, wcs=image.wcs,
        psf=image.psf,
    )  # fmt: skip
    chosen = pipeline("classical", window=128)
    chosen = chosen.replace(detection={"name": "islands", "seed_threshold": 20})
    catalogue = chosen.run(noise, workers=1).catalogue
    assert len(catalogue) == len(catalogue.islands) == 0
    assert catalogue.components.colnames == whole("classical").catalogue.components.colnames


def test_part_of_an_image_in_memory_is_run_as_a_whole():
    part = seamed_sky().cutout(Box(150, 300, 0, 150))
    result = pipeline("classical", window=64).run(part, workers=1)
    assert "windows" not in result.provenance["notes"]
    assert result.image is part


def test_all_blank_image_is_refused():
    image = seamed_sky()
    blank = image.replace(data=np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(InputError, match="blank"):
        pipeline("classical", window=128).run(blank, workers=1)


def test_rows_come_back_from_disk_as_they_were(tmp_path):
    rng = np.random.default_rng(2)
    parts = [
        {
            "x": rng.normal(size=n),
            "n": rng.integers(0, 9, n),
            "kind": np.array(["a", "bcd"] * n)[:n],
            "shape": rng.normal(size=(n, 2, 2)),
        }
        for n in (3, 1, 4)
    ]
    rows = RowsFile(tmp_path / "rows.parquet")
    for part in parts:
        rows.append(part)
    assert rows.rows == 8
    found = rows.read()
    for name, value in found.items():
        np.testing.assert_array_equal(value, np.concatenate([part[name] for part in parts]))
    assert RowsFile(tmp_path / "none.parquet").read() == {}
