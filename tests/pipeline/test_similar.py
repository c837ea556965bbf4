"""Similar and odd sources: copies are found, strange ones stand out, in whatever order."""
# ruff: noqa: E402

import numpy as np
import pytest
from astropy.io import fits
from requirements import require

require("learned")

import torch
from click.testing import CliRunner

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import cli, main
from cyclades.pipeline.similarity import gallery
from cyclades.pipeline.similarity.ranking import oddness, plane_map, reduce, similarities
from cyclades.pipeline.similarity.search import search
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.formats import FORMATS
from cyclades.stages.networks.backbones import build_backbone
from cyclades.stages.networks.pretrained import save_backbone
from cyclades.stages.networks.specification import BackboneSpec, PretrainedSpec

PIXEL, BEAM = 1.8, 5.4
SIDE = 640
DOUBLE = ((-4.5, 0.0, 1.0), (0.0, 0.0, 0.2), (4.5, 0.0, 0.6), (7.5, 4.0, 0.4))
"""Parts of a bent double: pixels along and across, flux; unlike itself mirrored."""
PLACES = [(80 + 96 * i, 80 + 96 * j) for j in range(6) for i in range(6)]
COPIES = {0: (1.0, 0, False), 8: (30.0, 1, False), 15: (0.3, 2, True), 22: (5.0, 3, True),
          31: (2.0, 0, True)}  # fmt: skip
"""Place of a copy: factor on its flux, quarter turns, whether it is mirrored."""
RING = 27


def spec():
    return BackboneSpec(name="resnet18", options={"channels": [16, 32, 64, 64]})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network of random numbers: its features are statistics of edges and blobs."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("backbone") / "random.safetensors"
    save_backbone(build_backbone(spec(), 3), PretrainedSpec(backbone=spec()), path)
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory):
    """Features are kept in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CYCLADES_WEIGHTS", str(folder / "weights"))
        yield folder / "features"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Points, five copies of one double, and a ring, 96 pixels apart, in noise."""
    generator = np.random.default_rng(6)
    sigma = BEAM / PIXEL / 2.3548
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    data = generator.normal(0, 1e-3, (SIDE, SIDE))
    for place, (at_x, at_y) in enumerate(PLACES):
        if place == RING:
            radius = np.hypot(x - at_x, y - at_y)
            data += 0.5 * np.exp(-0.5 * ((radius - 14.0) / sigma) ** 2)
            continue
        factor, turns, mirrored = COPIES.get(place, (10.0 ** generator.uniform(-1, 1), 0, False))
        parts = DOUBLE if place in COPIES else ((*generator.uniform(-0.5, 0.5, 2), 1.0),)
        for a, b, f in parts:
            for _ in range(turns):
                a, b = -b, a
            a = -a if mirrored else a
            data += (
                factor * f * np.exp(-0.5 * ((x - at_x - a) ** 2 + (y - at_y - b) ** 2) / sigma**2)
            )
    header = fits.Header()
    for key, value in {
        "CTYPE1": "RA---SIN", "CRVAL1": 150.0, "CRPIX1": SIDE / 2, "CDELT1": -PIXEL / 3600,
        "CTYPE2": "DEC--SIN", "CRVAL2": 30.0, "CRPIX2": SIDE / 2, "CDELT2": PIXEL / 3600,
        "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS", "BUNIT": "Jy/beam",
        "BMAJ": BEAM / 3600, "BMIN": BEAM / 3600, "BPA": 0.0,
    }.items():  # fmt: skip
        header[key] = value
    path = tmp_path_factory.mktemp("image") / "field.fits"
    fits.PrimaryHDU(data.astype(np.float32), header).writeto(path)
    return path


@pytest.fixture(scope="module")
def catalogue(image, tmp_path_factory):
    result = Pipeline.from_route("classical").run(image, workers=1)
    path = tmp_path_factory.mktemp("catalogue") / "field.catalogue.fits"
    # the sources that were put there alone: white noise has detections of its own
    table = result.catalogue.sources
    apart = np.hypot(
        *(
            np.subtract.outer(table[axis].value, np.array(PLACES)[:, k])
            for k, axis in enumerate("xy")
        )
    )
    rows = np.unique(apart.argmin(0))
    result.catalogue.replace(sources=table[rows]).write(path)
    return path


def at(found, place):
    """Row of the source at a place."""
    table = found.sources if hasattr(found, "sources") else found.catalogue.sources
    x, y = PLACES[place]
    distance = np.hypot(table["x"].value - x, table["y"].value - y)
    assert distance.min() < 8
    return int(distance.argmin())


@pytest.fixture(scope="module")
def found(catalogue, image, weights):
    held = read_catalogue(catalogue)
    assert len(held.sources) == len(PLACES)
    name = str(held.sources["name"][at(held, 0)])
    return search(catalogue, image, [name], weights=weights)


