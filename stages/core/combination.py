"""Aligned planes made into one to detect on, and one to measure on.

Detection works on significances: every plane is divided by its own noise, filtered with its own
PSF where asked, and what is then added up no longer depends on units, exposure or seeing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats, inverse
from cyclades.stages.core.noise import noise_autocorrelation
from cyclades.stages.core.products import Background

if TYPE_CHECKING:
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.image import SkyImage

WEIGHTED, CHI_SQUARED = "weighted", "chi_squared"
COMBINATIONS = (WEIGHTED, CHI_SQUARED)
REACH = 4.0
"""Half-size of a filter in its sigmas."""
_SERIES = 40.0
"""Half of chi squared beyond which the logarithm of its tail comes from a series."""


class MatchedSums(NamedTuple):
    """A plane filtered for detection, as the sums that add up over planes.

    Attributes
    ----------
    signal : ndarray, shape (ny, nx)
        ``sum K (data - level) / rms^2`` around each pixel.
    variance : ndarray, shape (ny, nx)
        That of `signal`: ``sum K^2 / rms^2``; zero where the plane is blank.
    """

    signal: Floats
    variance: Floats


def filter_kernel(psf: PointSpread, smoothing: float) -> Floats:
    """Return a Gaussian of `smoothing` times the PSF's widths, with the peak 1."""
    covariance = smoothing**2 * psf.covariance
    half = max(1, int(np.ceil(REACH * np.sqrt(np.linalg.eigvalsh(covariance)[-1]))))
    d = np.arange(-half, half + 1.0)
    p = inverse(covariance)
    square = p[0, 0] * d[None, :] ** 2 + 2.0 * p[0, 1] * d[None, :] * d[:, None]
    return np.asarray(np.exp(-0.5 * (square + p[1, 1] * d[:, None] ** 2)))


