"""Whether the errors of the catalogue are true: ``python tests/benchmarks/errors.py``.

Isolated sources are added to noise and measured from the truth: every detection is the footprint
of the noiseless source, its summit the true position, so that no detection cut selects what is
judged. The catalogue's own columns and errors are compared with the truth, as pulls. Further
tables give what the detection cut adds to that (the whole classical route on the same fields) and
the scatter of positions beside the bound that the noise sets. With ``--data FOLDER``, which holds
``first-rgz-fields-dev`` and ``parkes-1904-66``, sources are also added to real images, away from
what is in them; the background is then the estimated one. The Parkes image has room for few at a
time, which meet the same noise again and again: its standard errors are too small.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.simulation.injection import InjectionOptions, draw_injection
from cyclades.pipeline.simulation.plain import PlainOptions, smooth_maps, unit_noise
from cyclades.stages.background.grid import GridBackground
from cyclades.stages.cataloguing.components import ComponentsCatalogue
from cyclades.stages.characterization.condon import condon_covariance
from cyclades.stages.characterization.gaussian import GaussianCharacterization
from cyclades.stages.core.context import Context
from cyclades.stages.core.deconvolution import fitted_shape
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import (
    SIGMA_TO_FWHM,
    covariance_from_shape,
    gaussian_area,
    inverse,
    shape_from_covariance,
    sky_jacobian,
    sky_positions,
    transform_covariance,
)
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import read_image
from cyclades.stages.core.products import Background, Detections, Segments
from cyclades.stages.core.rendering import render_gaussians

Floats = NDArray[np.float64]

SIZE = 2048
SPACING = 10.0
"""Distance of the injected sources in beams."""
BINS = (5.0, 7.0, 20.0, 200.0)
"""True peak over true rms."""
CUT_BINS = (3.0, 4.0, 5.0, 6.0, 7.0, 10.0, 20.0, 200.0)
SIZES, RATIOS = (0.5, 3.0), (0.4, 1.0)
"""Intrinsic major axis in beams, and axis ratio, of resolved sources."""
FLOOD = 3.0
MATCH = 0.5
"""Largest distance of a detected component from the truth, in FWHM of the source."""
ALWAYS = ("ra", "dec", "peak_flux", "total_flux", "beam_flux")
SHAPES = ("major", "minor", "position_angle")
CLEAR = 3.0
"""Sigmas by which the fitted axes differ where the shape is judged."""
FIRST_BEAM, FIRST_SOUTHERN_BEAM, SOUTHERN = "5.4arcsec", "6.4x5.4arcsec@0deg", 4.5
TARGETS = "targets: |median| < 0.15, robust sigma 0.9-1.1, beyond 3 sigma < 1 %"


@dataclass(frozen=True, eq=False)
class Sources:
    """True sources: pixels, peaks in local rms and in the image's unit, pixel covariances."""

    x: Floats
    y: Floats
    snr: Floats
    peak: Floats
    resolved: NDArray[np.bool_]
    shape: Floats

    def rows(self) -> Floats:
        """Rows (peak, x, y, sxx, sxy, syy)."""
        elements = self.shape[:, [0, 0, 1], [0, 1, 1]]
        return np.column_stack([self.peak, self.x, self.y, elements])


@dataclass(frozen=True, eq=False)
class Field:
    """An image with added sources and its true background (None for a real image)."""

    image: SkyImage
    background: Background | None
    sources: Sources


@dataclass(frozen=True, eq=False)
class Matched:
    """One row a true source: what it is, catalogue minus truth, and the catalogue's errors."""

    snr: Floats
    resolved: NDArray[np.bool_]
    found: NDArray[np.bool_]
    fitted: NDArray[np.bool_]
    called_resolved: NDArray[np.bool_]
    clear: NDArray[np.bool_]
    truly_clear: NDArray[np.bool_]
    measured_snr: Floats
    ratio: Floats
    flux_ratio: Floats
    along: Floats
    pulls: Floats

    @classmethod
    def join(cls, parts: Iterable["Matched"]) -> "Matched":
        """Return the rows of all parts."""
        parts = list(parts)
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))

    def take(self, rows: NDArray[np.bool_]) -> "Matched":
        """Return some rows."""
        return Matched(*(getattr(self, field.name)[rows] for field in fields(self)))

    def pull(self, name: str, *, truly: bool = False) -> Floats:
        """Pulls of a column, of the sources that it is judged by.

        Shapes are judged where the fitted axes differ clearly, as a user would select them, or
        where the true ones do (by the errors expected there), which no scatter of the fit selects.
        """
        value = self.pulls[:, (*ALWAYS, *SHAPES).index(name)]
        if name in SHAPES:
            value = value[self.truly_clear if truly else self.called_resolved & self.clear]
        return value[np.isfinite(value)]


