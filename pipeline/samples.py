"""Sample images to try the chain on: a real one, and a small simulated field with its truth."""

import csv
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.products import prepare_directory
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.geometry import (
    covariance_from_shape,
    gaussian_area,
    inverse,
    shape_from_covariance,
)
from cyclades.stages.core.registry import suggestion

Floats = NDArray[np.float64]

SIZE = 512
PIXEL = 2.0 / 3600.0
"""Degrees."""
BEAM = (10.0 / 3600.0, 8.0 / 3600.0, 30.0)
"""FWHM axes in degrees and position angle in degrees."""
RMS = 50e-6
"""Jy/beam."""
FREQUENCY = 1.4e9
SOURCES = 60
SEED = 2

TRUTH_COLUMNS = (
    *("ra", "dec", "x", "y", "peak_flux", "total_flux"),
    *("major", "minor", "position_angle", "local_rms", "snr"),
)
MAGPIS = Path("magpis", "tests", "data", "image.fits")


def write_magpis(directory: Path) -> list[Path]:
    """Copy the MAGPIS cutout that the astroquery package carries: ``magpis.fits``.

    VLA and Effelsberg, 20 cm, G10.5+0.0, 300 x 300 pixels (Helfand et al. 2006, AJ 131, 2525).

    Raises
    ------
    InputError
        Where astroquery is not installed.
    """
    # found by its place on disk: importing astroquery takes seconds and is of no use here
    package = importlib.util.find_spec("astroquery")
    folders = [] if package is None else package.submodule_search_locations or []
    for folder in folders:
        if (Path(folder) / MAGPIS).is_file():
            target = directory / "magpis.fits"
            shutil.copyfile(Path(folder) / MAGPIS, target)
            return [target]
    raise InputError(
        "The sample 'magpis' is inside the package astroquery, which is not installed; run "
        "'pip install --no-deps astroquery', or take the sample 'simulated'."
    )


def write_simulated(directory: Path) -> list[Path]:
    """Write a simulated field, ``simulated.fits``, and its truth, ``simulated_truth.csv``.

    Noise with the beam as its autocorrelation and an rms that doubles across the field, a smooth
    background, points and Gaussians with signal-to-noise ratios from 3 to 300.
    """
    from astropy.io import fits
    from astropy.wcs import WCS

    data, rows = simulate(np.random.default_rng(SEED))
    header = fits.Header()
    for key, value in {
        "CTYPE1": "RA---SIN", "CRVAL1": 180.0, "CRPIX1": SIZE / 2 + 1, "CDELT1": -PIXEL,
        "CTYPE2": "DEC--SIN", "CRVAL2": -30.0, "CRPIX2": SIZE / 2 + 1, "CDELT2": PIXEL,
        "CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS", "BUNIT": "Jy/beam",
        "BMAJ": BEAM[0], "BMIN": BEAM[1], "BPA": BEAM[2], "FREQ": FREQUENCY,
        "OBJECT": "simulated",
    }.items():  # fmt: skip
        header[key] = value
    image, truth = directory / "simulated.fits", directory / "simulated_truth.csv"
    fits.PrimaryHDU(data, header).writeto(image, overwrite=True)
    ra, dec = WCS(header).wcs_pix2world(rows[:, 0], rows[:, 1], 0)
    with truth.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(TRUTH_COLUMNS)
        for *place, row in zip(ra, dec, rows, strict=True):
            writer.writerow([f"{value:.9g}" for value in (*place, *row)])
    return [image, truth]


def simulate(generator: np.random.Generator) -> tuple[NDArray[np.float32], Floats]:
    """Return a simulated field and its truth.

    Returns
    -------
    data : ndarray, shape (512, 512), float32
        Jy/beam.
    truth : ndarray, shape (n, 9)
        x, y, peak (Jy/beam), total flux (Jy), major and minor (arcsec), position angle (deg),
        local rms (Jy/beam), signal-to-noise ratio.
    """
    # a pixel step along x is a step to the west
    mirror = np.diag([-1.0 / PIXEL, 1.0 / PIXEL])
    beam = mirror @ covariance_from_shape(*BEAM) @ mirror
    ramp = np.linspace(0.0, 1.0, SIZE)
    rms = RMS * (1.0 + ramp[None, :] * np.ones((SIZE, 1)))
    wave = np.sin(2 * np.pi * ramp)
    data = rms * beam_noise(generator, beam) + RMS * (wave[None, :] + wave[:, None])
    truth = []
    for _ in range(SOURCES):
        x, y = generator.uniform(12, SIZE - 13, 2)
        snr = 3.0 * 100.0 ** generator.random()
        sky = covariance_from_shape(*BEAM)
        if generator.random() < 0.3:
            major = generator.uniform(0.5, 2.5) * BEAM[0]
            minor = major * generator.uniform(0.4, 1.0)
            sky = sky + covariance_from_shape(major, minor, generator.uniform(0, 180))
        shape = mirror @ sky @ mirror
        local = rms[round(y), round(x)]
        add_gaussian(data, x, y, snr * local, shape)
        total = snr * local * gaussian_area(shape) / gaussian_area(beam)
        fwhm = shape_from_covariance(sky)
        sizes = [3600 * float(fwhm[0]), 3600 * float(fwhm[1]), float(fwhm[2])]
        truth.append([x, y, snr * local, float(total), *sizes, local, snr])
    return data.astype(np.float32), np.array(truth)


def beam_noise(generator: np.random.Generator, beam: Floats) -> Floats:
    """Unit-rms noise whose autocorrelation is the beam, as natural weighting gives."""
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :]
    q = beam[0, 0] * fx**2 + 2 * beam[0, 1] * fx * fy + beam[1, 1] * fy**2
    white = np.fft.rfft2(generator.standard_normal((SIZE, SIZE)))
    noise = np.fft.irfft2(white * np.exp(-(np.pi**2) * q), s=(SIZE, SIZE))
    return np.asarray(noise / noise.std())


def add_gaussian(data: Floats, x: float, y: float, peak: float, covariance: Floats) -> None:
    """Add a Gaussian to the whole plane, in place."""
    weight = inverse(covariance)
    dx, dy = np.arange(data.shape[1]) - x, (np.arange(data.shape[0]) - y)[:, None]
    q = weight[0, 0] * dx * dx + 2 * weight[0, 1] * dx * dy + weight[1, 1] * dy * dy
    data += peak * np.exp(-0.5 * q)


SAMPLES: dict[str, Callable[[Path], list[Path]]] = {
    "magpis": write_magpis,
    "simulated": write_simulated,
}


def write_sample(name: str, directory: str | Path) -> list[Path]:
    """Write a sample image into a directory and return its files, the image first.

    Raises
    ------
    ConfigurationError
        For an unknown name.
    InputError
        Where the sample's package is not installed.
    OutputError
        Where the directory cannot be written to.
    """
    if name not in SAMPLES:
        raise ConfigurationError(
            f"There is no sample {name!r}{suggestion(name, list(SAMPLES))}; "
            f"choose one of {', '.join(SAMPLES)}."
        )
    return SAMPLES[name](prepare_directory(directory))