def matched_sums(
    image: "SkyImage", background: Background, smoothing: float, *, context: "Context"
) -> MatchedSums:
    """Filter a plane with a Gaussian that is `smoothing` times as wide as its PSF.

    With `smoothing` 1 the significance ``signal / sqrt(variance)`` is the largest that a point
    source can have in noise that is independent from pixel to pixel (North 1963, Proc. IEEE 51,
    1016). The variance allows for the autocorrelation of the noise as measured. Blank pixels
    count for nothing, and are blank in the result.

    Parameters
    ----------
    image : SkyImage
        Needs a PSF where `smoothing` is not 0.
    background : Background
    smoothing : float
        0 for no filter.
    context : Context
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = 1.0 / background.rms.astype(float) ** 2
        signal = (image.data - background.level) * weight
    good = np.isfinite(signal) & np.isfinite(weight)
    signal, weight = np.where(good, signal, 0.0), np.where(good, weight, 0.0)
    if smoothing > 0.0:
        if image.psf is None:
            raise InputError(
                f"{image.name} has no PSF, which the filter of the detection needs; give it with "
                "--beam 1.2arcsec, or --beam stars to measure it, or leave the filter out with "
                "--set detection.filter_beams=0."
            )
        from scipy.signal import oaconvolve

        kernel = filter_kernel(image.psf, smoothing)
        noise = noise_autocorrelation(image, background, context=context)
        correlated = noise.filtered_variance(kernel) / float(np.sum(kernel**2))
        # the kernel is its own mirror image: convolution is correlation
        signal = np.where(good, oaconvolve(signal, kernel, mode="same"), 0.0)
        weight = oaconvolve(weight, kernel**2, mode="same") * max(correlated, 1e-6)
        weight = np.where(good, np.maximum(weight, 0.0), 0.0)
    return MatchedSums(signal, weight)


def normal_equivalent(chi_squared: Floats, planes: NDArray[np.integer]) -> Floats:
    """Return the deviate of a normal law with the tail probability of a sum of squares.

    Noise in the result has the mean 0 and the variance 1 whatever the number of planes, so that a
    threshold means the same false-alarm rate as on a single plane.

    Parameters
    ----------
    chi_squared : ndarray
        Sum of squared significances.
    planes : ndarray of int
        How many were summed; NaN is returned where none was.
    """
    from scipy.special import gammaincc, gammaln, ndtri_exp

    half, a = 0.5 * np.maximum(chi_squared, 0.0), 0.5 * np.maximum(planes, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.log(gammaincc(a, half))
        x = np.maximum(half, _SERIES)
        # Abramowitz & Stegun 6.5.32
        series = 1.0 + (a - 1.0) / x * (1.0 + (a - 2.0) / x * (1.0 + (a - 3.0) / x))
        far = (a - 1.0) * np.log(x) - x - gammaln(a) + np.log(series)
    tail = np.where(half > _SERIES, far, tail)
    # a sum of zero is as unlikely small as a float can tell
    return np.where(planes > 0, -ndtri_exp(np.minimum(tail, -1e-16)), np.nan)


def detection_plane(
    images: "Mapping[str, SkyImage]",
    backgrounds: Mapping[str, Background],
    detection: str,
    smoothing: float = 0.0,
    *,
    context: "Context",
) -> "tuple[SkyImage, Background]":
    """Return the plane that a detector of one plane works on, and its background.

    Parameters
    ----------
    images : mapping of str to SkyImage
        Planes on the same pixels.
    backgrounds : mapping of str to Background
    detection : str
        Name of one of the planes, which is returned as it is where nothing is smoothed;
        ``weighted``: the mean of all, weighted by inverse variances, in units of its noise;
        ``chi_squared``: the sum of the squared significances of all planes (Szalay, Connolly &
        Szokoly 1999, AJ 117, 68) as `normal_equivalent`, which finds sources of any colour, and
        takes deep holes for sources too.
    smoothing : float
        Width of the filter over that of each plane's PSF; see `matched_sums`.
    context : Context

    Returns
    -------
    image : SkyImage
        Significances, blank where all planes are; a pixel that some planes lack has the others'.
        Its PSF is the widest of the planes, as it is after the filter.
    background : Background
        Level 0 and rms 1.

    Raises
    ------
    InputError
        Where planes of different units are to be averaged, or a PSF is missing.
    """
    if detection in images and not smoothing:
        return images[detection], backgrounds[detection]
    chosen = [detection] if detection in images else list(images)
    if detection == WEIGHTED:
        check_units(images)
    shape = images[chosen[0]].shape
    total, variance, count = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
    for name in chosen:
        sums = matched_sums(images[name], backgrounds[name], smoothing, context=context)
        seen = sums.variance > 0.0
        if detection == CHI_SQUARED:
            total[seen] += sums.signal[seen] ** 2 / sums.variance[seen]
        else:
            total += sums.signal
            variance += sums.variance
        count += seen
    if detection == CHI_SQUARED:
        significance = normal_equivalent(total, count)
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            significance = np.where(count > 0, total / np.sqrt(variance), np.nan)
    psf = widest([images[name] for name in chosen])
    if psf is not None:
        psf = PointSpread(psf.covariance * (1.0 + smoothing**2), psf.wcs, psf.constant_on_sky)
    import astropy.units as u

    first = images[chosen[0]]
    plane = first.replace(
        data=significance.astype(np.float32),
        unit=u.dimensionless_unscaled,
        psf=psf,
        mask=None,
        weight=None,
        name=first.name if detection in images else f"{'+'.join(images)}_{detection}",
    )
    blank = np.where(np.isfinite(plane.data), np.float32(0.0), np.float32(np.nan))
    return plane, Background(blank, blank + np.float32(1.0))


def measured_plane(
    images: "Mapping[str, SkyImage]", backgrounds: Mapping[str, Background], detection: str
) -> "tuple[SkyImage, Background]":
    """Return the plane on which positions and shapes are measured, and its background.

    The plane itself where `detection` names one; else the mean of all above their levels, weighted
    by inverse variances, with the mean PSF (likewise weighted). Where planes have different units
    there is no such mean, and the first plane stands in for it.
    """
    if detection in images:
        return images[detection], backgrounds[detection]
    if len({image.unit for image in images.values()}) > 1:
        name = next(iter(images))
        return images[name], backgrounds[name]
    first = next(iter(images.values()))
    total, weights = np.zeros(first.shape), np.zeros(first.shape)
    shares = []
    for name, image in images.items():
        sums = matched_sums(image, backgrounds[name], 0.0, context=None)  # type: ignore[arg-type]
        total += sums.signal
        weights += sums.variance
        shares.append(float(np.median(sums.variance[sums.variance > 0.0], axis=None)))
    with np.errstate(invalid="ignore", divide="ignore"):
        data = np.where(weights > 0.0, total / weights, np.nan)
        rms = np.where(weights > 0.0, weights**-0.5, np.nan)
    psf = None
    if all(image.psf is not None for image in images.values()):
        beams = [image.psf for image in images.values() if image.psf is not None]
        mean = np.average([psf.covariance for psf in beams], axis=0, weights=shares)
        psf = PointSpread(mean, beams[0].wcs, beams[0].constant_on_sky)
    frequency = float(np.average([i.frequency for i in images.values()], weights=shares))
    plane = first.replace(
        data=data.astype(np.float32),
        psf=psf,
        frequency=frequency,
        mask=None,
        weight=None,
        name=f"{'+'.join(images)}_{WEIGHTED}",
    )
    level = np.where(np.isfinite(plane.data), np.float32(0.0), np.float32(np.nan))
    return plane, Background(level, rms.astype(np.float32))


def widest(images: "list[SkyImage]") -> PointSpread | None:
    """Return the PSF with the largest area; None where no image has one."""
    known = [image.psf for image in images if image.psf is not None]
    return max(known, key=lambda psf: psf.area, default=None)


def check_units(images: "Mapping[str, SkyImage]") -> None:
    """Refuse planes of different units where a mean is asked for.

    Raises
    ------
    InputError
    """
    if len({image.unit for image in images.values()}) > 1:
        units = ", ".join(f"{name}: {image.unit}" for name, image in images.items())
        raise InputError(
            f"the planes have different units ({units}); a weighted detection plane needs one unit."
        )
