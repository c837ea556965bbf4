"""Variability indices of light curves made of forced fluxes."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def variability(flux: ArrayLike, error: ArrayLike) -> dict[str, NDArray[Any]]:
    """Amplitude and significance of variability.

    With N epochs and weights w = 1 / error^2,
    ``V = s / mean(S)`` with s the sample standard deviation, and
    ``eta = N / (N - 1) (mean(w S^2) - mean(w S)^2 / mean(w))``, the reduced chi-squared about the
    weighted mean (Swinbank et al. 2015, Astron. Comput. 11, 25; Rowlinson et al. 2019, Astron.
    Comput. 27, 111). Of a steady source, ``(N - 1) eta`` follows chi-squared with N - 1 degrees
    of freedom. Fluxes that are no detections, negative ones included, count as they are: limits
    in their place would bias both.

    Parameters
    ----------
    flux, error : array_like, shape (n, epochs)
        NaN where not measured.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``mean_flux`` (weighted) and its error, ``variability_v``, ``variability_eta`` and
        ``n_epochs``; the indices are NaN for fewer than two epochs, and V where the mean is not
        positive.
    """
    f, e = np.asarray(flux, float), np.asarray(error, float)
    used = np.isfinite(f) & np.isfinite(e) & (e > 0.0)
    count = used.sum(axis=1)
    weight = np.where(used, 1.0 / np.where(used, e, 1.0) ** 2, 0.0)
    value = np.where(used, f, 0.0)
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        weighted = (weight * value).sum(axis=1) / total
        mean = value.sum(axis=1) / count
        spread = np.where(used, value - mean[:, None], 0.0)
        scatter = np.sqrt((spread**2).sum(axis=1) / (count - 1))
        away = value - weighted[:, None]
        eta = (weight * np.where(used, away, 0.0) ** 2).sum(axis=1) / (count - 1)
        several = count > 1
        return {
            "mean_flux": weighted,
            "mean_flux_err": np.where(count > 0, 1.0 / np.sqrt(total), np.nan),
            "variability_v": np.where(several & (mean > 0.0), scatter / mean, np.nan),
            "variability_eta": np.where(several, eta, np.nan),
            "n_epochs": count,
        }
