"""Linear and circular polarisation from fluxes in Stokes I, Q, U and V."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
UNKNOWN_ANGLE = float(np.degrees(np.pi / np.sqrt(12.0)))
"""Standard deviation of a random angle, which no error exceeds: 52 degrees."""


def debias(polarised: ArrayLike, noise: ArrayLike) -> Floats:
    """Take the positive bias out of a polarised intensity.

    ``p - b^2 (1 - exp(-p^2 / b^2)) / (2 p)``, the modified asymptotic estimator of Plaszczynski
    et al. (2014, MNRAS 439, 4048). At high signal to noise it is ``sqrt(p^2 - b^2)`` (Wardle &
    Kronberg 1974, ApJ 194, 249; see Simmons & Stewart 1985, A&A 142, 100, who compare
    estimators), but it goes to zero smoothly instead of ending there.

    Parameters
    ----------
    polarised : array_like
        ``p = sqrt(Q^2 + U^2)``.
    noise : array_like
        Error b across the direction of (Q, U); that of Q and U where the two are equal.
    """
    p, b2 = np.asarray(polarised, float), np.asarray(noise, float) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(p > 0.0, p + b2 * np.expm1(-(p**2) / b2) / (2.0 * p), 0.0 * p))


def polarisation(
    flux: "dict[str, ArrayLike]", error: "dict[str, ArrayLike]", *, significance: float = 3.0
) -> dict[str, NDArray[Any]]:
    """Polarisation of sources from their Stokes fluxes.

    Parameters
    ----------
    flux, error : dict of str to array_like, shape (n,)
        Of ``I``, ``Q`` and ``U``, of ``I`` and ``V``, or of all, at the same positions.
    significance : float
        Sigmas of a detection of Stokes I and of linear polarisation, and of its upper limit.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        With Q and U: ``polarised_flux``, debiased, its error, ``polarised_flux_limit``,
        ``polarised_flux_is_limit``, ``polarisation_angle`` (degrees in [0, 180)) and its error,
        ``polarised_fraction`` and its error. With V: ``circular_fraction`` and its error.
        Fractions are NaN where Stokes I is no detection.
    """
    f = {name: np.asarray(values, float) for name, values in flux.items()}
    e = {name: np.asarray(values, float) for name, values in error.items()}
    result: dict[str, NDArray[Any]] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.where(f["I"] >= significance * e["I"], f["I"], np.nan)
        if "Q" in f:
            q, u, q2, u2 = f["Q"], f["U"], e["Q"] ** 2, e["U"] ** 2
            p2 = q**2 + u**2
            p = np.sqrt(p2)
            along, across = ((a / p2) for a in (q**2 * q2 + u**2 * u2, q**2 * u2 + u**2 * q2))
            observed_err, noise = np.sqrt(along), np.sqrt(across)
            flat = debias(p, noise)
            angle_err = np.degrees(0.5 * noise / p)
            result["polarised_flux"] = flat
            result["polarised_flux_err"] = observed_err
            result["polarised_flux_limit"] = flat + significance * observed_err
            result["polarised_flux_is_limit"] = p < significance * observed_err
            result["polarisation_angle"] = np.degrees(0.5 * np.arctan2(u, q)) % 180.0
            result["polarisation_angle_err"] = np.minimum(angle_err, UNKNOWN_ANGLE)
            result |= _fraction("polarised_fraction", flat, observed_err, total, e["I"])
        if "V" in f:
            result |= _fraction("circular_fraction", f["V"], e["V"], total, e["I"])
    return result


def _fraction(
    name: str, part: Floats, part_err: Floats, total: Floats, total_err: Floats
) -> dict[str, NDArray[Any]]:
    value = part / total
    return {name: value, f"{name}_err": np.hypot(part_err, value * total_err) / total}
