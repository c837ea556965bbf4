"""Pictures of radio galaxies: splits, leakage, features that are computed once, and training."""
# ruff: noqa: E402

import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from requirements import require

require("learned")

import torch
from click.testing import CliRunner

from cyclades.pipeline.cli import cli
from cyclades.pipeline.commands.study import read_options
from cyclades.pipeline.studies.options import StudyOptions
from cyclades.pipeline.studies.running import Study, run_study
from cyclades.pipeline.studies.summary import routes
from cyclades.pipeline.studies.tasks import features
from cyclades.pipeline.studies.tasks.features import classify
from cyclades.pipeline.studies.tasks.pictures import (
    draw_labels,
    find_pictures,
    read_pictures,
)
from cyclades.pipeline.studies.weights import lacking
from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.backbones import build_backbone
from cyclades.stages.networks.features import picture_norm, pooled, start_backbone, turned
from cyclades.stages.networks.inputs import stretch
from cyclades.stages.networks.pictures import PEAK, PictureOptions, prepare_pictures
from cyclades.stages.networks.pretrained import save_backbone
from cyclades.stages.networks.specification import BackboneSpec, InputSpec, PretrainedSpec
from cyclades.stages.networks.weights_table import IMAGENET_MEAN, IMAGENET_STD

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

SIDE = 40


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def picture(kind, generator):
    """Radio galaxies of the four classes as anyone draws them, at a random angle."""
    y, x = np.mgrid[:SIDE, :SIDE] - 0.5 * (SIDE - 1)
    angle = generator.uniform(0, 2 * np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    def blob(a, b, size):
        return np.exp(-0.5 * ((along - a) ** 2 + (across - b) ** 2) / size**2)

    image = blob(0, 0, 2.0)
    if kind == 0:
        image = image + 0.5 * blob(4, 0, 3.0) + 0.5 * blob(-4, 0, 3.0)
    elif kind == 1:
        image = 0.1 * image + blob(10, 0, 2.0) + blob(-10, 0, 2.0)
    elif kind == 3:
        image = image + 0.7 * blob(7, 5, 3.0) + 0.7 * blob(-7, 5, 3.0)
    image = image / image.max() + generator.normal(0, 0.03, image.shape)
    return Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8))


def write(folder, number=12, splits=("train", "valid", "test")):
    generator = np.random.default_rng(4)
    for kind in range(4):
        for split in splits:
            for k in range(number):
                ra, dec = 10.0 + kind + 0.05 * k, 20.0 + splits.index(split)
                path = folder / split / f"{ra:.3f}_{dec:.3f}_{kind}_Drawn.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(kind, generator).save(path)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pictures"))


def study(folder, images, **changes):
    content = {
        "backbones": {"small": {"name": "resnet18", "options": {"channels": [8, 16, 24, 32]}}},
        "modes": ["random"],
        "fractions": [0.25, 1.0],
        "reference": 0.25,
        "seeds": 2,
        "resamples": 40,
        "tasks": {
            "shapes": {
                "kind": "morphology",
                "images": str(images),
                "pictures": {"crop": 32, "size": 32, "precision": "float32"},
                "training": {"steps": 3, "batch": 4, "orientations": 2},
            }
        },
    } | changes
    return Study.plan(StudyOptions.from_mapping(content), folder)


def test_splits_are_those_of_the_folders_and_copies_are_left_out(drawn, tmp_path):
    held = read_pictures(drawn)
    assert held.images.shape == (4 * 3 * 12, SIDE, SIDE)
    assert [np.sum(held.splits == s) for s in ("train", "valid", "test")] == [48, 48, 48]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as opened:
        for path in drawn.rglob("*.png"):
            opened.write(path, f"set/{path.parent.name}/{path.name}")
            opened.write(path, f"set/all/{path.name}")
    zipped = read_pictures(tmp_path / "all.zip")
    assert zipped.names == held.names
    np.testing.assert_array_equal(zipped.images, held.images)


def test_without_a_test_the_valid_pictures_take_its_place(tmp_path):
    held = read_pictures(write(tmp_path, 4, ("train", "valid")))
    assert set(held.splits) == {"train", "test"}


