"""R-CNN heads: the same regions as torchvision, losses silent where labels are, masks."""
# ruff: noqa: E402

import pytest
from requirements import require

require("learned")

import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.heads.rcnn import RcnnHead
from cyclades.stages.networks.selection import select_proposals
from cyclades.stages.networks.specification import HeadSpec
from cyclades.stages.networks.targets import Targets

STRIDES = (4, 8, 16, 32)
SIDE = 96
IGNORED = (8.0, 8.0, 40.0, 40.0)
BLANK = (slice(60, 96), slice(60, 96))
SOURCE = (50.0, 10.0, 58.0, 18.0)


def head(name="faster_rcnn", classes=3, **options):
    torch.manual_seed(4)
    small = {"hidden": 16, "mask_channels": 8, "mask_layers": 1}
    made = RcnnHead(HeadSpec(name=name, options=small | options), STRIDES, 16, classes)
    with torch.no_grad():  # outputs as various as those of a trained head
        for layer in (made.rpn.head.cls_logits, made.rpn.head.bbox_pred):
            layer.weight.normal_(std=0.15)
    return made


def features(batch=2, size=(SIDE, SIDE)):
    made = torch.Generator().manual_seed(2)
    return {s: torch.randn(batch, 16, size[0] // s, size[1] // s, generator=made) for s in STRIDES}


def target(boxes=(), ignore=(), masks=True, unlabelled=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    n = len(boxes)
    planes = torch.zeros(n, SIDE, SIDE, dtype=torch.uint8)
    for plane, (x0, y0, x1, y1) in zip(planes, boxes.long().tolist(), strict=True):
        plane[y0:y1, x0:x1] = 1
    ignored = torch.tensor(ignore or [False] * n, dtype=torch.bool)
    classes = torch.zeros(n, dtype=torch.int64)
    return Targets(boxes, classes, ignored, planes if masks else None, unlabelled)


def overlap(boxes, other):
    """Share of each box that lies inside another one."""
    low = torch.maximum(boxes[:, :2], torch.tensor(other[:2]))
    high = torch.minimum(boxes[:, 2:], torch.tensor(other[2:]))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (high - low).clamp(min=0).prod(1) / area


@pytest.mark.parametrize("limits", [{}, {"level_proposals": 150, "proposals": 60}])
def test_regions_are_those_of_torchvision(limits):
    size = (64, 128)
    made, levels = head(**limits).eval(), features(2, size)
    with torch.no_grad():
        boxes, objectness = made.propose(levels, size)
        images = ImageList(torch.zeros(2, 1, *size), [size] * 2)
        wanted, _ = made.rpn(images, {str(s): f for s, f in levels.items()})
    options = made.options
    rois = select_proposals(
        boxes.numpy(),
        objectness.numpy(),
        made.level_numbers(size),
        options.proposal_overlap,
        options.proposals,
    )
    for image, theirs in enumerate(wanted):
        ours = torch.from_numpy(rois[rois[:, 0] == image, 1:])
        assert len(ours) == len(theirs) > 50
        apart = (ours[:, None] - theirs[None]).abs().amax(-1)
        # each has one of its own there, to the rounding of float32
        nearest = apart.argmin(1)
        assert apart.amin(1).max() < 1e-3
        assert len(nearest.unique()) == len(theirs)


def silent_labels():
    unlabelled = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    unlabelled[BLANK] = True
    told = target([SOURCE, IGNORED], [False, True], unlabelled=unlabelled)
    return {
        "boxes": told.boxes[:1],
        "labels": told.classes[:1] + 1,
        "ignored": told.boxes[1:],
        "unlabelled": unlabelled,
    }


def silent(boxes):
    """Where a box is certainly silent, and where it is certainly not."""
    centre = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    blank = ((centre >= 60.0) & (centre < 96.0)).all(1)
    inside = overlap(boxes, IGNORED)
    return blank | (inside > 0.51), ~blank & (inside < 0.49)


def test_anchors_where_labels_are_silent_are_neither_right_nor_wrong():
    made, labels = head(), silent_labels()
    levels = list(features(1).values())
    images = ImageList(torch.zeros(1, 1, SIDE, SIDE), [(SIDE, SIDE)])
    anchors = made.rpn.anchor_generator(images, levels)
    (ours,), _ = made.rpn.assign_targets_to_anchors(anchors, [labels])
    (plain,), _ = RegionProposalNetwork.assign_targets_to_anchors(made.rpn, anchors, [labels])
    quiet, told = silent(anchors[0])
    assert (plain == 1).any()
    assert torch.equal(ours[told], plain[told])
    assert (ours[quiet & (plain != 1)] == -1).all()
    assert ((plain == 0) & quiet).sum() > 100
    # an object that is labelled is to be found wherever it lies
    assert torch.equal(ours[plain == 1], plain[plain == 1])


def test_regions_where_labels_are_silent_are_neither_right_nor_wrong():
    made, labels = head(), silent_labels()
    made.roi_heads._targets = [labels]
    torch.manual_seed(1)
    corner = torch.rand(400, 2) * 80.0
    boxes = torch.cat([corner, corner + 4.0 + 12.0 * torch.rand(400, 2)], 1)
    boxes = torch.cat([boxes, labels["boxes"]])
    given = ([boxes], [labels["boxes"]], [labels["labels"]])
    _, (ours,) = made.roi_heads.assign_targets_to_proposals(*given)
    _, (plain,) = RoIHeads.assign_targets_to_proposals(made.roi_heads, *given)
    quiet, told = silent(boxes)
    assert plain[-1] == ours[-1] == 1
    assert torch.equal(ours[told], plain[told])
    assert (ours[quiet & (plain == 0)] == -1).all()
    assert ((plain == 0) & quiet).sum() > 50


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_losses_are_finite_with_and_without_objects_and_reach_every_weight(name):
    made = head(name).train()
    levels = features(2)
    empty = made.losses(levels, [target(), target()], (SIDE, SIDE))
    assert all(torch.isfinite(term) for term in empty.values())
    mixed = made.losses(levels, [target([SOURCE, IGNORED], [False, True]), target()], (SIDE, SIDE))
    assert mixed.keys() == empty.keys()
    assert all(torch.isfinite(term) for term in mixed.values())
    assert ("loss_mask" in mixed) == (name == "mask_rcnn")
    sum(mixed.values()).backward()
    for weight, parameter in made.named_parameters():
        assert parameter.grad is not None, weight
        assert torch.isfinite(parameter.grad).all(), weight


def test_masks_come_with_mask_rcnn_alone():
    with pytest.raises(ConfigurationError, match="learns from masks; give labels with masks"):
        head("mask_rcnn").train().losses(features(1), [target([SOURCE], masks=False)], (SIDE, SIDE))
    terms = head().train().losses(features(1), [target([SOURCE], masks=False)], (SIDE, SIDE))
    assert all(torch.isfinite(term) for term in terms.values())
    with torch.no_grad():
        for name in ("faster_rcnn", "mask_rcnn"):
            for found in head(name).eval().predict(features(), (SIDE, SIDE)):
                n = len(found.boxes)
                assert n > 0
                assert found.scores.shape == (n, 3)
                if name == "faster_rcnn":
                    assert found.masks is None
                else:
                    assert found.masks.shape == (n, 28, 28)
                    assert ((found.masks >= 0) & (found.masks <= 1)).all()


def test_detections_lie_in_the_image_above_the_floor_and_apart():
    made = head(score_floor=0.2, overlap=0.3).eval()
    with torch.no_grad():
        (found,) = made.predict(features(1, (64, 128)), (64, 128))
    boxes = found.boxes
    assert len(boxes) > 3
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([128.0, 64.0, 128.0, 64.0])).all()
    assert (found.scores.amax(1) >= 0.2).all()
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    iou = common / (area[:, None] + area[None] - common)
    assert (iou - torch.eye(len(boxes))).max() <= 0.3 + 1e-5


def test_a_wrong_option_is_named():
    with pytest.raises(ConfigurationError, match=r"'hiden'.*its options are hidden"):
        RcnnHead(HeadSpec(name="faster_rcnn", options={"hiden": 3}), STRIDES, 16, 3)
