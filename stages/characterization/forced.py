"""Forced measurement: the fluxes of known components on an image, detected there or not.

Shapes are given without the beam and convolved with the image's own. Components whose profiles
overlap are fitted together, whatever island they came from: which ones blend depends on the beam
of this image, not on that of the image where they were found. With fixed positions the fit is
linear in the fluxes: they may be negative, and are unbiased at any signal to noise; this is what
makes light curves and spectra of sources that are not detected everywhere possible (compare
the priorised fitting of Hancock et al. 2018, PASA 35, e011).

It is no registered characterization stage, because it measures a catalogue that the chain's
detections do not hold; `cyclades.pipeline.measurement` is its way in.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.forced_groups import (
    blends,
    coincident,
    ellipse_pixels,
    group_components,
)
from cyclades.stages.characterization.forced_kernel import LEAST_COVERAGE, cover, fit_forced
from cyclades.stages.characterization.gaussian import POOR_FIT_RATIO, segment_residuals
from cyclades.stages.characterization.least_squares import AT_LIMIT, FAILED, FWHM
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import (
    determinant,
    inverse,
    shape_from_covariance,
    transform_covariance,
)
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import noise_autocorrelation
from cyclades.stages.core.products import Background, Components, Floats, Integers, Segments
from cyclades.stages.core.rendering import render_gaussians

TASK = 64
FIT_RADIUS = 0.5
"""Default radius of the fitted ellipse in FWHM: with noise correlated over a beam, pixels further
out add noise (errors are 1.04 of the rms at 0.5, 1.10 at 0.7, 1.15 at 1)."""
LEAST_RADIUS = 1.5
"""Least radius of the ellipse in pixels, for beams that are hardly sampled."""
FREE_SIGNIFICANCE = 5.0
"""Least significance at the given position for which the position is fitted: below it, the noise
would pull the fit to its nearest peak, and the flux upwards."""
LEAST_SIGNIFICANCE = 3.0
"""Least significance that a flux must keep for its position to be free."""
HOLDS = 4
"""How often positions that the data do not determine are held, and the rest fitted anew."""
ROUNDS = 20
SETTLED = 0.01
"""Fluxes no longer change by more than this part of their errors."""


@dataclass(frozen=True, eq=False)
class ForcedMeasurement:
    """What forced measurement gives.

    Parameters
    ----------
    components : Components
        One row a given component, in their order. Fluxes are NaN where the component is not
        covered by the image or could not be fitted; a negative flux is a measurement like any
        other. The covariance is zero for what was held, NaN where nothing was measured.
    segments : Segments
        The pixels of each component's ellipse.
    group : ndarray of int64
        Components with equal numbers were fitted together; -1 where not measured.
    blocks : dict of int to ndarray
        Of each group of several: covariance of the peaks of its members, in row order.
    """

    components: Components
    segments: Segments
    group: Integers
    blocks: dict[int, Floats]

    def flux_covariance(self, one: int, other: int) -> float:
        """Covariance of the peaks of two components; zero where they were fitted apart."""
        number = self.group[one]
        if number < 0 or number != self.group[other]:
            return 0.0
        if one == other:
            return float(self.components.covariance[one, 0, 0])
        members = np.flatnonzero(self.group == number)
        i, j = np.searchsorted(members, [one, other])
        return float(self.blocks[int(number)][i, j])


class _Fit:
    """Components while they are being fitted: ordered by group, in whitened coordinates."""

    def __init__(
        self,
        x: Floats,
        y: Floats,
        shape: Floats,
        psf: PointSpread,
        group: Integers,
        radius: float,
    ) -> None:
        self.n = len(x)
        self.order = np.argsort(group, kind="stable")
        self.group = group[self.order]
        self.starts = np.append(np.flatnonzero(np.diff(self.group, prepend=-1)), self.n).astype(
            np.int64
        )
        self.radius = radius
        x, y, shape = x[self.order], y[self.order], shape[self.order]
        self.shape = shape
        first = self.starts[:-1]
        self.origins = np.ascontiguousarray(np.stack([x[first], y[first]], -1))
        beam = psf.covariances(*self.origins.T)
        self.factors = np.ascontiguousarray(np.linalg.cholesky(beam) if len(beam) else beam)
        owner = np.repeat(np.arange(len(first)), np.diff(self.starts))
        self.factor, self.origin = self.factors[owner], self.origins[owner]
        unfactor = inverse(self.factor)
        precision = inverse(transform_covariance(shape, unfactor))
        self.params = np.zeros((self.n, 6))
        self.params[:, 1:3] = np.einsum("nij,nj->ni", unfactor, np.stack([x, y], -1) - self.origin)
        self.params[:, 3], self.params[:, 4] = precision[:, 0, 0], precision[:, 0, 1]
        self.params[:, 5] = precision[:, 1, 1]
        self.anchor = self.params.copy()
        self.free = np.zeros(self.n, np.int64)
        sizes = np.diff(self.starts)
        self.flux_starts = np.append(0, np.cumsum(sizes**2)).astype(np.int64)
        self.covariance = np.full((self.n, 3, 3), np.nan)
        self.flux_covariance = np.full(int(self.flux_starts[-1]), np.nan)
        self.quality = np.full((self.n, 3), np.nan)
        self.status = np.full(self.n, FAILED, np.int64)

    def unconstrained(self, wander: float) -> NDArray[np.bool_]:
        """Components with a free position that the data do not determine.

        Their fit failed, their flux is no longer significant, or their position has an error
        beyond the limit: neighbours that move together trade flux without end.
        """
        with np.errstate(invalid="ignore"):
            flux = self.params[:, 0] ** 2 / self.covariance[:, 0, 0]
            place = np.maximum(self.covariance[:, 1, 1], self.covariance[:, 2, 2])
            good = (flux >= LEAST_SIGNIFICANCE**2) & (place < (wander * FWHM) ** 2)
        return np.asarray((self.free > 0) & (~good | (self.status == FAILED)))

    def values(self) -> Floats:
        """Rows (peak, x, y, sxx, sxy, syy) in pixels."""
        position = self.origin + np.einsum("nij,nj->ni", self.factor, self.params[:, 1:3])
        s = self.shape
        return np.column_stack([self.params[:, 0], position, s[:, 0, 0], s[:, 0, 1], s[:, 1, 1]])

    def run(
        self,
        excess: NDArray[np.float32],
        rms: NDArray[np.float32],
        labels: NDArray[np.int32],
        correlation: Floats,
        wander: float,
        workers: int,
        *,
        errors: bool,
    ) -> Floats:
        """Fit every group once, around the model of all others; returns the change of fluxes."""
        before = self.params[:, 0].copy()
        residual = excess - render_gaussians(excess.shape, self.values())
        groups = len(self.starts) - 1

        def task(first: int) -> None:
            fit_forced(
                first, min(first + TASK, groups), self.starts, self.params, self.anchor,
                self.free, wander, self.radius, self.factors, self.origins, residual, rms,
                labels, correlation, errors, self.covariance, self.flux_covariance,
                self.flux_starts, self.quality, self.status,
            )  # fmt: skip

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(task, range(0, groups, TASK)))
        return np.abs(self.params[:, 0] - before)


def measure_forced(
    image: SkyImage,
    background: Background,
    x: Floats,
    y: Floats,
    intrinsic: Floats,
    *,
    free_positions: float = 0.0,
    fit_radius: float = FIT_RADIUS,
    joint_limit: int = 30,
    context: Context,
) -> ForcedMeasurement:
    """Measure the fluxes of given components.

    Parameters
    ----------
    image, background : SkyImage, Background
        The plane, which has a beam, and its level and rms.
    x, y : ndarray, shape (n,)
        0-based positions; NaN, or a position outside the image, is not measured.
    intrinsic : ndarray, shape (n, 2, 2)
        Covariances of the profiles without any beam, in pixels squared; zero for points.
    free_positions : float
        How far a position may move, in FWHM of the beam along each of its axes; 0 holds all.
        Components below 5 sigma at the given position are held in any case.
    fit_radius : float
        Radius of the ellipse fitted around each component, in FWHM.
    joint_limit : int
        Largest number of components fitted together; larger groups are cut, and the parts fitted
        in turns with the others subtracted until they settle.
    context : Context

    Returns
    -------
    ForcedMeasurement
    """
    assert image.psf is not None
    n, psf = len(x), image.psf
    excess = image.data - background.level
    rms = background.rms
    with np.errstate(invalid="ignore"):
        excess[~(rms > 0.0)] = np.nan
    labels = np.zeros(image.shape, np.int32)
    minor = float(shape_from_covariance(psf.covariance)[1])
    fit_radius = max(fit_radius, LEAST_RADIUS / minor)
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(intrinsic).all(axis=(1, 2))
    known &= (np.abs(np.nan_to_num(x)) < 1e6) & (np.abs(np.nan_to_num(y)) < 1e6)
    beam = np.full((n, 2, 2), np.nan)
    beam[known] = psf.covariances(x[known], y[known])
    shape = beam + intrinsic
    coverage = np.zeros(n)
    coverage[known] = _coverage(excess, labels, x[known], y[known], shape[known], fit_radius)
    covered = coverage >= LEAST_COVERAGE
    rows = np.flatnonzero(covered)
    pairs = blends(x[rows], y[rows], shape[rows], fit_radius)
    twin = coincident(x[rows], y[rows], shape[rows], pairs)
    if twin.any():
        rows = rows[~twin]
        pairs = blends(x[rows], y[rows], shape[rows], fit_radius)
    position = np.stack([x[rows], y[rows]], -1)
    number, parted = group_components(pairs, position, joint_limit)
    fit = _Fit(x[rows], y[rows], shape[rows], psf, number, fit_radius)
    noise = noise_autocorrelation(image, background, context=context)
    _settle(fit, excess, rms, labels, noise.values, 0.0, context.workers)
    if free_positions > 0.0 and fit.n:
        with np.errstate(invalid="ignore"):
            significance = np.abs(fit.params[:, 0]) / np.sqrt(fit.covariance[:, 0, 0])
            fit.free[:] = significance >= FREE_SIGNIFICANCE
        held = fit.params.copy()
        for _ in range(HOLDS):
            _settle(fit, excess, rms, labels, noise.values, free_positions, context.workers)
            bad = np.isin(fit.group, fit.group[fit.unconstrained(free_positions)])
            if not bad.any():
                break
            fit.params[bad], fit.free[bad] = held[bad], 0
        else:
            _settle(fit, excess, rms, labels, noise.values, free_positions, context.workers)
    rows = rows[fit.order]
    blended = np.bincount(number, minlength=1)[fit.group] > 1
    return _measurement(
        n, rows, fit, blended, parted[fit.order], covered, x, y, shape, beam, excess,
        noise.origin, fit_radius,
    )  # fmt: skip


def _coverage(
    excess: NDArray[np.float32],
    labels: NDArray[np.int32],
    x: Floats,
    y: Floats,
    shape: Floats,
    radius: float,
) -> Floats:
    """Share of each component's ellipse on usable pixels; zero off the image."""
    n = len(x)
    params = np.tile([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], (n, 1))
    coverage = np.zeros(n)
    if n:
        factors = np.ascontiguousarray(np.linalg.cholesky(shape))
        origins = np.ascontiguousarray(np.stack([x, y], -1))
        cover(0, n, params, factors, origins, radius, excess, labels, coverage)
    return coverage


