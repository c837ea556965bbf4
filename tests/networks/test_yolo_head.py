"""YOLO heads: losses silent where labels are, learning, dense outputs, export, whole models."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.requirements import require

# ruff: noqa: E402  (what follows can be imported with these extras only)
require("learned")
require("yolo")

import torch
import torchvision
from torch import nn

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.heads.dense_selection import sample_masks, select_rows
from cyclades.stages.networks.heads.yolo import UltralyticsModel, YoloHead, with_stride_4
from cyclades.stages.networks.heads.yolo_losses import anchor_points, mask_term
from cyclades.stages.networks.heads.yolo_models import load_description
from cyclades.stages.networks.specification import HeadSpec
from cyclades.stages.networks.targets import Targets

STRIDES = (4, 8, 16, 32)
NAMES = ("yolo", "yolo_seg")


def head(name="yolo", strides=STRIDES, channels=16, classes=3, seed=1, **options):
    torch.manual_seed(seed)
    return YoloHead(HeadSpec(name=name, options=options), strides, channels, classes)


def features(batch=2, side=128, channels=16, strides=STRIDES, seed=2):
    made = torch.Generator().manual_seed(seed)
    return {s: torch.randn(batch, channels, side // s, side // s, generator=made) for s in strides}


def targets(boxes, classes=None, ignore=None, side=128, masks=True, unlabelled=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    n = len(boxes)
    planes = torch.zeros(n, side, side, dtype=torch.uint8)
    for plane, (x0, y0, x1, y1) in zip(planes, boxes.long().tolist(), strict=True):
        plane[max(y0, 0) : y1, max(x0, 0) : x1] = 1
    return Targets(
        boxes,
        torch.tensor(classes or [0] * n, dtype=torch.int64),
        torch.tensor(ignore or [False] * n, dtype=torch.bool),
        planes if masks else None,
        unlabelled,
    )


def class_gradient(network, labels, side=128):
    """Gradient with respect to the class logits, (b, anchors, classes), and the cells' centres."""
    levels = features(len(labels), side)
    raw = network.raw(levels)
    logits = raw["scores"].detach().requires_grad_()
    network.raw = lambda _: {**raw, "scores": logits}
    losses = network.losses(levels, labels, (side, side))
    (gradient,) = torch.autograd.grad(losses["loss_class"], logits)
    return gradient.transpose(1, 2), anchor_points(raw["feats"], network.strides)


def numbers(losses):
    return {name: value.item() for name, value in losses.items()}


def inside(points, box):
    x0, y0, x1, y1 = box
    return (points[:, 0] > x0) & (points[:, 0] < x1) & (points[:, 1] > y0) & (points[:, 1] < y1)


@pytest.mark.parametrize("name", NAMES)
def test_ignored_objects_and_unlabelled_pixels_are_never_wrong(name):
    unlabelled = torch.zeros(128, 128, dtype=torch.bool)
    unlabelled[64:, :] = True
    ignored, labelled = [40, 20, 56, 36], [20, 20, 36, 36]
    labels = [
        targets([ignored, labelled], ignore=[True, False], unlabelled=unlabelled),
        targets([labelled]),
    ]
    gradient, points = class_gradient(head(name), labels)
    silent = inside(points, ignored) | (points[:, 1] > 64)
    assert torch.all(gradient[0, silent] == 0)
    assert torch.all(gradient[0, ~silent] != 0)
    assert torch.all(gradient[1] != 0)
    # the labelled object beside it still pulls its class, and only its class, up
    pulled = gradient[0, inside(points, labelled)]
    assert (pulled[:, 0] < 0).any()
    assert (pulled[:, 1:] > 0).all()


def test_labelled_objects_on_unlabelled_pixels_are_learned():
    everywhere = torch.ones(128, 128, dtype=torch.bool)
    box = [20, 20, 36, 36]
    gradient, points = class_gradient(head(), [targets([box], unlabelled=everywhere)])
    told = (gradient[0] != 0).any(1)
    assert 1 <= told.sum() <= 10
    assert inside(points, box)[told].all()