def test_copies_come_first_however_turned_mirrored_or_bright(found):
    copies = {at(found, place) for place in COPIES}
    assert set(found.order()[: len(COPIES)].tolist()) == copies
    assert found.order()[0] == at(found, 0)
    table = found.catalogue.sources
    assert table["similarity"][at(found, 0)] == pytest.approx(1.0)
    others = np.setdiff1d(np.arange(len(table)), list(copies))
    assert table["similarity"][list(copies)].min() > table["similarity"][others].max() + 0.2


def test_the_ring_is_the_oddest(found):
    # the copies are five alike, each with four neighbours: less odd than what is alone
    assert found.order(odd=True)[0] == at(found, RING)
    odd = np.asarray(found.catalogue.sources["oddness"])
    points = [at(found, k) for k in range(len(PLACES)) if k not in COPIES and k != RING]
    assert odd[at(found, RING)] > 5
    assert abs(np.median(odd[points])) < 2


def test_close_pictures_know_how_wide_they_are(found):
    # all sources but the ring are smaller than the least picture
    widths = found.gallery.widths
    assert np.median(widths) == pytest.approx(8 * BEAM, rel=1e-3)
    major = found.catalogue.sources["major"].to_value("arcsec")[at(found, RING)]
    assert widths[at(found, RING)] == pytest.approx(max(8 * BEAM, 3 * major), rel=1e-3)


def test_several_targets_are_averaged(catalogue, image, weights, found):
    names = [str(found.catalogue.sources["name"][at(found, k)]) for k in (0, 8, 27)]
    both = search(catalogue, image, names, weights=weights)
    assert both.targets.tolist() == [at(found, k) for k in (0, 8, 27)]
    single = [search(catalogue, image, [n], weights=weights) for n in names]
    wanted = np.mean([s.catalogue.sources["similarity"] for s in single], axis=0)
    np.testing.assert_allclose(both.catalogue.sources["similarity"], wanted, atol=1e-6)


def test_a_position_finds_its_source(catalogue, image, weights, found):
    source = found.catalogue.sources[at(found, 8)]
    ra, dec = source["ra"].to_value("deg"), source["dec"].to_value("deg")
    made = search(catalogue, image, [f"{ra + 1e-3:.6f},{dec:.6f}"], weights=weights)
    assert made.targets.tolist() == [at(found, 8)]
    with pytest.raises(InputError, match="the nearest is CYC"):
        search(catalogue, image, ["150.0,31.0"], weights=weights)


def test_the_order_of_the_rows_is_naught(catalogue, image, weights, found, kept):
    held = read_catalogue(catalogue)
    order = np.random.default_rng(2).permutation(len(held.sources))
    mixed = held.replace(sources=held.sources[order])
    name = str(found.catalogue.sources["name"][found.targets[0]])
    before = set(kept.iterdir())
    made = search(mixed, image, [name], weights=weights)
    assert set(kept.iterdir()) == before, "features were computed anew"
    for column in ("similarity", "oddness"):
        np.testing.assert_array_equal(
            made.catalogue.sources[column], np.asarray(found.catalogue.sources[column])[order]
        )
    assert made.catalogue.sources["name"][made.order()].tolist() == (
        found.catalogue.sources["name"][found.order()].tolist()
    )


def test_features_are_kept_by_weights_catalogue_and_image(
    catalogue, image, weights, kept, monkeypatch, tmp_path
):
    search(catalogue, image, weights=weights)
    number = len(list(kept.iterdir()))

    from cyclades.stages.networks import features

    def never(*arguments):
        raise AssertionError("features are there")

    with monkeypatch.context() as patch:
        patch.setattr(features.Extractor, "__call__", never)
        search(catalogue, image, weights=weights)
    brighter = tmp_path / "other.fits"
    with fits.open(image) as hdus:
        hdus[0].data[:100] = 0.0
        hdus.writeto(brighter)
    search(catalogue, brighter, weights=weights)
    assert len(list(kept.iterdir())) == number + 1
    # a file that is damaged is computed anew
    for path in kept.iterdir():
        path.write_bytes(b"no")
    search(catalogue, image, weights=weights)


