"""Whole networks that predict a set of objects: DETR and its kin, by the package transformers.

Each of a fixed number of queries gives one object or none. The finest strides are smaller and the
networks narrower than their authors' (a source spans a few cells), the loss is our own
(`cyclades.stages.networks.heads.set_loss`), and any checkpoint of the hub for object detection is a
place to start from. The queries that denoise labels, with which RT-DETR and D-FINE are trained
faster, are left out, and so are D-FINE's losses of the distributions of edges.

Checkpoints have learned from pictures that had ImageNet's mean taken off and were divided by its
spread. As for backbones, the stretches of the image take their place as they are: they are of order
one, and zero where there is nothing.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.heads.dense import DenseHead
from cyclades.stages.networks.heads.set_checkpoints import (
    checkpoint_configuration,
    load_checkpoint,
)
from cyclades.stages.networks.heads.set_loss import (
    Classification,
    Layer,
    SetLossOptions,
    corners,
    set_loss,
)
from cyclades.stages.networks.heads.set_networks import (
    KIND,
    build_network,
    check_entries,
    plain,
    small_configuration,
    whole_configuration,
)
from cyclades.stages.networks.specification import HeadSpec, InputSpec
from cyclades.stages.networks.targets import Targets

HUGGINGFACE = "huggingface"
_STRIDES = {"detr": 8, "conditional_detr": 8, "yolos": 8, "rf_detr": 8, "deformable_detr": 8}
_STRIDE = 4
_QUERIES = 300
_MULTIPLE = 32
_FOCAL = ("conditional_detr", "deformable_detr", "dab-detr")


class SetPredictionOptions(SetLossOptions):
    """Options of the networks that predict a set.

    Those from `stride` to `decoder_layers` say how a network is built anew; with a checkpoint, or a
    whole configuration, they are left out.
    """

    checkpoint: str | None = None
    """Weights to start from: a repository of the Hugging Face hub, or a folder with
    ``config.json`` and ``model.safetensors``."""
    configuration: dict[str, Any] = Field(default_factory=dict)
    """Entries of transformers' configuration of the architecture, in place of ours or of the
    checkpoint's; with ``model_type`` the whole of it."""
    queries: int | None = Field(None, ge=1)
    """Most objects an image: 300, or as many as the checkpoint has."""
    classification: Literal["focal", "varifocal"] | None = None
    """Loss of the classes where each has a score of its own; by default that of the architecture.
    See `set_loss`; where scores exclude each other it is ``softmax``."""
    stride: int | None = Field(None, ge=1)
    """Finest, in pixels: by default 4 for ``rt_detr``, ``rt_detr_v2`` and ``d_fine``, else 8."""
    channels: tuple[int, ...] = (32, 64, 128, 192)
    """Of the backbone's stages, from stride 4 on; as many are built as needed."""
    blocks: int = Field(2, ge=1)
    """Of each stage of the backbone."""
    width: int = Field(128, ge=8)
    """Of the transformer."""
    attention_heads: int = Field(4, ge=1)
    encoder_layers: int | None = Field(None, ge=1)
    """By default 6 for ``yolos`` and ``rf_detr``, 1 for ``rt_detr``, ``rt_detr_v2`` and ``d_fine``,
    else 3."""
    decoder_layers: int = Field(3, ge=1)


_BUILT = ("stride", "channels", "blocks", "width", "attention_heads", "encoder_layers",
          "decoder_layers")  # fmt: skip