def test_ignored_objects_change_no_other_term():
    network, levels = head("yolo_seg"), features(1)
    box, other = [20, 20, 36, 36], [80.0, 80, 100, 100]
    alone = numbers(network.losses(levels, [targets([box])], (128, 128)))
    labels = [targets([other, box], ignore=[True, False])]
    beside = numbers(network.losses(levels, labels, (128, 128)))
    for name in ("loss_box", "loss_distance", "loss_mask"):
        assert alone[name] == pytest.approx(beside[name], rel=1e-5)
    assert beside["loss_class"] < alone["loss_class"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end_to_end", [False, True])
def test_empty_labels_and_objects_beyond_the_edge(name, end_to_end):
    network = head(name, end_to_end=end_to_end)
    nothing, outside = targets([]), targets([[-20, -20, -4, -4], [-8, 100, 8, 140]])
    for labels in ([nothing, nothing], [nothing, outside], [outside, targets([[3, 3, 9, 9]])]):
        network.zero_grad()
        losses = network.losses(features(), labels, (128, 128))
        assert {"loss_box", "loss_class", "loss_distance"} <= losses.keys()
        assert ("loss_mask" in losses) == (name == "yolo_seg")
        total = sum(losses.values())
        assert total.ndim == 0
        total.backward()
        trained = [p for p in network.parameters() if p.requires_grad]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


def test_losses_do_not_grow_with_the_batch():
    network = head("yolo_seg").eval()  # batch statistics aside
    one = features(1)
    labels = targets([[i, i, i + 16, i + 16] for i in range(0, 112, 8)])
    three = {s: f.repeat(3, 1, 1, 1) for s, f in one.items()}
    single = numbers(network.losses(one, [labels], (128, 128)))
    triple = numbers(network.losses(three, [labels] * 3, (128, 128)))
    assert single == pytest.approx(triple, rel=1e-4)


def test_gains_scale_the_terms():
    labels = [targets([[20, 20, 36, 36]])] * 2
    plain, weighted = (
        numbers(head("yolo_seg", **options).losses(features(), labels, (128, 128)))
        for options in ({}, {"box_gain": 15.0, "mask_gain": 0.0})
    )
    assert weighted["loss_box"] == pytest.approx(2 * plain["loss_box"], rel=1e-5)
    assert weighted["loss_mask"] == 0 < plain["loss_mask"]
    assert weighted["loss_class"] == plain["loss_class"]


def test_masks_are_learned_from_images_that_have_them():
    network, box = head("yolo_seg"), [[20, 20, 36, 36]]
    with_masks, without = targets(box), targets(box, masks=False)
    some = network.losses(features(), [with_masks, without], (128, 128))
    none = network.losses(features(), [without, without], (128, 128))
    assert some["loss_mask"] > 0
    assert none["loss_mask"] == 0


def test_the_mask_term_asks_for_the_labelled_pixels():
    box = [20, 40, 68, 72]
    label = targets([box])
    label.masks[:] = 0
    label.masks[0, 44:56, 24:64] = 1  # in its box neither central nor as high as wide
    sign = label.masks[0, ::2, ::2].float() * 40 - 20
    raw = {"mask_coefficient": torch.ones(1, 1, 5)}
    assignment = (torch.ones(1, 5, dtype=torch.bool), torch.zeros(1, 5, dtype=torch.long), None)

    def loss(prototype):
        raw["proto"] = prototype[None, None]
        rows = [torch.tensor([0])]
        return mask_term(raw, [label], rows, assignment, (128, 128)).item()

    assert loss(sign) < 0.2
    assert loss(sign.T) > 5
    assert loss(sign.flip(0)) > 5


def test_the_head_is_compact():
    for name, limit in (("yolo", 0.3e6), ("yolo_seg", 0.45e6)):
        assert sum(p.numel() for p in head(name, channels=64, classes=5).parameters()) < limit
    wide = head("yolo", channels=64, classes=5, reg_max=16)
    narrow = head("yolo", channels=64, classes=5, hidden=32)
    sizes = [sum(p.numel() for p in n.parameters()) for n in (wide, narrow)]
    assert sizes[1] < 0.5 * sizes[0] < 0.35e6


def test_other_models_do_not_change_the_head():
    before = {k: v.shape for k, v in head().state_dict().items()}
    UltralyticsModel(HeadSpec(name="ultralytics", options={"model": "yolov8n.yaml"}), (), 1, 2)
    assert {k: v.shape for k, v in head().state_dict().items()} == before


@pytest.mark.parametrize("strides", [(4,), (4, 8), STRIDES])
def test_boxes_are_in_pixels_and_in_the_image(strides):
    network = head(strides=strides, classes=2, score_floor=0.0).eval()
    found = network.predict(features(strides=strides), (128, 128))
    assert len(found) == 2
    for image in found:
        assert image.boxes.min() >= 0
        assert image.boxes.max() <= 128
        assert image.scores.shape == (len(image.boxes), 2)
        assert image.masks is None
        assert ((image.scores >= 0) & (image.scores <= 1)).all()
        best = image.scores.amax(1)
        assert torch.all(best[:-1] >= best[1:])


def test_a_certain_cell_gives_its_box():
    network = head("yolo", strides=(4, 8), classes=1, reg_max=8).eval()
    boxes, scores = torch.full((1, 32, 80), -20.0), torch.full((1, 1, 80), -20.0)
    cell = 64 + 1 * 4 + 2  # of stride 8, row 1, column 2: its centre is at x = 20, y = 12
    for edge, distance in enumerate((1, 0, 1, 2)):
        boxes[0, edge * 8 + distance, cell] = 20.0
    scores[0, 0, cell] = 3.0
    shapes = [torch.zeros(1, 16, 8, 8), torch.zeros(1, 16, 4, 4)]
    network.raw = lambda _: {"boxes": boxes, "scores": scores, "feats": shapes}
    (found,) = network.predict(None, (32, 32))
    assert found.boxes.tolist() == [pytest.approx([12, 12, 28, 28], abs=1e-4)]
    assert found.scores.item() == pytest.approx(1 / (1 + np.exp(-3.0)))


def test_selection_is_that_of_torchvision():
    generator = np.random.default_rng(5)
    low = generator.uniform(0, 100, (400, 2))
    boxes = np.hstack([low, low + generator.uniform(5, 25, (400, 2))]).astype(np.float32)
    scores = generator.uniform(0, 1, (400, 2)).astype(np.float32)
    rows = select_rows(boxes, scores, floor=0.3, overlap=0.4, candidates=1000, most=1000)
    best = scores.max(1)
    above = np.flatnonzero(best >= 0.3)
    expected = torchvision.ops.nms(
        torch.from_numpy(boxes[above]), torch.from_numpy(best[above]), 0.4
    )
    assert rows.tolist() == above[expected.numpy()].tolist()
    assert 0 < len(rows) < len(above)
    few = select_rows(boxes, scores, floor=0.3, overlap=0.4, candidates=1000, most=7)
    assert few.tolist() == rows[:7].tolist()


def test_boxes_that_are_no_boxes_are_dropped():
    boxes = np.array([[1, 1, 1, 9], [2, 2, np.nan, 9], [3, 3, 9, 9], [4, 4, 20, 20]], np.float32)
    scores = np.array([[0.9], [0.9], [0.8], [np.nan]], np.float32)
    rules = {"floor": 0.1, "overlap": 0.5, "candidates": 9, "most": 9}
    assert select_rows(boxes, scores, **rules).tolist() == [2]
    assert select_rows(boxes[:0], scores[:0], **rules).tolist() == []


def test_masks_are_in_the_frame_of_the_box():
    planes = np.zeros((2, 32, 32), np.float32)
    planes[0] = np.arange(32)[None, :] * 2 + 1 - 20  # x - 20 at the centres of cells of 2 pixels
    planes[1] = np.arange(32)[:, None] * 2 + 1 - 30
    boxes = np.array([[10, 10, 38, 38], [10, 10, 38, 38]], np.float32)
    masks = sample_masks(np.array([[1, 0], [0, -1]], np.float32), planes, boxes, 2.0)
    x = 10 + np.arange(28) + 0.5
    np.testing.assert_allclose(masks[0], np.tile(1 / (1 + np.exp(20 - x)), (28, 1)), rtol=1e-5)
    np.testing.assert_allclose(masks[1], np.tile(1 / (1 + np.exp(x - 30)), (28, 1)).T, rtol=1e-5)


@pytest.mark.parametrize("stride", [2, 4])
def test_arrays_and_tensors_give_the_same_detections(stride):
    network = head("yolo_seg", prototype_stride=stride, score_floor=0.0, detections=60).eval()
    with torch.no_grad():
        dense = network.dense(features())
        dense[1].add_(torch.rand(dense[1].shape, generator=torch.Generator().manual_seed(3)) / 2)
    assert dense[3].shape == (2, 16, 128 // stride, 128 // stride)
    for a, b in zip(network.select(dense), network.select([d.numpy() for d in dense]), strict=True):
        assert len(a.boxes) == 60
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)
        assert a.masks.shape == (60, 28, 28)
        torch.testing.assert_close(a.masks, b.masks, rtol=0, atol=1e-5)


class Whole(nn.Module):
    """What an export takes: images to dense outputs."""

    def __init__(self, backbone, network):
        super().__init__()
        self.backbone, self.network = backbone, network

    def forward(self, images):
        return self.network.dense(self.backbone(images))


class TinyBackbone(nn.Module):
    """A few convolutions, with a pyramid of strides 4 and 8."""

    def __init__(self, channels=24):
        super().__init__()

        def layer(a, b, stride):
            return nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.SiLU()
            )

        self.stem = nn.Sequential(
            layer(1, 16, 2), layer(16, channels, 2), layer(channels, channels, 1)
        )
        self.down = nn.Sequential(layer(channels, channels, 2), layer(channels, channels, 1))

    def forward(self, images):
        fine = self.stem(images)
        coarse = self.down(fine)
        return {4: fine + nn.functional.interpolate(coarse, scale_factor=2.0), 8: coarse}


