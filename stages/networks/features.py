"""Features of frozen backbones over pictures."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.backbones import Backbone, TransformerBackbone, build_backbone
from cyclades.stages.networks.classification import FeatureSpec
from cyclades.stages.networks.pictures import Bytes, prepare_pictures
from cyclades.stages.networks.pretrained import load_pretrained, load_trunk, radio_input
from cyclades.stages.networks.specification import BackboneSpec, PretrainedSpec
from cyclades.stages.networks.torch_device import torch_device
from cyclades.stages.networks.weights import WEIGHTS, find_file, read_metadata
from cyclades.stages.networks.weights_table import IMAGENET_MEAN, IMAGENET_STD

_SEED = 20_011
_BATCH = 16


class PictureNorm(NamedTuple):
    """What a network takes a picture as.

    Parameters
    ----------
    mean, std : tuple of float
        Of the three channels that it was pre-trained with.
    stretches : tuple of str
        Where it was pre-trained on radio sky, its own brightness curves of S/N.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    stretches: tuple[str, ...] = ()


def picture_norm(spec: BackboneSpec) -> PictureNorm:
    """Return how pictures become the input that weights were made from; else ImageNet's way.

    Raises
    ------
    InputError
        Where a file of weights cannot be read.
    """
    entry = WEIGHTS.get(spec.weights or "")
    radio = None if spec.weights is None else radio_input(spec.weights)
    if radio is not None:
        channels = len(radio.stretches)
        return PictureNorm((0.0,) * channels, (1.0,) * channels, tuple(radio.stretches))
    if entry is not None:
        return PictureNorm(entry.mean, entry.std)
    return PictureNorm(IMAGENET_MEAN, IMAGENET_STD)


def start_backbone(spec: BackboneSpec, seed: int) -> Backbone:
    """Build a backbone with its weights, or with random numbers of a seed where it has none."""
    torch.manual_seed(_SEED + seed)
    backbone = build_backbone(spec, 3)
    if spec.weights is not None:
        load_pretrained(backbone, spec.weights)
    return backbone


def backbone_of(weights: str) -> BackboneSpec:
    """Return the backbone that weights are of.

    Parameters
    ----------
    weights : str
        A name of ``cyclades weights``, or a file of ``cyclades pretrain``.

    Raises
    ------
    ConfigurationError
        Where they do not say of which architecture they are.
    InputError
        Where they cannot be had.
    """
    path, entry = find_file(weights)
    if entry is not None:
        options: dict[str, Any] = {"taps": list(entry.taps)} if entry.taps else {}
        return BackboneSpec(name=entry.architecture, weights=weights, options=options)
    spec = PretrainedSpec.from_metadata(read_metadata(path), path)
    if spec is None:
        raise ConfigurationError(
            f"{weights}: does not say of which architecture it is; give a name of 'cyclades "
            "weights' or a file of 'cyclades pretrain'."
        )
    return spec.backbone.model_copy(update={"weights": str(path)})


def turned(images: Tensor, number: int) -> Tensor:
    """Return one of the eight orientations of images, the first being as they are."""
    made = torch.rot90(images, number % 4, (-2, -1))
    return made.flip(-1) if number >= 4 else made


def resampled(images: Tensor, size: int) -> Tensor:
    """Bring square images to a size."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(
        images, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    )


def layers(backbone: Backbone, images: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Return the features of each tapped layer of a ViT, or of each level of another backbone.

    Parameters
    ----------
    backbone : Backbone
    images : Tensor, shape (b, 3, size, size)

    Returns
    -------
    list of (Tensor, Tensor or None)
        Features at each place, shape (b, width, rows, columns), and the class token, shape
        (b, width), of which backbones that are no ViTs have none.
    """
    trunk: Any = backbone.trunk
    if not isinstance(backbone, TransformerBackbone):
        return [(level.float(), None) for level in trunk(images)]
    found = trunk.forward_intermediates(
        images,
        indices=[tap - 1 for tap in backbone.taps],
        norm=True,
        intermediates_only=True,
        return_prefix_tokens=True,
    )
    return [(tokens.float(), prefix.float()[:, 0]) for tokens, prefix in found]


