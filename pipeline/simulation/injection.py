"""Sources injected into a real image, and the completeness that they give."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from cyclades.pipeline.simulation.model import GAUSSIAN, Floats, SkyModel
from cyclades.pipeline.simulation.objects import candidates, observe_objects
from cyclades.pipeline.simulation.observation import Artefacts
from cyclades.pipeline.simulation.render import drawn
from cyclades.pipeline.simulation.truth import Truth, make_truth
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import covariance_from_shape, gaussian_area
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.masking import source_mask
from cyclades.stages.core.products import Background
from cyclades.stages.core.rendering import add_gaussians
from cyclades.stages.core.segments import significance_map
from cyclades.stages.core.stage import parameter

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.pipeline.chain import Pipeline
    from cyclades.pipeline.comparison.tables import ComparisonTable

CAVEAT = (
    "Completeness from sources injected into the image plane: injection does not reproduce CLEAN "
    "bias, sidelobes or calibration errors, which an injected source has not gone through."
)
"""Must go with every figure that comes from injection."""

SNR_EDGES = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 50.0, 100.0)
COMPACT_CLASS, EXTENDED_CLASS = 0, 1
CHUNK = 4096
EDGE_FWHM = 1.5
"""Distance kept from blank pixels and the edge, in FWHM of the largest source."""


class InjectionOptions(BaseModel):
    """What to inject, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    number: int = parameter(200, "Sources to inject, as far as there is room.", ge=1)
    lowest_snr: float = parameter(3.0, "Faintest peak.", unit="local rms", gt=0.0)
    highest_snr: float = parameter(
        100.0, "Brightest peak; peaks are uniform in the logarithm.", unit="local rms", gt=0.0
    )
    extended: float = parameter(0.0, "Share of Gaussians wider than the beam.", ge=0.0, le=1.0)
    extended_size: tuple[float, float] = parameter(
        (0.5, 3.0), "Least and largest intrinsic major axis (FWHM) of these.", unit="beams"
    )
    separation: float = parameter(
        6.0, "Least distance between injected sources.", unit="beams", ge=0.0
    )
    avoid: float = parameter(
        2.0,
        "Distance kept from the pixels of sources that are in the image; 0 injects anywhere.",
        unit="beams",
        ge=0.0,
    )


@dataclass(frozen=True, eq=False)
class Injection:
    """An image with injected sources.

    Parameters
    ----------
    image : SkyImage
    truth : Truth
        Of the injected sources only, in the image's unit.
    """

    image: SkyImage
    truth: Truth


def draw_injection(
    image: SkyImage,
    background: Background,
    options: InjectionOptions,
    generator: np.random.Generator,
) -> SkyModel:
    """Draw sources to inject, with peaks uniform in the logarithm of their S/N.

    Parameters
    ----------
    image : SkyImage
    background : Background
        Its rms gives the fluxes; sources in the image are islands above 4.5 rms.
    options : InjectionOptions
    generator : numpy.random.Generator

    Returns
    -------
    SkyModel
        Fluxes are in the image's unit times beams. Fewer sources than asked for where there is
        no room for more.

    Raises
    ------
    InputError
        Where the image has no beam, or no room for a single source.
    """
    psf = _beam(image)
    x, y = _places(image, background, psf, options, generator)
    local = background.rms[np.rint(y).astype(int), np.rint(x).astype(int)].astype(float)
    return draw_sky(x, y, local, psf, options, generator, image.frequency)


def draw_sky(
    x: Floats,
    y: Floats,
    rms: Floats,
    psf: PointSpread,
    options: InjectionOptions,
    generator: np.random.Generator,
    frequency: float,
) -> SkyModel:
    """Draw fluxes and shapes of sources to inject at positions.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Pixels.
    rms : ndarray, shape (n,)
        Noise there, in the image's unit.
    psf : PointSpread
        Of the plane that the pixels are of.
    options : InjectionOptions
    generator : numpy.random.Generator
    frequency : float
        Hz.

    Returns
    -------
    SkyModel
        As `draw_injection` returns it.
    """
    n = len(x)
    low, high = np.log([options.lowest_snr, max(options.highest_snr, options.lowest_snr)])
    snr = np.exp(generator.uniform(low, high, n))
    # drawn for all, so that the share of extended sources does not change the other draws
    major = generator.uniform(*options.extended_size, n) * psf.size
    minor = major * generator.uniform(0.3, 1.0, n)
    wide = generator.random(n) < options.extended
    shape = covariance_from_shape(major, minor, generator.uniform(0.0, 180.0, n))
    shape[~wide] = 0.0
    beam = psf.covariances(x, y)
    return SkyModel(
        x=x,
        y=y,
        flux=snr * rms * gaussian_area(beam + shape) / gaussian_area(beam),
        sxx=shape[:, 0, 0],
        sxy=shape[:, 0, 1],
        syy=shape[:, 1, 1],
        kind=np.full(n, GAUSSIAN, np.int64),
        spectral_index=np.zeros(n),
        owner=np.arange(n),
        object_class=np.where(wide, EXTENDED_CLASS, COMPACT_CLASS).astype(np.int64),
        frequency=frequency,
    )