def test_sources_outside_the_image_have_no_values(catalogue, image, weights, tmp_path, found):
    part = tmp_path / "part.fits"
    with fits.open(image) as hdus:
        fits.PrimaryHDU(hdus[0].data[:320], hdus[0].header).writeto(part)
    name = str(found.catalogue.sources["name"][at(found, 0)])
    made = search(catalogue, part, [name], weights=weights)
    table = made.catalogue.sources
    outside = table["y"].value > 330
    assert outside.sum() > 10
    assert np.isnan(table["similarity"][outside]).all()
    assert np.isnan(table["oddness"][outside]).all()
    assert np.isfinite(table["similarity"][table["y"].value < 300]).all()
    assert not outside[made.order()[: (~outside).sum()]].any()
    lost = str(table["name"][np.flatnonzero(outside)[0]])
    with pytest.raises(InputError, match="outside the image"):
        search(catalogue, part, [lost], weights=weights)


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.readable])
def test_the_result_is_a_catalogue_in_every_format(found, name, tmp_path):
    path = tmp_path / f"x.{FORMATS[name].extension}"
    found.catalogue.write(path)
    back = read_catalogue(path)
    assert back == found.catalogue
    assert back.sources["oddness"].info.description


def test_the_command_prints_writes_and_draws(catalogue, image, weights, found, tmp_path):
    name = str(found.catalogue.sources["name"][at(found, 0)])
    given = ["similar", str(catalogue), str(image), "--to", name, "--weights", weights, "-n", "5"]
    files = [tmp_path / n for n in ("near.ecsv", "sheet.png", "map.png", "near.html")]
    options = ("--output", "--picture", "--map", "--report")
    further = [text for pair in zip(options, map(str, files), strict=True) for text in pair]
    done = CliRunner().invoke(cli, [*given, *further])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[1].startswith(f"* {name}")
    assert len(lines) == 1 + 5 + 4
    assert read_catalogue(files[0]) == found.catalogue
    for path in files[1:3]:
        assert path.read_bytes().startswith(b"\x89PNG")
    page = files[3].read_text("utf-8")
    assert f"compared to {name}" in page
    assert image.name in page
    odd = CliRunner().invoke(
        cli, ["similar", str(catalogue), str(image), "--odd", "--weights", weights, "-n", "1"]
    )
    assert str(found.catalogue.sources["name"][at(found, RING)]) in odd.output


def test_unknown_names_get_one_sentence_with_a_suggestion(catalogue, image, found, capsys):
    name = str(found.catalogue.sources["name"][at(found, 0)])
    with pytest.raises(SystemExit) as left:
        main(["similar", str(catalogue), str(image), "--to", name[:-1] + "9x"])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "did you mean" in said
    for arguments, words in (
        (["--to", "400,95"], "RA,DEC"),
        ([], "--odd"),
        (["--odd", "--report", "pages"], "ends in .html"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["similar", str(catalogue), str(image), *arguments])
        assert left.value.code == 2
        assert words in capsys.readouterr().err


def test_weights_that_do_not_say_what_they_are_are_refused(catalogue, image, tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match="which architecture"):
        search(catalogue, image, weights=str(tmp_path / "a.safetensors"))


def test_ranking_on_plain_numbers():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 6)).astype(np.float32)
    features[7] = features[3] = 5.0
    features[11] = np.nan
    features[20] = [-30, 30, -30, 30, -30, 30]
    reduced = reduce(features)
    assert np.isnan(reduced[11]).all()
    # distances are those of the standardised features, since no component is left out
    known = np.delete(features, 11, 0)
    standard = (known - known.mean(0)) / known.std(0)
    wanted = np.linalg.norm(standard[0] - standard[1])
    assert np.linalg.norm(reduced[0] - reduced[1]) == pytest.approx(wanted, rel=1e-5)
    likeness = similarities(reduced, np.array([3]))
    assert likeness[7] == pytest.approx(1.0)
    assert np.isnan(likeness[11])
    assert np.nanargmax(np.delete(likeness, [3, 7])) >= 0
    odd = oddness(reduced)
    assert np.nanargmax(odd) == 20
    assert np.isnan(odd[11])
    assert np.nanmedian(odd) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(oddness(reduced[:4])).all()
    assert reduce(np.zeros((0, 4))).shape[0] == 0
    assert plane_map(np.delete(reduced, 11, 0)).shape == (39, 2)
    many = generator.normal(size=(60, 5))
    np.testing.assert_array_equal(plane_map(many), plane_map(many))


def test_close_pictures_are_sized_by_the_source():
    assert gallery.sides(5.4, 5.4) == pytest.approx(8 * 5.4)
    assert gallery.sides(60.0, 5.4) == pytest.approx(180.0)
    assert gallery.sides(np.nan, 5.4) == pytest.approx(8 * 5.4)


def test_too_few_sources_for_an_odd_one(catalogue, image, weights, tmp_path):
    path, made = tmp_path / "few.fits", read_catalogue(catalogue)
    made.replace(sources=made.sources[:3]).write(path)
    words = ["similar", str(path), str(image), "--odd", "--weights", str(weights)]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, InputError)
    assert "5 are needed" in str(result.exception)