def draw_sources(
    image: SkyImage,
    rms: NDArray[np.float32],
    x: Floats,
    y: Floats,
    generator: np.random.Generator,
    bins: tuple[float, ...] = BINS,
    resolved: float = 0.5,
) -> Sources:
    """Points and resolved Gaussians, as many in each bin of S/N and uniform in its logarithm."""
    assert image.psf is not None
    n = len(x)
    which = generator.integers(0, len(bins) - 1, n)
    low, high = np.log(np.array(bins))[[which, which + 1]]
    snr = np.exp(generator.uniform(low, high))
    major = generator.uniform(*SIZES, n) * image.psf.size
    minor = major * generator.uniform(*RATIOS, n)
    own = covariance_from_shape(major, minor, generator.uniform(0.0, 180.0, n))
    wide = generator.random(n) < resolved
    own[~wide] = 0.0
    local = rms[np.rint(y).astype(int), np.rint(x).astype(int)].astype(float)
    return Sources(x, y, snr, snr * local, wide, image.psf.covariances(x, y) + own)


def simulated_field(
    options: PlainOptions,
    seed: int,
    *,
    size: int = SIZE,
    bins: tuple[float, ...] = BINS,
    resolved: float = 0.5,
) -> Field:
    """Sources on a jittered lattice in simulated noise on smooth maps of level and rms."""
    generator = np.random.default_rng(seed)
    geometry = options.geometry((size, size), (180.0, -30.0))
    psf = geometry.psf
    rms, level = smooth_maps(options, geometry, generator)
    noise = unit_noise(
        (size, size), psf.covariance, generator, autocorrelation=options.autocorrelation
    )
    image = SkyImage(
        level + rms * noise,
        wcs=geometry.wcs,
        psf=psf,
        unit=u.Jy / u.beam,
        frequency=options.frequency,
    )
    step = SPACING * psf.size
    line = np.arange(0.5 * step, size - 0.5 * step, step)
    y, x = (v.ravel() for v in np.meshgrid(line, line, indexing="ij"))
    x, y = (v + generator.uniform(-1.0, 1.0, v.size) * psf.size for v in (x, y))
    sources = draw_sources(image, rms, x, y, generator, bins, resolved)
    data = image.data + render_gaussians(image.shape, sources.rows())
    return Field(image.replace(data=data), Background(level, rms), sources)


def real_field(image: SkyImage, seed: int, number: int) -> Field | None:
    """Sources added to a real image away from its own; None where there is no room."""
    assert image.psf is not None
    generator = np.random.default_rng(seed)
    background = GridBackground().estimate(image, context=Context())
    options = InjectionOptions(
        number=number, separation=SPACING, avoid=2.0, extended=0.5, extended_size=(0.5, 1.0)
    )
    try:
        places = draw_injection(image, background, options, generator)
    except InputError:
        return None
    sources = draw_sources(image, background.rms, places.x, places.y, generator)
    data = image.data + render_gaussians(image.shape, sources.rows())
    return Field(image.replace(data=data), None, sources)


