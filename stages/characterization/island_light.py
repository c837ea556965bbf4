"""Light of islands that the models of their components leave over, or have too much of.

Components of a source that is no Gaussian are shares of its light, each with an error; their sum
need not be what the island's pixels hold. Inside the island the pixels are known up to the noise,
and only what lies outside of it has to be taken from the models.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import Floats, gaussian_area
from cyclades.stages.core.products import Components, Detections
from cyclades.stages.core.rendering import gaussians_at

OUTSIDE = 0.1
"""Relative error of the light that the models put outside of an island."""
GAUSSIAN = 2.5
"""Variance of the flux of a fitted Gaussian, in squared rms and beams of its area: where the errors
are no larger, the components are Gaussians, and their sum is better than that of the pixels."""
PIXELS = 0.3
"""Share of the noise of the pixels' sum that counts in the weights: errors of components that are
no Gaussians are larger together than their sum of squares."""
UNKNOWN = 0.7
"""By how much the errors of corrected fluxes grow for what is not known of the light outside. Like
the three numbers above, chosen by whole objects of the seeds 300 to 305 of
``tests/benchmarks/characterizations.py``."""


def with_left_light(
    components: Components,
    detections: Detections,
    excess: NDArray[np.float32],
    rms: NDArray[np.float32],
    psf: PointSpread,
    noise_area: float,
    rows: NDArray[np.bool_],
) -> Components:
    """Give components their part of the light that the models of their island leave over.

    The correction of an island has the weight of the variance of its components' sum, beyond that
    of Gaussians, against that of the sum of pixels with what lies outside.

    Parameters
    ----------
    components : Components
        One a leaf of `detections`, in their order, with `total_share`.
    detections : Detections
    excess, rms : ndarray, shape (ny, nx), float32
        Image minus level, NaN where blank.
    psf : PointSpread
    noise_area : float
        Of the noise's autocorrelation, in beams.
    rows : ndarray of bool, shape (n,)
        Components that may change.

    Returns
    -------
    Components
        With other totals and errors; the rest as it is.
    """
    assert detections.segments is not None
    c, n, shares = components, len(components), components.total_share
    assert shares is not None
    if not n:
        return c
    segments = detections.segments.take(c.detection)
    beam = psf.areas(c.x, c.y)
    area = gaussian_area(c.shape_covariance)
    values = np.column_stack([c.total * beam / area, c.x, c.y, c.sxx, c.sxy, c.syy])
    at, owner = segments.indices, segments.owner()
    model = gaussians_at(excess.shape, values, at)
    seen = np.isfinite(excess.ravel()[at])
    difference = np.where(seen, excess.ravel()[at] - model, 0.0) / beam[owner]
    left = np.asarray(np.bincount(owner, difference, minlength=n), float)
    inside = np.bincount(owner, np.abs(model) / beam[owner], minlength=n)
    square = np.square(np.where(seen, rms.ravel()[at], 0.0).astype(float))
    noise = np.bincount(owner, square / beam[owner], minlength=n) * noise_area
    local = np.bincount(owner, square, minlength=n) / np.maximum(segments.lengths, 1)
    share = np.where(np.isfinite(shares), shares, c.total_err**2)
    _, island = np.unique(c.island, return_inverse=True)

    def summed(column: NDArray[Any]) -> Floats:
        return np.asarray(np.bincount(island, column), float)

    plain = GAUSSIAN * local * np.maximum(area / beam, 1.0)
    own = np.maximum(summed(share) - summed(plain), 0.0)
    outside = np.maximum(summed(np.abs(c.total)) - summed(inside), 0.0)
    beyond = (OUTSIDE * outside) ** 2
    spoilt = ~rows | ~np.isfinite(left + share)
    usable = np.bincount(island, spoilt.astype(float)) == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        weight, known = (
            np.where(usable & (own > 0.0), own / (own + part * summed(noise) + beyond), 0.0)[island]
            for part in (PIXELS, 1.0)
        )
    factor = (1.0 - known) * (1.0 + UNKNOWN * weight) ** 2
    return replace(
        c,
        total=c.total + np.where(weight > 0.0, weight * left, 0.0),
        total_err=c.total_err * np.sqrt(factor),
        total_share=shares * factor,
    )
