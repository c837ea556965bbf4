"""DETR and its kin: a loss silent where labels are, checkpoints, configurations, export."""
# ruff: noqa: E402

import json
import shutil
import sys

import numpy as np
import pytest
from requirements import require

require("learned")
require("transformers")

import torch

from cyclades.pipeline.training.options import TrainingOptions
from cyclades.pipeline.training.trainer import start_detector
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks.adaptation import parameter_groups
from cyclades.stages.networks.detector import Detector, load_detector, save_detector
from cyclades.stages.networks.export import export_detector
from cyclades.stages.networks.graphs import GraphDetector
from cyclades.stages.networks.heads import set_checkpoints
from cyclades.stages.networks.heads.set_loss import Layer, SetLossOptions, match, set_loss
from cyclades.stages.networks.heads.set_prediction import SetPredictionHead
from cyclades.stages.networks.heads.table import find_head
from cyclades.stages.networks.specification import HeadSpec, InputSpec, NetworkSpec
from cyclades.stages.networks.targets import Targets

SIDE = 64
SMALL = {"queries": 12, "width": 16, "attention_heads": 2, "blocks": 1, "decoder_layers": 2,
         "encoder_layers": 1, "channels": [8, 12, 16]}  # fmt: skip
KINDS = {
    "detr": SMALL,
    "conditional_detr": SMALL,
    # its projections are normalised in 32 groups
    "deformable_detr": SMALL | {"stride": 4, "width": 32},
    "rt_detr": SMALL,
    "rt_detr_v2": SMALL,
    "d_fine": SMALL,
    "rf_detr": SMALL,
    "yolos": SMALL,
}
LOSSES = ("softmax", "focal", "varifocal")


def head(name="rt_detr", classes=2, channels=3, seed=1, **options):
    torch.manual_seed(seed)
    spec = HeadSpec(name=name, options=KINDS.get(name, {}) | options)
    return SetPredictionHead(spec, (), channels, classes)


def images(batch=2, side=SIDE, channels=3, seed=2):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, side, side, generator=made)


def targets(boxes, classes=None, ignore=None, unlabelled=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    n = len(boxes)
    return Targets(
        boxes,
        torch.tensor(classes or [0] * n, dtype=torch.int64),
        torch.tensor(ignore or [False] * n, dtype=torch.bool),
        None,
        unlabelled,
    )


def said(boxes, classification, classes=2, logits=None):
    """A layer whose queries have these boxes, in pixels, and logits with a gradient."""
    corners = torch.tensor(boxes, dtype=torch.float32)
    centred = torch.cat([corners[:, :2] + corners[:, 2:], 2 * (corners[:, 2:] - corners[:, :2])], 1)
    number = classes + (classification == "softmax")
    if logits is None:
        logits = torch.zeros(len(boxes), number)
    return Layer(logits[None].clone().requires_grad_(), (centred / (2 * SIDE))[None])


def loss(layers, labels, classification, **options):
    return set_loss(
        layers, labels, (SIDE, SIDE), 2, SetLossOptions(**options), classification
    )  # fmt: skip


@pytest.mark.parametrize("classification", LOSSES)
def test_ignored_objects_and_unlabelled_pixels_are_never_wrong(classification):
    unlabelled = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    unlabelled[40:] = True
    ignored, labelled = [30, 4, 42, 16], [4, 4, 16, 16]
    queries = [[5, 5, 16, 16], [31, 5, 41, 15], [20, 50, 30, 60], [45, 20, 55, 30]]
    label = targets([ignored, labelled], ignore=[True, False], unlabelled=unlabelled)
    layer = said(queries, classification)
    found = loss([layer], [label], classification)
    (gradient,) = torch.autograd.grad(found["loss_class"], layer.logits)
    assert torch.all(gradient[0, 1:3] == 0)
    assert torch.all(gradient[0, [0, 3]] != 0)
    # the labelled object pulls its class, and only its class, up
    assert gradient[0, 0, 0] < 0
    assert torch.all(gradient[0, 0, 1:] > 0)
    # of labels that say all, the same queries are wrong
    layer = said(queries, classification)
    plain = loss([layer], [targets([labelled])], classification)
    (gradient,) = torch.autograd.grad(plain["loss_class"], layer.logits)
    assert torch.all(gradient[0, 1:] != 0)
    for name in ("loss_distance", "loss_overlap"):
        assert found[name] == plain[name]


@pytest.mark.parametrize("classification", LOSSES)
def test_labelled_objects_on_unlabelled_pixels_are_learned(classification):
    everywhere = torch.ones(SIDE, SIDE, dtype=torch.bool)
    layer = said([[5, 5, 16, 16], [40, 40, 50, 50]], classification)
    found = loss([layer], [targets([[4, 4, 16, 16]], unlabelled=everywhere)], classification)
    (gradient,) = torch.autograd.grad(found["loss_class"], layer.logits)
    assert torch.all(gradient[0, 0] != 0)
    assert torch.all(gradient[0, 1] == 0)


def test_narrow_ignored_objects_have_some_room_about_them():
    found = []
    for x in (22.0, 26.0):
        layer = said([[x - 3, 17, x + 3, 23]], "focal")
        value = loss([layer], [targets([[19.5, 19.5, 20.5, 20.5]], ignore=[True])], "focal")
        found.append(value["loss_class"].item())
    assert found[0] == 0 < found[1]


@pytest.mark.parametrize("classification", LOSSES)
def test_objects_get_the_queries_that_fit_them_altogether(classification):
    options = SetLossOptions()
    true = torch.tensor([[10.0, 10, 20, 20], [14, 10, 24, 20]])
    found = torch.tensor([[40.0, 40, 50, 50], [13, 10, 23, 20], [17, 10, 27, 20]])
    logits = torch.zeros(3, 2 + (classification == "softmax"))
    kinds = torch.zeros(2, dtype=torch.int64)
    rows, columns = match(logits, found, true, kinds, options, classification)
    # the second query is the nearest of both objects, but only one can have it
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(1, 0), (2, 1)]
    # with equal boxes the class decides
    logits[0, 1] = 3.0
    kinds = torch.tensor([1])
    rows, _ = match(logits, true[[0, 0, 0]], true[:1], kinds, options, classification)
    assert rows.tolist() == [0]
    rows, columns = match(logits[:1], found[:1], true, kinds[[0, 0]], options, classification)
    assert len(rows) == len(columns) == 1