def true_detections(field: Field, rms: NDArray[np.float32]) -> Detections:
    """Detections made of the truth alone: footprints of the noiseless sources.

    A footprint is what flooding would find without noise: the pixels above `FLOOD` local rms, and
    never less than the half-maximum ellipse of the beam.
    """
    image, sources = field.image, field.sources
    assert image.psf is not None
    ny, nx = image.shape
    beams = image.psf.covariances(sources.x, sources.y)
    pieces, boxes = [], []
    for row, shape, beam in zip(sources.rows(), sources.shape, beams, strict=True):
        peak, x, y = row[:3]
        local = float(rms[round(y), round(x)])
        depth = np.sqrt(2.0 * np.log(max(peak / (FLOOD * local), 1.0 + 1e-9)))
        half = np.sqrt(2.0 * np.log(2.0))
        hx, hy = (
            int(np.ceil(max(depth * np.sqrt(shape[i, i]), half * np.sqrt(beam[i, i])))) + 1
            for i in (0, 1)
        )
        x0, x1 = max(0, round(x) - hx), min(nx, round(x) + hx + 1)
        y0, y1 = max(0, round(y) - hy), min(ny, round(y) + hy + 1)
        dx, dy = np.arange(x0, x1)[None, :] - x, np.arange(y0, y1)[:, None] - y
        inside = np.zeros((y1 - y0, x1 - x0), bool)
        for covariance, radius in ((shape, depth), (beam, half)):
            p = inverse(covariance)
            q = p[0, 0] * dx**2 + 2.0 * p[0, 1] * dx * dy + p[1, 1] * dy**2
            inside |= q <= radius**2
        rows, columns = np.nonzero(inside)
        pieces.append((rows + y0) * nx + columns + x0)
        boxes.append([columns.min() + x0, rows.min() + y0, columns.max() + x0, rows.max() + y0])
    n = len(sources.x)
    return Detections(
        shape=image.shape,
        box=np.array(boxes, float) + np.array([-0.5, -0.5, 0.5, 0.5]),
        score=np.ones(n),
        parent=np.full(n, -1),
        segments=Segments.from_lists(pieces),
        summit=np.column_stack([sources.x, sources.y]),
    )


def measured(
    field: Field, background: Background, stage: GaussianCharacterization | None = None
) -> Matched:
    """Measure from the truth and catalogue; one row a true source."""
    stage = GaussianCharacterization() if stage is None else stage
    detections = true_detections(field, background.rms)
    context = Context(workers=2)
    components = stage.measure(field.image, background, detections, context=context)
    catalogue = ComponentsCatalogue().build(
        field.image, background, detections, components, context=context
    )
    return matched(field, catalogue.components, nearest=True)


