"""Further finders of the benchmark of plain fields: sep and photutils, which are installed with
the package, and PySE from a virtual environment of its own."""

import csv
from pathlib import Path

import numpy as np
import sep
from astropy.table import Table
from peers import EMPTY, Finder, command, found

from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import read_image

COLUMNS = EMPTY.strip().split(",")
PYSE = """[tool.pyse.image]
vectorized = false
back_size_x = 60
back_size_y = 60
detection_thr = 5.0
analysis_thr = 3.0
deblend_nthresh = 10
nr_threads = 2
[tool.pyse.export]
csv = true
output_dir = "{folder}"
"""


def plane_of(image: Path) -> SkyImage:
    """The image, which these finders need a beam and coordinates of."""
    plane = read_image(image)
    assert plane.psf is not None
    assert plane.wcs is not None
    return plane


def run_photutils(image: Path, folder: Path, binaries: Path) -> dict[str, Path]:
    """photutils as its documentation proposes: mesh background, deblended segments."""
    from photutils.background import Background2D, SExtractorBackground, StdBackgroundRMS
    from photutils.segmentation import SourceCatalog, SourceFinder

    plane = plane_of(image)
    data = plane.data.astype(float)
    mesh = Background2D(
        data, 64, filter_size=3, bkg_estimator=SExtractorBackground(),
        bkg_rms_estimator=StdBackgroundRMS(),
    )  # fmt: skip
    data -= mesh.background
    rms = mesh.background_rms
    path = folder / "photutils.csv"
    segments = SourceFinder(n_pixels=5, progress_bar=False)(data, 4.0 * rms)
    if segments is None:
        path.write_text(EMPTY)
        return {"photutils": path}
    found = SourceCatalog(data, segments, error=rms, wcs=plane.wcs)
    y, x = np.rint([found.y_centroid, found.x_centroid]).astype(int)
    keep = np.asarray(found.max_value) > 5.0 * rms[y, x]
    ra, dec = plane.wcs.all_pix2world(*np.asarray(found.centroid_win).T, 0)
    blank = np.full(keep.size, np.nan)
    area = plane.psf.area
    columns = [ra, dec, blank, blank, found.max_value, rms[y, x], found.kron_flux / area]
    columns += [found.kron_flux_err / np.sqrt(area), blank, blank, blank, rms[y, x]]
    table = Table([np.asarray(c)[keep] for c in columns], names=COLUMNS)
    table.write(path, overwrite=True)
    return {"photutils": path}


def run_sep(image: Path, folder: Path, binaries: Path) -> dict[str, Path]:
    """sep with a mesh background, isophotes at 4 sigma of 5 pixels, peaks above 5, deblended.

    Without a filter, since the beam has smoothed the image; windowed positions and Kron fluxes.
    """
    plane = plane_of(image)
    data = plane.data.copy()
    mesh = sep.Background(data, bw=64, bh=64, fw=3, fh=3)
    data -= mesh.back()
    rms = mesh.rms()
    sep.set_extract_pixstack(10_000_000)
    rows = sep.extract(data, 4.0, err=rms, minarea=5, filter_kernel=None)
    rows = rows[rows["peak"] > 5.0 * rms[rows["ypeak"], rows["xpeak"]]]
    local = rms[rows["ypeak"], rows["xpeak"]]
    x, y, a, b = (rows[name] for name in ("x", "y", "a", "b"))
    theta = np.clip(rows["theta"], -np.pi / 2, np.pi / 2)
    half, _ = sep.flux_radius(data, x, y, 6.0 * a, 0.5, normflux=rows["flux"])
    window = np.maximum(2.0 / 2.35 * half, 1.0)
    windowed_x, windowed_y, flag = sep.winpos(data, x, y, window)
    astray = (flag != 0) | (np.hypot(windowed_x - x, windowed_y - y) > 2.0)
    kron, _ = sep.kron_radius(data, x, y, a, b, theta, 6.0)
    radius = 2.5 * np.maximum(kron, 1.2)
    flux, error, _ = sep.sum_ellipse(data, x, y, a, b, theta, radius, err=rms)
    ra, dec = plane.wcs.all_pix2world(np.where(astray, x, windowed_x),
                                      np.where(astray, y, windowed_y), 0)  # fmt: skip
    blank = np.full(len(rows), np.nan)
    area = plane.psf.area
    columns = [ra, dec, blank, blank, rows["peak"], local, flux / area]
    columns += [error / np.sqrt(area), blank, blank, blank, local]
    path = folder / "sep.csv"
    Table([np.asarray(c) for c in columns], names=COLUMNS).write(path, overwrite=True)
    return {"sep": path}


def run_pyse(image: Path, folder: Path, binaries: Path) -> dict[str, Path]:
    """PySE with deblending and Gaussian fits; its own measurement by moments cannot deblend."""
    settings = folder / "pyse.toml"
    settings.write_text(PYSE.format(folder=folder))
    here = folder / "pyse"
    here.mkdir(exist_ok=True)
    arguments = ["--config-file", settings, "--csv", "--output-dir", here, image]
    command([binaries / "pyse", *arguments], folder)
    path = folder / "pyse.common.csv"
    written = sorted(here.glob("*.csv"))
    if not written:
        return {"pyse": found(path)}
    with written[0].open() as file:
        rows = [
            {name.strip(): float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    # axes are half-widths at half maximum; the rms is the peak over its significance
    values = [
        (
            *(row[name] for name in ("ra", "dec", "ra_err", "dec_err")),
            *(row[name] for name in ("peak", "peak_err", "flux", "flux_err")),
            *(2.0 * row["smaj_asec"], 2.0 * row["smin_asec"], row["theta_celes"]),
            row["peak"] / row["sig"],
        )
        for row in rows
    ]
    Table(rows=values, names=COLUMNS).write(path, overwrite=True)
    return {"pyse": path}


FINDERS: dict[str, Finder] = {"sep": run_sep, "photutils": run_photutils, "v-pyse": run_pyse}
