"""Attention within windows of a vision transformer's tokens (ViTDet).

Attention among all tokens costs the square of their number. In ViTDet (Li et al. 2022,
arXiv:2203.16527) most blocks look within windows alone, and a few in between at everything. The
numbers of a block stay the same, so that weights of plain transformers fit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclades.stages.core.errors import ConfigurationError


class WindowedBlocks:
    """Makes some blocks of a transformer look within windows.

    Tokens at the end of the grid that do not fill a window are joined by zeros. Tokens of no place
    (class, registers) go to every window; the mean over windows of what they become is kept.

    Parameters
    ----------
    blocks : sequence of Module
        timm's, whose attention takes the tokens alone.
    chosen : sequence of int
        Which of these, from 0.
    window : int
        Tokens along the side of a window.
    prefix : int
        Tokens of no place, which come first.

    Attributes
    ----------
    grid : tuple of int
        Rows and columns of the tokens that come next; to be set before the blocks are called.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], chosen: Sequence[int], window: int, prefix: int
    ) -> None:
        self.window, self.prefix = window, prefix
        self.grid = (0, 0)
        for number in chosen:
            attention: Any = blocks[number].attn
            attention.register_forward_pre_hook(self._divide)
            attention.register_forward_hook(self._join)

    def _divide(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Tokens (b, prefix + n, c) to those of windows, (b * windows, prefix + window^2, c)."""
        tokens, *rest = arguments
        (rows, columns), side = self.grid, self.window
        batch, _, width = tokens.shape
        first, placed = tokens[:, : self.prefix], tokens[:, self.prefix :]
        placed = placed.reshape(batch, rows, columns, width)
        placed = functional.pad(placed, (0, 0, 0, -columns % side, 0, -rows % side))
        down, across = placed.shape[1] // side, placed.shape[2] // side
        placed = placed.reshape(batch, down, side, across, side, width).transpose(2, 3)
        placed = placed.reshape(batch * down * across, side * side, width)
        if self.prefix:
            placed = torch.cat([first.repeat_interleave(down * across, 0), placed], 1)
        return (placed, *rest)

    def _join(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        """The inverse of `_divide`."""
        (rows, columns), side = self.grid, self.window
        down, across = -(-rows // side), -(-columns // side)
        width = output.shape[-1]
        batch = output.shape[0] // (down * across)
        placed = output[:, self.prefix :].reshape(batch, down, across, side, side, width)
        placed = placed.transpose(2, 3).reshape(batch, down * side, across * side, width)
        placed = placed[:, :rows, :columns].reshape(batch, rows * columns, width)
        if not self.prefix:
            return placed
        first = output[:, : self.prefix].reshape(batch, down * across, self.prefix, width).mean(1)
        return torch.cat([first, placed], 1)


def windowed_blocks(depth: int, everywhere: Sequence[int] | None, name: str) -> list[int]:
    """Return which blocks look within windows, from 0.

    Parameters
    ----------
    depth : int
        Number of blocks.
    everywhere : sequence of int, optional
        Blocks, counted from 1, that look at everything; by default the last of each quarter.
    name : str
        Of the backbone, for messages.

    Raises
    ------
    ConfigurationError
        For blocks that there are not.
    """
    if everywhere is None:
        everywhere = sorted({max(round(depth * k / 4), 1) for k in (1, 2, 3, 4)})
    wrong = [number for number in everywhere if not 1 <= number <= depth]
    if wrong:
        raise ConfigurationError(
            f"global_blocks={list(everywhere)} of {name} must be numbers of its blocks, "
            f"1 to {depth}."
        )
    return [k for k in range(depth) if k + 1 not in everywhere]
