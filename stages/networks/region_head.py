"""Region heads: networks that measure a source in its windows, with the errors of the measurement.

A head gives the mean of what is wanted and a triangular factor of the inverse of its covariance,
both of which depend on the source (a heteroscedastic Gaussian; Nix & Weigend 1994, IEEE ICNN 1, 55;
full covariances as in Dorta et al. 2018, arXiv:1802.07079). Several heads are a mixture (deep
ensembles: Lakshminarayanan et al. 2017, arXiv:1612.01474).
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.detector import load_state
from cyclades.stages.networks.pretrained import write_tensors
from cyclades.stages.networks.region_cells import REGION
from cyclades.stages.networks.region_spec import OUTPUTS, RegionSpec, RegionTrunk
from cyclades.stages.networks.region_windows import NUMBERS, SAMPLES, STEP

TRIANGLE = OUTPUTS * (OUTPUTS + 1) // 2
FINE_SIGMAS = (1.0, 1.7, 2.8, 4.5)
"""Of the Gaussian weights of moments in the fine window, in sigmas of the beam,"""
COARSE_SIGMAS = (1.5, 3.0, 6.0)
"""and in samples of the coarse window."""
REGION_NUMBERS = 32
"""That a head takes of a region of features."""
MISFIT_SIGMA = 3.5
"""Of the Gaussian weight under which the misfit is taken, in sigmas of the beam."""
LEAST_MISFIT = 0.3
"""In rms of the noise, added in square."""


def moment_weights(sigmas: tuple[float, ...], step: float) -> Tensor:
    """Weights of the sample sums ``1, u, v, uu, uv, vv`` under Gaussians, (samples, 6 * sigmas)."""
    line = step * (torch.arange(SAMPLES) - 0.5 * (SAMPLES - 1))
    v, u = (plane.flatten() for plane in torch.meshgrid(line, line, indexing="ij"))
    columns = []
    for sigma in sigmas:
        weight = torch.exp(-0.5 * (u**2 + v**2) / sigma**2)
        weight = weight / weight.sum()
        columns += [weight * p for p in (torch.ones_like(u), u, v, u * u, u * v, v * v)]
    return torch.stack(columns, 1)


def compressed(values: Tensor) -> Tensor:
    """Values as they are up to 1.5, and with their logarithm beyond."""
    size = values.abs()
    return torch.where(size < 1.5, values, values.sign() * (1.5 + torch.log(size.clamp(1.5) / 1.5)))


class RegionHead(nn.Module):
    """One head.

    Parameters
    ----------
    width : int
        Of the hidden layers.
    trunk : RegionTrunk, optional
        Gives features beside the windows.

    Attributes
    ----------
    mixed : bool
        Whether the convolutions compute with bfloat16. Moments never do: they tell fluxes of bright
        sources to a thousandth.
    """

    fine_weights: Tensor
    coarse_weights: Tensor
    line: Tensor
    middle: Tensor
    cell_centre: Tensor
    cell_scale: Tensor

    def __init__(self, width: int = 160, trunk: RegionTrunk | None = None) -> None:
        super().__init__()
        self.mixed = False
        self.fine = nn.Sequential(
            nn.Conv2d(3, 24, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(24, 24, 3, padding=1), nn.SiLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(48 * (SAMPLES // 4) ** 2, 96),
        )  # fmt: skip
        self.coarse = nn.Sequential(
            nn.Conv2d(2, 16, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(32 * (SAMPLES // 4) ** 2, 64),
        )  # fmt: skip
        moments = 6 * (len(FINE_SIGMAS) + len(COARSE_SIGMAS)) + NUMBERS + 2
        self.region: nn.Module | None = None
        inputs = 96 + 64 + moments
        if trunk is not None:
            self.project = nn.Linear(trunk.channels, trunk.few)
            self.register_buffer("cell_centre", torch.zeros(trunk.channels))
            self.register_buffer("cell_scale", torch.ones(trunk.channels))
            self.region = nn.Sequential(
                nn.SiLU(), nn.Flatten(), nn.Linear(trunk.few * REGION**2, REGION_NUMBERS)
            )
            inputs += REGION_NUMBERS
        self.norm = nn.BatchNorm1d(moments, affine=False)
        self.hidden = nn.Sequential(
            nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.last = nn.Linear(width + moments, OUTPUTS + TRIANGLE)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("fine_weights", moment_weights(FINE_SIGMAS, STEP), persistent=False)
        self.register_buffer("coarse_weights", moment_weights(COARSE_SIGMAS, 1.0), persistent=False)
        line = STEP * (torch.arange(SAMPLES) - 0.5 * (SAMPLES - 1))
        weight = torch.exp(-0.5 * (line**2 + line[:, None] ** 2) / MISFIT_SIGMA**2)
        self.register_buffer("line", line, persistent=False)
        self.register_buffer("middle", weight, persistent=False)

    def forward(
        self, fine: Tensor, coarse: Tensor, numbers: Tensor, region: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Measure sources.

        What is learned is by how much a source differs from the Gaussian that it looks like, in
        units of the misfit of that Gaussian: the noise for a bright Gaussian, so that the network
        cannot spoil what is known, and more for other shapes and blends.

        Parameters
        ----------
        fine, coarse : Tensor, shape (n, 2, SAMPLES, SAMPLES)
        numbers : Tensor, shape (n, NUMBERS)
            See `cyclades.stages.networks.region_windows.Windows`.
        region : Tensor, shape (n, few, REGION, REGION), optional
            Projected features.

        Returns
        -------
        mean : Tensor, shape (n, 7)
            Peak over scale; offset in the beam's frame; logarithm of the profile's covariance in
            it (uu, uv, vv); total flux over scale.
        factor : Tensor, shape (n, 28)
            Triangular factor of the inverse covariance of the errors in `units`, row by row; the
            diagonal as logarithms.
        units : Tensor, shape (n, 7)
        """
        adapted = numbers[:, 2:8]
        residual, misfit = self.misfit(fine, adapted, numbers[:, :1])
        sums = [
            _moments(window, weights)
            for window, weights in ((fine, self.fine_weights), (coarse, self.coarse_weights))
        ]
        logarithm = misfit.log()
        moments = self.norm(torch.cat([*sums, numbers, logarithm, logarithm + numbers[:, :1]], 1))
        with torch.autocast(fine.device.type, torch.bfloat16, enabled=self.mixed):
            near = torch.stack([compressed(fine[:, 0]), fine[:, 1], compressed(residual)], 1)
            parts = [
                self.fine(near).float(),
                self.coarse(torch.stack([compressed(coarse[:, 0]), coarse[:, 1]], 1)).float(),
                moments,
            ]
            if self.region is not None:
                assert region is not None
                parts.append(self.region(region).float())
        hidden = self.hidden(torch.cat(parts, 1))
        made = self.last(torch.cat([hidden, moments], 1))
        area = 0.5 * (adapted[:, 3:4] + adapted[:, 5:6])
        flux = adapted[:, :1].clamp(min=0.1) * (area + misfit * made[:, 6:7]).clamp(-6.0, 8.0).exp()
        mean = torch.cat([adapted + misfit * made[:, :6], flux], 1)
        larger = (0.7 * area.clamp(0.0, 5.0)).exp()
        return (
            mean,
            made[:, OUTPUTS:],
            misfit * torch.cat([torch.ones_like(adapted), larger], 1),
        )

    def projected(self, region: Tensor) -> Tensor:
        """Bring the features of regions, shape (n, channels, REGION, REGION), to few."""
        centre, scale = (part[:, None, None] for part in (self.cell_centre, self.cell_scale))
        made: Tensor = self.project(((region - centre) / scale).movedim(1, -1))
        return made.movedim(-1, 1)

    def misfit(self, fine: Tensor, adapted: Tensor, brightness: Tensor) -> tuple[Tensor, Tensor]:
        """What a window differs by from the Gaussian that it looks like.

        Parameters
        ----------
        fine : Tensor, shape (n, 2, SAMPLES, SAMPLES)
        adapted : Tensor, shape (n, 6)
            Peak, u, v and logarithm of the covariance.
        brightness : Tensor, shape (n, 1)
            Logarithm of the scale.

        Returns
        -------
        residual : Tensor, shape (n, SAMPLES, SAMPLES)
            Over the misfit.
        misfit : Tensor, shape (n, 1)
            Root mean square over scale, in the middle of the window and where it is nobody else's.
        """
        peak, u0, v0, uu, uv, vv = adapted.unbind(1)
        mean, half = 0.5 * (uu + vv), 0.5 * (uu - vv)
        r = torch.sqrt(half**2 + uv**2 + 1e-12)
        size, slope = torch.exp(-mean), -torch.sinh(r) / r
        a, c = size * (torch.cosh(r) + slope * half), size * (torch.cosh(r) - slope * half)
        b = size * slope * uv
        du, dv = self.line - u0[:, None], self.line - v0[:, None]
        q = (c[:, None] * dv**2)[:, :, None] + (a[:, None] * du**2)[:, None, :]
        q = q + 2.0 * b[:, None, None] * dv[:, :, None] * du[:, None, :]
        residual = fine[:, 0] - peak[:, None, None] * torch.exp(-0.5 * q.clamp(max=60.0))
        clean = self.middle * (fine[:, 1].abs() < 0.25)
        square = (clean * residual.clamp(-5.0, 5.0) ** 2).sum((1, 2)) / self.middle.sum()
        least = (LEAST_MISFIT * torch.exp(-brightness[:, 0])) ** 2
        misfit = torch.sqrt(square + least)[:, None].clamp(max=1.0)
        return residual / misfit[:, :, None], misfit


