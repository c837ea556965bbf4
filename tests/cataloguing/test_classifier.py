"""The classifier: what it adds to a catalogue, what is unknown, and that it is calibrated."""
# ruff: noqa: E402

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import make_catalogue
from galaxies import galaxy, middle
from requirements import require

require("learned")

import torch
from click.testing import CliRunner
from galaxies import sky_grid
from PIL import Image
from safetensors.numpy import load_file, save_file

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import cli, main
from cyclades.pipeline.training import classifier as training
from cyclades.pipeline.training.classifier import ClassifierOptions, fit, train_classifier
from cyclades.pipeline.training.classifier_figures import calibration_error
from cyclades.stages.cataloguing.classifier import ClassifierRefinement
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.formats import FORMATS
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.source import MemorySource
from cyclades.stages.networks.backbones import build_backbone
from cyclades.stages.networks.classification import (
    CLASSIFIER_KEY,
    ClassifierSpec,
    FeatureSpec,
    read_classifier,
)
from cyclades.stages.networks.features import Extractor, JoinedExtractor
from cyclades.stages.networks.pretrained import write_tensors
from cyclades.stages.networks.specification import BackboneSpec

SPEC = {"name": "resnet18", "options": {"channels": [8, 16, 24, 32]}}
KINDS = {
    "FRI": ((0, 0, 1.0), (9, 0, 0.6), (-9, 0, 0.6), (18, 0, 0.3), (-18, 0, 0.3)),
    "FRII": ((22, 0, 1.0), (-22, 0, 1.0)),
    "compact": ((0, 0, 1.0),),
    "bent": ((0, 0, 1.0), (14, 10, 0.8), (-14, 10, 0.8), (20, 22, 0.5), (-20, 22, 0.5)),
}
"""Parts of drawn galaxies: arcsec along, across, flux."""


def turned(parts, angle):
    c, s = np.cos(angle), np.sin(angle)
    return tuple((a * c - b * s, a * s + b * c, f) for a, b, f in parts)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn galaxies as pictures of the package have them, in three splits."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(3)
    y, x = (np.mgrid[:96, :96] - 47.5) * 1.8
    for kind, parts in enumerate(KINDS.values()):
        for split, number in (("train", 24), ("valid", 24), ("test", 24)):
            for k in range(number):
                plane = np.zeros((96, 96))
                for a, b, f in turned(parts, generator.uniform(0, 2 * np.pi)):
                    plane += f * np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / 2.293**2)
                plane = plane / plane.max() + generator.normal(0, 0.01, plane.shape)
                grey = np.clip((plane - 0.03) / (plane.max() - 0.03), 0, 1)
                split_ra = 10.0 + 40.0 * ("train", "valid", "test").index(split)
                path = folder / split / f"{split_ra + 5 * kind:.3f}_{0.1 * k:.3f}_{kind}_Drawn.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray((255 * grey).astype(np.uint8)).save(path)
    return folder


def small(folder, seed):
    """A small random network: enough to tell drawn galaxies apart."""
    torch.manual_seed(seed)
    path = folder / f"small{seed}.safetensors"
    backbone = build_backbone(BackboneSpec(**SPEC), 3)
    write_tensors(backbone.trunk.state_dict(), path, {})
    return BackboneSpec(**SPEC, weights=str(path))


