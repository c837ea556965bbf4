"""Masks from prompts: geometry through tiles and edges, useless masks, files, and the catalogue."""

import json
import logging

import numpy as np
import pytest
from pydantic import ValidationError

from cyclades.pipeline.chain import Pipeline
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.registry import create_stage
from cyclades.stages.detection import promptable
from cyclades.stages.detection.promptable import make_picture
from cyclades.stages.networks.weights import find_model
from tests.prompted import DiscNetwork, tiny_sam, tiny_sam2
from tests.requirements import require
from tests.skies import correlated_noise, sky_image, source_rows

SHAPE = (300, 420)


@pytest.fixture(scope="module")
def field():
    """Sources on both sides of every seam of tiles of 192 pixels, and at the edges."""
    y, x = (v.ravel().astype(float) for v in np.mgrid[2:300:33, 3:420:33])
    noise = correlated_noise(SHAPE, np.random.default_rng(3))
    return sky_image(source_rows(40.0, x, y), SHAPE, noise), x, y


def run(image, background, network=None, context=None, **parameters):
    """Detect, with another network in place of that of the weights."""
    stage = create_stage("detection", "promptable", tile=192, **parameters)
    with Context() as made:
        context = context or made
        if network is not None:
            object.__setattr__(stage, "_network", lambda _: network)
        return stage.detect(image, background, context=context)


def disc(x, y, radius, shape=SHAPE):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return np.flatnonzero(np.hypot(xx - x, yy - y).ravel() <= radius)


def test_points_give_discs_around_the_peaks_wherever_they_lie(field):
    (image, background), x, y = field
    network = DiscNetwork(radius=4.0)
    found = run(image, background, network, prompt="peak", detector_options={"seed_threshold": 8})
    assert len(found) == len(x)
    assert len(network.pictures) > 12
    # summits are where the sources are, to a fraction of a pixel
    centres = np.array([np.mean(np.divmod(found.segments[i], SHAPE[1]), 1)[::-1]
                        for i in range(len(found))])  # fmt: skip
    inner = (x > 5) & (x < SHAPE[1] - 6) & (y > 5) & (y < SHAPE[0] - 6)
    for a, b in zip(x[inner], y[inner], strict=True):
        row = np.hypot(*(centres - (a, b)).T).argmin()
        assert np.hypot(*(centres[row] - (a, b))) < 0.5
        assert len(found.segments[row]) == pytest.approx(np.pi * 16, abs=5)
    for a, b in zip(x[~inner], y[~inner], strict=True):
        wanted = disc(a, b, 4.0)
        shares = [np.isin(found.segments[i], wanted).sum() / len(wanted) for i in range(len(found))]
        assert max(shares) > 0.75


def test_boxes_give_discs_in_the_boxes_exactly(field):
    (image, background), _, _ = field
    found = run(image, background, DiscNetwork(), margin=0.0)
    with Context() as context:
        islands = create_stage("detection", "islands").detect(image, background, context=context)
    leaves = islands.take(islands.leaves) if (islands.parent < 0).all() else None
    assert leaves is not None
    assert len(found) == len(leaves)
    np.testing.assert_array_equal(found.score, leaves.score)
    for row, (x0, y0, x1, y1) in enumerate(leaves.box):
        radius = 0.5 * min(x1 - x0 + 1, y1 - y0 + 1)
        wanted = disc(0.5 * (x0 + x1), 0.5 * (y0 + y1), radius)
        np.testing.assert_array_equal(found.segments[row], wanted)
        yy, xx = np.divmod(wanted, SHAPE[1])
        box = [xx.min(), yy.min(), xx.max(), yy.max()]
        np.testing.assert_array_equal(found.box[row], box)


def test_the_place_of_an_image_in_its_frame_changes_tiles_but_no_pixel(field):
    (image, background), _, _ = field
    moved = image.replace(origin=(77, 501))
    one = run(image, background, DiscNetwork(), prompt="both")
    other = run(moved, background, DiscNetwork(), prompt="both")
    np.testing.assert_array_equal(one.segments.indices, other.segments.indices)
    np.testing.assert_array_equal(one.segments.offsets, other.segments.offsets)


class Elsewhere(DiscNetwork):
    def segment(self, picture, boxes, points):
        masks, quality = super().segment(picture, boxes, points)
        return np.roll(masks, 90, 2), quality