def test_pictures_without_splits_get_some(tmp_path):
    held = read_pictures(write(tmp_path, 20, ("heap",)))
    for kind in range(4):
        assert np.sum((held.splits == "test") & (held.classes == kind)) == 4
        assert np.sum((held.splits == "valid") & (held.classes == kind)) == 4
    train, test = held.apart(60.0)
    assert len(train) == 4 * 12
    assert len(test) == 16


def test_no_object_is_on_two_sides(tmp_path):
    write(tmp_path, 4)
    generator = np.random.default_rng(0)
    # 40 arcsec from a picture of the test, and 40 more from that one, over the pole of no RA
    picture(1, generator).save(tmp_path / "train" / "10.0000_22.0111_1_Near.png")
    picture(1, generator).save(tmp_path / "train" / "10.0000_22.0222_1_Linked.png")
    held = read_pictures(tmp_path)
    train, _ = held.apart(60.0)
    assert not {"Near", "Linked"} & {held.names[k].split("_")[3][:-4] for k in train}
    assert len(train) == 16
    assert len(held.apart(10.0)[0]) == 18


def test_bad_pictures_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_pictures(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="holds no pictures"):
        read_pictures(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(InputError, match="RA_DEC_class_catalogue"):
        read_pictures(tmp_path)
    (tmp_path / "b.zip").write_bytes(b"no")
    with pytest.raises(InputError, match="zip"):
        read_pictures(tmp_path / "b.zip")


def test_labels_are_drawn_by_class_and_nested():
    classes = np.repeat([0, 1, 2, 3], [100, 50, 20, 5])
    chosen = np.arange(175)
    few, many = (draw_labels(classes, chosen, f, 3) for f in (0.1, 0.5))
    assert np.bincount(classes[few]).tolist() == [10, 5, 2, 1]
    assert set(few) < set(many)
    assert set(few) != set(draw_labels(classes, chosen, 0.1, 4))
    np.testing.assert_array_equal(draw_labels(classes, chosen, 1.0, 0), chosen)


def test_pictures_become_channels_on_their_curves():
    image = np.zeros((1, 10, 10), np.uint8)
    image[0, 5, 5] = 255
    image[0, 4, 4] = 51
    made = prepare_pictures(
        image, PictureOptions(crop=8, size=14), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
    assert made.shape == (1, 3, 8, 8)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[0, :, 4, 4], 1.0, atol=1e-6)
    np.testing.assert_allclose(made[0, :, 0, 0], -1.0, atol=1e-6)
    linear, sqrt, asinh = 0.5 * made[0, :, 3, 3] + 0.5
    assert linear == pytest.approx(0.2)
    assert sqrt == pytest.approx(np.sqrt(0.2))
    assert asinh == pytest.approx(np.arcsinh(6.0) / np.arcsinh(30.0))


def test_weights_of_radio_sky_see_pictures_on_their_own_curves(tmp_path):
    spec = BackboneSpec(
        name="vit_tiny_patch16_224", options={"embed_dim": 24, "depth": 1, "num_heads": 2}
    )
    backbone = build_backbone(spec, 3)
    file = tmp_path / "radio.safetensors"
    save_backbone(backbone, PretrainedSpec(backbone=spec, input=InputSpec()), file)
    norm = picture_norm(spec.model_copy(update={"weights": str(file)}))
    assert norm.stretches == InputSpec().stretches
    image = np.zeros((1, 10, 10), np.uint8)
    image[0, 5, 5], image[0, 4, 4] = 255, 51
    made = prepare_pictures(image, PictureOptions(crop=10, size=14), *norm)
    wanted = stretch(image[0] * np.float32(PEAK / 255.0), InputSpec().stretches)
    np.testing.assert_allclose(made[0], wanted, rtol=1e-6)
    # others, and random numbers, see them as photographs
    assert picture_norm(spec) == (IMAGENET_MEAN, IMAGENET_STD, ())
    assert picture_norm(spec.model_copy(update={"weights": "vit-tiny-imagenet"})).std == (0.5,) * 3


def test_the_eight_orientations_differ():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    assert len({tuple(turned(image, k).flatten().tolist()) for k in range(8)}) == 8
    assert torch.equal(turned(image, 0), image)


def test_pooled_features_do_not_change_when_a_picture_is_mirrored_but_for_their_network():
    backbone = start_backbone(BackboneSpec(name="resnet18"), 0).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        found = pooled(backbone, images, ("token", "mean", "max", "deviation"))
        means = pooled(backbone, images, ("mean",))
    assert found.shape == (2, 3 * (64 + 128 + 256 + 512))
    assert means.shape == (2, 64 + 128 + 256 + 512)
    assert torch.equal(found[:, :64], means[:, :64])


def test_the_classifier_weighs_classes_alike():
    generator = np.random.default_rng(1)
    classes = np.repeat([0, 1], [900, 100])
    values = (classes[:, None, None] + generator.normal(0, 1.0, (1000, 1, 1))).astype(np.float16)
    rows = np.arange(1000)
    found = classify(values, classes, rows[::2], rows[1::2], 1.0)
    truth = classes[1::2]
    # between two Gaussians of width 1 that are 1 apart the middle divides: 0.69 of both; without
    # weights nearly all would be the frequent class
    share = [np.mean(found[truth == k] == k) for k in (0, 1)]
    assert share[0] == pytest.approx(0.69, abs=0.12)
    assert share[1] == pytest.approx(0.69, abs=0.27)


def test_a_study_resumes_cell_by_cell_with_features_computed_once(drawn, tmp_path, monkeypatch):
    first = study(tmp_path, drawn)
    assert run_study(first) == {}
    assert not first.missing()
    files = sorted((tmp_path / "cells").iterdir())
    assert len(files) == 4
    # two random networks, one a seed
    assert len(list((tmp_path / "features").iterdir())) == 2
    before = {file: file.read_bytes() for file in files}
    files[0].unlink()

    def never(*arguments):
        raise AssertionError("features are there")

    monkeypatch.setattr(features, "start_backbone", never)
    again = study(tmp_path, drawn)
    assert len(again.missing()) == 1
    told = []
    run_study(again, told=lambda *one: told.append(one[:2]))
    assert told == [(1, 1)]
    import json

    for file, content in before.items():
        one, other = json.loads(content), json.loads(file.read_bytes())
        assert one["identity"] == other["identity"]
        assert one["outcome"]["units"] == other["outcome"]["units"]
    # another share of labels is computed; what is there stays
    more = study(tmp_path, drawn, fractions=[0.25, 0.5, 1.0])
    assert len(more.missing()) == 2
    # options of trainings are nothing to frozen backbones
    tasks = more.options.model_dump(mode="json")["tasks"]
    tasks["shapes"]["training"]["steps"] = 7
    assert len(study(tmp_path, drawn, tasks=tasks).missing()) == 0
    tasks["shapes"]["pictures"]["crop"] = 30
    assert len(study(tmp_path, drawn, tasks=tasks).missing()) == 4


def test_features_of_a_random_network_tell_drawn_classes_apart(drawn, tmp_path):
    made = study(tmp_path, drawn, fractions=[0.25, 1.0])
    run_study(made)
    all_labels = next(r for r in routes(made) if r.fraction == 1.0)
    # chance is 0.25, with a standard error of 0.063 for 48 pictures
    assert all_labels.figures["accuracy"].value > 0.25 + 4 * 0.063
    assert all_labels.figures["macro_f1"].value <= 1.0


@pytest.mark.slow
def test_processes_compute_what_one_does(drawn, tmp_path):
    alone, shared = (study(tmp_path / name, drawn) for name in ("alone", "shared"))
    told = []
    assert run_study(alone) == run_study(shared, processes=2, told=lambda *a: told.append(a)) == {}
    assert [one[:2] for one in told] == [(k, 4) for k in range(1, 5)]
    assert len(list((tmp_path / "shared" / "features").iterdir())) == 2
    one, other = dict(alone.outcomes()), dict(shared.outcomes())
    assert {c: o.units for c, o in one.items()} == {c: o.units for c, o in other.items()}


@pytest.mark.parametrize("mode", ["adapters", "fine_tuned", "scratch"])
def test_networks_are_trained_as_the_mode_says(drawn, mode):
    from cyclades.pipeline.studies.tasks.classifier import predict, train_classifier
    from cyclades.pipeline.studies.tasks.morphology_options import NetworkTraining

    held = read_pictures(drawn)
    spec = BackboneSpec(name="resnet18", options={"channels": [8, 16, 24, 32]})
    rows = np.flatnonzero(held.splits == "train")[::4]
    pictures = PictureOptions(crop=32, size=32, precision="float32")
    given = NetworkTraining(steps=3, batch=4)
    before = {name: v.clone() for name, v in start_backbone(spec, 5).trunk.named_parameters()}
    network = train_classifier(
        spec, mode, held.images[rows], held.classes[rows], pictures, given, seed=5, device="cpu"
    )
    state = network.backbone.trunk.state_dict()
    plain = [name for name in before if name in state]
    changed = [name for name in plain if not torch.equal(state[name], before[name])]
    assert (not changed) if mode == "adapters" else changed
    assert network.last.weight.abs().max() > 0
    found = predict(network, spec, held.images[:5], pictures, 2, "cpu")
    assert found.shape == (5,)
    assert set(found) <= {0, 1, 2, 3}


def test_the_command_says_what_is_left_out_and_prints_what_there_is(drawn, tmp_path):
    config = tmp_path / "study.yaml"
    made = study(tmp_path, drawn).options.model_copy(
        update={"backbones": {
            "small": BackboneSpec(name="resnet18", options={"channels": [8, 16, 24, 32]}),
            "lost": BackboneSpec(name="resnet18", weights="lost.safetensors"),
        }, "modes": ("frozen", "random")}
    )  # fmt: skip
    config.write_text(made.to_yaml())
    arguments = ["study", "transfer", "--config", str(config), "--output", str(tmp_path / "out")]
    empty = CliRunner().invoke(cli, [*arguments, "--table"])
    assert "0 of 8 cells are there" in empty.output
    done = CliRunner().invoke(cli, [*arguments, "--set", "seeds=1", "--set", "modes=[random]"])
    assert done.exit_code == 0, done.output
    assert "| small | random |" in done.output
    table = CliRunner().invoke(cli, [*arguments, "--table"])
    assert "4 cells left out: lost.safetensors" in table.output
    # those of the lost backbone without its weights are the small one's? no: another width
    assert "of 8 cells are there" in table.output


def some_pictures(archive, folder, learned=50, tested=150):
    """Real pictures of each class to learn from and to test on, in folders of their own."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith(".png"))
        for kind in range(4):
            mine = [
                n for n in names if "train/" in n and n.split("/")[-1].split("_")[2] == str(kind)
            ]
            order = np.random.default_rng(kind).permutation(len(mine))[: learned + tested]
            for place, number in enumerate(order):
                name = mine[number]
                path = folder / ("train" if place < learned else "test") / name.split("/")[-1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.read(name))
    return folder


def test_pre_trained_features_beat_random_ones_on_real_pictures(shared_data, tmp_path):
    options = read_options("quick")
    reason = lacking(options.backbones["dinov2-s-derived"])
    if reason is not None:
        pytest.skip(reason)
    pictures = some_pictures(
        shared_data / "radiogalaxydataset" / "rgd_dev_png.zip", tmp_path / "pictures"
    )
    start = time.process_time()
    made = Study.plan(read_options("quick", (f"tasks.morphology.images={pictures}",)), tmp_path)
    assert run_study(made) == {}
    # on two busy cores it has to be done in three minutes
    assert time.process_time() - start < 180.0
    right = {"frozen": [], "random": []}
    for cell, outcome in made.outcomes():
        if cell.fraction == 1.0:
            right[cell.mode].append([unit["truth"] == unit["found"] for unit in outcome.units])
    gain = np.mean(right["frozen"], 0) - np.mean(right["random"], 0)
    assert len(gain) == 600
    # both are judged on the same pictures, so that their error is that of the difference
    assert gain.mean() > 4.0 * gain.std() / np.sqrt(len(gain))
    # chance is 0.25
    assert np.mean(right["random"]) > 0.25 + 4 * 0.018