@pytest.fixture(scope="module")
def options(drawn, tmp_path_factory):
    return ClassifierOptions(
        images=str(drawn),
        features=FeatureSpec(
            backbone=small(tmp_path_factory.mktemp("backbone"), 0),
            pictures={"crop": 64, "size": 64, "precision": "float32"},
            frame={"side": 96, "beam": 5.4},
        ),
        inverse_penalty=1.0,
        components=12,
    )


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    return train_classifier(options, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def joined(options, tmp_path_factory):
    """The same with a second network beside."""
    beside = (small(tmp_path_factory.mktemp("beside"), 1),)
    folder = tmp_path_factory.mktemp("joined")
    return train_classifier(options.model_copy(update={"beside": beside}), folder)


def field(names=("FRI", "FRII", "compact", "bent"), *, pixel=1.8, beam=5.4):
    """An image of galaxies in a row, each an island of its own, and their pixels."""
    wcs, size = sky_grid(pixel, size=int(1260 / pixel))
    y, x = np.mgrid[:size, :size]
    rng = np.random.default_rng(5)
    data = rng.normal(0, 0.01, (size, size))
    places = []
    for k, name in enumerate(names):
        at_x, at_y = (150.0 + 240.0 * k) / pixel, (300.0 + 90.0 * k) / pixel
        places.append((at_x, at_y))
        for a, b, f in turned(KINDS[name], 0.7 * k):
            r2 = (x - at_x - a / pixel) ** 2 + (y - at_y - b / pixel) ** 2
            data += f * np.exp(-0.5 * r2 / (beam / 2.3548 / pixel) ** 2)
    psf = PointSpread(np.eye(2) * (beam / 2.3548 / pixel) ** 2, wcs)
    return SkyImage(data.astype(np.float32), None, wcs, psf, name="field"), places


def catalogue_of(places, flags=()):
    """A catalogue whose sources lie at given pixels, with two components in the first."""
    made = make_catalogue(len(places) + 1)
    assert len(made.sources) == len(places)
    for axis, values in zip("xy", np.transpose(places), strict=True):
        made.sources[axis][:] = values * made.sources[axis].unit
    for row, flag in flags:
        made.sources["flags"][row] |= int(flag)
    return made


def refined(catalogue, image, path, **parameters):
    stage = ClassifierRefinement(weights=str(path), **parameters)
    with Context() as context:
        return stage.refine(catalogue, MemorySource(image), context=context), context.notes


def test_training_writes_one_file_and_its_card(trained, options):
    path, figures = trained
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "morphology.md",
        "morphology.safetensors",
    ]
    card = path.with_suffix(".md").read_text()
    assert f"| accuracy | {figures.accuracy:.3f} |" in card
    assert "non-commercial" in card
    assert sum(b.number for b in figures.reliability) == figures.number == 96
    assert np.array(figures.confusion).sum() == 96
    # chance is 0.25, with a standard error of 0.044
    assert figures.accuracy > 0.25 + 4 * 0.044
    # 2 % of the pictures held out are beyond the limit; 6 of 96 is four standard errors more
    assert figures.unknown < 0.02 + 4 * np.sqrt(0.02 * 0.98 / 96)
    classifier = read_classifier(path)
    assert classifier.spec.training["figures"]["accuracy"] == figures.accuracy
    assert classifier.spec.licence == options.licence
    shown = CliRunner().invoke(cli, ["weights", str(path)])
    assert shown.output.strip() == card.strip()


def test_rows_stay_and_columns_are_filled(trained):
    image, places = field()
    catalogue = catalogue_of(places)
    before = {name: table.copy() for name, table in catalogue.tables.items()}
    made, notes = refined(catalogue, image, trained[0])
    filled = {"morphology", "morphology_probability", "flags"}
    for name, table in made.tables.items():
        assert table.colnames == before[name].colnames
        for column in table.colnames:
            same = (
                np.array_equal(
                    np.asarray(table[column]), np.asarray(before[name][column]), equal_nan=False
                )
                or np.asarray(table[column]).dtype.kind == "f"
            )
            assert same or column in filled
            info, old = table[column].info, before[name][column].info
            assert (info.description, info.meta, info.unit) == (
                old.description,
                old.meta,
                old.unit,
            )
            # the catalogue given is not changed
            np.testing.assert_array_equal(
                np.asarray(catalogue.tables[name][column]), np.asarray(before[name][column])
            )
    found = np.asarray(made.sources["morphology"])
    assert set(found) <= {"FRI", "FRII", "compact", "bent", "unknown"}
    probability = np.asarray(made.sources["morphology_probability"])
    known = found != "unknown"
    assert known.sum() >= 3
    assert ((probability[known] >= 0.25) & (probability[known] <= 1.0)).all()
    assert np.isnan(probability[~known]).all()
    ids = dict(zip(made.sources["source_id"], found, strict=True))
    assert [ids[i] for i in made.components["source_id"]] == made.components["morphology"].tolist()
    assert sum(notes["cataloguing.classifier"]["classes"].values()) == len(places)


