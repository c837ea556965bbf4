"""Necks: from what a trunk gives to ``{stride: features}`` of equal width, finest stride 4.

A convolutional trunk gets a feature pyramid (Lin et al. 2017, arXiv:1612.03144). A plain vision
transformer has one coarse level; it gets the simple pyramid of ViTDet (Li et al. 2022,
arXiv:2203.16527), and the levels of a small convolutional stem are added to it (after ViT-Adapter,
Chen et al. 2023, arXiv:2205.08534), since sources of 3 to 12 pixels are lost in tokens of 16.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork


class PyramidNeck(nn.Module):
    """Feature pyramid on the levels of a convolutional trunk.

    Parameters
    ----------
    strides : sequence of int
        Of the levels, ascending.
    widths : sequence of int
        Features of the trunk at each level.
    channels : int
        Features of each level that comes out.
    """

    def __init__(self, strides: Sequence[int], widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.pyramid = FeaturePyramidNetwork(list(widths), channels)

    def forward(self, levels: Sequence[Tensor]) -> dict[int, Tensor]:
        """Mix the levels, finest first, from the coarsest down."""
        named = OrderedDict((str(s), level) for s, level in zip(self.strides, levels, strict=True))
        mixed: dict[str, Tensor] = self.pyramid(named)
        return {stride: mixed[str(stride)] for stride in self.strides}


class TokenNeck(nn.Module):
    """Simple pyramid on a transformer's tokens, with a convolutional stem added level by level.

    Parameters
    ----------
    strides : sequence of int
        Of the levels, ascending.
    in_channels : int
        Channels of the image.
    width : int
        Features of a token, those of all taps together.
    token_stride : int
        Pixels of the image from one token to the next.
    channels : int
        Features of each level that comes out.
    """

    def __init__(
        self,
        strides: Sequence[int],
        in_channels: int,
        width: int,
        token_stride: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.token_stride = token_stride
        self.project = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.finer = nn.ModuleDict()
        stride = token_stride // 2
        while stride >= self.strides[0]:
            # twice the sampling from non-overlapping 2 x 2 cells keeps features on their pixels
            self.finer[str(stride)] = nn.Sequential(
                nn.ConvTranspose2d(channels, channels, 2, 2, bias=False),
                nn.BatchNorm2d(channels),
                nn.GELU(),
            )
            stride //= 2
        self.halve = nn.MaxPool2d(2)
        self.stem = ConvolutionalStem(self.strides[-1], in_channels, channels)
        self.smooth = nn.ModuleDict(
            {
                str(stride): nn.Sequential(
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                )
                for stride in self.strides
            }
        )

    def forward(self, images: Tensor, tokens: Tensor) -> dict[int, Tensor]:
        """Join image and tokens.

        Parameters
        ----------
        images : Tensor, shape (b, in_channels, h, w)
        tokens : Tensor, shape (b, width, h / token_stride, w / token_stride)
        """
        levels = {self.token_stride: self.project(tokens)}
        stride = self.token_stride
        while stride > self.strides[0]:
            levels[stride // 2] = self.finer[str(stride // 2)](levels[stride])
            stride //= 2
        stride = self.token_stride
        while stride < self.strides[-1]:
            levels[stride * 2] = self.halve(levels[stride])
            stride *= 2
        details = self.stem(images)
        return {s: self.smooth[str(s)](levels[s] + details[s]) for s in self.strides}


class ConvolutionalStem(nn.Module):
    """Plain convolutions that give features at stride 4, 8, ..., as wide as the pyramid.

    Parameters
    ----------
    last : int
        The coarsest stride.
    in_channels, channels : int
        Channels of the image, and features of each level.
    """

    def __init__(self, last: int, in_channels: int, channels: int) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.steps = nn.ModuleDict(
            {
                "4": nn.Sequential(
                    *_convolution(in_channels, half, 2),
                    *_convolution(half, channels, 2),
                    *_convolution(channels, channels, 1),
                )
            }
        )
        stride = 8
        while stride <= last:
            self.steps[str(stride)] = nn.Sequential(
                *_convolution(channels, channels, 2), *_convolution(channels, channels, 1)
            )
            stride *= 2

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Features by stride."""
        levels: dict[int, Tensor] = {}
        features = images
        for stride, step in self.steps.items():
            features = step(features)
            levels[int(stride)] = features
        return levels


def _convolution(width_in: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