def _beam(image: SkyImage) -> PointSpread:
    if image.psf is None:
        raise InputError(
            f"{image.name} has no beam, which injected sources need; give it with --beam "
            "5.4arcsec (Python: read_image(path, beam='5.4arcsec'))."
        )
    return image.psf


def _places(
    image: SkyImage,
    background: Background,
    psf: PointSpread,
    options: InjectionOptions,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Positions that keep their distance from each other, from sources and from blank pixels."""
    usable = usable_pixels(image, background, psf, options)
    rows, columns = np.nonzero(usable)
    order = generator.permutation(len(rows))
    gap = options.separation * psf.size
    ny, nx = image.shape
    reach = int(np.ceil(gap))
    chosen: list[int] = []
    while len(order) and len(chosen) < options.number:
        chunk, order = order[:CHUNK], order[CHUNK:]
        for k in chunk[usable[rows[chunk], columns[chunk]]]:
            row, column = rows[k], columns[k]
            if not usable[row, column]:
                continue
            chosen.append(int(k))
            if len(chosen) == options.number:
                break
            y0, y1 = max(0, row - reach), min(ny, row + reach + 1)
            x0, x1 = max(0, column - reach), min(nx, column + reach + 1)
            dy, dx = np.ogrid[y0 - row : y1 - row, x0 - column : x1 - column]
            usable[y0:y1, x0:x1] &= dx * dx + dy * dy > gap * gap
    if not chosen:
        raise InputError(
            f"{image.name} has no room for injected sources; set avoid to 0 to inject them "
            "anywhere, or choose a larger image."
        )
    jitter = generator.uniform(-0.5, 0.5, (2, len(chosen)))
    return columns[chosen] + jitter[0], rows[chosen] + jitter[1]


def usable_pixels(
    image: SkyImage, background: Background, psf: PointSpread, options: InjectionOptions
) -> NDArray[np.bool_]:
    """Pixels that keep their distance from sources, from blank pixels and from the edge.

    Parameters
    ----------
    image : SkyImage
    background : Background
    psf : PointSpread
    options : InjectionOptions

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    from scipy import ndimage

    significance = significance_map(image, background)
    usable = np.isfinite(significance)
    if options.avoid > 0.0:
        reach = int(np.ceil(options.avoid * psf.size))
        usable &= ~source_mask(significance, grow=reach)
    # a source that is cut off cannot be measured, whatever the finder
    largest = options.extended_size[1] if options.extended > 0.0 else 0.0
    edge = int(np.ceil(EDGE_FWHM * psf.size * np.hypot(1.0, largest)))
    return np.asarray(ndimage.binary_erosion(usable, np.ones((3, 3)), iterations=edge))


def inject(
    image: SkyImage,
    sky: SkyModel | InjectionOptions,
    background: Background,
    generator: np.random.Generator | None = None,
) -> Injection:
    """Add sources, in the image's own beam, to an image with its own noise and artefacts.

    Parameters
    ----------
    image : SkyImage
        Not changed.
    sky : SkyModel or InjectionOptions
        Sources, of any shape, with fluxes in the image's unit times beams (Jy for Jy/beam); or
        what to draw with `draw_injection`.
    background : Background
        Level and rms of the image, for the S/N of the truth.
    generator : numpy.random.Generator, optional
        Needed where sources are drawn.

    Returns
    -------
    Injection
        Sources below 1 local rms, or outside the image, are injected but are not in the truth.

    Raises
    ------
    InputError
        Where the image has no beam or no coordinates, or no room for a source.
    """
    psf = _beam(image)
    if isinstance(sky, InjectionOptions):
        if generator is None:
            raise TypeError("a generator is needed to draw sources")
        sky = draw_injection(image, background, sky, generator)
    shapes = drawn(sky, psf)
    chosen = candidates(sky, psf, background.rms)
    clean = np.zeros(image.shape, np.float32)
    rest = np.repeat(~chosen, np.diff(shapes.starts))
    add_gaussians(clean, np.ascontiguousarray(shapes.values[rest]))
    objects = observe_objects(sky, psf, shapes, background.rms, clean, chosen)
    truth = make_truth(objects, Artefacts(), image, background, clean)
    name = f"{image.name} with injected sources"
    return Injection(image.replace(data=image.data + clean, name=name), truth)


@dataclass(frozen=True, eq=False)
class InjectedCompleteness:
    """Completeness of a route for sources injected into an image.

    Parameters
    ----------
    table : astropy.table.Table
        One row a bin of true S/N: ``snr_low``, ``snr_high``, ``injected``, ``found``,
        ``completeness``, and its binomial interval ``completeness_low``, ``completeness_high``
        (Wilson, 68 %). ``meta["caveat"]`` is `CAVEAT`.
    snr : ndarray, shape (n,)
        True S/N of every injected source of all repeats.
    found : ndarray of bool, shape (n,)
    flux_ratio : ndarray, shape (n,)
        Measured over true total flux; NaN where not found.
    """

    table: "Table"
    snr: Floats
    found: NDArray[np.bool_]
    flux_ratio: Floats

    @property
    def caveat(self) -> str:
        """What injection does not tell."""
        return CAVEAT

    def __str__(self) -> str:
        return "\n".join([*self.table.pformat(max_lines=-1, max_width=-1), "", CAVEAT])


def injected_completeness(
    pipeline: "Pipeline",
    image: SkyImage | str | Path,
    options: InjectionOptions | None = None,
    *,
    repeats: int = 1,
    seed: int = 0,
    edges: tuple[float, ...] = SNR_EDGES,
    **run_options: Any,
) -> InjectedCompleteness:
    """Inject sources into an image, run a route, and count what it finds.

    Found is what matches one to one in position and flux (`cyclades.pipeline.comparison.match`).
    Where sources are injected anywhere (``avoid=0``), rows that were there before with the same
    flux do not count.

    Parameters
    ----------
    pipeline : Pipeline
    image : SkyImage or path
    options : InjectionOptions, optional
    repeats : int
        How often to inject into the unchanged image.
    seed : int
    edges : tuple of float
        Of the bins of S/N.
    **run_options
        Passed to `Pipeline.run` (``workers=...``).

    Raises
    ------
    InputError
        Where the image has no beam or no coordinates, or no room for a source.
    """
    from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
    from cyclades.pipeline.comparison.match import match

    options = InjectionOptions() if options is None else options
    start = pipeline.run_until("background", image, **run_options)
    plane, background = start.image, start.background
    assert plane is not None
    assert background is not None
    before: ComparisonTable | None = None
    if options.avoid == 0.0:
        catalogue = pipeline.run(plane, **run_options).catalogue
        assert catalogue is not None
        before = from_catalogue(catalogue)
    snr, found, ratio = [], [], []
    for child in np.random.SeedSequence(seed).spawn(repeats):
        injection = inject(plane, options, background, np.random.default_rng(child))
        catalogue = pipeline.run(injection.image, keep=False, **run_options).catalogue
        assert catalogue is not None
        after, truth = from_catalogue(catalogue), from_truth(injection.truth)
        if before is not None:
            old = match(before, after)
            after = after.take(np.setdiff1d(np.arange(len(after)), old.second_rows))
        pairs = match(truth, after)
        hit = np.zeros(len(truth), bool)
        hit[pairs.first_rows] = True
        flux = np.full(len(truth), np.nan)
        measured = after["total_flux"][pairs.second_rows]
        flux[pairs.first_rows] = measured / truth["total_flux"][pairs.first_rows]
        snr.append(truth["snr"])
        found.append(hit)
        ratio.append(flux)
    every, hits = np.concatenate(snr), np.concatenate(found)
    return InjectedCompleteness(
        _by_snr(every, hits, np.asarray(edges, float)), every, hits, np.concatenate(ratio)
    )


def _by_snr(snr: Floats, found: NDArray[np.bool_], edges: Floats) -> "Table":
    from astropy.table import Table

    from cyclades.pipeline.comparison.intervals import wilson

    number, _ = np.histogram(snr, edges)
    hits, _ = np.histogram(snr[found], edges)
    low, high = wilson(hits, number)
    with np.errstate(invalid="ignore"):
        share = hits / number
    return Table(
        {
            "snr_low": edges[:-1],
            "snr_high": edges[1:],
            "injected": number,
            "found": hits,
            "completeness": share,
            "completeness_low": low,
            "completeness_high": high,
        },
        meta={"caveat": CAVEAT},
    )