@pytest.mark.parametrize("pixel", [1.2, 1.8, 2.4])
def test_drawn_galaxies_have_their_class_on_any_pixels(trained, pixel):
    image, places = field(pixel=pixel)
    made, _ = refined(catalogue_of(places), image, trained[0], typical=1.0)
    assert made.sources["morphology"].tolist() == ["FRI", "FRII", "compact", "bent"]


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.readable])
def test_classes_round_trip_through_every_format(trained, name, tmp_path):
    image, places = field()
    made, _ = refined(catalogue_of(places), image, trained[0])
    path = tmp_path / f"x.{FORMATS[name].extension}"
    made.write(path)
    back = read_catalogue(path)
    assert back == made
    assert back.sources["morphology"].tolist() == made.sources["morphology"].tolist()


def test_what_cannot_be_seen_whole_is_unknown_with_a_flag(trained):
    image, places = field()
    data = image.data.copy()
    x, y = places[2]
    data[round(y) - 60 : round(y) + 60, round(x) + 10 : round(x) + 60] = np.nan
    flags = [(0, Flag.EDGE), (1, Flag.BLANK_NEIGHBOUR)]
    made, _ = refined(catalogue_of(places, flags), image.replace(data=data), trained[0])
    marked = np.asarray(made.sources["flags"]) & Flag.NOT_CLASSIFIED > 0
    assert marked.tolist() == [True, True, True, False]
    assert made.sources["morphology"].tolist()[:3] == ["unknown"] * 3
    assert np.isnan(np.asarray(made.sources["morphology_probability"])[:3]).all()
    # the two components of the first source say the same
    of_first = np.asarray(made.components["source_id"]) == made.sources["source_id"][0]
    assert (np.asarray(made.components["flags"])[of_first] & Flag.NOT_CLASSIFIED).all()
    # places at the edge, outside and nowhere
    far = [(2.0, 2.0), (-50.0, 3.0), (np.nan, np.nan), places[3]]
    made, _ = refined(catalogue_of(far), image, trained[0])
    marked = np.asarray(made.sources["flags"]) & Flag.NOT_CLASSIFIED > 0
    assert marked.tolist() == [True, True, True, False]


def test_what_a_neighbour_outshines_does_not_get_the_neighbour_s_class(trained):
    image, places = field()
    x, y = (round(v) for v in places[2])
    data = image.data.copy()
    # a source of a twentieth of the compact one's flux, 22 pixels from it
    data[y - 8 : y + 9, x + 14 : x + 31] += 0.05 * data[y - 8 : y + 9, x - 8 : x + 9]
    catalogue = catalogue_of([(x + 22.0, float(y)), places[2], places[0], places[1]])
    catalogue.sources["major"][:] = 5.4 * catalogue.sources["major"].unit
    catalogue.sources["major"][3] = 50.0 * catalogue.sources["major"].unit
    made, _ = refined(catalogue, image.replace(data=data), trained[0])
    marked = np.asarray(made.sources["flags"]) & Flag.NOT_CLASSIFIED > 0
    # the middle of the double is dark, but its lobes are its own
    assert marked.tolist() == [True, False, False, False]
    made, _ = refined(catalogue, image.replace(data=data), trained[0], outshone=0.0)
    assert not (np.asarray(made.sources["flags"]) & Flag.NOT_CLASSIFIED).any()


