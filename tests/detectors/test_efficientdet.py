"""EfficientDet: anchors, losses silent where labels are, start from weights, export, options."""
# ruff: noqa: E402

import sys

import numpy as np
import pytest

from tests.requirements import require

require("learned")
require("efficientdet")

import torch

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks.detector import Detector, save_detector
from cyclades.stages.networks.heads.efficientdet import EfficientDetHead
from cyclades.stages.networks.heads.table import find_head
from cyclades.stages.networks.specification import HeadSpec, InputSpec, NetworkSpec
from cyclades.stages.networks.targets import Targets
from cyclades.stages.networks.weights import WEIGHTS, available_offline

SIDE = 96
SMALL = {"pyramid_repeats": 1, "head_layers": 1, "pyramid_channels": 16, "largest_stride": 16}


def head(classes=3, seed=1, **options):
    torch.manual_seed(seed)
    return EfficientDetHead(HeadSpec(name="efficientdet", options=SMALL | options), (), 3, classes)


@pytest.fixture(scope="module")
def network():
    return head()


def targets(boxes, ignore=None, unlabelled=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    n = len(boxes)
    ignored = torch.tensor(ignore or [False] * n, dtype=torch.bool)
    return Targets(boxes, torch.zeros(n, dtype=torch.int64), ignored, None, unlabelled)


def gradients(network, labels, monkeypatch, size=SIDE):
    """Of the terms of the loss, by the outputs; and the anchors."""
    made = torch.Generator().manual_seed(5)
    images = torch.randn(len(labels), 3, size, size, generator=made)
    with torch.no_grad():
        logits, offsets, anchors, limit = network.raw(images)
    logits, offsets = logits.clone().requires_grad_(), offsets.clone().requires_grad_()
    monkeypatch.setattr(network, "raw", lambda _: (logits, offsets, anchors, limit))
    losses = network.losses(images, labels, (size, size))
    assert losses.keys() == {"loss_class", "loss_box"}
    by_class, by_box = torch.autograd.grad(sum(losses.values()), (logits, offsets))
    return by_class, by_box, anchors, losses


def overlap(anchors, box):
    """Share of each anchor that lies in a box, and the intersection over union."""
    box = torch.tensor(box, dtype=torch.float32)
    low, high = torch.maximum(anchors[:, :2], box[:2]), torch.minimum(anchors[:, 2:], box[2:])
    common = (high - low).clamp(min=0).prod(1)
    area = (anchors[:, 2:] - anchors[:, :2]).prod(1)
    return common / area, common / (area + (box[2:] - box[:2]).prod() - common)


def test_ignored_objects_and_unlabelled_pixels_are_neither_wrong_nor_learned(network, monkeypatch):
    unlabelled = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    unlabelled[64:] = True
    ignored, labelled = [40, 20, 56, 36], [10, 20, 22, 32]
    labels = [targets([ignored, labelled], [True, False], unlabelled), targets([labelled])]
    by_class, by_box, anchors, _ = gradients(network, labels, monkeypatch)
    y = 0.5 * (anchors[:, 1] + anchors[:, 3])
    quiet = (overlap(anchors, ignored)[0] >= 0.5) | (y >= 64)
    assert quiet.sum() > 100
    assert torch.all(by_class[0, quiet] == 0)
    assert torch.all(by_box[0, quiet] == 0)
    judged = ~quiet & (overlap(anchors, labelled)[1] < 0.4)
    assert torch.all(by_class[0, judged] != 0)
    # where an anchor belongs to the object, its class, and no other one, is pulled up
    own = overlap(anchors, labelled)[1] >= 0.5
    assert own.any()
    assert torch.all(by_class[0, own, 0] < 0)
    assert torch.all(by_class[0, own, 1:] > 0)
    assert torch.any(by_box[0, own] != 0)


def test_empty_labels_have_a_finite_gradient_everywhere():
    network = head()
    labels = [targets([]), targets([[4, 4, 12, 12]], [True])]
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    sum(network.losses(images, labels, (SIDE, SIDE)).values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_anchors_span_sources_of_six_to_many_pixels():
    anchors = head(largest_stride=32).raw(torch.zeros(1, 3, 128, 128))[2]
    for side in (6, 8, 12, 20, 32, 48, 64):
        for x in (40.0, 41.3, 62.7):
            box = [x, 60.0, x + side, 60.0 + side]
            assert overlap(anchors, box)[1].max() > 0.4, side


class Given(torch.nn.Module):
    """A network whose outputs are given."""

    def __init__(self, classes, boxes):
        super().__init__()
        self.classes, self.boxes = classes, boxes

    def forward(self, images):
        return self.classes, self.boxes


def test_outputs_without_offsets_are_the_anchors_and_mirror_with_the_maps():
    network = head()
    shapes = [(16, 24), (8, 12), (4, 6)]
    number = network.sizes.shape[1]
    made = torch.Generator().manual_seed(2)
    classes = [torch.randn(1, 3 * number, *s, generator=made) for s in shapes]
    boxes = [torch.zeros(1, 4 * number, *s) for s in shapes]
    network.network = Given(classes, boxes)
    found, scores = network.dense(torch.zeros(1))
    assert found.shape == (1, number * (16 * 24 + 8 * 12 + 4 * 6), 4)
    assert found.amin() == 0
    assert tuple(found[0, :, 2:].amax(0).tolist()) == (96.0, 64.0)
    # at the first cell, whose centre is (2, 2), the first anchor, a wide one of 6 x 6 pixels' area
    wide, high = 6 * 0.5**0.5 / 2, 6 / 0.5**0.5 / 2
    wanted = torch.tensor([2 - wide, 2 - high, 2 + wide, 2 + high]).clamp(min=0)
    torch.testing.assert_close(found[0, 0], wanted)
    network.network.classes = [level.flip(-1) for level in classes]
    mirrored, others = network.dense(torch.zeros(1))
    back = torch.stack([96 - mirrored[0, :, 2], mirrored[0, :, 1],
                        96 - mirrored[0, :, 0], mirrored[0, :, 3]], 1)  # fmt: skip
    best, same = scores[0].amax(1).topk(50), others[0].amax(1).topk(50)
    torch.testing.assert_close(best.values, same.values)
    torch.testing.assert_close(found[0, best.indices], back[same.indices])


def detector(**options):
    torch.manual_seed(3)
    spec = NetworkSpec(
        name="small", backbone=None, head=HeadSpec(name="efficientdet", options=SMALL | options)
    )
    made = Detector(spec)
    for name, value in made.named_buffers():  # normalisation that is none would hide a wrong one
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    return made.eval()


@pytest.mark.slow
def test_the_graph_computes_what_torch_does(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from cyclades.stages.networks.export import export_detector
    from cyclades.stages.networks.graphs import GraphDetector

    network, path = detector(), tmp_path / "small.safetensors"
    save_detector(network, path)
    export_detector(network, path, 64)
    graph = GraphDetector(path)
    assert (graph.size, graph.stride, graph.whole) == (64, 16, True)
    images = np.random.default_rng(1).normal(size=(2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        wanted = network.head.dense(torch.from_numpy(images))
    found = graph._first.run(None, {"images": images})
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-3)


def test_images_of_any_size_are_taken(network):
    for h, w in ((64, 96), (112, 48)):
        boxes, scores = network.dense(torch.zeros(1, 3, h, w))
        assert boxes.shape[:2] == scores.shape[:2]
        assert tuple(boxes[0, :, 2:].amax(0).tolist()) <= (w, h)


@pytest.mark.parametrize("model", ["d0", "d1", "d2"])
def test_all_models_can_be_built(model):
    made = EfficientDetHead(HeadSpec(name="efficientdet", options={"model": model}), (), 2, 1)
    assert made.largest_stride == 32
    boxes, _ = made.eval().dense(torch.zeros(1, 2, 64, 64))
    assert boxes.shape[1] == 6 * (256 + 64 + 16 + 4)


def test_a_level_that_the_backbone_has_not_can_be_added():
    made = head(largest_stride=64)
    assert made.strides == (4, 8, 16, 32, 64)
    assert made.dense(torch.zeros(2, 3, 128, 128))[0].shape[0] == 2


@pytest.mark.parametrize(
    "options",
    [{"model": "d9"}, {"largest_stride": 20}, {"anchor_scale": 0}, {"aspect_ratios": []}, {"x": 1}],
)
def test_wrong_options_are_refused_in_a_sentence(options):
    with pytest.raises(ConfigurationError, match=r"^Head 'efficientdet', option '.*options are"):
        head(**options)


def test_the_backbone_starts_from_weights_of_its_kind(tmp_path, monkeypatch):
    name = "efficientnet-lite0-imagenet"
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path))
    # asked once the folder is an empty one: another may hold a copy converted from the package
    if not available_offline(WEIGHTS[name]):
        pytest.skip(f"the weights {name} are not here")
    network, other = head(weights=name), head()
    first = "backbone.conv_stem.weight"
    before = network.network.state_dict()[first].clone()
    torch.testing.assert_close(before, other.network.state_dict()[first])
    network.start(InputSpec())
    assert (network.network.state_dict()[first] - before).abs().max() > 0.01
    # what is not of the backbone stays
    for key, value in other.network.state_dict().items():
        if not key.startswith("backbone."):
            assert torch.equal(network.network.state_dict()[key], value)
    with pytest.raises(InputError, match="not of efficientnet_b0"):
        head(model="d0", weights=name).start(InputSpec())


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "effdet"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "effdet", None)
    monkeypatch.delitem(sys.modules, "cyclades.stages.networks.heads.efficientdet")
    with pytest.raises(ConfigurationError, match=r"'effdet.*'; install .*cyclades\[efficientdet\]"):
        find_head("efficientdet").load()