class SetPredictionHead(DenseHead):
    """A whole network with a fixed number of queries.

    Parameters
    ----------
    spec : HeadSpec
        Its name is that of the architecture, or ``huggingface`` for that of the checkpoint; its
        options are those of `SetPredictionOptions`.
    strides : tuple of int
        Not used: the network has its own.
    channels : int
        Of the images.
    classes : int
        Without background.

    Attributes
    ----------
    spec : HeadSpec
        With the whole configuration among the options, so that the network can be built from it
        alone.

    Raises
    ------
    ConfigurationError
        Where an option is wrong.
    InputError
        Where the checkpoint's configuration cannot be had.
    """

    options: SetPredictionOptions
    largest_stride = _MULTIPLE

    def __init__(
        self, spec: HeadSpec, strides: tuple[int, ...], channels: int, classes: int
    ) -> None:
        super().__init__()
        options = SetPredictionOptions.of(spec)
        self.options, self.classes = options, classes
        config = whole_configuration(
            _entries(spec.name, options),
            classes=classes,
            channels=channels,
            queries=options.queries,
        )
        self.spec = spec.model_copy(
            update={"options": {**spec.options, "configuration": plain(config)}}
        )
        self.model: Any = build_network(config, fresh=options.checkpoint is None)
        self.model.loss_function = _layers
        self.multiple = _multiple(config)
        self.train()

    def start(self, input: InputSpec) -> None:
        """Take the weights of the checkpoint, where one is given.

        Parameters
        ----------
        input : InputSpec
            Of the network; checkpoints learned from pictures whatever it is.
        """
        if self.options.checkpoint is not None:
            load_checkpoint(self.model, self.options.checkpoint)

    def in_backbone(self, name: str) -> bool:
        """Whether a parameter of this head, by its name, is part of the network's backbone."""
        return "backbone" in name or name.startswith("model.vit.")

    def losses(
        self, features: Tensor, targets: list[Targets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms of the loss, to be summed; see `set_loss`.

        Queries that found no object have no class term on ignored objects and unlabelled pixels;
        ignored objects are not learned.

        Parameters
        ----------
        features : Tensor, shape (b, channels, h, w)
            The images.
        targets : list of Targets, length b
            Masks are not used.
        size : (h, w)
            Of the images.

        Returns
        -------
        dict of str to Tensor
            ``loss_class``, ``loss_distance`` and ``loss_overlap``.
        """
        images = self._padded(features)
        # labels must be given for the layers before the last to be computed; none is looked at
        layers: list[Layer] = self._run(images, labels=[]).loss_dict["layers"]
        device = images.device
        with torch.autocast(device.type, enabled=False):
            return set_loss(
                self._grouped(layers),
                [target.to(device) for target in targets],
                (images.shape[-2], images.shape[-1]),
                self.classes,
                self.options,
                self._classification(layers[0].logits),
            )

    def dense(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Box and scores of each query; can be exported to ONNX.

        Parameters
        ----------
        features : Tensor, shape (b, channels, h, w)
            The images.

        Returns
        -------
        boxes : Tensor, shape (b, queries, 4)
            ``x0, y0, x1, y1`` in pixels, clipped to the image.
        scores : Tensor, shape (b, queries, classes)
            0 ... 1 each; those of ``detr`` and ``yolos`` exclude each other.
        """
        images = self._padded(features)
        found = self._run(images)
        logits = found.logits.float()
        boxes = corners(found.pred_boxes.float(), (images.shape[-2], images.shape[-1]))
        h, w = features.shape[-2:]
        boxes = torch.minimum(boxes.clamp(min=0.0), boxes.new_tensor([w, h, w, h]))
        if self._classification(logits) == "softmax":
            return boxes, logits.softmax(-1)[..., : self.classes]
        return boxes, logits.sigmoid()

    def _run(self, images: Tensor, **more: Any) -> Any:
        try:
            # Places are told as parts of the image, of which 16 bits resolve one in 256: a pixel.
            with torch.autocast(images.device.type, enabled=False):
                return self.model(pixel_values=images.float(), **more)
        except RuntimeError as error:
            if "selected index k out of range" not in str(error):
                raise
            h, w = images.shape[-2:]
            raise ConfigurationError(
                f"Images of {h} x {w} pixels have fewer cells than the network has queries "
                f"({self.model.config.num_queries}); take larger tiles or fewer queries."
            ) from error

    def _padded(self, images: Tensor) -> Tensor:
        """Images with zeros, the level of empty sky, up to sides that the network can take."""
        h, w = images.shape[-2:]
        more = (-h % self.multiple, -w % self.multiple)
        return functional.pad(images, (0, more[1], 0, more[0])) if any(more) else images

    def _classification(self, logits: Tensor) -> Classification:
        if logits.shape[-1] == self.classes + 1:
            return "softmax"
        kind = self.model.config.model_type
        return self.options.classification or ("focal" if kind in _FOCAL else "varifocal")

    def _grouped(self, layers: list[Layer]) -> list[Layer]:
        """Layers whose queries are of several groups in training, each to be matched for itself."""
        groups = int(getattr(self.model.config, "group_detr", 1)) if self.training else 1
        if groups == 1:
            return layers
        return [
            Layer(logits, boxes, 1.0 / groups)
            for layer in layers
            for logits, boxes in zip(
                layer.logits.chunk(groups, 1), layer.boxes.chunk(groups, 1), strict=True
            )
        ]


def _layers(
    logits: Tensor,
    labels: Any,
    device: Any,
    boxes: Tensor,
    config: Any,
    classes: Tensor | None = None,
    places: Tensor | None = None,
    *proposals: Tensor | None,
    **more: Any,
) -> tuple[None, dict[str, list[Layer]], None]:
    """What all layers say, in place of a loss: called by the networks of transformers.

    Outputs of earlier layers come with the layer as first axis, or as the second one from those
    networks that name their proposals (RT-DETR and its kin).
    """
    found = [Layer(logits, boxes)]
    if classes is not None and places is not None:
        if "enc_topk_logits" in more:
            classes, places = classes.transpose(0, 1), places.transpose(0, 1)
        found += [Layer(a, b) for a, b in zip(classes[:-1], places[:-1], strict=True)]
    if "enc_topk_logits" in more:
        proposals = (more["enc_topk_logits"], more["enc_topk_bboxes"])
    if len(proposals) == 2 and proposals[0] is not None and proposals[1] is not None:
        found.append(Layer(proposals[0], proposals[1]))
    return None, {"layers": found}, None


def _entries(name: str, options: SetPredictionOptions) -> dict[str, Any]:
    """Entries of the configuration that the options of a head describe."""
    given = options.configuration
    if KIND in given:
        entries = dict(given)
    elif options.checkpoint is not None:
        entries = checkpoint_configuration(options.checkpoint)
        check_entries(entries[KIND], given)
        entries |= given
    elif name == HUGGINGFACE:
        raise ConfigurationError(
            "Head 'huggingface' needs the option checkpoint: a repository of the Hugging Face hub "
            "as facebook/detr-resnet-50, or a folder with config.json and model.safetensors."
        )
    else:
        wide = name in ("yolos", "rf_detr")
        deep = 1 if name in ("rt_detr", "rt_detr_v2", "d_fine") else 3
        check_entries(name, given)
        if options.width % options.attention_heads:
            raise ConfigurationError(
                f"Head {name!r}: width ({options.width}) is no multiple of attention_heads "
                f"({options.attention_heads}); change one of them."
            )
        return {
            **small_configuration(
                name,
                stride=options.stride or _STRIDES.get(name, _STRIDE),
                channels=options.channels,
                blocks=options.blocks,
                width=options.width,
                attention_heads=options.attention_heads,
                encoder_layers=options.encoder_layers or (6 if wide else deep),
                decoder_layers=options.decoder_layers,
            ),
            "num_detection_tokens" if name == "yolos" else "num_queries": (
                options.queries or _QUERIES
            ),
            **given,
            KIND: name,
        }
    if name not in (HUGGINGFACE, entries[KIND]):
        raise ConfigurationError(
            f"Head {name!r}: the network described is a {entries[KIND]}; name the head so, or "
            f"{HUGGINGFACE}."
        )
    if options.checkpoint is not None:
        for option in _BUILT:
            if option in options.model_fields_set:
                raise ConfigurationError(
                    f"Head {name!r}, option {option!r}: a checkpoint has its own; leave it out."
                )
    return entries


def _multiple(config: Any) -> int:
    """Sides of the images that the network can take are multiples of this."""
    strides = getattr(config, "feat_strides", None)
    if strides:
        return int(max(strides))
    backbone = getattr(config, "backbone_config", None) or config
    patch = getattr(backbone, "patch_size", None)
    if patch is None:
        return 1
    side = max(patch) if isinstance(patch, list | tuple) else int(patch)
    windows = int(getattr(backbone, "num_windows", None) or 1)
    return side * windows
