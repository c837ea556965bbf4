"""From what a region head says to measurements in pixels and image units, with their covariance."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats
from cyclades.stages.core.products import Integers
from cyclades.stages.networks.region_spec import OUTPUTS
from cyclades.stages.networks.region_windows import SAMPLES, STEP, Windows

NAMES = ("peak", "u", "v", "uu", "uv", "vv", "flux")
"""Of the outputs."""
BEAM_REACH = 0.8 * SIGMA_TO_FWHM
"""Of the samples that a fit of the beam's shape looks at, in sigmas of the beam."""
_STEP = 1e-4


class Calibration(NamedTuple):
    """How wrong the errors and the means of a network were on held-out simulations.

    Factors and offsets are known on a grid of two numbers of a source, and interpolated in their
    logarithms: its S/N, and the misfit of the Gaussian that it looks like, over the noise.

    Parameters
    ----------
    brightness : ndarray, shape (k,)
        Logarithms of `Windows.scale`.
    misfit : ndarray, shape (m,)
        Logarithms of the misfit over the noise.
    factors : ndarray, shape (k, m, 7)
        By which errors are multiplied.
    offsets : ndarray, shape (k, m, 7)
        Median errors in (calibrated) sigmas, which are taken off; zero for what has a direction.
    together : ndarray, shape (1,)
        By which the error of an island's summed flux is multiplied, as that of independent rows.
    """

    brightness: Floats
    misfit: Floats
    factors: Floats
    offsets: Floats
    together: Floats

    @classmethod
    def none(cls) -> "Calibration":
        """Nothing to change."""
        ones = np.ones((1, 1, OUTPUTS))
        return cls(np.zeros(1), np.zeros(1), ones, 0.0 * ones, np.ones(1))

    @classmethod
    def from_mapping(cls, held: dict[str, list[Any]]) -> "Calibration":
        """Read it from a specification; none where that is empty."""
        if not held:
            return cls.none()
        return cls(*(np.array(held[name], float) for name in cls._fields))

    def to_mapping(self) -> dict[str, Any]:
        """Return it as lists."""
        return {name: np.round(part, 4).tolist() for name, part in self._asdict().items()}

    def at(self, scale: Floats, misfit: Floats) -> tuple[Floats, Floats]:
        """Factors and offsets of sources, each of shape (n, 7).

        Parameters
        ----------
        scale, misfit : ndarray, shape (n,)
            `Windows.scale`, and the misfit over it.
        """
        i, s = _between(self.brightness, np.log(scale))
        j, t = _between(self.misfit, np.log(misfit * scale))
        made = []
        for grid in (self.factors, self.offsets):
            ends = [
                [grid[a, b] for b in (j, np.minimum(j + 1, len(self.misfit) - 1))]
                for a in (i, np.minimum(i + 1, len(self.brightness) - 1))
            ]
            low, high = (one * (1.0 - t) + other * t for one, other in ends)
            made.append(low * (1.0 - s) + high * s)
        return made[0], made[1]

    def apply(
        self, mean: Floats, covariance: Floats, scale: Floats, misfit: Floats
    ) -> tuple[Floats, Floats]:
        """Means without their known bias, and covariances that hold."""
        factor, offset = self.at(scale, misfit)
        made = covariance * factor[:, :, None] * factor[:, None, :]
        return mean - offset * np.sqrt(np.einsum("nii->ni", made)), made


def _between(knots: Floats, values: Floats) -> tuple[Integers, Floats]:
    """Knot before each value, and the share of the way to the next, shape (n, 1)."""
    if len(knots) == 1:
        return np.zeros(len(values), np.int64), np.zeros((len(values), 1))
    held = np.clip(values, knots[0], knots[-1])
    at = np.clip(np.searchsorted(knots, held, side="right") - 1, 0, len(knots) - 2)
    return at, ((held - knots[at]) / (knots[at + 1] - knots[at]))[:, None]


def mixture(means: Floats, covariances: Floats) -> tuple[Floats, Floats]:
    """Mean and covariance of an equal mixture of Gaussians.

    Parameters
    ----------
    means : ndarray, shape (m, n, 7)
    covariances : ndarray, shape (m, n, 7, 7)
    """
    mean = means.mean(0)
    apart = means - mean
    spread = np.einsum("mni,mnj->nij", apart, apart) / len(means)
    return mean, covariances.mean(0) + spread


class Measured(NamedTuple):
    """Measurements in pixels and image units.

    Parameters
    ----------
    values : ndarray, shape (n, 6)
        Peak, x, y, sxx, sxy, syy (see `cyclades.stages.core.products.PARAMETERS`), for positive
        sources.
    covariance : ndarray, shape (n, 6, 6)
    total, total_err : ndarray, shape (n,)
        In the image's unit times beams.
    logarithm : ndarray, shape (n, 3)
        Elements of the logarithm of the profile's covariance in the beam's frame,
    logarithm_covariance : ndarray, shape (n, 3, 3)
        and the covariance of their errors.
    """

    values: Floats
    covariance: Floats
    total: Floats
    total_err: Floats
    logarithm: Floats
    logarithm_covariance: Floats