def _settle(
    fit: _Fit,
    excess: NDArray[np.float32],
    rms: NDArray[np.float32],
    labels: NDArray[np.int32],
    correlation: Floats,
    wander: float,
    workers: int,
) -> None:
    """Repeat the fits until fluxes no longer change by a noticeable part of the noise."""
    if not fit.n:
        return
    x, y = np.rint(fit.values()[:, 1:3]).astype(int).T
    inside_x, inside_y = np.clip(x, 0, rms.shape[1] - 1), np.clip(y, 0, rms.shape[0] - 1)
    local = np.nan_to_num(rms[inside_y, inside_x], nan=0.0)
    for _ in range(ROUNDS):
        change = fit.run(excess, rms, labels, correlation, wander, workers, errors=False)
        if not np.any(change > SETTLED * local):
            break
    fit.run(excess, rms, labels, correlation, wander, workers, errors=True)


def _measurement(
    n: int,
    rows: Integers,
    fit: _Fit,
    blended: NDArray[np.bool_],
    parted: NDArray[np.bool_],
    covered: NDArray[np.bool_],
    x: Floats,
    y: Floats,
    shape: Floats,
    beam: Floats,
    excess: NDArray[np.float32],
    noise_origin: str,
    radius: float,
) -> ForcedMeasurement:
    """Bring fits, of some rows and in the order of their groups, back to all rows."""
    failed = fit.status == FAILED
    values = fit.values()
    values[failed, 0] = np.nan
    peak, place = np.full(n, np.nan), np.stack([x, y], -1)
    peak[rows], place[rows] = values[:, 0], values[:, 1:3]
    covariance = np.full((n, 6, 6), np.nan)
    scale = np.zeros((fit.n, 3, 3))
    scale[:, 0, 0] = 1.0
    scale[:, 1:, 1:] = fit.factor
    inner = scale @ fit.covariance @ np.swapaxes(scale, 1, 2)
    inner[failed] = np.nan
    block = np.zeros((fit.n, 6, 6))
    block[:, :3, :3] = inner
    covariance[rows] = block
    # Shapes are given, not measured.
    covariance[:, 3:, :] = covariance[:, :, 3:] = np.nan
    quality = np.full((n, 3), np.nan)
    quality[rows] = fit.quality
    ratio = np.sqrt(determinant(shape) / determinant(beam))
    flags = np.where(covered, 0, int(Flag.NOT_COVERED)).astype(np.int64)
    measured = np.zeros(n, bool)
    measured[rows[~failed]] = True
    flags[covered & ~measured] |= int(Flag.FIT_FAILED)
    flags[rows[blended]] |= int(Flag.BLENDED)
    flags[rows[parted]] |= int(Flag.TOO_MANY_COMPONENTS)
    flags[rows[fit.status == AT_LIMIT]] |= int(Flag.POSITION_AT_LIMIT)
    with np.errstate(invalid="ignore"):
        flags[quality[:, 0] > POOR_FIT_RATIO * quality[:, 1]] |= int(Flag.POOR_FIT)
    if noise_origin != "measured":
        flags[measured] |= int(Flag.ERRORS_FROM_BEAM)
    free = np.zeros(n, bool)
    free[rows] = fit.free > 0
    segments = ellipse_pixels(excess, place[:, 0], place[:, 1], shape, radius, covered)
    model = render_gaussians(excess.shape, values)
    mean, scatter = segment_residuals((excess - model).ravel()[segments.indices], segments)
    point = np.isclose(ratio, 1.0, rtol=1e-9)
    error = np.sqrt(covariance[:, 0, 0])
    group = np.full(n, -1, np.int64)
    group[rows[~failed]] = fit.group[~failed]
    kind = np.where(free, "forced position", "forced")
    components = Components(
        detection=np.arange(n),
        island=np.arange(n),
        peak=peak,
        x=place[:, 0],
        y=place[:, 1],
        sxx=shape[:, 0, 0],
        sxy=shape[:, 0, 1],
        syy=shape[:, 1, 1],
        total=peak * ratio,
        total_err=error * ratio,
        covariance=covariance,
        beam_flux=np.where(point, peak, np.nan),
        beam_flux_err=np.where(point, error, np.nan),
        resolved_probability=np.full(n, np.nan),
        flags=flags,
        chi2=quality[:, 0],
        degrees_of_freedom=quality[:, 1],
        residual_mean=mean,
        residual_rms=scatter,
        n_pixels=np.nan_to_num(quality[:, 2]).astype(np.int64),
        fit_type=tuple(str(k) for k in kind),
    )
    return ForcedMeasurement(components, segments, group, _blocks(fit, rows))


def _blocks(fit: _Fit, rows: Integers) -> dict[int, Floats]:
    """Covariances of the peaks of every group of several, with its members in row order."""
    found = {}
    for i, (first, last) in enumerate(zip(fit.starts[:-1], fit.starts[1:], strict=True)):
        size = int(last - first)
        if size > 1:
            at = fit.flux_starts[i]
            block = fit.flux_covariance[at : at + size * size].reshape(size, size)
            order = np.argsort(rows[first:last])
            found[int(fit.group[first])] = block[np.ix_(order, order)]
    return found
