"""Semantic segmentation: which pixels are source, where objects have their centres, of what class.

A decoder joins the levels of the backbone (as the semantic branch of Panoptic FPN, Kirillov et al.
2019, arXiv:1901.02446) and brings them to half the image's resolution or all of it. Centres are
Gaussians (as in CenterNet, Zhou et al. 2019, arXiv:1904.07850) about as wide as their objects, so
that they meet where neighbours do; the map of sources has cross-entropy and the loss of V-Net
(Milletari et al. 2016, arXiv:1606.04797). Objects are parted by a watershed
(`cyclades.stages.networks.heads.semantic_instances`).

The parts of an object that lie apart are objects of their own here, or none where the network sees
a centre in one of them alone; a detector of regions (`mask_rcnn`) can keep them together.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.heads.semantic_instances import Rules, cut_objects
from cyclades.stages.networks.specification import HeadOptions, HeadSpec
from cyclades.stages.networks.targets import Prediction, Targets

_AT_ONCE = 64
"""Objects whose planes are held at a time."""
_NARROWEST = 0.7
"""Sigma of the narrowest centre, in cells."""
_RARE = -2.2
"""First logit of sources and centres: one cell in ten."""


class SemanticOptions(HeadOptions):
    """Options of the head `semantic`."""

    hidden: int | None = Field(None, ge=8)
    """Width of the decoder; by default that of the features."""
    stride: Literal[1, 2] = 2
    """Pixels a cell of the maps; they are interpolated to pixels before they are cut."""
    mask_threshold: float = Field(0.5, gt=0, lt=1)
    """Least probability of a pixel that belongs to an object."""
    score_floor: float = Field(0.05, ge=0, lt=1)
    """Least height of a peak of the map of centres."""
    peak_distance: int = Field(2, ge=1)
    """Least distance of two centres in pixels, along each axis."""
    peak_share: float = Field(0.25, ge=0, le=1)
    """Least height of a centre in units of the highest one of the same connected pixels."""
    smallest_box: float = Field(6.0, ge=0)
    """Least side of a box in pixels, as that of the labels."""
    detections: int = Field(2000, ge=1)
    """Most detections an image."""
    centre_width: float = Field(4.0, gt=0)
    """Shorter side of an object's box in units of the sigma of its centre."""
    source_gain: float = Field(1.0, ge=0)
    dice_gain: float = Field(1.0, ge=0)
    centre_gain: float = Field(1.0, ge=0)
    class_gain: float = Field(0.5, ge=0)


