"""Everything that one command says of a route on a simulation."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import main
from cyclades.pipeline.comparison.any_catalogue import from_truth, read_any
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.comparison.field import ORACLE, load_field
from cyclades.pipeline.comparison.field_tables import catalogue_model, challenge_table
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import read_image

OPTIONS = {
    "size": 512,
    "sky": {
        "counts": {"model": "power_law", "density": 700.0},
        "doubles": 0.4,
        "galaxies": 0.1,
        "radio_galaxy_size": [1.5, 10.0],
    },
}


def cyclades(*arguments):
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A simulation on disk with the classical catalogue of it, and the simulation itself."""
    folder = tmp_path_factory.mktemp("simulation")
    made = simulate(FieldOptions.from_mapping(OPTIONS), 5)
    made.write(folder / "sky")
    result = Pipeline.from_route().run(folder / "sky.fits")
    result.write(folder, products=("islands",))
    result.write(folder / "maps", stem="sky", products=("rms",))
    return folder, made, result


@pytest.fixture(scope="module")
def comparison(field):
    folder, _, _ = field
    return compare(
        {"classical": folder / "sky.catalogue.fits"},
        folder / "sky.truth.fits",
        folder / "sky.fits",
        challenge=1400,
    )


def rows(table, **values):
    """The rows of a table with the given values."""
    pick = np.ones(len(table), bool)
    for name, value in values.items():
        pick &= np.asarray(table[name]) == value
    return table[pick]


def test_one_command_prints_every_table(field, capsys, tmp_path):
    folder, _, _ = field
    out = tmp_path / "out"
    code = cyclades("compare", f"classical={folder / 'sky.catalogue.fits'}",
                    "--truth", folder / "sky.truth.fits", "--image", folder / "sky.fits",
                    "--rms", folder / "maps" / "sky.rms.fits", "--challenge", "1400",
                    "--report", out)  # fmt: skip
    assert code == 0
    text = capsys.readouterr().out
    for words in ("S/N of 5 and above (by S/N", "average precision", "islands", "corrected",
                  "SKA Data Challenge 1", "pair F1", "residual over rms", "visibility area",
                  "Euclid-normalised", "oracle is the classical route"):  # fmt: skip
        assert words in text
    assert "nan" not in text
    assert "- +- -" not in text
    names = ("average_precision", "benchmark", "challenge", "association", "residuals",
             "visibility", "counts", "corrections")  # fmt: skip
    record = json.loads((out / "comparison.json").read_text())
    for name in names:
        assert len(Table.read(out / f"{name}.ecsv")) == len(record[name]) > 0


def test_every_table_tells_the_floor_and_the_distribution(comparison):
    counts = comparison.meta["truth_by_snr"]
    assert sum(n for low, n in counts.items() if float(low) >= 5) == comparison.summary["truth"][0]
    for name, table in comparison.tables.items():
        assert table.meta["floor"] == 5.0, name
        assert table.meta["truth_by_snr"] == counts, name


def test_the_oracle_has_the_true_maps(field, comparison):
    folder, made, _ = field
    oracle = comparison.catalogues[ORACLE]
    y, x = (np.clip(np.rint(oracle[name]).astype(int), 0, 511) for name in ("y", "x"))
    np.testing.assert_allclose(oracle["local_rms"], made.rms[y, x], rtol=0.02)
    again = compare({"classical": folder / "sky.catalogue.fits"}, made)
    assert np.array_equal(again.catalogues[ORACLE]["peak_flux"], oracle["peak_flux"])
    other = rows(again.further["average_precision"], catalogue=ORACLE, instances="islands")
    same = rows(comparison.further["average_precision"], catalogue=ORACLE, instances="islands")
    assert other["mask_ap50"][0] == pytest.approx(same["mask_ap50"][0])
    # without the image, or without the maps, there is none
    assert ORACLE not in compare({"x": oracle}, from_truth(made.truth)).catalogues
    bare = compare({"x": oracle}, folder / "sky.truth.fits")
    assert list(bare.catalogues) == ["x"]