class Everything(DiscNetwork):
    def segment(self, picture, boxes, points):
        masks, quality = super().segment(picture, boxes, points)
        return np.ones_like(masks), quality


class Nothing(DiscNetwork):
    def segment(self, picture, boxes, points):
        masks, quality = super().segment(picture, boxes, points)
        return np.zeros_like(masks), quality


@pytest.mark.parametrize(
    "network",
    [Everything(), Nothing(), DiscNetwork(quality=0.3), DiscNetwork(quality=np.nan), Elsewhere()],
    ids=["everything", "nothing", "poor", "unknown", "elsewhere"],
)
def test_objects_whose_masks_are_of_no_use_keep_their_pixels(field, network):
    (image, background), _, _ = field
    with Context() as context:
        islands = create_stage("detection", "islands").detect(image, background, context=context)
        found = run(image, background, network, context=context)
        assert context.notes["detection.masks"] == {"objects": len(found), "masked": 0}
    own = islands.take(islands.leaves)
    np.testing.assert_array_equal(found.segments.indices, own.segments.indices)
    np.testing.assert_array_equal(found.box, own.box)


def test_blank_pixels_belong_to_no_object_and_negative_ones_keep_theirs(field):
    (image, background), _, _ = field
    data = image.data.copy()
    data[:, 100:104] = np.nan
    data[140:150, 230:240] -= 60.0
    found = run(
        image.replace(data=data), background, DiscNetwork(), detector_options={"negative": True}
    )
    assert not np.isnan(data.ravel()[found.segments.indices]).any()
    assert (found.signs < 0).any()


def test_components_of_a_blend_are_objects_of_their_own():
    rows = source_rows(60.0, np.array([100.0, 108.0]), np.array([100.0, 100.0]))
    blend, flat = sky_image(
        rows, (200, 220), correlated_noise((200, 220), np.random.default_rng(1))
    )
    found = run(blend, flat, DiscNetwork(), detector_options={"seed_threshold": 10})
    assert len(found) == 2
    assert (found.parent == -1).all()


def test_pictures_are_black_at_the_darkest_and_white_at_the_brightest():
    ramp = np.array([[-50.0, -3.0, 0.0, 8.0, 100.0, 1e4]], np.float32)
    made = make_picture(ramp, ("asinh", "faint", "bright"))
    assert made.shape == (3, 1, 6)
    assert np.all(np.diff(made[:, 0], axis=1) >= 0)
    np.testing.assert_array_equal(made[:, 0, :2], 0.0)
    np.testing.assert_allclose(made[:, 0, 4:], 1.0)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"detector": "promptable"}, "promptable itself finds none"),
        ({"detector": "iland"}, "did you mean 'islands'"),
        ({"detector_options": {"seed_treshold": 6}}, "seed_treshold of islands"),
        ({"detector_options": {"flood_threshold": -1}}, "flood_threshold of islands"),
        ({"stretches": ("asinh", "faint", "log")}, "stretches"),
        ({"prompt": "name"}, "prompt"),
    ],
)
def test_wrong_parameters_are_refused(parameters, sentence):
    with pytest.raises(ValidationError, match=sentence):
        create_stage("detection", "promptable", **parameters)