def test_a_coarse_beam_is_not_guessed_at_unless_asked(trained):
    image, places = field(pixel=3.6, beam=10.8)
    made, _ = refined(catalogue_of(places), image, trained[0])
    assert set(made.sources["morphology"]) == {"unknown"}
    assert (np.asarray(made.sources["flags"]) & Flag.NOT_CLASSIFIED).all()
    # the same picture in beams as of a galaxy half as large
    parts = turned(KINDS["FRII"], 0.7)
    double = galaxy(3.6, 10.8, parts=tuple((2 * a, 2 * b, f) for a, b, f in parts), noise=0.01)
    single = galaxy(1.8, 5.4, parts=parts, noise=0.01)
    found = []
    for one, frame in ((double, "beam"), (single, "angle")):
        catalogue = catalogue_of([middle(one)])
        catalogue.sources["major"][:] = 100.0 * catalogue.sources["major"].unit
        made, _ = refined(catalogue, one, trained[0], frame=frame, typical=1.0)
        found.append(made.sources)
    assert found[0]["morphology"][0] == found[1]["morphology"][0] == "FRII"
    assert found[0]["morphology_probability"][0] == pytest.approx(
        found[1]["morphology_probability"][0], abs=0.1
    )


def test_an_empty_catalogue_and_an_empty_image(trained):
    image, places = field()
    empty = make_catalogue(0)
    made, _ = refined(empty, image, trained[0])
    assert len(made.sources) == 0
    flat = image.replace(data=np.zeros_like(image.data))
    made, _ = refined(catalogue_of(places), flat, trained[0])
    assert set(made.sources["morphology"]) == {"unknown"}


def test_temperature_makes_probabilities_honest():
    # classes that overlap, more features than the penalty holds down: overconfident without it
    generator = np.random.default_rng(8)
    number, width = 6000, 40
    classes = generator.integers(0, 4, number)
    features = generator.normal(size=(number, width))
    features[np.arange(number), classes] += 1.2
    options = ClassifierOptions(inverse_penalty=100.0, components=10)
    rows = np.split(np.arange(number), [250, 2000])
    spec = ClassifierSpec(sha256="0" * 64, licence="none")
    made = fit([features], classes, rows[0], rows[1], options, spec)
    judged = made.judge(features[rows[2]])
    np.testing.assert_allclose(judged.probabilities.sum(1), 1.0)
    right = judged.probabilities.argmax(1) == classes[rows[2]]
    logs = np.log(judged.probabilities) * made.temperature
    raw = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    assert made.temperature > 1.5
    assert calibration_error(raw.max(1), right) > 0.15
    # 4000 pictures in ten bins: chance alone gives 0.02
    assert calibration_error(judged.probabilities.max(1), right) < 0.04
    # what lies far in a direction that the training knows is far
    shifted = features[rows[2]] + 30.0
    assert np.mean(made.judge(shifted).distances > made.limit(0.98)) == 1.0
    share = np.mean(judged.distances > made.limit(0.98))
    assert share == pytest.approx(0.02, abs=4 * np.sqrt(0.02 * 0.98 * (1 / 4000 + 1 / 1840)))


def test_backbones_join_their_log_probabilities_and_their_distances():
    from scipy.special import log_softmax, softmax

    generator = np.random.default_rng(9)
    classes = np.arange(1200) % 4
    parts = [generator.normal(size=(1200, width)) for width in (30, 12)]
    for part in parts:
        part[np.arange(1200), classes] += 1.5
    options = ClassifierOptions(inverse_penalty=1.0, components=8)
    spec = ClassifierSpec(sha256="0" * 64, licence="none")
    rows = np.split(np.arange(1200), [400, 800])
    made = fit(parts, classes, rows[0], rows[1], options, spec)
    alone = [fit([part], classes, rows[0], rows[1], options, spec) for part in parts]
    judged = made.judge(np.hstack(parts)[rows[2]])
    each = [one.judge(part[rows[2]]) for one, part in zip(alone, parts, strict=True)]
    # the temperatures of each are undone: the joint one takes their place
    logs = [log_softmax(np.log(j.probabilities) * one.temperature, axis=1)
            for one, j in zip(alone, each, strict=True)]  # fmt: skip
    wanted = softmax(np.mean(logs, axis=0) / made.temperature, axis=1)
    np.testing.assert_allclose(judged.probabilities, wanted, atol=1e-9)
    right = [np.mean(j.probabilities.argmax(1) == classes[rows[2]]) for j in (judged, *each)]
    # each sees noise of its own: two know more than one
    assert right[0] > max(right[1:])
    # one temperature for both, found on pictures that neither learned from
    assert calibration_error(judged.probabilities.max(1), judged.probabilities.argmax(1)
                             == classes[rows[2]]) < 0.08  # fmt: skip
    together = np.sqrt(np.mean([j.distances**2 for j in each], axis=0))
    np.testing.assert_allclose(judged.distances, together)
    # what is strange to one backbone alone is strange
    strange = np.hstack([parts[0], parts[1] + 30.0])[rows[2]]
    assert (made.judge(strange).distances > made.limit(0.98)).all()