class SemanticHead(nn.Module):
    """Maps of sources, centres and classes, and objects cut out of them.

    Parameters
    ----------
    spec : HeadSpec
        Its options are those of `SemanticOptions`.
    strides : tuple of int
        Levels of the features, finest first.
    channels : int
        Of every level.
    classes : int
        Without background.

    Raises
    ------
    ConfigurationError
        Where an option is wrong.
    """

    takes_images = False
    has_masks = True

    def __init__(
        self, spec: HeadSpec, strides: tuple[int, ...], channels: int, classes: int
    ) -> None:
        super().__init__()
        options = SemanticOptions.of(spec)
        self.options, self.strides, self.classes = options, tuple(strides), classes
        width = options.hidden or channels
        self.lateral = nn.ModuleList(_convolution(channels, width) for _ in strides)
        self.join = _convolution(width, width)
        self.finer = nn.Sequential()
        stride = strides[0]
        while stride > options.stride:
            # non-overlapping cells keep features on their pixels
            self.finer.append(nn.ConvTranspose2d(width, width, 2, 2, bias=False))
            self.finer.append(nn.BatchNorm2d(width))
            self.finer.append(nn.ReLU())
            self.finer.append(_convolution(width, width))
            stride //= 2
        self.last = nn.Conv2d(width, 2 + classes, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        with torch.no_grad():
            assert self.last.bias is not None
            self.last.bias.zero_()
            self.last.bias[:2] = _RARE

    @property
    def score_floor(self) -> float:
        """Lowest score of a detection that `predict` returns, all classes together."""
        return self.options.score_floor

    def maps(self, features: dict[int, Tensor]) -> Tensor:
        """Logits of sources, of centres and of each class, in this order.

        Parameters
        ----------
        features : dict of int to Tensor, shape (b, channels, h / stride, w / stride)

        Returns
        -------
        Tensor, shape (b, 2 + classes, h / options.stride, w / options.stride)
        """
        size = features[self.strides[0]].shape[-2:]
        joined: Any = 0.0
        for stride, layer in zip(self.strides, self.lateral, strict=True):
            level = layer(features[stride])
            if stride != self.strides[0]:
                level = functional.interpolate(level, size, mode="bilinear", align_corners=False)
            joined = joined + level
        made: Tensor = self.last(self.finer(self.join(joined)))
        return made

    def losses(
        self, features: dict[int, Tensor], targets: list[Targets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of the loss, to be summed.

        Nothing is learned in the boxes and masks of ignored objects and on unlabelled pixels,
        except on the pixels of labelled objects.

        Parameters
        ----------
        features : dict of int to Tensor, shape (b, channels, h / stride, w / stride)
        targets : list of Targets, length b
            With masks.
        size : (h, w)
            Of the images.

        Returns
        -------
        dict of str to Tensor
            ``loss_source``, ``loss_dice``, ``loss_centre`` and ``loss_class``.

        Raises
        ------
        ConfigurationError
            Where labels have no masks.
        """
        maps = self.maps(features)
        with torch.autocast(maps.device.type, enabled=False):
            return self._losses(maps.float(), [self._truth(t, maps.shape[-2:]) for t in targets])

    def _truth(self, target: Targets, cells: torch.Size) -> "_Truth":
        if target.masks is None:
            raise ConfigurationError(
                "semantic learns from masks; give labels with masks, or train faster_rcnn."
            )
        return _truth(target, (cells[0], cells[1]), self.options)

    def _losses(self, maps: Tensor, truths: "list[_Truth]") -> dict[str, Tensor]:
        options = self.options
        judged = torch.stack([t.judged for t in truths])
        source = torch.stack([t.source for t in truths])[judged]
        logits = maps[:, 0][judged]
        cross = functional.binary_cross_entropy_with_logits(logits, source, reduction="sum")
        likely = logits.sigmoid()
        common = 2.0 * (likely * source).sum() + 1.0
        dice = 1.0 - common / (likely.sum() + source.sum() + 1.0)
        objects = max(sum(len(t.classes) for t in truths), 1)
        centre = torch.stack([t.centre for t in truths])[judged]
        kinds = 0.0 * maps[:, 2:].sum()
        for one, truth in zip(maps, truths, strict=True):
            own = torch.nonzero(truth.owner >= 0)
            owner = truth.owner[own[:, 0], own[:, 1]]
            cost = functional.cross_entropy(
                one[2:, own[:, 0], own[:, 1]].T, truth.classes[owner], reduction="none"
            )
            area = torch.bincount(owner, minlength=len(truth.classes))
            kinds = kinds + (cost / area[owner]).sum()
        return {
            "loss_source": options.source_gain * cross / max(len(source), 1),
            "loss_dice": options.dice_gain * dice,
            "loss_centre": options.centre_gain * _centre_loss(maps[:, 1][judged], centre) / objects,
            "loss_class": options.class_gain * kinds / objects,
        }

    @torch.no_grad()
    def predict(self, features: dict[int, Tensor], size: tuple[int, int]) -> list[Prediction]:
        """Detections of each image, none of which overlap; see `Prediction`.

        Parameters
        ----------
        features
            As for `losses`.
        size : (h, w)
            Of the images.
        """
        maps = self.maps(features).float()
        if maps.shape[-2:] != torch.Size(size):
            maps = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
        options = self.options
        rules = Rules(
            options.mask_threshold,
            options.score_floor,
            options.peak_distance,
            options.peak_share,
            options.smallest_box,
            options.detections,
        )
        chances = torch.cat([maps[:, :2].sigmoid(), maps[:, 2:].softmax(1)], 1).cpu().numpy()
        found = [cut_objects(one[0], one[1], one[2:], rules) for one in chances]
        return [
            Prediction(
                torch.from_numpy(boxes),
                torch.from_numpy(scores),
                None if masks is None else torch.from_numpy(masks),
            )
            for boxes, scores, masks, _ in found
        ]


class _Truth:
    """What the maps of one image should be.

    Attributes
    ----------
    source, centre : Tensor, shape (h, w), float32
    owner : Tensor, shape (h, w), int64
        Number of the labelled object of each cell, the smallest of several; -1 for none.
    classes : Tensor, shape (n,), int64
        Of the labelled objects.
    judged : Tensor, shape (h, w), bool
        Where the labels say what is true.
    """

    def __init__(
        self, source: Tensor, centre: Tensor, owner: Tensor, classes: Tensor, judged: Tensor
    ) -> None:
        self.source, self.centre, self.owner = source, centre, owner
        self.classes, self.judged = classes, judged


def _truth(target: Targets, cells: tuple[int, int], options: SemanticOptions) -> _Truth:
    """Maps of cells from masks and boxes of pixels."""
    assert target.masks is not None
    stride, device = options.stride, target.boxes.device
    y = torch.arange(cells[0], device=device)
    x = torch.arange(cells[1], device=device)
    covered = torch.cat(
        [
            _coarse(target.masks[start : start + _AT_ONCE], stride) >= 0.5
            for start in range(0, max(len(target.masks), 1), _AT_ONCE)
        ]
    )
    told = torch.nonzero(~target.ignore)[:, 0]
    boxes = target.boxes.float() / stride
    middle = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    places = []
    for row in told.tolist():
        own = torch.nonzero(covered[row])
        if len(own):
            # of an object with a hole or apart, the cell of it that is nearest to the middle
            distance = (own[:, 1] + 0.5 - middle[row, 0]) ** 2 + (
                own[:, 0] + 0.5 - middle[row, 1]
            ) ** 2
            places.append(own[distance.argmin()])
        else:
            at = middle[row].flip(0).long()
            places.append(torch.minimum(at.clamp(min=0), at.new_tensor(cells) - 1))
            covered[row, places[-1][0], places[-1][1]] = True
    own = covered[told]
    source = own.any(0)
    area = own.sum((1, 2)).float()
    owner = torch.full(cells, -1, device=device)
    for row in torch.argsort(area, descending=True, stable=True).tolist():
        owner[own[row]] = row
    centre = torch.zeros(cells, device=device)
    for row, place in zip(told.tolist(), places, strict=True):
        side = float((boxes[row, 2:] - boxes[row, :2]).min())
        sigma = max(side / options.centre_width, _NARROWEST)
        along = torch.exp(-0.5 * ((y - place[0]) / sigma) ** 2)
        across = torch.exp(-0.5 * ((x - place[1]) / sigma) ** 2)
        centre = torch.maximum(centre, along[:, None] * across)
    quiet = covered[target.ignore].any(0)
    for x0, y0, x1, y1 in boxes[target.ignore].tolist():
        quiet |= ((y + 0.5 >= y0) & (y + 0.5 <= y1))[:, None] & ((x + 0.5 >= x0) & (x + 0.5 <= x1))
    if target.unlabelled is not None:
        quiet |= _coarse(target.unlabelled[None], stride)[0] > 0
    return _Truth(source.float(), centre, owner, target.classes[told], ~quiet | source)


def _coarse(planes: Tensor, stride: int) -> Tensor:
    """Means over cells."""
    if stride == 1:
        return planes.float()
    # with an axis of channels, which allows for no planes at all
    return functional.avg_pool2d(planes[:, None].float(), stride)[:, 0]


def _centre_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum over cells of the focal loss for soft labels (arXiv:2006.04388, eq. 4, beta = 2).

    It is that of CenterNet at the centres. Around them CenterNet asks for nothing, and networks
    learn spikes on noise, along which a watershed would run; here they learn the Gaussians.
    """
    far = (wanted - logits.sigmoid()) ** 2
    cross = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (far * cross).sum()


def _convolution(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