def _moments(window: Tensor, weights: Tensor) -> Tensor:
    """Level and normalised moments under Gaussian weights, bounded smoothly, (n, 6 * sigmas)."""
    clean = window[:, 0] * (window[:, 1].abs() < 0.25)
    sums = (clean.clamp(-50.0, 50.0).flatten(1) @ weights).reshape(-1, weights.shape[1] // 6, 6)
    level = sums[:, :, :1]
    rest = sums[:, :, 1:] / level.clamp(min=0.02)
    rest = rest / torch.sqrt(1.0 + (rest / 20.0) ** 2)
    return torch.cat([torch.asinh(level / 0.05), rest], 2).flatten(1)


def triangular(factor: Tensor) -> Tensor:
    """Lower triangular (n, 7, 7) from rows of 28 numbers, diagonals from logarithms."""
    rows, columns = torch.tril_indices(OUTPUTS, OUTPUTS)
    made = factor.new_zeros(len(factor), OUTPUTS, OUTPUTS)
    diagonal = (rows == columns).to(factor.device)
    made[:, rows, columns] = torch.where(diagonal, factor.clamp(-6.0, 6.0).exp(), factor)
    return made


class RegionNetwork(nn.Module):
    """All heads of a specification."""

    def __init__(self, spec: RegionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.heads = nn.ModuleList(RegionHead(spec.width, spec.trunk) for _ in range(spec.members))

    def forward(
        self, fine: Tensor, coarse: Tensor, numbers: Tensor, region: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What each head says; `region` has the projected features for each in turn."""
        own = [None] * len(self.heads) if region is None else region.chunk(len(self.heads), 1)
        return [
            head(fine, coarse, numbers, mine) for head, mine in zip(self.heads, own, strict=True)
        ]


def save_region_network(network: RegionNetwork, path: Path, *, half: bool = True) -> None:
    """Write weights and specification to one file; it appears whole or not at all."""
    write_tensors(network.state_dict(), path, network.spec.metadata(), half=half)


def load_region_network(path: Path, device: str = "cpu") -> RegionNetwork:
    """Read a network that `save_region_network` wrote, in evaluation mode.

    Raises
    ------
    InputError
        Where the file is damaged, of another kind, or does not fit its description.
    """
    spec = RegionSpec.from_file(path)
    try:
        with safe_open(path, "pt", device="cpu") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: a damaged file of weights; get it anew.") from error
    network = RegionNetwork(spec)
    load_state(network, state, path)
    return network.to(device).eval()