def matched(field: Field, table: object, *, nearest: bool) -> Matched:
    """Compare catalogued components with the truth.

    With `nearest` every true source has its component; otherwise one within `MATCH` FWHM is
    looked for, and a source without one counts as not found.
    """
    from scipy.spatial import KDTree

    image, sources = field.image, field.sources
    assert image.wcs is not None
    assert image.psf is not None

    def column(name: str, unit: str | None = None) -> Floats:
        value = table[name]  # type: ignore[index]
        return np.asarray(value.to_value(unit) if unit else getattr(value, "value", value))

    distance, at = KDTree(np.stack([column("x", "pix"), column("y", "pix")], -1)).query(
        np.stack([sources.x, sources.y], -1)
    )
    size = SIGMA_TO_FWHM * np.linalg.det(sources.shape) ** 0.25
    found = distance < (np.inf if nearest else MATCH) * size
    position = sky_positions(image.wcs, sources.x, sources.y)
    jacobian = 3600.0 * sky_jacobian(image.wcs, sources.x, sources.y)
    major, minor, angle = shape_from_covariance(transform_covariance(sources.shape, jacobian))
    beams = image.psf.covariances(sources.x, sources.y)
    total = sources.peak * gaussian_area(sources.shape) / gaussian_area(beams)
    ra, dec = np.asarray(position.ra.deg), np.asarray(position.dec.deg)
    offsets = {
        "ra": ((column("ra", "deg")[at] - ra + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec)),
        "dec": column("dec", "deg")[at] - dec,
        "peak_flux": column("peak_flux")[at] - sources.peak,
        "total_flux": column("total_flux")[at] - total,
        # what a point source's total flux can be read from; of others it says nothing
        "beam_flux": np.where(sources.resolved, np.nan, column("beam_flux")[at] - total),
        "major": column("major", "arcsec")[at] - major,
        "minor": column("minor", "arcsec")[at] - minor,
        "position_angle": (column("position_angle", "deg")[at] - angle + 90.0) % 180.0 - 90.0,
    }
    units = ("deg", "deg", None, None, None, "arcsec", "arcsec", "deg")
    errors = {
        name: column(f"{name}_err", unit)[at] for name, unit in zip(offsets, units, strict=True)
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        pulls = np.stack([offsets[name] / errors[name] for name in offsets], -1)
        fitted_axes = column("major", "arcsec")[at] - column("minor", "arcsec")[at]
        clear = fitted_axes > CLEAR * np.hypot(errors["major"], errors["minor"])
    # errors expected at the truth: those of the fit are small where it came out small
    noise = SIGMA_TO_FWHM * np.sqrt(gaussian_area(beams) / (2.0 * np.pi))
    one = np.ones(len(noise))
    expected, _ = condon_covariance(sources.snr, sources.shape, one, noise)
    true = fitted_shape(sources.shape, expected[:, 3:, 3:])
    truly_clear = true.major - true.minor > CLEAR * np.hypot(true.major_err, true.minor_err)
    # the beam's sigmas on the sky, for positions
    beam = transform_covariance(beams, jacobian / 3600.0)
    sigma = np.sqrt(beam[:, [0, 1], [0, 1]])
    along = np.stack([offsets["ra"], offsets["dec"]], -1) / sigma * sources.snr[:, None]
    rms = sources.peak / sources.snr
    return Matched(
        snr=sources.snr,
        resolved=sources.resolved,
        found=found,
        fitted=column("fit_type")[at] == "gaussian",
        called_resolved=column("resolved")[at].astype(bool),
        clear=clear,
        truly_clear=truly_clear,
        measured_snr=np.where(found, column("peak_flux")[at] / rms, np.nan),
        ratio=column("peak_flux")[at] / sources.peak,
        flux_ratio=column("total_flux")[at] / total,
        along=along,
        pulls=pulls,
    )


def statistics(z: Floats) -> tuple[float, float, float, float, float, float]:
    """Median, robust sigma, share beyond 3, and the standard errors of the three.

    Those of median and sigma are the asymptotic ones of a normal sample: 1.2533 and 1.1664 times
    sigma / sqrt(n).
    """
    n = len(z)
    median = float(np.median(z))
    sigma = float(1.4826 * np.median(np.abs(z - median)))
    share = float(np.mean(np.abs(z) > 3.0))
    share_error = np.sqrt(max(share * (1.0 - share), 0.0027) / n)
    return median, sigma, share, 1.2533 * sigma / n**0.5, 1.1664 * sigma / n**0.5, share_error


def pull_rows(name: str, made: Matched, bins: tuple[float, ...] = BINS) -> list[dict[str, str]]:
    """Pulls by kind, S/N and column; figures beyond a target by 2 standard errors are bold."""
    rows = []
    for resolved in (False, True):
        for low, high in pairwise(bins):
            part = made.take((made.resolved == resolved) & (made.snr >= low) & (made.snr < high))
            judged = [(column, False) for column in (*ALWAYS, *SHAPES)]
            for column, truly in (*judged, *((column, True) for column in SHAPES)):
                z = part.pull(column, truly=truly)
                if len(z) < 30 or (column in SHAPES and not resolved):
                    continue
                median, sigma, share, e_median, e_sigma, e_share = statistics(z)
                bad = (
                    abs(median) - 2.0 * e_median > 0.15,
                    abs(sigma - 1.0) - 2.0 * e_sigma > 0.1,
                    share - 2.0 * e_share > 0.01,
                )
                texts = (
                    f"{median:+.3f} ± {e_median:.3f}",
                    f"{sigma:.3f} ± {e_sigma:.3f}",
                    f"{100 * share:.2f} ± {100 * e_share:.2f}",
                )
                shown = [f"**{t}**" if b else t for t, b in zip(texts, bad, strict=True)]
                rows.append(
                    {
                        "sample": name,
                        "sources": "resolved" if resolved else "points",
                        "S/N": f"{low:g}-{high:g}",
                        "column": f"{column}, by true axes" if truly else column,
                        "n": str(len(z)),
                        "median": shown[0],
                        "robust sigma": shown[1],
                        "beyond 3, %": shown[2],
                    }
                )
    return rows


def cut_rows(name: str, made: Matched) -> list[dict[str, str]]:
    """Flux ratios of detected sources, by true and by measured peak S/N."""
    rows = []
    for low, high in pairwise(CUT_BINS):
        row = {"sample": name, "S/N": f"{low:g}-{high:g}"}
        for label, snr in (("true", made.snr), ("measured", made.measured_snr)):
            inside = (snr >= low) & (snr < high)
            found = made.take(inside & made.found)
            if label == "true":
                row["found"] = f"{found.found.sum()} / {inside.sum()}"
            for quantity, ratio in (("peak", found.ratio), ("total", found.flux_ratio)):
                text = "-"
                if len(ratio) >= 10:
                    spread = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))
                    text = f"{np.median(ratio):.3f} ± {1.2533 * spread / len(ratio) ** 0.5:.3f}"
                row[f"{quantity}, by {label} S/N"] = text
        rows.append(row)
    return rows