def test_several_backbones_are_one_file(joined, trained, options):
    path, figures = joined
    classifier = read_classifier(path)
    assert len(classifier.spec.beside) == 1
    card = path.with_suffix(".md").read_text()
    for spec, sha256 in classifier.spec.backbones:
        assert f"{spec.backbone.weights} (resnet18, SHA-256 of its tensors {sha256})" in card
        assert spec.pictures == options.features.pictures
    assert figures.accuracy > 0.25 + 4 * 0.044
    width = [len(read_classifier(one).mean) for one in (path, trained[0])]
    assert width[0] == 2 * width[1]
    pictures = np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
    told = []
    both = JoinedExtractor(classifier.spec.backbones)(pictures, told.append)
    first, second = (Extractor(spec)(pictures) for spec, _ in classifier.spec.backbones)
    np.testing.assert_array_equal(both, np.hstack([first, second]))
    assert not np.allclose(first, second)
    assert told == sorted(told)
    assert told[-1] == 1.0
    image, places = field()
    made, notes = refined(catalogue_of(places), image, path, typical=1.0)
    assert made.sources["morphology"].tolist() == ["FRI", "FRII", "compact", "bent"]
    assert len(refined(make_catalogue(0), image, path)[0].sources) == 0
    assert notes["cataloguing.classifier"]["weights"] == str(path)


def test_files_from_before_there_were_several_backbones_say_the_same(trained, tmp_path):
    classifier = read_classifier(trained[0])
    content = classifier.spec.model_dump(mode="json", exclude={"beside"}) | {"format": 1}
    path = tmp_path / "old.safetensors"
    save_file(load_file(trained[0]), path, metadata={CLASSIFIER_KEY: json.dumps(content)})
    old = read_classifier(path)
    features = np.random.default_rng(0).normal(size=(5, len(old.mean)))
    np.testing.assert_array_equal(
        old.judge(features).probabilities, classifier.judge(features).probabilities
    )
    assert [spec for spec, _ in old.spec.backbones] == [classifier.spec.features]


def test_the_default_backbone_has_another_beside_where_that_can_be_had(
    options, monkeypatch, caplog
):
    monkeypatch.setattr(training, "lacking", lambda spec: None)
    assert ClassifierOptions().backbones() == (FeatureSpec().backbone, training.BESIDE)
    assert ClassifierOptions(beside=()).backbones() == (FeatureSpec().backbone,)
    # another backbone was not measured with it
    assert options.backbones() == (options.features.backbone,)
    assert not caplog.records
    monkeypatch.setattr(training, "lacking", lambda spec: f"{spec.weights}: install it.")
    assert ClassifierOptions().backbones() == (FeatureSpec().backbone,)
    assert "efficientnet-lite0-imagenet: install it. Without it" in caplog.text
    # what is named has to be there
    named = options.model_copy(update={"beside": (BackboneSpec(weights="nowhere.safetensors"),)})
    with pytest.raises(InputError, match="nowhere"):
        train_classifier(named, Path("never"))


