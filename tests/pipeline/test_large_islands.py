"""Islands of hundreds of peaks are measured in seconds, and their components found."""

import time

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import gaussian_filter

from cyclades.pipeline.cli import main
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import covariance_from_shape
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.core.segments import nearest_summit
from cyclades.stages.detection.islands import IslandsDetection

BEAM = (5.0, 4.0, 150.0)
"""FWHM axes in pixels and angle as covariances have it, in (x, y)."""
SPACING = 7.0


def crowded(side):
    """A square of side^2 sources that touch each other above 5 sigma, on natural noise."""
    rng = np.random.default_rng(1)
    size = int(SPACING * side) + 60
    grid = 30 + SPACING * np.arange(side)
    x, y = (g.ravel() + rng.uniform(-1, 1, side**2) for g in np.meshgrid(grid, grid))
    covariance = covariance_from_shape(*BEAM)
    shape = covariance[[0, 0, 1], [0, 1, 1]]
    rows = np.column_stack([rng.uniform(30, 60, side**2), x, y, np.tile(shape, (side**2, 1))])
    fx, fy = np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None]
    q = covariance[0, 0] * fx**2 + 2 * covariance[0, 1] * fx * fy + covariance[1, 1] * fy**2
    white = np.fft.rfft2(rng.standard_normal((size, size)))
    noise = np.fft.irfft2(white * np.exp(-(np.pi**2) * q), s=(size, size))
    return (render_gaussians((size, size), rows) + noise / noise.std()).astype(np.float32), rows


def run(folder, data, *options):
    """Run the command with level zero and rms one, and return the catalogue and CPU seconds."""
    for name, plane in {"X": data, "level": 0 * data, "rms": 0 * data + 1}.items():
        header = fits.Header()
        header["BUNIT"] = "Jy/beam"
        fits.PrimaryHDU(plane, header).writeto(folder / f"{name}.fits")
    start = time.process_time()
    with pytest.raises(SystemExit) as stop:
        main(
            ["run", f"{folder / 'X.fits'}", "-o", f"{folder}", "--beam", "5x4pixel@150deg", "-q",
             "--background", f"{folder / 'level.fits'}", "--rms", f"{folder / 'rms.fits'}",
             *options]
        )  # fmt: skip
    seconds = time.process_time() - start
    assert stop.value.code == 0
    return read_catalogue(folder / "X.catalogue.fits"), seconds


def test_a_crowded_island_of_400_sources(tmp_path):
    data, rows = crowded(20)
    catalogue, seconds = run(tmp_path, data)
    assert np.asarray(catalogue.islands["n_components"]).max() >= 390
    # half a second at rest; what stalls takes minutes
    assert seconds < 10
    found = {
        name: np.asarray(catalogue.components[name]) for name in ("x", "y", "peak_flux", "flags")
    }
    distance = np.hypot(
        np.subtract.outer(rows[:, 1], found["x"]), np.subtract.outer(rows[:, 2], found["y"])
    )
    near = distance.min(axis=1) < 1.5
    assert near.mean() > 0.97
    ratio = found["peak_flux"][distance.argmin(axis=1)][near] / rows[near, 0]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    assert np.all(found["flags"] & Flag.TOO_MANY_COMPONENTS | (found["flags"] & Flag.BLENDED == 0))


def test_an_island_that_percolates_through_the_noise(tmp_path):
    """A flood threshold far too low joins most of the noise peaks of an image."""
    data, _ = crowded(3)
    rng = np.random.default_rng(4)
    noise = gaussian_filter(rng.standard_normal((400, 400)), 2.0)
    plane = (noise / noise.std()).astype(np.float32)
    plane[: data.shape[0], : data.shape[1]] += data
    low = ("--set", "detection.seed_threshold=1.5", "--set", "detection.flood_threshold=0.1")
    catalogue, seconds = run(tmp_path, plane, *low, "--set", "detection.persistence=0.5")
    assert np.asarray(catalogue.islands["n_components"]).max() > 250
    assert seconds < 20


def test_the_time_of_deblending_grows_with_the_island_and_not_with_its_square():
    """All distances between pixels and summits of this island would take gigabytes."""
    data, _ = crowded(40)
    image = SkyImage(data, psf=PointSpread(covariance_from_shape(*BEAM)))
    flat = Background(0 * data, 0 * data + 1)
    with Context() as context:
        start = time.process_time()
        detections = IslandsDetection().detect(image, flat, context=context)
        seconds = time.process_time() - start
    counts = np.bincount(detections.island_of[detections.leaves])
    assert counts.max() >= 1550
    # 0.1 s at rest, where a dense table took 9 s
    assert seconds < 2.5
    segments = detections.segments
    island = int(np.argmax(counts))
    children = np.flatnonzero(detections.parent == island)
    assert segments.lengths[children].sum() == segments.lengths[island]
    together = np.concatenate([segments[child] for child in children])
    np.testing.assert_array_equal(np.sort(together), np.sort(segments[island]))


def test_many_summits_share_pixels_as_few_do():
    """The tree gives what the table of all distances gives."""
    rng = np.random.default_rng(3)
    psf = PointSpread(covariance_from_shape(9.0, 4.0, 25.0))
    summits = rng.uniform(0, 100, (200, 2))
    pixels = rng.choice(100 * 100, 3000, replace=False)
    many = nearest_summit(pixels, summits, 100, psf)
    y, x = np.divmod(pixels, 100)
    offset = np.stack([x, y], -1)[:, None] - summits
    distance = np.einsum("pni,ij,pnj->pn", offset, np.linalg.inv(psf.covariance), offset)
    np.testing.assert_array_equal(many, distance.argmin(axis=1))
