"""Errors of Gaussian fits after Condon (1997, PASP 109, 166), for comparison.

They assume a fit over the whole plane and noise whose correlation is a round Gaussian of the
beam's size; against simulations they are off by up to 40 % (the sandwich covariance of
`cyclades.stages.characterization.fit_errors` is not).
"""

import numpy as np

from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, transform_covariance


def signal_to_noise(
    ratio: Floats, major: Floats, minor: Floats, noise: Floats, along: float, across: float
) -> Floats:
    """Overall signal-to-noise ratio of a fit in correlated noise, equation 41.

    Parameters
    ----------
    ratio : ndarray
        Peak over rms.
    major, minor, noise : ndarray
        FWHM of the fitted axes and of the noise's correlation (the beam), in pixels.
    along, across : float
        The exponents alpha_M and alpha_m: 3/2 and 3/2 for the peak, 5/2 and 1/2 for the major
        axis and the position along it, 1/2 and 5/2 for the minor axis, the position along it and
        the angle.
    """
    square = major * minor / (4.0 * noise**2) * ratio**2
    square *= (1.0 + (noise / major) ** 2) ** along * (1.0 + (noise / minor) ** 2) ** across
    return np.asarray(np.sqrt(square))


def condon_covariance(
    peak: Floats, shapes: Floats, rms: Floats, noise: Floats
) -> tuple[Floats, Floats]:
    """Covariance of (peak, x, y, sxx, sxy, syy), and the relative error of the total flux.

    Parameters
    ----------
    peak, rms : ndarray, shape (n,)
        In the image's unit.
    shapes : ndarray, shape (n, 2, 2)
        Fitted covariances in pixels squared.
    noise : ndarray, shape (n,)
        FWHM of the noise's correlation in pixels.

    Returns
    -------
    covariance : ndarray, shape (n, 6, 6)
    relative : ndarray, shape (n,)
        Error of the total flux over the total flux, equation 34.
    """
    n = len(peak)
    values, vectors = np.linalg.eigh(shapes)
    minor, major = (SIGMA_TO_FWHM * np.sqrt(values)).T
    ratio = np.abs(peak) / rms
    amplitude = np.sqrt(2.0) / signal_to_noise(ratio, major, minor, noise, 1.5, 1.5)
    along = np.sqrt(2.0) / signal_to_noise(ratio, major, minor, noise, 2.5, 0.5)
    across = np.sqrt(2.0) / signal_to_noise(ratio, major, minor, noise, 0.5, 2.5)
    own = np.zeros((n, 3, 3))
    # Variances of (s_mm, s_mM, s_MM) along the axes; the angle's error of equation 21 holds
    # there without its singularity for round profiles.
    own[:, 0, 0] = (2.0 * values[:, 0] * across) ** 2
    own[:, 1, 1] = (np.sqrt(2.0) * across) ** 2 * values[:, 0] * values[:, 1]
    own[:, 2, 2] = (2.0 * values[:, 1] * along) ** 2
    position = np.zeros((n, 2, 2))
    position[:, 0, 0] = values[:, 0] * across**2
    position[:, 1, 1] = values[:, 1] * along**2
    turn = np.zeros((n, 3, 3))
    for row, (i, j) in enumerate([(0, 0), (0, 1), (1, 1)]):
        turn[:, row, 0] = vectors[:, i, 0] * vectors[:, j, 0]
        turn[:, row, 1] = vectors[:, i, 0] * vectors[:, j, 1] + vectors[:, i, 1] * vectors[:, j, 0]
        turn[:, row, 2] = vectors[:, i, 1] * vectors[:, j, 1]
    covariance = np.zeros((n, 6, 6))
    covariance[:, 0, 0] = (peak * amplitude) ** 2
    covariance[:, 1:3, 1:3] = transform_covariance(position, vectors)
    covariance[:, 3:, 3:] = turn @ own @ np.swapaxes(turn, 1, 2)
    relative = np.sqrt(amplitude**2 + noise**2 / (major * minor) * (along**2 + across**2))
    return covariance, relative