def pooled(backbone: Backbone, images: Tensor, pooling: Sequence[str]) -> Tensor:
    """Return statistics of the features of each tapped layer over each picture.

    Parameters
    ----------
    backbone : Backbone
    images : Tensor, shape (b, 3, size, size)
    pooling : sequence of str
        Of `cyclades.stages.networks.pictures.Pooling`. Backbones without a class
        token have none.

    Returns
    -------
    Tensor, shape (b, k)
    """
    parts = []
    for level, token in layers(backbone, images):
        flat = level.flatten(2)
        for name in pooling:
            if name == "token":
                parts += [] if token is None else [token]
            elif name == "mean":
                parts.append(flat.mean(2))
            elif name == "max":
                parts.append(flat.amax(2))
            else:
                parts.append(flat.std(2, unbiased=False))
    return torch.cat(parts, 1)


class Extractor:
    """Features of pictures, averaged over orientations.

    Parameters
    ----------
    spec : FeatureSpec
        Its backbone has weights.
    device : str
        A torch device.
    sha256 : str, optional
        Which numbers the weights have to be; see `load_trunk`.
    threads : int, optional
        On the CPU; as many as torch takes if not given.

    Attributes
    ----------
    sha256 : str
        Which numbers they are.

    Raises
    ------
    InputError
        Where the weights cannot be had, or are others, or the device is not there.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        device: str = "cpu",
        sha256: str | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.spec = spec
        self.device = torch_device(device)
        backbone = build_backbone(spec.backbone, len(spec.pictures.stretches))
        assert spec.backbone.weights is not None
        self.sha256 = load_trunk(backbone, spec.backbone.weights, sha256)
        self._backbone = backbone.to(self.device).eval()
        self._norm = picture_norm(spec.backbone)

    def __call__(
        self, pictures: Bytes, report: Callable[[float], None] | None = None
    ) -> NDArray[np.float32]:
        """Return the features of pictures.

        Parameters
        ----------
        pictures : ndarray of uint8, shape (n, ny, nx)
            The brightest pixel of the crop white; see `cyclades.stages.networks.pictures.centred`.
        report : callable, optional
            Told the share that is done.

        Returns
        -------
        ndarray, shape (n, k), float32
        """
        o = self.spec
        half = o.pictures.precision == "bfloat16"
        made: list[NDArray[np.float32]] = []
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
        ):
            for first in range(0, len(pictures), _BATCH):
                cut = prepare_pictures(pictures[first : first + _BATCH], o.pictures, *self._norm)
                images = resampled(torch.from_numpy(cut).to(self.device), o.pictures.size)
                several = [
                    pooled(self._backbone, turned(images, number), o.pooling).float()
                    for number in range(o.orientations)
                ]
                made.append(torch.stack(several).mean(0).cpu().numpy())
                if report is not None:
                    report(min(1.0, (first + _BATCH) / len(pictures)))
        if not made:
            return np.zeros((0, 0), np.float32)
        return np.concatenate(made)


class JoinedExtractor:
    """Features of several backbones, side by side.

    Parameters
    ----------
    backbones : sequence of (FeatureSpec, str or None)
        Each with the hash that its weights have to have, as `ClassifierSpec.backbones` has them.
    device, threads
        As in `Extractor`.

    Attributes
    ----------
    sha256 : tuple of str
        Which numbers the weights are.

    Raises
    ------
    InputError
        Where weights cannot be had, or are others.
    """

    def __init__(
        self,
        backbones: Sequence[tuple[FeatureSpec, str | None]],
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self._extractors = [Extractor(spec, device, sha256, threads) for spec, sha256 in backbones]
        self.sha256 = tuple(one.sha256 for one in self._extractors)

    def parts(
        self, pictures: Bytes, report: Callable[[float], None] | None = None
    ) -> list[NDArray[np.float32]]:
        """Return the features by backbone; see `Extractor.__call__`."""
        number = len(self._extractors)
        made = []
        for place, extractor in enumerate(self._extractors):

            def told(share: float, place: int = place) -> None:
                if report is not None:
                    report((place + share) / number)

            made.append(extractor(pictures, told))
        return made

    def __call__(
        self, pictures: Bytes, report: Callable[[float], None] | None = None
    ) -> NDArray[np.float32]:
        """Return the features of all backbones, shape (n, k); see `Extractor.__call__`."""
        return np.concatenate(self.parts(pictures, report), axis=1)