def test_the_error_of_calibration_is_known_for_simple_cases():
    probability = np.array([0.95] * 100 + [0.65] * 100)
    right = np.zeros(200, bool)
    right[:95] = right[100:165] = True
    assert calibration_error(probability, right) == pytest.approx(0.0, abs=1e-12)
    right[:] = True
    assert calibration_error(probability, right) == pytest.approx(0.5 * (0.05 + 0.35))


def run_with(path, folder, *further):
    arguments = ["run", str(path), "--output", str(folder), "--beam", "5.4arcsec"]
    return [*arguments, "--set", "cataloguing=[components,classifier]", *further]


def write_image(path):
    from astropy.io import fits

    image, _ = field()
    header = image.wcs.to_header()
    header["BUNIT"] = "Jy/beam"
    fits.PrimaryHDU(image.data, header).writeto(path)
    return path


def test_without_weights_one_sentence_says_which_command_makes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path / "none"))
    path = write_image(tmp_path / "field.fits")
    with pytest.raises(SystemExit) as left:
        main(run_with(path, tmp_path / "out"))
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "cyclades train-classifier" in said
    assert len(said.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_without_torch_one_sentence_names_the_extra(trained, tmp_path):
    path = write_image(tmp_path / "field.fits")
    weights = f"cataloguing.classifier.weights={trained[0]}"
    for arguments in (
        run_with(path, tmp_path / "out", "--set", weights),
        ["train-classifier", "--output", str(tmp_path / "made")],
    ):
        code = (
            "import sys\n"
            "class Without:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'torch':\n"
            "            raise ModuleNotFoundError('No module named torch', name='torch')\n"
            "sys.meta_path.insert(0, Without())\n"
            "from cyclades.pipeline.cli import main\n"
            f"main({arguments!r})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "cyclades[learned]" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_line_classifies(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(trained[0].parent))
    path = write_image(tmp_path / "field.fits")
    done = CliRunner().invoke(cli, run_with(path, tmp_path))
    assert done.exit_code == 0, done.output
    found = read_catalogue(tmp_path / "field.catalogue.fits")
    assert set(found.sources["morphology"]) - {"unknown"}
    assert any(str(one).startswith("sha256:") for one in found.meta["weights"])
    # the chain says what is wrong before it looks for sources
    other = Pipeline.from_route("classical").replace(
        cataloguing=["components", {"name": "classifier", "weights": "nowhere.safetensors"}]
    )
    steps = []
    with pytest.raises(InputError, match="train-classifier"):
        other.run(field()[0], progress=steps.append)
    assert not steps


def test_damaged_and_other_files_are_refused(trained, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        read_classifier(path)
    save_file({"mean": np.zeros(3, np.float32)}, path)
    with pytest.raises(InputError, match="no classifier"):
        read_classifier(path)
    classifier = read_classifier(trained[0])
    held = load_file(trained[0])
    held.pop("whitening")
    save_file(held, path, metadata=classifier.spec.metadata())
    with pytest.raises(InputError, match="train-classifier"):
        read_classifier(path)
    spec = classifier.spec.model_copy(update={"format": 99})
    save_file(held, path, metadata=spec.metadata())
    with pytest.raises(InputError, match="newer version"):
        read_classifier(path)
    # a backbone with other numbers
    spec = classifier.spec.model_copy(update={"sha256": "0" * 64})
    save_file(load_file(trained[0]), path, metadata=spec.metadata())
    image, places = field()
    with pytest.raises(InputError, match="not the weights"):
        refined(catalogue_of(places), image, path)


def test_missing_splits_and_weights_are_refused(options, drawn, tmp_path):
    import shutil

    shutil.copytree(drawn / "train", tmp_path / "half" / "train")
    shutil.copytree(drawn / "test", tmp_path / "half" / "test")
    half = options.model_copy(update={"images": str(tmp_path / "half")})
    with pytest.raises(InputError, match="split valid"):
        train_classifier(half, tmp_path / "out")
    done = CliRunner().invoke(
        cli, ["train-classifier", "-o", str(tmp_path), "--set", "features.backbone.weights=null"]
    )
    assert "backbone with weights" in str(done.exception)
    assert not (tmp_path / "out").exists()
