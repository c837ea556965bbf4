"""Points, resolved Gaussians and close pairs in plain noise: every finder on the same fields.

``python tests/benchmarks/mixture.py OUTPUT --peers FOLDER`` prints completeness, reliability and
F1 of the classical route, sep, photutils and the peers whose virtual environments (``v-aegean``,
``v-bdsf``, ``v-pyse``) lie in FOLDER, and the paired differences over fields with their 68 %
intervals. Seven
tenths of the objects are points, two tenths Gaussians of half to three beams, one tenth pairs 1.2
to 2.5 beams apart; peaks follow dN/dS ~ S^-1.6 from 3 to 1000 rms. The noise is natural (its
autocorrelation is the beam) or, with ``--noise beam``, white noise convolved with the beam.
"""

import argparse
import shutil
from pathlib import Path

import astropy.units as u
import numpy as np
from finders import FINDERS
from peers import PEERS, Sample, compared, markdown, truth_rows, versions, write_image

from cyclades.pipeline.simulation.injection import inject
from cyclades.pipeline.simulation.model import CLASSES, GAUSSIAN, SkyModel
from cyclades.pipeline.simulation.plain import PlainOptions, smooth_maps, unit_noise
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.geometry import Floats, covariance_from_shape, determinant
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background

PIXELS_A_SOURCE = 3500.0
KINDS, SHARES = ("point", "extended", "pair"), (0.7, 0.2, 0.1)
SNR, SLOPE = (3.0, 1000.0), 1.6
MARGIN = 10.0


def peaks(number: int, generator: np.random.Generator) -> Floats:
    """S/N of a power law."""
    low, high = (value ** (1.0 - SLOPE) for value in SNR)
    return np.asarray((low + generator.random(number) * (high - low)) ** (1.0 / (1.0 - SLOPE)))


def mixture(size: int, rms: Floats, psf: PointSpread, generator: np.random.Generator) -> SkyModel:
    """Draw the sky; fluxes in the image's unit times beams."""
    number = round(size**2 / PIXELS_A_SOURCE)
    kind = generator.choice(KINDS, number, p=SHARES)
    snr = peaks(number, generator)
    x, y = generator.uniform(MARGIN, size - 1 - MARGIN, (2, number))
    major = generator.uniform(0.5, 3.0, number) * psf.size
    minor = major * generator.uniform(0.4, 1.0, number)
    shape = covariance_from_shape(major, minor, generator.uniform(0.0, 180.0, number))
    shape[kind != "extended"] = 0.0
    apart, angle = generator.uniform(1.2, 2.5, number) * psf.size, generator.uniform(0, 7, number)
    second = np.flatnonzero(kind == "pair")
    x2 = x[second] + (apart * np.cos(angle))[second]
    y2 = y[second] + (apart * np.sin(angle))[second]
    fainter = np.maximum(SNR[0], snr[second] * generator.uniform(0.3, 1.0, second.size))
    inside = (np.minimum(x2, y2) > MARGIN) & (np.maximum(x2, y2) < size - 1 - MARGIN)
    x, y = np.append(x, x2[inside]), np.append(y, y2[inside])
    snr = np.append(snr, fainter[inside])
    shape = np.concatenate([shape, shape[second][inside]])
    beam = psf.covariances(x, y)
    flux = snr * rms[np.rint(y).astype(int), np.rint(x).astype(int)]
    flux *= np.sqrt(determinant(beam + shape) / determinant(beam))
    owner = np.arange(x.size)
    classes = np.where(shape[:, 0, 0] > 0, CLASSES.index("extended"), CLASSES.index("compact"))
    return SkyModel(
        x, y, flux, shape[:, 0, 0], shape[:, 0, 1], shape[:, 1, 1],
        np.full(x.size, GAUSSIAN), np.zeros(x.size), owner, classes, np.nan,
    )  # fmt: skip


def fields(folder: Path, options: PlainOptions, size: int, seeds: range) -> Sample:
    """Write the images and their truths."""
    images, truths = [], []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        geometry = options.geometry((size, size), (180.0, -30.0))
        psf = geometry.psf
        rms, level = smooth_maps(options, geometry, generator)
        noise = unit_noise(
            (size, size), psf.covariance, generator, autocorrelation=options.autocorrelation
        )
        empty = SkyImage(
            level + rms * noise, wcs=geometry.wcs, psf=psf, unit=u.Jy / u.beam,
            frequency=options.frequency, name=f"seed{seed}",
        )  # fmt: skip
        sky = mixture(size, rms, psf, generator)
        made = inject(empty, sky, Background(level, rms))
        images.append(write_image(made.image, folder / f"seed{seed}.fits"))
        truths.append(made.truth.write(folder / f"seed{seed}")[0])
    note = f"{len(images)} fields of {size} x {size} pixels, {options.autocorrelation} noise"
    return Sample("points, Gaussians and pairs", note, images, list(truths))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--peers", type=Path, help="folder of the peers' virtual environments")
    parser.add_argument("--noise", choices=("natural", "beam"), default="natural")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--fields", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1000, help="of the first field")
    arguments = parser.parse_args()
    folder = arguments.output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = PlainOptions(autocorrelation=arguments.noise)
    seeds = range(arguments.seed, arguments.seed + arguments.fields)
    sample = fields(folder, options, arguments.size, seeds)
    comparison = compared(sample, folder, arguments.peers, PEERS | FINDERS)
    print(f"{versions(arguments.peers)}; {sample.note}\n")
    # There are no artefacts here, and average precision is cut at fewer boxes than a field has.
    left_out = ("on artefacts", "box AP50")
    rows = truth_rows(comparison, reliability=True)
    print(markdown([{k: v for k, v in row.items() if k not in left_out} for row in rows]))
    differences = [
        {
            "difference": f"{row['catalogue']} - {row['minus']}",
            "quantity": str(row["quantity"]),
            "value": f"{row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
        }
        for row in comparison.further["over_fields"]
        if row["minus"]
    ]
    if differences:
        print(f"\n{markdown(differences)}")


if __name__ == "__main__":
    main()
