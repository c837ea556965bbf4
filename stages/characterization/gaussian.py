"""Gaussian fits: all components of an island together, with errors for correlated noise."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.characterization.artefacts import likely_artefacts
from cyclades.stages.characterization.condon import condon_covariance
from cyclades.stages.characterization.fit_rows import (
    IslandFits,
    nearest_distances,
    nearest_leaves,
)
from cyclades.stages.characterization.gaussian_shapes import (
    pixel_parameters,
    resolved_probability,
    total_flux,
)
from cyclades.stages.characterization.island_fits import fit_islands
from cyclades.stages.characterization.least_squares import AT_LIMIT, FAILED, FWHM
from cyclades.stages.characterization.wavelets import model_islands
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, inverse
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.noise import NoiseAutocorrelation, noise_autocorrelation
from cyclades.stages.core.products import (
    Background,
    Components,
    Detections,
    Floats,
    Integers,
    Segments,
)
from cyclades.stages.core.rendering import gaussians_at
from cyclades.stages.core.stage import Capabilities, CharacterizationStage, parameter

ISLANDS_PER_TASK = 64
POOR_FIT_RATIO = 4.0
RESIDUAL_FRACTION = 0.05
"""Residuals below this part of the model are errors of its shape, not missing components."""
WANDER = 0.5
"""How far a fitted centre may lie from its summit, in FWHM."""
MEAN_TO_PEAK = 1.4
ADDED_SEPARATION = 0.7
"""Least distance of an added component from the others, in FWHM of the beam: closer, it only
mends the shape of its neighbour, which no beam is exactly."""
UNEXPLAINED = 0.25
"""Part of the excess chi-squared that an added component may leave: a hidden source explains
nearly all of it, one more Gaussian on a source that is no Gaussian does not."""
ADDED_LARGEST = 3.0
"""Largest axis of a component added for a residual, in beams."""


def start_values(
    image: SkyImage,
    background: Background,
    detections: Detections,
    leaves: Integers,
    psf: PointSpread,
) -> tuple[Floats, Floats, Floats]:
    """Peak, size and largest size (in beams) of each leaf, from its segment.

    The area above half of the leaf's peak, compared with the beam's, gives the size; the
    segment's area gives the limit. Where the peak is below the noise (leaves found on a smoothed
    map), the segment as a whole gives both: inside its half-maximum ellipse a Gaussian has a mean
    of 0.72 peaks.

    Returns
    -------
    peak, size, largest : ndarray, shape (n,)
    """
    assert detections.segments is not None
    assert detections.summit is not None
    segments = detections.segments.take(leaves)
    owner = segments.owner()
    data, level = image.data.ravel(), background.level.ravel()
    inside = data[segments.indices] - level[segments.indices]
    inside = inside * detections.signs[leaves][owner]
    x, y = np.rint(detections.summit[leaves]).astype(int).T
    at = y * image.shape[1] + x
    peak = (data[at] - level[at]) * detections.signs[leaves].astype(float)
    brightest = np.zeros(len(leaves))
    np.fmax.at(brightest, owner, inside)
    area = np.bincount(owner, inside > 0.5 * brightest[owner], minlength=len(leaves))
    half_area = np.log(2.0) * psf.areas(*detections.summit[leaves].T)
    largest = 2.0 * np.sqrt(segments.lengths / half_area) + 3.0
    if detections.flags is not None:
        smooth = detections.flags[leaves] & Flag.SMOOTHED > 0
        mean = np.bincount(owner, inside, minlength=len(leaves)) / np.maximum(segments.lengths, 1)
        peak = np.where(smooth, MEAN_TO_PEAK * mean, peak)
        area = np.where(smooth, segments.lengths, area)
    size = np.sqrt(np.clip(area / half_area, 1.0, None))
    floor = 0.1 * background.rms[y, x]
    return np.maximum(peak, floor), np.minimum(size, largest), largest


def segment_residuals(
    difference: NDArray[np.floating], segments: Segments
) -> tuple[Floats, Floats]:
    """Mean and rms of residuals (one a pixel of `segments`) in each segment; NaN if empty."""
    difference = difference.astype(float)
    owner, n = segments.owner(), len(segments)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(owner, difference, minlength=n) / segments.lengths
        square = np.bincount(owner, difference**2, minlength=n) / segments.lengths
    return mean, np.sqrt(square)


class GaussianCharacterization(CharacterizationStage):
    """Elliptical Gaussians fitted to all components of an island together."""

    name: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = (
        "Joint Gaussian fits of each island, with errors for the measured noise correlation."
    )
    capabilities: ClassVar[Capabilities] = Capabilities(needs_beam=True, windows=True)
    adds: ClassVar[tuple[str, ...]] = ()

    fit_radius: float = parameter(
        0.8,
        "Radius of the ellipse fitted around each component; with correlated noise pixels "
        "further out add noise, not information.",
        unit="FWHM",
        ge=0.4,
        le=3.0,
    )
    joint_limit: int = parameter(
        8,
        "Largest number of components fitted together; in larger islands each is fitted in turn "
        "with the others subtracted.",
        ge=1,
        le=20,
    )
    residual_threshold: float = parameter(
        5.0,
        "Least significance of a residual peak inside an island that is fitted as one more "
        "component.",
        unit="local rms",
        gt=0,
    )
    added_components: int = parameter(
        2, "Most components added to an island for its residual; 0 adds none.", ge=0, le=20
    )
    wavelet_components: int = parameter(
        8,
        "Most Gaussians added to an island for structures in the wavelet transform of its "
        "residual; 0 adds none.",
        ge=0,
        le=100,
    )
    wavelet_threshold: float = parameter(
        4.5,
        "Least significance of such a structure, in the noise of its own scale.",
        unit="rms of the scale",
        gt=0,
    )
    beam_tolerance: float = parameter(
        0.01,
        "Relative uncertainty of the beam's size, allowed for before a source is called resolved.",
        ge=0,
    )

    artefact_ratio: float = parameter(
        1.5,
        "Height of a component near a source 50 times brighter, in depths of the deepest hole "
        "around it, below which it is taken for a piece of that source's sidelobes; 0 takes none.",
        ge=0,
    )
    artefacts: Literal["drop", "flag"] = parameter(
        "drop", "Whether such components are left out, or kept with the flag artefact."
    )

    errors: Literal["correlated", "condon"] = parameter(
        "correlated",
        "Errors from the sandwich covariance with the measured noise autocorrelation, or from "
        "the formulae of Condon (1997), for comparison.",
    )

    def measure(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        *,
        context: Context,
    ) -> Components:
        """Return the components of every leaf of `detections`, in the order of their islands.

        An island whose fit leaves a significant residual has more components than leaves.
        """
        assert image.psf is not None
        assert detections.segments is not None
        assert detections.summit is not None
        leaves = detections.leaves
        leaves = leaves[np.argsort(detections.island_of[leaves], kind="stable")]
        rows, island = np.unique(detections.island_of[leaves], return_inverse=True)
        summit = detections.summit[leaves]
        origin = summit[np.searchsorted(island, np.arange(len(rows)))].reshape(-1, 2)
        beam = image.psf.covariances(origin[:, 0], origin[:, 1])
        factor = np.asarray(np.linalg.cholesky(beam) if len(beam) else beam, float)
        sign = detections.signs[rows]
        islands = detections.segments.take(rows)
        labels = islands.label_map(image.shape)
        noise = noise_autocorrelation(image, background, context=context)

        def fit(fits: IslandFits) -> None:
            chosen, starts = np.unique(fits.island, return_index=True)
            starts = np.append(starts, len(fits.island)).astype(np.int64)

            def task(first: int) -> None:
                fit_islands(
                    first, min(first + ISLANDS_PER_TASK, len(chosen)), starts, fits.params,
                    fits.covariance, fits.beam, fits.quality, fits.status, factor[chosen],
                    origin[chosen], sign[chosen], chosen + 1, fits.total, fits.bounds,
                    self.fit_radius, self.joint_limit, image.data, background.level,
                    background.rms, labels, noise.values,
                )  # fmt: skip

            with ThreadPoolExecutor(context.workers) as pool:
                list(pool.map(task, range(0, len(chosen), ISLANDS_PER_TASK)))
            # The bias of a position that the data do not constrain is no correction of it.
            held, wander = fits.status == FAILED, fits.bounds[:, 3:]
            near = np.clip(fits.params[:, 1:3] - fits.bounds[:, 1:3], -wander, wander)
            fits.params[held, 1:3] = (fits.bounds[:, 1:3] + near)[held]

        params = np.zeros((len(leaves), 6))
        params[:, 0], size, largest = start_values(image, background, detections, leaves, image.psf)
        unfactor = inverse(factor)
        params[:, 1:3] = np.einsum("nij,nj->ni", unfactor[island], summit - origin[island])
        params[:, 3] = params[:, 5] = size**-2.0
        bounds = np.column_stack([largest, params[:, 1:3], WANDER * FWHM * size])
        fits = IslandFits.start(island.astype(np.int64), leaves, params, bounds)
        fit(fits)
        frame = (factor, origin, sign)
        for _ in range(self.added_components):
            fits, added = self._add_components(
                fits, fit, frame, islands, detections, image.data, background
            )
            if not added:
                break
        if self.wavelet_components:
            fits = model_islands(
                fits, frame, islands, labels, image.data, background, noise,
                limit=self.wavelet_components, threshold=self.wavelet_threshold,
                joint=self.joint_limit, fraction=RESIDUAL_FRACTION, workers=context.workers,
            )  # fmt: skip
        artefact = self._artefacts(image, background, detections, fits, frame)
        if artefact.any():
            context.note("artefacts", int(artefact.sum()))
            if self.artefacts == "drop":
                fits, artefact = fits.take(~artefact), artefact[~artefact]
        measured = self._components(image, background, detections, rows, fits, frame, noise)
        measured.flags[artefact] |= Flag.ARTEFACT
        return measured

    def _artefacts(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        fits: IslandFits,
        frame: tuple[Floats, Floats, Integers],
    ) -> NDArray[np.bool_]:
        """Rows that are most likely artefacts of a bright source (see `likely_artefacts`).

        Wavelet components follow the others of their island: they are parts of it. What was found
        on a smoothed map is not judged by its peak.
        """
        if self.artefact_ratio == 0.0:
            return np.zeros(len(fits.island), bool)
        factor, origin = frame[0][fits.island], frame[1][fits.island]
        x, y = (origin + np.einsum("nij,nj->ni", factor, fits.params[:, 1:3])).T
        exempt = fits.wavelet | (frame[2][fits.island] < 0)
        if detections.flags is not None:
            exempt |= detections.flags[fits.leaf] & Flag.SMOOTHED > 0
        peak = np.where(exempt, np.nan, fits.params[:, 0])
        artefact = likely_artefacts(image, background, x, y, peak, self.artefact_ratio)
        whole = np.isin(fits.island, fits.island[~fits.wavelet & ~artefact])
        return artefact | (fits.wavelet & ~whole)

    def _add_components(
        self,
        fits: IslandFits,
        fit: Callable[[IslandFits], None],
        frame: tuple[Floats, Floats, Integers],
        islands: Segments,
        detections: Detections,
        data: NDArray[np.float32],
        background: Background,
    ) -> tuple[IslandFits, int]:
        """Fit one more component where the residual of an island demands it.

        It is kept where the island's fit succeeds with it and its peak is significant itself.

        Returns
        -------
        fits : IslandFits
            All islands, with the accepted additions.
        added : int
            Number of additions.
        """
        factor, origin, sign = frame
        assert detections.segments is not None
        values, _ = pixel_parameters(
            fits.params, fits.covariance, factor[fits.island], origin[fits.island]
        )
        values[:, 0] *= sign[fits.island]
        pixels, owner = islands.indices, islands.owner()
        model = gaussians_at(data.shape, values, pixels)
        flat = data.ravel()[pixels] - background.level.ravel()[pixels] - model
        flat *= sign[owner]
        significance = flat / background.rms.ravel()[pixels]
        significance[np.abs(model) * RESIDUAL_FRACTION > flat] = 0.0
        best = islands.brightest(significance)
        sizes = np.bincount(fits.island, minlength=len(islands))
        wanted = (significance[best] >= self.residual_threshold) & (sizes < self.joint_limit)
        wanted &= best >= 0
        wanted[fits.island[fits.status == FAILED]] = False
        chosen = np.flatnonzero(wanted)
        if not chosen.size:
            return fits, 0
        at = best[chosen]
        y, x = np.divmod(pixels[at], data.shape[1])
        offset = np.stack([x, y], -1) - origin[chosen]
        params = np.zeros((len(chosen), 6))
        params[:, 0] = flat[at]
        params[:, 1:3] = np.einsum("nij,nj->ni", inverse(factor[chosen]), offset)
        params[:, 3] = params[:, 5] = 1.0
        bounds = np.column_stack(
            [
                np.full(len(chosen), ADDED_LARGEST),
                params[:, 1:3],
                np.full(len(chosen), WANDER * FWHM),
            ]
        )
        leaf = nearest_leaves(fits, chosen, params[:, 1:3])
        old = np.isin(fits.island, chosen)
        before = fits.take(old)
        trial = before.join(IslandFits.start(chosen, leaf, params, bounds))
        new = np.flatnonzero(np.append(np.diff(trial.island) != 0, True))
        fit(trial)
        peak, error = trial.params[new, 0], np.sqrt(trial.covariance[new, 0, 0])
        with np.errstate(invalid="ignore"):
            good = (peak > self.residual_threshold * error) & (trial.status[new] != FAILED)
        good &= nearest_distances(trial, new) > ADDED_SEPARATION * FWHM
        misfit = [part.quality[:, 0] / part.quality[:, 1] - 1.0 for part in (before, trial)]
        first = np.searchsorted(before.island, chosen)
        good &= misfit[1][new] < UNEXPLAINED * misfit[0][first]
        accepted = chosen[good]
        kept = fits.take(~np.isin(fits.island, accepted))
        return kept.join(trial.take(np.isin(trial.island, accepted))), len(accepted)

    def _components(
        self,
        image: SkyImage,
        background: Background,
        detections: Detections,
        island_rows: Integers,
        fits: IslandFits,
        frame: tuple[Floats, Floats, Integers],
        noise: NoiseAutocorrelation,
    ) -> Components:
        assert detections.segments is not None
        factor, origin = frame[0][fits.island], frame[1][fits.island]
        sign = frame[2][fits.island]
        covariance, quality = fits.covariance, fits.quality
        resolved = resolved_probability(fits.params, covariance, self.beam_tolerance)
        values, errors = pixel_parameters(fits.params, covariance, factor, origin)
        flux = np.stack(total_flux(fits.params, covariance), -1)
        total, total_err = np.where(np.isnan(fits.total), flux, fits.total).T.copy()
        failed = fits.status == FAILED
        # Where only the beam's shape was fitted, the flux is that of a point source.
        total_err[failed] = np.sqrt(covariance[failed, 0, 0])
        if self.errors == "condon":
            assert image.psf is not None
            areas = image.psf.areas(values[:, 1], values[:, 2])
            noise_fwhm = SIGMA_TO_FWHM * np.sqrt(areas / (2.0 * np.pi))
            x, y = np.rint(origin).astype(int).T
            shapes = values[:, [3, 4, 4, 5]].reshape(-1, 2, 2)
            errors, relative = condon_covariance(
                values[:, 0], shapes, background.rms[y, x].astype(float), noise_fwhm
            )
            total_err = total * relative
        values[:, 0] *= sign
        segments = detections.segments.take(fits.leaf)
        at = segments.indices
        model = gaussians_at(image.shape, values, at)
        residual = image.data.ravel()[at] - background.level.ravel()[at] - model
        residual_mean, residual_rms = segment_residuals(residual, segments)
        siblings = np.bincount(fits.island, minlength=len(island_rows))[fits.island]
        flags = np.zeros(len(total), np.int64)
        if detections.flags is not None:
            flags |= detections.flags[fits.leaf]
        flags[failed] |= Flag.FIT_FAILED
        flags[failed & np.isfinite(fits.beam[:, 0])] |= Flag.TOO_FEW_PIXELS
        flags[fits.status == AT_LIMIT] |= Flag.SIZE_AT_LIMIT
        flags[siblings > 1] |= Flag.BLENDED
        added = np.bincount(fits.island, fits.wavelet, len(island_rows))[fits.island]
        crowded = (siblings > self.joint_limit) | (added >= max(self.wavelet_components, 1))
        flags[crowded] |= Flag.TOO_MANY_COMPONENTS
        flags[sign < 0] |= Flag.NEGATIVE
        flags[fits.wavelet] |= Flag.WAVELET
        with np.errstate(invalid="ignore"):
            flags[quality[:, 0] > POOR_FIT_RATIO * quality[:, 1]] |= Flag.POOR_FIT
        if noise.origin != "measured":
            flags |= Flag.ERRORS_FROM_BEAM
        # The peak's sign also turns its covariances with the other parameters.
        errors[:, 0, 1:] *= sign[:, None]
        errors[:, 1:, 0] *= sign[:, None]
        return Components(
            detection=fits.leaf,
            island=island_rows[fits.island],
            peak=values[:, 0],
            x=values[:, 1],
            y=values[:, 2],
            sxx=values[:, 3],
            sxy=values[:, 4],
            syy=values[:, 5],
            total=total * sign,
            total_err=total_err,
            covariance=errors,
            beam_flux=fits.beam[:, 0] * sign,
            beam_flux_err=fits.beam[:, 1],
            resolved_probability=resolved,
            flags=flags,
            chi2=quality[:, 0],
            degrees_of_freedom=quality[:, 1],
            residual_mean=residual_mean,
            residual_rms=residual_rms,
            n_pixels=np.nan_to_num(quality[:, 2]).astype(np.int64),
            fit_type=tuple(
                np.select([fits.wavelet, failed], ["wavelet", "beam"], "gaussian").tolist()
            ),
            total_share=fits.share if self.errors == "correlated" else None,
        )
