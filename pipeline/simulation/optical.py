"""Optical images of stars and galaxies in three bands, as the Dark Energy Camera makes them.

Images are in nJy a pixel with the sky taken off: coadded exposures without their resampling, so
that the noise of neighbouring pixels is independent.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.field import Plane
from cyclades.pipeline.simulation.model import Floats
from cyclades.pipeline.simulation.objects import FLOOR_PEAK, FLOOR_TOTAL, ObservedObjects
from cyclades.pipeline.simulation.observation import Artefacts
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.pipeline.simulation.optical_sky import (
    BANDS,
    CLASSES,
    COUNT_BAND,
    NANOJANSKY,
    OpticalSky,
    draw_optical_sky,
)
from cyclades.pipeline.simulation.profiles import (
    DELTA,
    FAINTEST,
    Mixture,
    draw_profiles,
    moffat_mixture,
    sersic_mixture,
    stack,
)
from cyclades.pipeline.simulation.truth import Truth, make_truth
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, determinant, gaussian_area
from cyclades.stages.core.products import Background, Segments
from cyclades.stages.core.schema import ColumnSpec
from cyclades.stages.core.tables import add_column

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.source import ImageSet

_BISECTIONS = 40


class Exposure(NamedTuple):
    """A band of a field as plain arrays, in nJy a pixel.

    Attributes
    ----------
    data, rms, level, clean : ndarray, shape (ny, nx), float32
        The image; its noise without sources; what is below the sources; sources without noise.
    objects : ObservedObjects
        Classes are positions in `CLASSES`.
    """

    data: Plane
    rms: Plane
    level: Plane
    clean: Plane
    objects: ObservedObjects


@dataclass(frozen=True, eq=False)
class OpticalSimulation:
    """Simulated images in three bands with everything that is known of them.

    Parameters
    ----------
    images : dict of str to SkyImage
        One a band, nJy/pix; `psf` is the Gaussian with the FWHM of the stars.
    truths : dict of str to Truth
        One a band: what is above the noise there. Rows of one object share the column ``object``.
    backgrounds : dict of str to Background
        True level and noise.
    sky : OpticalSky
        With objects too faint for the truth.
    options : OpticalOptions
    seed : int
    """

    images: "dict[str, SkyImage]"
    truths: dict[str, Truth]
    backgrounds: dict[str, Background]
    sky: OpticalSky
    options: OpticalOptions
    seed: int

    @property
    def truth(self) -> Truth:
        """Truth of the band r, in which sources are counted."""
        return self.truths[COUNT_BAND]

    def image_set(self, detection: str = COUNT_BAND) -> "ImageSet":
        """Return the images as a set with a detection plane; see `ImageSet.of`."""
        from cyclades.stages.core.source import ImageSet

        return ImageSet.of(self.images, detection)

    def write(self, prefix: str | Path) -> list[Path]:
        """Write ``PREFIX.config.yaml``, and for each band what `write_simulation` does.

        The files of the band r are ``PREFIX.r.fits``, ``PREFIX.r.truth.fits`` and so on.

        Returns
        -------
        list of Path
            The images first, and of these that of the band r.

        Raises
        ------
        OutputError
            Where they cannot be written.
        """
        from cyclades.pipeline.simulation.files import (
            simulated_header,
            write_options,
            write_planes,
            write_together,
        )

        def make(scratch: Path) -> list[Path]:
            name = Path(prefix).name
            stem = scratch / name
            images, others = [], [write_options(self.options, self.seed, stem, " --kind optical")]
            # the band of the counts is written last, so that it heads the list returned
            for band in sorted(self.images, key=lambda band: band == COUNT_BAND):
                image = self.images[band]
                truth, background = self.truths[band], self.backgrounds[band]
                meta = {**truth.catalogue.meta, "image": f"{name}.{band}"}
                truth = replace(truth, catalogue=truth.catalogue.replace(meta=meta))
                header = simulated_header(image, self.seed)
                header["FILTER"] = band
                header["MAGZERO"] = (NANOJANSKY, "[mag] AB magnitude of 1")
                header["SEEING"] = (self.options.band(band).seeing, "[arcsec] FWHM of stars")
                file = Path(f"{stem}.{band}")
                planes = write_planes(image, background.rms, background.level, header, file)
                others += [*truth.write(file), *planes[:-1]]
                images.append(planes[-1])
            return others + images

        return write_together(prefix, make)


def simulate_optical(options: OpticalOptions | None = None, seed: int = 0) -> OpticalSimulation:
    """Simulate a field of stars and galaxies in three bands.

    The same options and seed give the same sources everywhere, and pixels within 1e-5 of the rms
    (or the last bit of a bright pixel).

    Parameters
    ----------
    options : OpticalOptions, optional
    seed : int
        Not negative.
    """
    options = OpticalOptions() if options is None else options
    sky, exposures = make_optical_field(options, np.random.SeedSequence(seed))
    images, truths, backgrounds = {}, {}, {}
    fluxes = {band: sky.object_flux(band) for band in BANDS}
    for band, seen in exposures.items():
        images[band] = _image(options, band, seen.data, seed)
        backgrounds[band] = Background(seen.level, seen.rms)
        truth = make_truth(
            seen.objects, Artefacts(), images[band], backgrounds[band], seen.clean, CLASSES
        )
        truths[band] = _with_fluxes(truth, fluxes)
        configuration = {**options.model_dump(mode="json"), "seed": seed}
        truths[band].catalogue.meta["configuration"] = configuration
    return OpticalSimulation(images, truths, backgrounds, sky, options, seed)


def make_optical_field(
    options: OpticalOptions, seed: np.random.SeedSequence
) -> tuple[OpticalSky, dict[str, Exposure]]:
    """Draw a sky and look at it in every band.

    Returns
    -------
    sky : OpticalSky
    exposures : dict of str to Exposure
    """
    sky_seed, *seeds = seed.spawn(1 + len(BANDS))
    shape = (options.size, options.size)
    sky = draw_optical_sky(options.sky, shape, options.pixel, np.random.default_rng(sky_seed))
    exposures = {
        band: expose(sky, options, band, np.random.default_rng(one))
        for band, one in zip(BANDS, seeds, strict=True)
    }
    return sky, exposures


def expose(
    sky: OpticalSky, options: OpticalOptions, band: str, generator: np.random.Generator
) -> Exposure:
    """Take an image of a sky in a band, and note what is seen of each object."""
    shape = (options.size, options.size)
    slope = options.rms(band) * options.level * _slope(shape, generator)
    scale = options.electrons(band)
    background = options.sky_electrons(band) + scale * slope
    rms = (np.sqrt(background + options.read_variance(band)) / scale).astype(np.float32)
    clean = np.zeros(shape, np.float32)
    objects = _observe(sky, options, band, rms, clean)
    electrons = photon_noise(background + scale * clean, generator)
    read = np.float32(np.sqrt(options.read_variance(band)))
    electrons += read * generator.standard_normal(shape, np.float32)
    if options.saturate:
        well = options.full_well * options.band(band).visits
        electrons = np.minimum(electrons, well, out=electrons)
    electrons -= options.sky_electrons(band)
    electrons /= scale
    return Exposure(electrons.astype(np.float32), rms, slope.astype(np.float32), clean, objects)


def photon_noise(mean: NDArray[np.floating], generator: np.random.Generator) -> Floats:
    """Draw photon counts with the mean, the variance and the skewness of the Poisson law.

    ``mean + sqrt(mean) z + (z^2 - 1) / 6`` with a normal z: the Cornish-Fisher expansion of its
    quantiles to second order, good to 1e-2 standard deviations between -3 and 3 for means above
    100. Draws are real numbers: whole ones would change with the last bit of the mean, and images
    would not be the same on all machines.
    """
    z = generator.standard_normal(mean.shape, np.float32).astype(float)
    return np.asarray(mean + np.sqrt(mean) * z + (z * z - 1.0) / 6.0)


def _slope(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """A plane from -1 to 1 across a field, in a random direction."""
    angle = generator.uniform(0.0, 2.0 * np.pi)
    y, x = (np.linspace(-1.0, 1.0, n) for n in shape)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray((cos * x + sin * y[:, None]) / (abs(cos) + abs(sin)))


def _mixtures(options: OpticalOptions) -> list[Mixture]:
    """Profiles in the order of `OpticalSky.profile`."""
    return [DELTA, sersic_mixture(options.disc_index), sersic_mixture(options.bulge_index)]


def _observe(
    sky: OpticalSky, options: OpticalOptions, band: str, rms: Plane, clean: Plane
) -> ObservedObjects:
    """Draw a sky on a plane and return what can be known of its objects."""
    geometry = options.geometry(band)
    mixtures = _mixtures(options)
    rows, limits = stack(mixtures)
    star = moffat_mixture(options.beta)
    width = options.band(band).seeing / options.pixel
    owner = sky.owner
    flux = sky.flux[BANDS.index(band)]
    elements = np.column_stack([flux, sky.x[owner], sky.y[owner], sky.shape])
    indices, offsets, peak, pixel = draw_profiles(
        clean,
        elements,
        sky.profile,
        sky.starts,
        rows,
        limits,
        np.column_stack([star.weight, star.variance * width**2]),
        rms,
        FAINTEST * float(rms.min()),
    )
    seen = np.flatnonzero((pixel >= 0) & (offsets[1:] > offsets[:-1]))
    ellipse = half_light(sky, seen, band, mixtures)
    total = sky.object_flux(band)[seen]
    x, y = sky.x[seen], sky.y[seen]
    beam = geometry.psf.covariance
    covariance = ellipse * (2.0 / SIGMA_TO_FWHM) ** 2 + beam
    local = rms.ravel()[pixel[seen]].astype(float)
    snr = peak[seen] / local
    # white noise: the pixels that count are twice the area of the Gaussian
    total_snr = total / (local * np.sqrt(2.0 * gaussian_area(covariance)))
    keep = (snr >= FLOOR_PEAK) | (total_snr >= FLOOR_TOTAL)
    values = np.column_stack(
        [peak[seen], x, y, covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]]
    )
    return ObservedObjects(
        number=seen[keep],
        object_class=sky.object_class[seen[keep]],
        segments=Segments(indices, offsets).take(seen[keep]),
        peak=peak[seen[keep]],
        pixel=pixel[seen[keep]],
        snr=snr[keep],
        total_snr=total_snr[keep],
        owner=np.arange(np.count_nonzero(keep)),
        values=values[keep],
        # components hold totals in units of the image times beams
        total=total[keep] / gaussian_area(beam),
    )


def half_light(
    sky: OpticalSky, rows: NDArray[np.int64], band: str, mixtures: list[Mixture]
) -> Floats:
    """Return the ellipses that hold half of the light of objects, before the seeing.

    Discs and bulges of one object share centre and angle. The radius is that of the round object
    with the same light at each area; the axis ratio is the mean of its elements', by flux.

    Parameters
    ----------
    sky : OpticalSky
    rows : ndarray of int, shape (n,)
        Which objects.
    band : str
    mixtures : list of Mixture
        Profiles of the elements.

    Returns
    -------
    ndarray, shape (n, 2, 2)
        ``R_e^2`` for round ones, in pixels squared; zero for stars.
    """
    result = np.zeros((len(rows), 2, 2))
    galaxy = np.flatnonzero(np.diff(sky.starts)[rows] == 2)
    disc = sky.starts[rows[galaxy]]
    flux = sky.flux[BANDS.index(band)][np.stack([disc, disc + 1])]
    sxx, sxy, syy = np.moveaxis(sky.shape[np.stack([disc, disc + 1])], -1, 0)
    shapes = np.stack([np.stack([sxx, sxy], -1), np.stack([sxy, syy], -1)], -2)
    square = np.sqrt(determinant(shapes))
    share = flux / flux.sum(0)
    low, high = np.log(square.min(0)), np.log(square.max(0))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        inside = np.zeros(len(galaxy))
        for element, profile in enumerate(mixtures[-2:]):
            ratio = np.exp(middle) / square[element]
            for weight, variance in zip(*profile, strict=True):
                inside += share[element] * weight * -np.expm1(-0.5 * ratio / variance)
        low, high = np.where(inside < 0.5, middle, low), np.where(inside < 0.5, high, middle)
    mean = np.einsum("en,enij->nij", share / square, shapes)
    mean /= np.sqrt(determinant(mean))[:, None, None]
    result[galaxy] = mean * np.exp(middle)[:, None, None] if len(galaxy) else 0.0
    return result


def _image(options: OpticalOptions, band: str, data: Plane, seed: int) -> "SkyImage":
    """Pixels of a band as the image that every stage reads."""
    import astropy.units as u

    image = options.geometry(band).image(data, name=f"simulated-{seed}-{band}")
    return image.replace(unit=u.nJy / u.pix)


def _with_fluxes(truth: Truth, fluxes: dict[str, Floats]) -> Truth:
    """Add the true fluxes in all bands to components and sources."""
    import astropy.units as u

    components = truth.catalogue.components.copy()
    sources = truth.catalogue.sources.copy()
    number = np.asarray(components["object"], np.int64)
    of_source = np.zeros(len(sources), np.int64)
    of_source[np.asarray(components["source_id"]) - 1] = number
    for band, flux in fluxes.items():
        spec = ColumnSpec(
            f"total_flux_{band}", "nJy", "phot.flux.density", f"true total flux in {band}",
            ("components", "sources"),
        )  # fmt: skip
        add_column(components, spec, flux[number], u.nJy)
        add_column(sources, spec, flux[of_source], u.nJy)
    return replace(truth, catalogue=truth.catalogue.replace(components=components, sources=sources))