def exponential(logarithm: Floats) -> Floats:
    """Exponentials of symmetric matrices from their elements (uu, uv, vv), shape (n, 2, 2)."""
    mean = 0.5 * (logarithm[:, 0] + logarithm[:, 2])
    half, cross = 0.5 * (logarithm[:, 0] - logarithm[:, 2]), logarithm[:, 1]
    r = np.hypot(half, cross)
    slope = np.where(r > 1e-9, np.sinh(r) / np.maximum(r, 1e-9), 1.0)
    size = np.exp(mean)
    first = size * (np.cosh(r) + slope * half)
    second = size * (np.cosh(r) - slope * half)
    off = size * slope * cross
    return np.stack([np.stack([first, off], -1), np.stack([off, second], -1)], -2)


def _shapes(logarithm: Floats, frame: Floats) -> Floats:
    """Elements (sxx, sxy, syy) in pixels squared."""
    made = frame @ exponential(logarithm) @ frame
    return np.asarray(made[:, [0, 0, 1], [0, 1, 1]])


def in_pixels(mean: Floats, covariance: Floats, windows: Windows) -> Measured:
    """Carry means and covariances of the outputs to pixels and image units.

    Parameters
    ----------
    mean : ndarray, shape (n, 7)
        Peak and flux over `Windows.scale`.
    covariance : ndarray, shape (n, 7, 7)
    windows : Windows
        Its `fine` and `coarse` are not looked at.
    """
    unit = windows.scale * windows.rms
    n = len(mean)
    logarithm = mean[:, 3:6]
    jacobian = np.zeros((n, OUTPUTS, OUTPUTS))
    jacobian[:, 0, 0] = jacobian[:, 6, 6] = unit
    jacobian[:, 1:3, 1:3] = windows.frame
    for k in range(3):
        step = np.zeros(3)
        step[k] = _STEP
        ahead, behind = (_shapes(logarithm + s, windows.frame) for s in (step, -step))
        jacobian[:, 3:6, 3 + k] = (ahead - behind) / (2.0 * _STEP)
    errors = jacobian @ covariance @ np.swapaxes(jacobian, 1, 2)
    position = windows.centre + np.einsum("nij,nj->ni", windows.frame, mean[:, 1:3])
    values = np.column_stack([mean[:, 0] * unit, position, _shapes(logarithm, windows.frame)])
    return Measured(
        values, errors[:, :6, :6], mean[:, 6] * unit, np.sqrt(errors[:, 6, 6]),
        logarithm, covariance[:, 3:6, 3:6],
    )  # fmt: skip


def wider_probability(logarithm: Floats, covariance: Floats, tolerance: float) -> Floats:
    """Probability that a profile is wider than the beam.

    The Wald test of `cyclades.stages.characterization.gaussian_shapes.resolved_probability`: the
    logarithm of the covariance in the beam's frame is zero for the beam itself.

    Parameters
    ----------
    logarithm : ndarray, shape (n, 3)
    covariance : ndarray, shape (n, 3, 3)
    tolerance : float
        Relative uncertainty of the beam's size.
    """
    from scipy.special import chdtr

    errors = covariance + np.diag([4.0, 1.0, 4.0]) * tolerance**2
    solved = np.linalg.solve(errors, logarithm[..., None])[..., 0]
    statistic = np.einsum("ni,ni->n", solved, logarithm)
    wide = logarithm[:, 0] + logarithm[:, 2] > 0.0
    return np.asarray(np.where(wide, chdtr(3, statistic), 0.0))


def beam_fluxes(windows: Windows, position: Floats) -> tuple[Floats, Floats]:
    """Fluxes of the beam's own shape at measured places, over `Windows.scale`, and their errors.

    Least squares over the samples within 0.8 FWHM that are nobody else's. The error is that under
    noise with the autocorrelation that the windows tell, of a source with all its samples.

    Parameters
    ----------
    windows : Windows
    position : ndarray, shape (n, 2)
        In the beam's frame.

    Returns
    -------
    flux, error : ndarray, shape (n,)
        NaN where there are no samples.
    """
    line = STEP * (np.arange(SAMPLES) - 0.5 * (SAMPLES - 1))
    du = line[None, None, :] - position[:, 0, None, None]
    dv = line[None, :, None] - position[:, 1, None, None]
    square = du**2 + dv**2
    used = (square <= BEAM_REACH**2) & (np.abs(windows.fine[:, 1]) < 0.25)
    weight = np.where(used, np.exp(-0.5 * square), 0.0)
    power = np.square(weight).sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = (weight * windows.fine[:, 0]).sum((1, 2)) / power
    flux[power < 1.0] = np.nan
    factor = np.array([_beam_error(float(size)) for size in windows.numbers[:, 1]])
    return flux, np.where(np.isfinite(flux), factor / windows.scale, np.nan)


@lru_cache(maxsize=256)
def _beam_error(size: float) -> float:
    """Error of a beam's flux in rms of noise whose autocorrelation has a size; see `noise_size`."""
    reach = int(BEAM_REACH / STEP)
    v, u = STEP * np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    inside = u**2 + v**2 <= BEAM_REACH**2
    u, v = u[inside], v[inside]
    weight = np.exp(-0.5 * (u**2 + v**2))
    apart = (u[:, None] - u) ** 2 + (v[:, None] - v) ** 2
    noise = np.exp(-0.5 * apart / np.exp(size))
    return float(np.sqrt(weight @ noise @ weight) / (weight @ weight))
