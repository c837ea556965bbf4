"""Semantic segmentation: objects cut from maps, losses silent where labels are, options."""
# ruff: noqa: E402

import numpy as np
import pytest

from tests.requirements import require

require("learned")

import torch
from torch.nn import functional

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.registry import create_stage
from cyclades.stages.detection.found import mask_segments
from cyclades.stages.networks.detector import Detector, save_detector
from cyclades.stages.networks.export import export_detector
from cyclades.stages.networks.heads.semantic import SemanticHead
from cyclades.stages.networks.heads.semantic_instances import Rules, cut_objects
from cyclades.stages.networks.specification import BackboneSpec, HeadSpec, NetworkSpec
from cyclades.stages.networks.targets import Targets

SIDE = 64
STRIDES = (4, 8)


def head(classes=3, **options):
    torch.manual_seed(1)
    return SemanticHead(HeadSpec(name="semantic", options=options), STRIDES, 16, classes)


def features(batch=1):
    made = torch.Generator().manual_seed(2)
    return {s: torch.randn(batch, 16, SIDE // s, SIDE // s, generator=made) for s in STRIDES}


def discs(places, side=SIDE):
    """Planes of discs (x, y, radius)."""
    y, x = np.mgrid[:side, :side] + 0.5
    return np.array([np.hypot(x - a, y - b) <= r for a, b, r in places])


def targets(places, ignore=None, unlabelled=None, masks=True, classes=None):
    """Labels of discs."""
    planes = discs(places)
    n = len(places)
    boxes = torch.tensor([[a - r, b - r, a + r, b + r] for a, b, r in places]).reshape(-1, 4)
    return Targets(
        boxes.float(),
        torch.tensor(classes or [0] * n, dtype=torch.int64),
        torch.tensor(ignore or [False] * n, dtype=torch.bool),
        torch.from_numpy(planes.astype(np.uint8)).reshape(n, SIDE, SIDE) if masks else None,
        unlabelled,
    )


def gradient(network, labels, monkeypatch):
    """Of all terms of the loss by the maps."""
    with torch.no_grad():
        maps = network.maps(features(len(labels)))
    maps.requires_grad_()
    monkeypatch.setattr(network, "maps", lambda _: maps)
    losses = network.losses(features(len(labels)), labels, (SIDE, SIDE))
    assert losses.keys() == {"loss_source", "loss_dice", "loss_centre", "loss_class"}
    return torch.autograd.grad(sum(losses.values()), maps)[0]


@pytest.mark.parametrize("stride", [1, 2])
def test_ignored_objects_and_unlabelled_pixels_are_neither_wrong_nor_learned(stride, monkeypatch):
    unlabelled = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    unlabelled[48:] = True
    # the ignored disc overlaps the labelled one, whose pixels stay its own
    labels = [targets([(20, 20, 6), (28, 20, 6)], [False, True], unlabelled, classes=[2, 0])]
    found = gradient(head(stride=stride), labels, monkeypatch)[0]
    own, box = discs([(20, 20, 6)])[0], np.zeros((SIDE, SIDE), bool)
    box[14:26, 22:34] = True
    own, box = own[::stride, ::stride], box[::stride, ::stride]
    grown = functional.max_pool2d(torch.from_numpy(own)[None].float(), 3, 1, 1)[0].numpy() > 0
    quiet = torch.from_numpy(box & ~grown)
    quiet[48 // stride :] = True
    assert torch.all(found[:, quiet] == 0)
    judged = ~quiet & ~torch.from_numpy(grown | box)
    assert torch.all(found[:2, judged] != 0)
    assert torch.all(found[2:, judged] == 0)
    y, x = 20 // stride, 20 // stride
    # up goes what is there: source, and its class; down the other classes
    assert found[0, y, x] < 0
    assert found[1, y - 1 : y + 1, x - 1 : x + 1].amin() < 0
    assert found[4, y, x] < 0
    assert torch.all(found[2:4, y, x] > 0)


def test_losses_take_no_labels_and_tiny_objects():
    network = head()
    labels = [targets([]), targets([(20.5, 20.5, 0.6), (63.5, 0.5, 0.6)])]
    losses = network.losses(features(2), labels, (SIDE, SIDE))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_labels_without_masks_are_refused():
    with pytest.raises(ConfigurationError, match="learns from masks; give labels with masks"):
        head().losses(features(), [targets([(20, 20, 6)], masks=False)], (SIDE, SIDE))


def test_maps_that_are_true_have_no_loss_and_give_the_objects(monkeypatch):
    from cyclades.stages.networks.heads import semantic

    places = [(12, 40, 6), (23, 40, 7), (50, 14, 4), (60, 60, 9)]
    label = targets(places, classes=[0, 1, 2, 1])
    network = head()
    truth = semantic._truth(label, (SIDE // 2, SIDE // 2), network.options)
    maps = torch.full((1, 5, SIDE // 2, SIDE // 2), -20.0)
    maps[0, 0] = torch.where(truth.source > 0, 20.0, -20.0)
    maps[0, 1] = torch.logit(truth.centre.clamp(1e-6, 1 - 1e-6))
    for kind in range(3):
        own = (truth.owner >= 0) & (label.classes[truth.owner] == kind)
        maps[0, 2 + kind][own] = 20.0
    monkeypatch.setattr(network, "maps", lambda _: maps)
    losses = network.losses(features(), [label], (SIDE, SIDE))
    assert sum(losses.values()) < 1e-3
    (found,) = network.predict(features(), (SIDE, SIDE))
    assert len(found.boxes) == 4
    pixels = mask_segments(
        found.boxes.double().numpy(), found.masks.numpy(), np.zeros((SIDE, SIDE), np.float32)
    )
    for place, kind, plane in zip(places, (0, 1, 2, 1), discs(places), strict=True):
        centre = 0.5 * (found.boxes[:, :2] + found.boxes[:, 2:])
        inside = torch.tensor([min(place[0], 61), min(place[1], 61)])
        row = int((centre - inside).norm(dim=1).argmin())
        drawn = np.zeros(SIDE * SIDE, bool)
        drawn[pixels[row]] = True
        true = plane.ravel()
        assert (drawn & true).sum() / (drawn | true).sum() > 0.75
        assert int(found.scores[row].argmax()) == kind
        assert found.scores[row].sum() > 0.5


def maps_of(places, widths=None):
    """Perfect maps of discs: source, centre, and one class."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    source = discs(places).any(0) * np.float32(0.98)
    centre = np.max(
        [0.9 * np.exp(-2.0 * ((x - a) ** 2 + (y - b) ** 2) / r**2) for a, b, r in places], 0
    )
    return source, centre.astype(np.float32), np.ones((1, SIDE, SIDE), np.float32)


def test_touching_discs_are_parted_where_they_meet():
    places = [(20.5, 30.5, 8), (36.5, 30.5, 8)]
    found = cut_objects(*maps_of(places), Rules())
    assert len(found.boxes) == 2
    order = np.argsort(found.boxes[:, 0])
    (left, right) = found.boxes[order]
    assert left[2] == pytest.approx(28.5, abs=1)
    assert right[0] == pytest.approx(28.5, abs=1)
    np.testing.assert_allclose(found.scores, 0.9, atol=0.01)
    blank = np.zeros((SIDE, SIDE), np.float32)
    pixels = mask_segments(found.boxes.astype(float), found.masks, blank)
    together = np.sort(pixels.indices)
    # every pixel belongs to one object, and to one only
    np.testing.assert_array_equal(together, np.flatnonzero(discs(places).any(0)))


def test_mirrored_maps_give_mirrored_objects():
    source, centre, classes = maps_of([(12.5, 9.5, 5), (40.5, 30.5, 9), (25.5, 50.5, 6)])
    one = cut_objects(source, centre, classes, Rules())
    other = cut_objects(source[:, ::-1].copy(), centre[:, ::-1].copy(), classes, Rules())
    back = other.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [SIDE, 0, SIDE, 0]
    order, same = np.lexsort(one.boxes.T), np.lexsort(back.T)
    np.testing.assert_allclose(one.boxes[order], back[same])
    np.testing.assert_allclose(one.masks[order], other.masks[same][:, :, ::-1])


def test_what_has_no_centre_is_no_object_and_small_boxes_grow():
    source, centre, classes = maps_of([(12.5, 12.5, 5), (40.5, 40.5, 1.5)])
    centre[:30, :30] = 0.01
    found = cut_objects(source, centre, classes, Rules())
    np.testing.assert_allclose(found.boxes, [[37.5, 37.5, 43.5, 43.5]])
    assert found.masks[0].max() > 0.9
    assert found.masks[0, 0, 0] == 0
    source[39, 39] = np.nan
    centre[5, 5] = np.nan
    assert len(cut_objects(source, centre, classes, Rules()).boxes) == 1
    nothing = cut_objects(np.zeros_like(source), centre, classes, Rules())
    assert nothing.boxes.shape == (0, 4)
    assert nothing.masks.shape == (0, 28, 28)


def test_low_peaks_part_no_bright_object():
    source, centre, classes = maps_of([(20.5, 30.5, 8), (34.5, 30.5, 8)])
    faint = centre.copy()
    faint[:, 27:] *= 0.2
    assert len(cut_objects(source, faint, classes, Rules(share=0.25)).boxes) == 1
    assert len(cut_objects(source, faint, classes, Rules(share=0.1)).boxes) == 2


def test_masks_of_another_threshold_are_cut_at_one_half():
    source, centre, classes = maps_of([(30.5, 30.5, 8)])
    wide = np.where(discs([(30.5, 30.5, 11)])[0] & (source == 0), np.float32(0.3), source)
    blank = np.zeros((SIDE, SIDE), np.float32)
    for threshold, radius in ((0.5, 8), (0.2, 11)):
        found = cut_objects(wide, centre, classes, Rules(threshold=threshold))
        pixels = mask_segments(found.boxes.astype(float), found.masks, blank)
        wanted = np.flatnonzero(discs([(30.5, 30.5, radius)])[0])
        # all but single pixels at the rim of the larger one, whose cells are hardly smaller
        assert np.isin(pixels[0], wanted).all()
        assert len(pixels[0]) > 0.95 * len(wanted)


@pytest.mark.parametrize(
    "options",
    [{"stride": 3}, {"mask_threshold": 1}, {"peak_distance": 0}, {"hidden": 1}, {"widht": 3}],
)
def test_wrong_options_are_refused_in_a_sentence(options):
    with pytest.raises(ConfigurationError, match=r"^Head 'semantic', option '.*options are"):
        head(**options)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(2)
    backbone = BackboneSpec(
        name="resnet18", options={"channels": [8, 8, 8, 8]}, strides=(4, 8), channels=8
    )
    return Detector(
        NetworkSpec(name="small", backbone=backbone, head=HeadSpec(name="semantic"))
    ).eval()


def test_an_export_is_refused_in_a_sentence(detector, tmp_path):
    with pytest.raises(ConfigurationError, match="semantic are run by torch alone"):
        export_detector(detector, tmp_path / "small.safetensors")


@pytest.mark.parametrize("which", ["strip", "blank", "constant", "pixel", "row"])
def test_awkward_images(which, detector, tmp_path):
    rng = np.random.default_rng(1)
    data = rng.normal(size=(200, 230)).astype(np.float32)
    data[:, 60:70] = np.nan
    data = {
        "strip": data,
        "blank": np.full((70, 80), np.nan, np.float32),
        "constant": np.full((70, 80), 3.0, np.float32),
        "pixel": np.ones((1, 1), np.float32),
        "row": rng.normal(size=(1, 80)).astype(np.float32),
    }[which]
    path = tmp_path / "small.safetensors"
    save_detector(detector, path)
    image = SkyImage(data, psf=PointSpread(np.eye(2) * 4.0))
    flat = Background(np.zeros_like(data), np.ones_like(data))
    stage = create_stage("detection", "semantic", weights=str(path), tile=192, probability=1e-6)
    with Context() as context:
        found = stage.detect(image, flat, context=context)
    assert np.isfinite(found.box).all()
    assert (found.box[:, :2] <= found.box[:, 2:]).all()
    assert not np.isnan(data.ravel()[found.segments.indices]).any() if len(found) else True
    if which in ("blank", "constant"):
        assert len(found) == 0