def test_estimated_maps_are_no_oracle(field, tmp_path):
    folder, _, _ = field
    for name in ("sky.fits", "sky.truth.fits", "sky.truth.coco.json", "sky.level.fits"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    estimate = (folder / "maps" / "sky.rms.fits").read_bytes()
    (tmp_path / "sky.rms.fits").write_bytes(estimate)
    catalogue = {"a": folder / "sky.catalogue.fits"}
    made = compare(catalogue, tmp_path / "sky.truth.fits", tmp_path / "sky.fits")
    assert list(made.catalogues) == ["a"]


def test_classes_count_only_where_all_catalogues_have_them(field):
    _, made, _ = field
    truth = load_field({"a": from_truth(made.truth)}, made).truth
    wrong = truth.replace(morphology=np.full(len(truth), "diffuse"))
    bare = truth.replace(morphology=np.full(len(truth), ""))

    def found(**catalogues):
        table = compare(catalogues, truth).further["average_precision"]
        return [float(rows(table, catalogue=name)["box_ap50"][0]) for name in catalogues]

    assert found(wrong=wrong, bare=bare) == pytest.approx([1.0, 1.0])
    assert found(wrong=wrong)[0] < 0.5


def test_the_truth_itself_is_perfect(field):
    _, made, _ = field
    # without what lies beyond the edge, which is left out
    truth = load_field({"a": from_truth(made.truth)}, made).truth
    table = compare({"truth again": truth}, made).further
    (found,) = rows(table["average_precision"], catalogue="truth again")
    assert found["box_ap50"] == found["box_ap"] == pytest.approx(1.0)
    # the compatible form does not pair one to one: a blend's neighbour may serve twice
    for form, lowest in (("compatible", 0.95), ("corrected", 1.0)):
        for row in rows(table["benchmark"], catalogue="truth again", form=form):
            assert row["f1"] >= lowest, row["class"]
    own = rows(table["association"], catalogue="truth again", rule="own sources")
    assert own["pair_f1"][0] == own["whole"][0] == 1.0
    assert own["merged"][0] == 0.0
    linked = rows(table["association"], catalogue="truth again", rule="friends of friends")
    centre = rows(table["association"], catalogue="truth again", rule="centre")
    assert 1.0 >= linked["pair_f1"][0] > centre["pair_f1"][0]
    factors = rows(table["corrections"], catalogue="truth again")
    known = np.isfinite(factors["correction"])
    np.testing.assert_allclose(factors["correction"][known], 1.0)


def test_islands_come_with_their_masks(field, comparison):
    folder, _, result = field
    table = comparison.further["average_precision"]
    (row,) = rows(table, catalogue="classical", instances="islands")
    assert row["detections"] == len(result.catalogue.islands)
    assert 0.3 < row["mask_ap50"] <= 1.0
    loaded = load_field({"a": folder / "sky.catalogue.fits"}, folder / "sky.truth.fits")
    masks = loaded.islands["a"].masks
    numbers = result.catalogue.islands["n_pixels"]
    assert masks.lengths.tolist() == np.asarray(numbers).tolist()
    # a catalogue in memory lists islands too, but no pixels
    boxes = load_field({"a": result.catalogue}, folder / "sky.truth.fits").islands["a"]
    np.testing.assert_array_equal(boxes.boxes, loaded.islands["a"].boxes)
    assert boxes.masks is None


def test_a_model_of_the_truth_leaves_noise(field, comparison):
    folder, made, result = field
    loaded = load_field({"classical": result.catalogue}, made)
    model = catalogue_model(loaded.catalogues["classical"], loaded)
    np.testing.assert_allclose(model, result.model, atol=0.02 * made.options.rms)
    table = comparison.further["residuals"]
    for name in ("classical", ORACLE):
        (everything,) = rows(table, catalogue=name, pixels="all")
        assert everything["mad"] == pytest.approx(1.0, abs=0.05)
        assert everything["number"] == made.image.data.size
    nothing = compare({"a": loaded.catalogues["classical"].take(np.arange(1)),
                       "b": result.catalogue}, image=folder / "sky.fits")  # fmt: skip
    rms = {n: rows(nothing.further["residuals"], catalogue=n, pixels="sources")["rms"][0]
           for n in "ab"}  # fmt: skip
    assert rms["a"] > 3 * rms["b"]


def test_galactic_images_in_millijanskys_are_those_in_equatorial_ones(field, tmp_path):
    folder, _, result = field
    data, header = fits.getdata(folder / "sky.fits"), fits.getheader(folder / "sky.fits")
    header["CTYPE1"], header["CTYPE2"] = "GLON-SIN", "GLAT-SIN"
    header["CRVAL1"], header["CRVAL2"], header["BUNIT"] = 30.0, 1.0, "mJy/beam"
    del header["RADESYS"]
    fits.PrimaryHDU(1e3 * data, header).writeto(tmp_path / "sky.fits")
    own = Pipeline.from_route().run(tmp_path / "sky.fits")
    here, there = (
        compare({"classical": found}, found, place / "sky.fits")
        for found, place in ((own.catalogue, tmp_path), (result.catalogue, folder))
    )
    truth = [len(compared.outcomes["classical"].truth) for compared in (here, there)]
    assert truth[0] == truth[1] >= len(result.catalogue) - 3
    for table, column in (("residuals", "rms"), ("residuals", "number"), ("visibility", "rms")):
        np.testing.assert_allclose(here.further[table][column], there.further[table][column], 1e-2)


def test_counts_of_a_catalogue_follow_the_truth(comparison, field):
    _, made, _ = field
    table = comparison.further["counts"]
    truth, found = (rows(table, catalogue=name) for name in ("truth", "classical"))
    bright = (truth["flux"] > 20 * made.options.rms) & (truth["number"] > 2)
    assert bright.any()
    for t, c in zip(truth[bright], found[bright], strict=True):
        assert c["counts_low"] < t["counts_high"]
        assert c["counts_high"] > t["counts_low"]
    area = comparison.further["visibility"]["area"][-1]
    pixel = made.image.wcs.proj_plane_pixel_area().to_value("deg2")
    assert area == pytest.approx(pixel * made.image.data.size, rel=1e-3)


def test_a_noise_map_of_ones_own_is_used(field, tmp_path):
    folder, made, _ = field
    with fits.open(folder / "sky.fits") as hdus:
        header = hdus[0].header
    fits.PrimaryHDU(np.full((512, 512), 0.5, np.float32), header).writeto(tmp_path / "rms.fits")
    catalogue = {"a": folder / "sky.catalogue.fits"}
    made = compare(catalogue, folder / "sky.truth.fits", folder / "sky.fits",
                   rms=tmp_path / "rms.fits")  # fmt: skip
    assert set(made.further["visibility"]["rms"]) == {0.5}
    with pytest.raises(InputError, match="without its image"):
        compare(catalogue, folder / "sky.truth.fits", rms=tmp_path / "rms.fits")


def test_the_challenge_needs_a_truth(field):
    folder, _, _ = field
    found = read_any(folder / "sky.catalogue.fits")
    with pytest.raises(InputError, match="needs a truth"):
        compare({"a": found, "b": found}, challenge=1400)
    assert cyclades("compare", folder / "sky.catalogue.fits", "--challenge", "1000") == 2


def test_the_beam_of_a_catalogue_serves_an_image_without(field, tmp_path):
    folder, _, _ = field
    with fits.open(folder / "sky.fits") as hdus:
        for key in ("BMAJ", "BMIN", "BPA"):
            del hdus[0].header[key]
        hdus.writeto(tmp_path / "bare.fits")
    assert read_image(tmp_path / "bare.fits").psf is None
    made = compare({"a": folder / "sky.catalogue.fits"}, folder / "sky.truth.fits",
                   tmp_path / "bare.fits")  # fmt: skip
    assert "residuals" in made.further


def test_inverted_images_are_judged(field, capsys):
    folder, _, _ = field
    assert cyclades("inverted", folder / "sky.fits", "--routes", "classical") == 0
    text = capsys.readouterr().out
    assert text.startswith("classical: ")
    assert "fewer than 20 negatives" in text
    assert "in 1 field;" in text


def test_the_image_of_a_route_is_read_by_inversion(field, capsys, tmp_path):
    folder, _, _ = field
    with fits.open(folder / "sky.fits") as hdus:
        for name in ("BMAJ", "BMIN", "BPA"):
            hdus[0].header.remove(name, ignore_missing=True)
        hdus.writeto(tmp_path / "bare.fits")
    (tmp_path / "mine.yaml").write_text("image: {beam: 6arcsec}\n")
    assert cyclades("inverted", tmp_path / "bare.fits", "--routes", tmp_path / "mine.yaml") == 0
    assert "in 1 field;" in capsys.readouterr().out


def test_rows_off_the_image_are_not_judged(field):
    folder, made, result = field
    half = made.image.replace(data=np.where(np.arange(512) < 256, made.image.data, np.nan))
    judged = compare({"a": result.catalogue}, folder / "sky.truth.fits", half)
    x = result.catalogue.components["x"].value
    assert 0 < len(judged.catalogues["a"]) < np.count_nonzero(x < 260) + 1 < len(x)
    assert np.all(judged.catalogues["a"]["x"] < 260)
    assert judged.summary["reliability"][0] > 0.9
    assert any("rows of a off the image" in note for note in judged.meta["notes"])


def test_true_counts_need_no_peaks(field, tmp_path):
    folder, made, _ = field
    truth = made.truth.catalogue.components
    known = Table({"RAd": truth["ra"], "DEd": truth["dec"], "S": truth["total_flux"]})
    known["RAd"][0] = np.nan  # a row without a position is left out, and said
    known.write(tmp_path / "total.csv", format="ascii.csv")
    columns = {"ra": "RAd", "dec": "DEd", "total_flux": "S"}
    judged = compare({"a": folder / "sky.catalogue.fits"}, tmp_path / "total.csv",
                     folder / "sky.fits", columns=columns)  # fmt: skip
    assert any("have no position" in note for note in judged.meta["notes"])
    counts = judged.further["counts"]
    assert rows(counts, catalogue="truth")["number"].sum() > 20


def test_a_comparison_leaves_no_tables_of_an_earlier_one(field, tmp_path):
    folder, _, _ = field
    files = {"a": folder / "sky.catalogue.fits", "b": folder / "sky.catalogue.fits"}
    compare(files, folder / "sky.truth.fits").write(tmp_path)
    assert (tmp_path / "by_snr.ecsv").exists()
    (tmp_path / "notes.ecsv").write_text("mine")
    made = compare(files).write(tmp_path)
    assert {*tmp_path.iterdir()} == {*made, tmp_path / "notes.ecsv"}


def test_a_deep_catalogue_serves_as_truth(field):
    folder, made, result = field
    shallow = made.image.replace(
        data=made.image.data
        + np.random.default_rng(3).normal(0.0, 3 * made.options.rms, made.rms.shape).astype("f4")
    )
    route = Pipeline.from_route()
    noisy = route.run(shallow)
    judged = compare({"shallow": noisy.catalogue}, image=shallow, deep=result.catalogue)
    rms = noisy.background.rms
    y, x = (np.clip(np.rint(judged.truth[name]).astype(int), 0, 511) for name in ("y", "x"))
    np.testing.assert_allclose(judged.truth["local_rms"], rms[y, x], rtol=0.05)
    assert judged.summary["truth_ignored"][0] > 0
    assert judged.summary["completeness"][0] > 0.8
    assert any("serves as truth" in note for note in judged.meta["notes"])
    # without the image, the noise is what the shallow catalogue lists
    bare = compare({"shallow": noisy.catalogue}, deep=result.catalogue)
    assert len(set(bare.truth["local_rms"])) == 1
    assert cyclades("compare", folder / "sky.catalogue.fits", "--deep",
                    folder / "sky.catalogue.fits") == 0  # fmt: skip
    with pytest.raises(InputError, match="not both"):
        compare({"a": noisy.catalogue}, made, deep=result.catalogue)


def challenge_truth(n):
    rng = np.random.default_rng(4)
    columns = {"ra_core": 0.1 * rng.random(n), "dec_core": -30 + 0.1 * rng.random(n),
               "flux": 1e-6 * (1 + rng.random(n)), "core_frac": rng.random(n),
               "b_maj": 1 + rng.random(n), "b_min": 0.5 + 0.5 * rng.random(n),
               "pa": 45 * rng.random(n), "size": np.full(n, 2),
               "class": rng.integers(1, 4, n)}  # fmt: skip
    return Table({**columns, "ra_cent": columns["ra_core"], "dec_cent": columns["dec_core"]})


def test_the_challenges_own_columns_are_scored(tmp_path):
    n = 40
    truth = challenge_truth(n)
    truth.write(tmp_path / "truth.csv")
    other = truth.copy()
    other["class"] = 1
    other.write(tmp_path / "other.csv")
    (tmp_path / "beam.yaml").write_text("beam: 0.25\nra: ra_core\ndec: dec_core\n")
    made = compare({"same": tmp_path / "truth.csv", "one": tmp_path / "other.csv"},
                   tmp_path / "truth.csv", columns=tmp_path / "beam.yaml",
                   challenge=1400)  # fmt: skip
    same, one = made.further["challenge"]
    assert same["score"] == pytest.approx(n)
    share = np.mean(truth["class"] == 1)
    assert one["class"] == pytest.approx(share)
    assert one["score"] == pytest.approx(n * (6 + share) / 7)
    assert same["constant_class_score"] < same["score"]


def test_the_constant_class_is_the_same_in_all_fields(tmp_path):
    (tmp_path / "beam.yaml").write_text("beam: 0.25\nra: ra_core\ndec: dec_core\n")
    fields = []
    for name, n in ((1, 40), (2, 30)):
        truth = challenge_truth(n)
        truth["class"] = name
        path = tmp_path / f"truth{name}.csv"
        truth.write(path)
        fields.append(load_field({"found": path}, path, columns=tmp_path / "beam.yaml"))
    (row,) = challenge_table(fields, 1400)
    assert row["score"] == pytest.approx(70)
    assert row["constant_class"] == 1  # right in the first field, wrong in the second
    assert row["constant_class_score"] == pytest.approx(40 + 30 * 6 / 7)