def exported(network, images, path, *, dynamo):
    options = (
        {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=64)},)}
        if dynamo
        else {"dynamo": False, "dynamic_axes": {"images": {0: "batch"}}}
    )
    torch.onnx.export(
        network, (images,), str(path), input_names=["images"], verbose=False, **options
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "dynamo"), [("yolo", False), ("yolo_seg", False), ("yolo_seg", True)]
)
def test_onnx_gives_what_torch_gives(tmp_path, name, dynamo):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    torch.manual_seed(4)
    network = Whole(TinyBackbone(16), head(name, strides=(4, 8))).eval()
    path = tmp_path / "network.onnx"
    exported(network, torch.randn(2, 1, 128, 128), path, dynamo=dynamo)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.randn(batch, 1, 128, 128)
        with torch.no_grad():
            expected = network(images)
        outputs = session.run(None, {"images": images.numpy()})
        assert len(outputs) == (4 if name == "yolo_seg" else 2)
        for ours, theirs in zip(expected, outputs, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4, atol=1e-4)


def blobs(number, seed, side=128):
    """Images of Gaussian blobs of 6 to 20 pixels on noise, with their labels."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5
    images, labels = [], []
    for _ in range(number):
        image, boxes = generator.normal(0, 1, (side, side)), []
        masks = []
        for _ in range(generator.integers(2, 6)):
            size = generator.uniform(6, 20)
            cx, cy = generator.uniform(12, side - 12, 2)
            blob = np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / (size / 4) ** 2)
            image += generator.uniform(8, 15) * blob
            boxes.append([cx - size / 2, cy - size / 2, cx + size / 2, cy + size / 2])
            masks.append(blob > np.exp(-2))
        images.append(np.arcsinh(image))
        labels.append(
            Targets(
                torch.tensor(boxes, dtype=torch.float32),
                torch.zeros(len(boxes), dtype=torch.int64),
                torch.zeros(len(boxes), dtype=torch.bool),
                torch.tensor(np.array(masks), dtype=torch.uint8),
            )
        )
    return torch.tensor(np.array(images), dtype=torch.float32)[:, None], labels


def matches(found, label, overlap=0.5):
    """How many labels are found, and how many detections there are, above a score of 0.3."""
    sure = found.scores[:, 0] > 0.3
    common = torchvision.ops.box_iou(label.boxes, found.boxes[sure])
    return int((common >= overlap).any(1).sum()), int(sure.sum())


@pytest.mark.parametrize(
    ("name", "end_to_end", "share"),
    [("yolo", False, 0.85), ("yolo_seg", False, 0.85), ("yolo", True, 0.5)],
)
def test_the_head_learns(name, end_to_end, share):
    torch.manual_seed(7)
    backbone = TinyBackbone()
    network = head(name, (4, 8), 24, 1, seed=7, end_to_end=end_to_end)
    parameters = [*backbone.parameters(), *(p for p in network.parameters() if p.requires_grad)]
    optimiser = torch.optim.AdamW(parameters, lr=4e-3)
    steps = 80
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    history = []
    for step in range(steps):
        images, labels = blobs(4, seed=step)
        losses = network.losses(backbone(images), labels, (128, 128))
        total = sum(losses.values())
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        schedule.step()
        history.append({k: v.item() for k, v in losses.items()})
    sums = [sum(h.values()) for h in history]
    assert np.mean(sums[-10:]) < 0.4 * np.mean(sums[:5])
    assert np.mean([h["loss_box"] for h in history[-10:]]) < 0.5 * history[0]["loss_box"]

    backbone.eval(), network.eval()
    images, labels = blobs(16, seed=1000)
    found = network.predict(backbone(images), (128, 128))
    right, claimed = np.sum([matches(f, t) for f, t in zip(found, labels, strict=True)], 0)
    true = sum(len(t.boxes) for t in labels)
    assert right >= share * true
    assert claimed <= 1.2 * true
    if name == "yolo_seg":  # round in their boxes
        masks = torch.cat([f.masks[f.scores[:, 0] > 0.3] for f in found])
        assert masks[:, 10:18, 10:18].mean() > 0.7
        assert masks[:, :3, :3].mean() < 0.4


def test_mixed_precision_and_copies():
    network = head("yolo_seg")
    labels = [targets([[20, 20, 36, 36], [120, 120, 127, 127]])] * 2
    exact = network.losses(features(), labels, (128, 128))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network.losses(features(), labels, (128, 128))
    for term, value in exact.items():
        assert rough[term].dtype == torch.float32
        assert rough[term].item() == pytest.approx(value.item(), rel=0.05)
    copied = copy.deepcopy(network)
    assert numbers(copied.losses(features(), labels, (128, 128))) == numbers(exact)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regmax": 4}, "regmax"),
        ({"overlap": 2.0}, "overlap"),
        ({"prototype_stride": 8}, "prototype_stride"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ConfigurationError, match=words):
        head("yolo_seg", **options)


def whole(model, classes=2, channels=3, **options):
    torch.manual_seed(3)
    spec = HeadSpec(name="ultralytics", options={"model": model, **options})
    return UltralyticsModel(spec, (), channels, classes)


@pytest.mark.parametrize(
    ("model", "strides", "masks"),
    [
        ("yolo11n.yaml", (8, 16, 32), False),
        ("yolov8n-seg", (8, 16, 32), True),
        ("yolo26n-p2.yaml", (4, 8, 16, 32), False),
        ("yolo26n-seg.yaml", (8, 16, 32), True),
        ("yolov10n.yaml", (8, 16, 32), False),
    ],
)
def test_whole_models_train_and_predict(model, strides, masks):
    network = whole(model, score_floor=0.0, detections=50)
    assert (network.strides, network.has_masks, network.takes_images) == (strides, masks, True)
    images = torch.randn(2, 3, 64, 64)
    box, other = [10, 10, 30, 30], [40, 40, 60, 60]
    labels = [targets([box, other], [0, 1], [False, True], side=64), targets([], side=64)]
    losses = network.losses(images, labels, (64, 64))
    assert ("loss_mask" in losses) == masks
    sum(losses.values()).backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    network.eval()
    for found in network.predict(images, (64, 64)):
        assert 1 <= len(found.boxes) <= 50
        assert found.boxes.min() >= 0
        assert found.boxes.max() <= 64
        assert (found.masks is not None) == masks


def test_a_level_of_stride_4_is_added_as_ultralytics_does():
    ours = whole("yolov8n.yaml", stride_4=True)
    theirs = whole("yolov8n-p2.yaml")
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (ours, theirs)]
    assert shapes[0] == shapes[1]
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for a, b in zip(ours.eval().dense(images), theirs.eval().dense(images), strict=True):
        assert torch.equal(a, b)
    for model in ("yolo11n.yaml", "yolo11n-seg.yaml", "yolo12n.yaml", "yolo26n.yaml"):
        assert whole(model, stride_4=True).strides == STRIDES
    description = with_stride_4("yolo11n.yaml")
    assert with_stride_4(description) == description


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("yolo99n.yaml", "ships no model"),
        ("../../secrets.yaml", "ships no model"),
        ("https://example.org/yolo11n.yaml", "ships no model"),
        ("yolo11n-pose.yaml", "ends in Pose"),
        ({"backbone": []}, "backbone and a head"),
    ],
)
def test_other_models_are_refused(model, words):
    with pytest.raises(ConfigurationError, match=words):
        whole(model)


def test_descriptions_cannot_run_code(tmp_path):
    description = load_description("yolo11n.yaml")
    file = tmp_path / "made"
    description["activation"] = f"open({str(file)!r}, 'w')"
    with pytest.raises(ConfigurationError, match="activation"):
        whole(description)
    description["activation"] = "nn.ReLU()"
    description["backbone"][0][2] = "exec"
    with pytest.raises(ConfigurationError, match="no layer"):
        whole(description)
    assert not file.exists()


def test_import_leaves_no_trace(tmp_path):
    code = (
        "import os, socket, sys\n"
        "import numpy as np\n"
        "def refused(*_, **__): raise AssertionError('network')\n"
        "socket.getaddrinfo = socket.socket.connect = refused\n"
        "before = dict(os.environ), np.get_printoptions()\n"
        "from cyclades.stages.networks.heads import yolo\n"
        "added = set(os.environ) - set(before[0])\n"
        "assert all(name.startswith('YOLO_') for name in added), added\n"
        "assert np.get_printoptions() == before[1]\n"
        "folder = os.environ['YOLO_CONFIG_DIR']\n"
        "assert os.path.isdir(folder)\n"
        "sys.stderr.write(folder)\n"
    )
    home = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "XDG_"))}
    home["HOME"] = str(tmp_path)
    # ultralytics tells from the variable that tests run, and would not send anything anyway
    home.pop("PYTEST_CURRENT_TEST", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=home, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not os.path.exists(done.stderr)
    assert list(tmp_path.iterdir()) == []
