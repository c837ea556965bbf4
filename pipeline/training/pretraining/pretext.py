"""What a pretext is: a task without labels by which a backbone learns."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from cyclades.pipeline.training.pretraining.views import ViewSizes
from cyclades.stages.networks.backbones import Backbone


class Pretext(nn.Module, ABC):
    """Base of the pretexts.

    Parameters
    ----------
    backbone : Backbone
        The one that learns, without a neck.

    Attributes
    ----------
    sizes : tuple of ViewSizes
        The views of a crop that it takes.
    betas : (float, float)
        Of the optimiser.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    sizes: tuple[ViewSizes, ...]

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def result(self) -> Backbone:
        """The backbone to keep."""
        return self.backbone

    @abstractmethod
    def forward(self, views: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        """Terms of the loss, to be summed.

        Parameters
        ----------
        views : tuple of Tensor
            One for each of `sizes`, shape (b, views, channels, side, side).
        step : int
            Number of the step.
        """
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        """Change gradients before the optimiser takes its step; nothing by default."""

    def after_step(self, step: int) -> None:
        """Follow the optimiser's step; nothing by default."""