def test_weights_that_are_not_there_are_named_with_what_to_do(tmp_path, monkeypatch, field):
    (image, background), _, _ = field
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"give one with config.json and model.safetensors"):
        find_model(str(tmp_path / "nothing"))
    empty = tmp_path / "someone--thing"
    empty.mkdir()
    (empty / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds no config.json.*pickled weights are not read"):
        find_model("someone/thing")
    pytest.importorskip("huggingface_hub")
    with pytest.raises(InputError, match="elsewhere, and put both into the folder"):
        run(image, background, weights="someone/else")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, field):
    import sys

    (image, background), _, _ = field
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    monkeypatch.delitem(sys.modules, "cyclades.stages.networks.prompts", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch"))
    pytest.importorskip("torch")
    with pytest.raises(
        ConfigurationError, match=r"'transformers'; install .*cyclades\[transformers\]"
    ):
        run(image, background, weights=str(tmp_path))


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    require("learned")
    require("transformers")
    return tiny_sam(tmp_path_factory.mktemp("sam"))


def test_a_network_of_random_numbers_runs_through_to_the_catalogue(sam, field):
    (image, _), _, _ = field
    small = image.replace(data=image.data[:200, :220].copy())
    made = []
    for _ in range(2):
        pipeline = Pipeline.from_route("classical").replace(
            detection={"name": "promptable", "weights": str(sam), "quality": 0.0, "tile": 192}
        )
        made.append(pipeline.run(small).catalogue)
    one, other = made
    assert len(one) > 10
    np.testing.assert_array_equal(
        np.asarray(one.components["x"]), np.asarray(other.components["x"])
    )


@pytest.mark.parametrize("write", [tiny_sam, tiny_sam2])
def test_prompts_of_all_kinds_are_answered_one_by_one(write, tmp_path):
    require("learned")
    require("transformers")
    from cyclades.stages.networks.prompts import PromptedNetwork

    picture = np.random.default_rng(2).random((3, 192, 192), np.float32)
    boxes = np.array([[10.0, 10.0, 90.0, 40.0], [5.0, 5.0, 20.0, 9.0], [100.0, 80.0, 180.0, 190.0]])
    network = PromptedNetwork(write(tmp_path), at_once=2)
    for given in ((boxes, None), (boxes, boxes[:, :2]), (None, boxes[:, :2])):
        masks, quality = network.segment(picture, *given)
        assert masks.shape == (3, 192, 192)
        assert np.isfinite(quality).all()
        for row in range(3):
            alone, value = network.segment(
                picture, *(None if one is None else one[row : row + 1] for one in given)
            )
            assert (masks[row] != alone[0]).mean() < 0.01
            assert value[0] == pytest.approx(quality[row], abs=1e-4)


class Recorder:
    """Keeps what the model is given, and answers with the left half as mask."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def get_image_embeddings(self, pixels):
        self.pixels = pixels
        return self.model.get_image_embeddings(pixels)

    def __call__(self, **given):
        import torch

        self.given = given
        made = self.model(**given)
        half = torch.full_like(made.pred_masks, -4.0)
        half[..., : half.shape[-1] // 2] = 4.0
        made.pred_masks = half
        return made


def test_places_and_masks_fit_the_picture(sam):
    from cyclades.stages.networks.prompts import PromptedNetwork

    network = PromptedNetwork(sam, at_once=2)
    assert network.size == 64
    recorder = network.model = Recorder(network.model)
    picture = np.zeros((3, 96, 96), np.float32)
    boxes = np.array([[0.0, 0.0, 96.0, 96.0], [24.0, 48.0, 30.0, 60.0], [1.0, 2.0, 3.0, 4.0]])
    masks, quality = network.segment(picture, boxes, boxes[:, :2])
    assert recorder.pixels.shape == (1, 3, 64, 64)
    # the network counts from the centre of its first pixel
    np.testing.assert_allclose(
        recorder.given["input_boxes"][0, 0], boxes[2] * 64 / 96 - 0.5, rtol=1e-5
    )
    assert recorder.given["input_points"].shape == (1, 1, 1, 2)
    assert recorder.given["multimask_output"] is False
    assert quality.shape == (3,)
    assert masks.shape == (3, 96, 96)
    assert masks[:, :, :48].all()
    assert not masks[:, :, 48:].any()
    network.segment(picture, None, boxes[:, :2])
    assert recorder.given["multimask_output"] is True


def test_files_of_another_kind_or_with_gaps_are_refused(sam, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    from cyclades.stages.networks.prompts import PromptedNetwork

    folder = tmp_path / "other"
    shutil.copytree(sam, folder)
    state = load_file(folder / "model.safetensors")
    gone = next(name for name in state if "mask_decoder" in name)
    save_file(
        {k: v for k, v in state.items() if k != gone},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(InputError, match="1 tensors of the network are missing"):
        PromptedNetwork(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        PromptedNetwork(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(InputError, match="kind 'bert'; give one of SAM or SAM 2"):
        PromptedNetwork(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(InputError, match="not the configuration of a model"):
        PromptedNetwork(folder)


def test_nothing_is_loaded_before_it_is_asked_for():
    assert promptable.PromptableDetection().weights == "facebook/sam-vit-base"
    assert logging.getLogger("transformers").level != logging.CRITICAL