@pytest.mark.parametrize("classification", LOSSES)
def test_a_perfect_answer_costs_next_to_nothing(classification):
    boxes, classes = [[4, 4, 16, 16], [30, 30, 50, 40]], [0, 1]
    right = torch.full((3, 2 + (classification == "softmax")), -12.0)
    right[0, 0] = right[1, 1] = right[2, -1] = 12.0
    if classification != "softmax":
        right[2] = -12.0
    layer = said([*boxes, [5, 40, 15, 50]], classification, logits=right)
    found = loss([layer], [targets(boxes, classes)], classification)
    assert sum(found.values()).item() < 1e-3
    wrong = loss([layer], [targets(boxes, classes[::-1])], classification)
    assert sum(wrong.values()) > 1


def test_each_gain_scales_its_term_and_layers_add_up():
    label = [targets([[4, 4, 16, 16]])]
    queries = [[6, 6, 20, 20], [40, 40, 50, 50]]
    plain = loss([said(queries, "focal")], label, "focal")
    gains = {"class_gain": 2.0, "distance_gain": 15.0, "overlap_gain": 0.0}
    other = loss([said(queries, "focal")] * 3, label, "focal", **gains)
    for name, factor in (("loss_class", 6), ("loss_distance", 9), ("loss_overlap", 0)):
        assert other[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-5)
    # 2 + 2 + 4 + 4 pixels
    assert plain["loss_distance"].item() == pytest.approx(5 * 12 / 64, rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_learns_whatever_the_labels(name):
    network = head(name)
    label = targets([[20, 20, 36, 36], [40, 8, 50, 18]], [0, 1])
    network.losses(images(), [label, label], (SIDE, SIDE))
    found = network.losses(images(), [label, targets([])], (SIDE, SIDE))
    assert found.keys() == {"loss_class", "loss_distance", "loss_overlap"}
    sum(found.values()).backward()
    gradients = {n: p.grad for n, p in network.named_parameters()}
    assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
    assert sum(g is None for g in gradients.values()) <= 0.06 * len(gradients)
    for labels in (
        [targets([]), targets([])],
        [targets([]), targets([[-20, -20, -4, -4], [-8, 50, 8, 70]])],
    ):
        network.zero_grad()
        found = network.losses(images(), labels, (SIDE, SIDE))
        sum(found.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert torch.isfinite(sum(found.values()))


def test_losses_do_not_grow_with_the_batch():
    network = head("yolos")
    label = targets([[20, 20, 36, 36], [40, 8, 50, 18]])
    one = network.losses(images(1), [label], (SIDE, SIDE))
    three = network.losses(images(1).repeat(3, 1, 1, 1), [label] * 3, (SIDE, SIDE))
    for name, value in one.items():
        assert value.item() == pytest.approx(three[name].item(), rel=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_boxes_are_in_pixels_and_in_the_image(name):
    network = head(name, score_floor=0.0, overlap=1.0).eval()
    for side in ((SIDE, SIDE), (72, 90)):
        some = torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(3))
        boxes, scores = network.dense(some)
        assert boxes.shape == (2, 12, 4)
        assert scores.shape == (2, 12, 2)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert boxes.min() >= 0
        assert boxes[..., 0::2].max() <= side[1]
        assert boxes[..., 1::2].max() <= side[0]
        assert len(network.predict(some, side)) == 2


@pytest.mark.parametrize("name", ["detr", "rt_detr"])
def test_boxes_are_as_exact_in_mixed_precision(name):
    network = head(name).eval()
    exact = network.dense(images())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network.dense(images())
    for one, other in zip(exact, mixed, strict=True):
        torch.testing.assert_close(one, other)


def test_few_objects_are_expected_at_first():
    for name in ("rt_detr", "deformable_detr", "rf_detr"):
        _, scores = head(name).eval().dense(images())
        assert scores.mean() < 0.1


def test_queries_of_several_groups_are_matched_each_for_itself():
    network = head("rf_detr", configuration={"group_detr": 3})
    label = [targets([[20, 20, 36, 36]])] * 2
    layers = network._run(images(), labels=[]).loss_dict["layers"]
    assert [layer.logits.shape[1] for layer in layers] == [36] * len(layers)
    grouped = network._grouped(layers)
    assert [one.logits.shape[1] for one in grouped] == [12] * 3 * len(layers)
    sum(network.losses(images(), label, (SIDE, SIDE)).values()).backward()
    assert network.eval().dense(images())[0].shape == (2, 12, 4)


def detector(name="rt_detr", classes=("source", "spurious"), **options):
    torch.manual_seed(4)
    return Detector(
        NetworkSpec(
            classes=classes,
            backbone=None,
            head=HeadSpec(name=name, options=KINDS.get(name, {}) | options),
        )
    )


@pytest.mark.parametrize(
    "name",
    [n if n == "yolos" else pytest.param(n, marks=pytest.mark.slow) for n in KINDS],
)
def test_exported_graphs_give_what_torch_gives(name, tmp_path):
    pytest.importorskip("onnxruntime")
    made = detector(name, score_floor=0.0, overlap=1.0).eval()
    path = tmp_path / "mine.safetensors"
    save_detector(made, path)
    export_detector(made, path, SIDE)
    some = images()
    for one, other in zip(GraphDetector(path).detect(some.numpy()), made.predict(some),
                          strict=True):  # fmt: skip
        assert len(one.boxes) == len(other.boxes) > 6
        order, same = (np.lexsort(np.round(f, 2).T) for f in (one.boxes, other.boxes.numpy()))
        np.testing.assert_allclose(one.boxes[order], other.boxes.numpy()[same], atol=0.01)
        np.testing.assert_allclose(one.scores[order], other.scores.numpy()[same], atol=1e-4)


def checkpoint(folder, name="detr", classes=7):
    """A checkpoint as the hub has them, of another number of classes."""
    made = head(name, classes=classes, seed=9)
    made.model.save_pretrained(folder)
    return made


@pytest.mark.parametrize("name", ["detr", "huggingface"])
def test_a_checkpoint_gives_all_but_the_classes(name, tmp_path):
    folder = tmp_path / "checkpoint"
    given = checkpoint(folder)
    options = TrainingOptions.from_mapping(
        {
            "name": "tuned",
            "network": {
                "backbone": None,
                "classes": ["source", "spurious"],
                "head": {"name": name, "options": {"checkpoint": str(folder)}},
            },
            "adaptation": {"mode": "fine_tuned"},
        }
    )
    made = start_detector(options)
    before, after = given.model.state_dict(), made.head.model.state_dict()
    same = [key for key in after if key in before and torch.equal(before[key], after[key])]
    differing = [k for k in after if k not in same and "num_batches_tracked" not in k]
    assert sorted(differing) == ["class_labels_classifier.bias", "class_labels_classifier.weight"]
    assert after["class_labels_classifier.weight"].shape[0] == 3
    # the trained file alone is enough
    path = tmp_path / "tuned.safetensors"
    save_detector(made, path)
    shutil.rmtree(folder)
    some = images()
    one, other = made.eval().head.dense(some), load_detector(path).head.dense(some)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_checkpoint_for_pictures_is_adapted_to_other_numbers_of_channels(tmp_path):
    given = checkpoint(tmp_path, "yolos")
    made = head("huggingface", channels=5, checkpoint=str(tmp_path))
    made.start(InputSpec())
    name = "vit.embeddings.patch_embeddings.projection.weight"
    before, after = given.model.state_dict()[name], made.model.state_dict()[name]
    assert after.shape[1] == 5
    # repeated, and weaker by as much as there are more of them
    torch.testing.assert_close(after, 0.6 * before[:, [0, 1, 2, 0, 1]])


def test_a_checkpoint_with_another_number_of_queries(tmp_path):
    given = checkpoint(tmp_path, "detr")
    made = head("huggingface", checkpoint=str(tmp_path), queries=20)
    made.start(InputSpec())
    assert made.eval().dense(images())[0].shape == (2, 20, 4)
    name = "model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(given.model.state_dict()[name], made.model.state_dict()[name])


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path):
    checkpoint(tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    made = head("huggingface", checkpoint=str(tmp_path / "pickled"))
    with pytest.raises(InputError, match="pickled weights are not read"):
        made.start(InputSpec())
    entries = json.loads((tmp_path / "good" / "config.json").read_text())
    other = entries | {"d_model": 32, "encoder_ffn_dim": 40}
    made = head("huggingface", checkpoint=str(tmp_path / "good"), configuration={"d_model": 32})
    with pytest.raises(InputError, match="not weights of the detr that is described"):
        made.start(InputSpec())
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="no detector of objects"):
        head("huggingface", checkpoint=str(tmp_path / "bert"))
    (tmp_path / "bert" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a configuration"):
        head("huggingface", checkpoint=str(tmp_path / "bert"))
    with pytest.raises(InputError, match="no such folder of a checkpoint"):
        head("huggingface", checkpoint=str(tmp_path / "none"))
    with pytest.raises(InputError, match="pickled checkpoint can run any code"):
        head("huggingface", checkpoint="weights.bin")
    with pytest.raises(ConfigurationError, match="described is a detr; name the head so"):
        head("yolos", configuration=other)


def test_the_hub_is_asked_for_two_files_only_when_asked(tmp_path, monkeypatch):
    checkpoint(tmp_path)
    asked = []

    def fetch(repository, *, file):
        asked.append((repository, file))
        return tmp_path / file

    monkeypatch.setattr(set_checkpoints, "fetch", fetch)
    made = head("huggingface", checkpoint="someone/detr")
    assert asked == [("someone/detr", "config.json")]
    made.start(InputSpec())
    assert set(asked) == {("someone/detr", "config.json"), ("someone/detr", "model.safetensors")}
    asked.clear()
    SetPredictionHead(made.spec, (), 3, 2)
    assert not asked


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("detr", {"query": 3}, "option 'query'.*queries"),
        ("detr", {"stride": 6}, "finest stride of 4 or 8 or 16, not 6"),
        ("rt_detr", {"stride": 8}, "finest stride of 4, not 8"),
        ("detr", {"attention_heads": 3}, "width .16. is no multiple of attention_heads .3."),
        ("detr", {"configuration": {"d_modle": 3}}, "no entry 'd_modle'.*'d_model'"),
        ("detr", {"configuration": {"model_type": "yolos"}}, "a yolos; name the head so"),
        ("huggingface", {"configuration": {"model_type": "dert"}}, "'dert'.*'detr'"),
        ("huggingface", {}, "needs the option checkpoint"),
        ("rt_detr", {"classification": "softmax"}, "option 'classification'"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(name, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        head(name, **options)
    assert "\n" not in str(caught.value)


def test_options_of_new_networks_do_not_go_with_a_checkpoint(tmp_path):
    checkpoint(tmp_path)
    with pytest.raises(ConfigurationError, match=r"option 'width'.*leave it out"):
        head("huggingface", checkpoint=str(tmp_path), width=32)


def test_images_with_fewer_cells_than_queries_are_refused():
    network = head("rt_detr", queries=400)
    with pytest.raises(ConfigurationError, match="fewer cells than the network has queries"):
        network.losses(images(), [targets([])] * 2, (SIDE, SIDE))


def test_whole_networks_are_trained_as_a_whole():
    network = {"backbone": None, "head": {"name": "detr"}}
    for mode in ("frozen", "partly_frozen", "adapters"):
        with pytest.raises(ConfigurationError, match="give the mode fine_tuned or scratch"):
            TrainingOptions.from_mapping({"network": network, "adaptation": {"mode": mode}})
    for mode in ("fine_tuned", "scratch"):
        TrainingOptions.from_mapping({"network": network, "adaptation": {"mode": mode}})


@pytest.mark.parametrize("name", KINDS)
def test_the_backbone_can_take_smaller_steps(name):
    made = detector(name)
    groups = parameter_groups(made, 1.0, backbone_factor=0.1)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["new"] == 1.0
    assert rates["backbone"] == pytest.approx(0.1)
    own = {id(p) for group in groups if group["lr"] < 1 for p in group["params"]}
    first = next(m for m in made.modules() if isinstance(m, torch.nn.Conv2d))
    assert id(first.weight) in own
    assert sum(len(group["params"]) for group in groups) == len(list(made.parameters()))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for module in ("set_prediction", "set_checkpoints", "set_networks"):
        monkeypatch.delitem(sys.modules, f"cyclades.stages.networks.heads.{module}")
    with pytest.raises(ConfigurationError, match=r"'transformers'.*cyclades\[transformers\]"):
        find_head("detr").load()