def position_rows(name: str, made: Matched) -> list[dict[str, str]]:
    """Scatter of positions of points over ``sigma_beam / SNR``, the bound in natural noise."""
    rows = []
    for low, high in ((10.0, 20.0), (20.0, 200.0), (10.0, 200.0)):
        part = made.along[~made.resolved & (made.snr >= low) & (made.snr < high)]
        n = len(part)
        shown = [
            f"{part[:, k].std():.3f} ± {part[:, k].std() / np.sqrt(2.0 * n):.3f}" for k in (0, 1)
        ]
        rows.append(
            {
                "sample": name,
                "S/N": f"{low:g}-{high:g}",
                "n": str(n),
                "ra": shown[0],
                "dec": shown[1],
            }
        )
    return rows


def real_images(data: Path) -> Iterator[tuple[str, SkyImage, int, int]]:
    """Name of the sample, image, sources to add, and how often."""
    for path in sorted((data / "first-rgz-fields-dev").glob("*.fits.gz")):
        southern = float(path.name.split("_")[1][7:]) < SOUTHERN
        yield "FIRST", read_image(path, beam=FIRST_SOUTHERN_BEAM if southern else FIRST_BEAM), 20, 2
    yield "Parkes", read_image(data / "parkes-1904-66" / "1904-66_SIN.fits"), 8, 60


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows as a table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[n] for n in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real images")
    parser.add_argument("--fields", type=int, default=10, help="simulated fields a noise")
    parser.add_argument("--seed", type=int, default=1000, help="of the first field")
    parser.add_argument(
        "--beam",
        type=float,
        nargs=3,
        default=(10.0, 8.0, 30.0),
        metavar=("MAJOR", "MINOR", "ANGLE"),
        help="arcsec, arcsec and degrees; a pixel is 2 arcsec",
    )
    parser.add_argument("--noise", nargs="+", default=["natural", "beam"])
    arguments = parser.parse_args()
    pulls: list[dict[str, str]] = []
    cuts: list[dict[str, str]] = []
    places: list[dict[str, str]] = []
    seeds = range(arguments.seed, arguments.seed + arguments.fields)
    pipeline = Pipeline.from_route("classical")
    major, minor, angle = arguments.beam
    for noise in arguments.noise:
        options = PlainOptions(
            beam_major=major, beam_minor=minor, beam_angle=angle, autocorrelation=noise
        )
        true, estimated, cut = [], [], []
        for seed in seeds:
            field = simulated_field(options, seed)
            assert field.background is not None
            true.append(measured(field, field.background))
            made = GridBackground().estimate(field.image, context=Context())
            estimated.append(measured(field, made))
            # the cut is judged on a field of its own with sources on both sides of it
            field = simulated_field(options, seed, bins=CUT_BINS)
            catalogue = pipeline.run(field.image, workers=2).catalogue
            assert catalogue is not None
            cut.append(matched(field, catalogue.components, nearest=False))
        for name, parts in (("true", true), ("estimated", estimated)):
            joined = Matched.join(parts)
            pulls += pull_rows(f"{noise}, {name} background", joined)
            places += position_rows(f"{noise}, {name} background", joined)
        cut_made = Matched.join(cut)
        for name, wide in (("points", False), ("resolved", True)):
            cuts += cut_rows(f"{noise}, {name}", cut_made.take(cut_made.resolved == wide))
    if arguments.data is not None:
        parts: dict[str, list[Matched]] = {}
        for name, image, number, repeats in real_images(arguments.data):
            for seed in range(repeats):
                drawn = real_field(image, arguments.seed + seed, number)
                if drawn is not None:
                    made = GridBackground().estimate(drawn.image, context=Context())
                    parts.setdefault(name, []).append(measured(drawn, made))
        for name, real in parts.items():
            pulls += pull_rows(f"{name}, estimated background", Matched.join(real))
    print(f"Pulls of the catalogue, fits started at the truth; {TARGETS}\n")
    print(markdown(pulls))
    print("\nMeasured over true flux of detected sources, whole classical route, medians\n")
    print(markdown(cuts))
    print(
        "\nPosition errors of points, in beam sigmas over S/N (target in natural noise <= 1.05)\n"
    )
    print(markdown(places))


if __name__ == "__main__":
    main()
