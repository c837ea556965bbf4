"""The masked autoencoder: most of a crop is hidden, and is to be told from the rest.

He et al. 2022 (arXiv:2111.06377): the encoder sees the visible tokens alone, which makes a step
cheap; a small decoder, thrown away in the end, draws the pixels of the hidden ones.
"""

from typing import Any, Literal

import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cyclades.pipeline.options import Options
from cyclades.pipeline.training.pretraining.encoding import encode, plain_transformer, width_of
from cyclades.pipeline.training.pretraining.pretext import Pretext
from cyclades.pipeline.training.pretraining.views import ViewSizes
from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.backbones import Backbone


class MaskedOptions(Options):
    """A masked autoencoder."""

    kind: Literal["mae"] = "mae"
    mask_ratio: float = parameter(0.75, "Part of the tokens that is hidden.", gt=0.0, lt=1.0)
    decoder_width: int = parameter(128, "Features of the decoder.", ge=16, multiple_of=4)
    decoder_depth: int = parameter(2, "Blocks of the decoder.", ge=1)
    decoder_heads: int = parameter(4, "Heads of its attention; they divide its width.", ge=1)
    position_scale: float = parameter(
        0.1,
        "Amplitude of the encoder's position sines; beside 1, what the first layer makes of pixels "
        "is small, and features tell the place rather than the object.",
        gt=0.0,
    )
    normalised_targets: bool = parameter(
        False,
        "Whether each patch is to be told in units of its own mean and deviation; of a patch of "
        "noise that asks for what nobody can tell.",
    )


class MaskedAutoencoder(Pretext):
    """A vision transformer that tells hidden patches from visible ones.

    Parameters
    ----------
    options : MaskedOptions
    backbone : Backbone
        A plain vision transformer, changed in place. Its position embeddings are not trained.
    size : int
        Side of the crops in pixels.
    sines : bool
        Whether position embeddings become sines and cosines, or stay as they are.

    Raises
    ------
    ConfigurationError
        Where the backbone is none.
    """

    betas = (0.9, 0.95)

    def __init__(
        self, options: MaskedOptions, backbone: Backbone, size: int, *, sines: bool = True
    ) -> None:
        super().__init__(backbone)
        self.options = options
        self.sizes = (ViewSizes(size, 1),)
        self.encoder = plain_transformer(backbone, "A masked autoencoder")
        self.stride = self.encoder.token_stride
        self.rows = size // self.stride
        trunk: Any = backbone.trunk
        if trunk.pos_embed is not None:
            trunk.pos_embed.requires_grad_(False)
            if sines:
                _set_sines(trunk, options.position_scale)
        width = options.decoder_width
        self.enter = nn.Linear(width_of(backbone), width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.blocks = nn.Sequential(
            *(
                Block(width, options.decoder_heads, qkv_bias=True)
                for _ in range(options.decoder_depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.draw = nn.Linear(width, self.stride**2 * backbone.in_channels)
        places = build_sincos2d_pos_embed([self.rows, self.rows], width)
        self.register_buffer("places", places[None].float(), persistent=False)

    def forward(self, views: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        """Mean squared error of the hidden pixels, in units of the stretched input.

        Parameters
        ----------
        views : tuple of one Tensor, shape (b, 1, channels, size, size)
        step : int
            Unused.
        """
        images = views[0][:, 0]
        order = torch.rand(len(images), self.rows**2, device=images.device).argsort(1)
        visible = max(1, round((1.0 - self.options.mask_ratio) * self.rows**2))
        drawn = self.reconstruct(images, order[:, :visible])
        target = patches(images, self.stride)
        if self.options.normalised_targets:
            mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        hidden = order[:, visible:, None].expand(-1, -1, target.shape[-1])
        difference = drawn.float().gather(1, hidden) - target.float().gather(1, hidden)
        return {"loss_hidden": difference.square().mean()}

    def reconstruct(self, images: Tensor, keep: Tensor) -> Tensor:
        """Draw all patches from the visible ones.

        Parameters
        ----------
        images : Tensor, shape (b, channels, size, size)
        keep : Tensor of int, shape (b, k)
            Places of the visible tokens.

        Returns
        -------
        Tensor, shape (b, n, stride^2 channels)
            See `patches`.
        """
        trunk: Any = self.encoder.trunk
        seen = self.enter(encode(self.encoder, images, keep=keep)[:, trunk.num_prefix_tokens :])
        whole = self.mask_token.to(seen.dtype).expand(len(images), self.rows**2, -1)
        whole = whole.scatter(1, keep[..., None].expand_as(seen), seen)
        places: Tensor = self.get_buffer("places")
        drawn: Tensor = self.draw(self.norm(self.blocks(whole + places)))
        return drawn


def patches(images: Tensor, side: int) -> Tensor:
    """Pixels of the patches, row by row.

    Parameters
    ----------
    images : Tensor, shape (b, channels, h, w)
    side : int

    Returns
    -------
    Tensor, shape (b, h w / side^2, side^2 channels)
    """
    b, channels, h, w = images.shape
    split = images.reshape(b, channels, h // side, side, w // side, side)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, side * side * channels)


@torch.no_grad()
def _set_sines(trunk: Any, scale: float) -> None:
    """Make position embeddings sines and cosines."""
    own, before = trunk.pos_embed, 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    sines = build_sincos2d_pos_embed(list(trunk.patch_embed.grid_size), own.shape[-1])
    own.zero_()
    own[:, before:] = scale * sines
