"""What an interferometer makes of a sky: dirty beam, CLEAN, noise, errors, primary beam."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.arrays import load_array
from cyclades.pipeline.simulation.artefacts import (
    combine_draws,
    draw_ripples,
    find_artefacts,
)
from cyclades.pipeline.simulation.drawing import Drawing
from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.instrument import (
    frame,
    instrument,
)
from cyclades.pipeline.simulation.model import SkyModel
from cyclades.pipeline.simulation.mosaic import Average
from cyclades.pipeline.simulation.observation import Observation
from cyclades.pipeline.simulation.render import render_sky
from cyclades.pipeline.simulation.telescope_options import TelescopeOptions
from cyclades.pipeline.simulation.visibilities import LIGHT, draw_noise, plane_of
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.beam_map import GridSamples, PointSpreadMap
from cyclades.stages.core.geometry import Floats, gaussian_area, inverse

EARTH_RATE = 7.2921159e-5
"""Radians a second."""
KEPT_PIXELS = 1024 * 1024
"""Primary beams of images of up to so many pixels are kept for the next observation."""
SMALLEST_MISSING = 0.02
"""Elements that miss less of their flux to the shortest spacing are taken as compact."""


@dataclass(frozen=True, eq=False)
class TelescopeObservation(Observation):
    """An observation that knows its effective frequency.

    Parameters
    ----------
    frequency : ndarray, shape (ny, nx), float32
        Effective frequency in Hz: the mean over the channels, weighted by the primary beam,
        and over the pointings, weighted as the mosaic is. NaN where blank.
    """

    frequency: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class View:
    """Where one pointing looks, on the pixels of a geometry.

    Parameters
    ----------
    shape : (ny, nx)
    centre : (float, float)
        0-based (x, y) of the pointing.
    jacobian : ndarray, shape (2, 2)
        (east, north) in radians from (x, y) in pixels.
    """

    shape: tuple[int, int]
    centre: tuple[float, float]
    jacobian: Floats

    @classmethod
    def of(cls, geometry: Geometry, options: TelescopeOptions) -> "View":
        """Place the first pointing of some options."""
        x, y = geometry.pointing
        jacobian, _ = frame(geometry)
        pointing = options.pointings[0]
        dx, dy = inverse(jacobian) @ np.radians([pointing.east, pointing.north])
        return cls(geometry.shape, (x + float(dx), y + float(dy)), jacobian)

    def offsets(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Offsets east and north of the pointing, radians (small angles)."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        j = self.jacobian
        return j[0, 0] * dx + j[0, 1] * dy, j[1, 0] * dx + j[1, 1] * dy

    @property
    def distances(self) -> Floats:
        """Distance of every pixel from the pointing, radians."""
        x, y = np.arange(float(self.shape[1])), np.arange(float(self.shape[0]))[:, None]
        return np.hypot(*self.offsets(x, y))


def primary_beam(distance: Floats, frequency: float, options: TelescopeOptions) -> Floats:
    """Gaussian primary beam of unit peak at a distance (radians) and frequency (Hz)."""
    diameter = load_array(options.array).diameter
    fwhm = options.primary_beam_factor * LIGHT / (frequency * diameter)
    return np.asarray(np.exp(-4.0 * np.log(2.0) * np.square(distance / fwhm)))


def smearing(view: View, x: Floats, y: Floats, options: TelescopeOptions) -> Floats:
    """Covariances that bandwidth and time smearing add at some positions, pixels squared.

    At a distance r from the pointing, a channel of width dv smears a source along the radius
    over ``r dv / v``, and an integration time t along the circle over ``r omega t``, omega being
    the rotation of the Earth (the sky turns so at the pole; elsewhere that is the most). Each is
    taken as a Gaussian with the variance of the uniform smear, width^2 / 12 (Bridle & Schwab
    1999, ASP Conf. 180, 371): the total flux stays, the peak falls.

    Returns
    -------
    ndarray, shape (n, 2, 2)
    """
    east, north = view.offsets(x, y)
    radial = (options.channel_width / options.frequency) ** 2 / 12.0
    along = (EARTH_RATE * options.integration) ** 2 / 12.0
    first = np.stack([radial * east**2 + along * north**2, (radial - along) * east * north], -1)
    second = np.stack([(radial - along) * east * north, radial * north**2 + along * east**2], -1)
    to_pixels = inverse(view.jacobian)
    return np.asarray(to_pixels @ np.stack([first, second], -2) @ to_pixels.T)


def apparent_sky(sky: SkyModel, view: View, options: TelescopeOptions) -> tuple[SkyModel, Floats]:
    """The sky as one pointing shows it: attenuated, averaged over the channels, smeared.

    Returns
    -------
    sky : SkyModel
        Fluxes are those of the image before the correction for the primary beam.
    beam : ndarray, shape (n,)
        The primary beam that the image is divided by, at the elements.
    """
    east, north = view.offsets(sky.x, sky.y)
    distance = np.hypot(east, north)
    flux = np.zeros(len(sky))
    for frequency in options.frequencies:
        part = sky.at_frequency(float(frequency)).flux
        if options.primary_beam:
            part = part * primary_beam(distance, float(frequency), options)
        flux += part / options.channels
    central = np.ones(len(sky))
    if options.primary_beam:
        central = np.maximum(primary_beam(distance, options.frequency, options), 1e-12)
    extra = smearing(view, sky.x, sky.y, options)
    seen = sky.replace(
        flux=flux,
        sxx=sky.sxx + extra[:, 0, 0],
        sxy=sky.sxy + extra[:, 0, 1],
        syy=sky.syy + extra[:, 1, 1],
        frequency=options.frequency,
    )
    return seen, central


def cleaned_share(seen: SkyModel, beam: Floats, options: TelescopeOptions) -> tuple[Floats, Floats]:
    """Shares of each element's flux that CLEAN restores, and that it leaves in the residual.

    An element whose peak in the restoring beam is below the threshold stays in the residual as
    a whole; of a brighter one, CLEAN leaves a peak of its depth. The bias is flux that CLEAN
    gives to spurious components in the sidelobes instead: it is missing from both.
    """
    peak = seen.flux * gaussian_area(beam) / gaussian_area(beam + seen.shapes)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(peak > 0.0, peak, 0.0) / options.rms
        left = np.minimum(options.clean_depth / snr, 1.0)
        lost = np.minimum(options.clean_bias / snr, 1.0 - left)
    deep = snr > max(options.clean_threshold, 1e-12)
    return np.where(deep, 1.0 - left - lost, 0.0), np.where(deep, left, 1.0)


def missing_share(seen: SkyModel, shortest: float) -> Floats:
    """Share of each element's flux that the shortest spacing (cycles a pixel) does not see.

    One minus the visibility of a Gaussian of the element's mean variance; elements that miss
    next to nothing are compact to CLEAN, which then restores them as a whole.
    """
    variance = 0.5 * (seen.sxx + seen.syy)
    missing = 1.0 - np.exp(-2.0 * np.pi**2 * variance * shortest**2)
    return np.where(missing > SMALLEST_MISSING, missing, 0.0)


@dataclass(frozen=True, eq=False)
class _Planes:
    """One pointing's planes, corrected for the primary beam; NaN where it is blank."""

    data: NDArray[np.float32]
    rms: NDArray[np.float32]
    level: NDArray[np.float32]
    artefact: NDArray[np.float32]
    frequency: NDArray[np.float32]
    sky: SkyModel
    beam: Floats


def _look(
    sky: SkyModel, geometry: Geometry, options: TelescopeOptions, generator: np.random.Generator
) -> _Planes:
    """Observe with a single pointing."""
    made = instrument(geometry, options)
    view = View.of(geometry, options)
    seen, central = apparent_sky(sky, view, options)
    restored, left = cleaned_share(seen, made.beam, options)
    rows = slice(made.offset[0], made.offset[0] + geometry.shape[0])
    columns = slice(made.offset[1], made.offset[1] + geometry.shape[1])

    def image(transform: NDArray[np.complex64]) -> NDArray[np.float32]:
        return plane_of(transform, made.grid)[rows, columns]

    data = draw_noise(made.noise, generator)
    data *= np.float32(options.rms)
    artefact = np.zeros_like(data)
    level = np.zeros(geometry.shape, np.float32)
    drawing, plane = Drawing.of(seen, made.offset), made.grid.shape
    cleaned = drawing.transform(seen.flux * restored, plane)
    residual = drawing.transform(seen.flux * left, plane)
    if residual is not None:
        data += residual * made.restored
        artefact += residual * made.residual
    if cleaned is not None:
        data += cleaned * made.restored
    if made.gain_errors:
        error = combine_draws(made.gain_errors, generator)
        for part in (cleaned, residual):
            if part is not None:
                artefact += part * error
    if not options.short_spacings:
        missing = missing_share(seen, made.shortest)
        hidden = drawing.transform(seen.flux * restored * missing, plane)
        if hidden is not None:
            level += image(hidden * made.bowls)
    if options.ripple > 0.0:
        ripples = draw_ripples(made.transfer, made.grid, made.beam, generator)[rows, columns]
        level += np.float32(options.ripple * options.rms) * ripples
    artefacts = image(artefact)
    planes = image(data) + artefacts + level
    rms = np.full(geometry.shape, options.rms, np.float32)
    frequency = np.full(geometry.shape, options.frequency, np.float32)
    if options.primary_beam:
        kept = geometry.shape[0] * geometry.shape[1] <= KEPT_PIXELS
        attenuation, frequency = (_kept_attenuation if kept else _attenuation)(geometry, options)
        planes, artefacts, level, rms = (
            plane / attenuation for plane in (planes, artefacts, level, rms)
        )
    return _Planes(
        planes,
        rms,
        level,
        artefacts,
        frequency,
        seen.replace(flux=seen.flux * (restored + left) / central),
        made.beam,
    )


def _attenuation(
    geometry: Geometry, options: TelescopeOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Primary beam at the middle of the band, NaN below the cut, and the effective frequency."""
    view = View.of(geometry, options)
    distance = view.distances
    beam = primary_beam(distance, options.frequency, options)
    beam[beam < options.primary_beam_cut] = np.nan
    total, weighted = np.zeros(view.shape), np.zeros(view.shape)
    for frequency in options.frequencies:
        part = primary_beam(distance, float(frequency), options)
        total += part
        weighted += part * frequency
    with np.errstate(invalid="ignore"):
        effective = np.where(np.isfinite(beam), weighted / total, np.nan)
    planes = beam.astype(np.float32), effective.astype(np.float32)
    for plane in planes:
        plane.flags.writeable = False
    return planes


_kept_attenuation = lru_cache(maxsize=8)(_attenuation)


def observe(
    sky: SkyModel,
    geometry: Geometry,
    telescope: TelescopeOptions,
    generator: np.random.Generator,
) -> TelescopeObservation:
    """Observe a sky and make its image, corrected for the primary beam.

    The cleaned share of each element is drawn in the restoring beam, the rest in the dirty
    beam; noise has the power spectrum of the weighted visibilities; gain errors add the error
    beam of every element; extended emission lacks what the shortest spacing does not see. What
    depends on the telescope and the pixels only is made once (`instrument`), so that many small
    fields of one geometry are fast.

    Parameters
    ----------
    sky : SkyModel
    geometry : Geometry
        Its beam is not used: the restoring beam is fitted to the telescope's dirty beam
        (`suit_geometry` gives a geometry that has it).
    telescope : TelescopeOptions
    generator : numpy.random.Generator

    Returns
    -------
    TelescopeObservation

    Raises
    ------
    InputError
        Where the field is below the horizon, or the pixels do not suit the array.
    """
    looks = [
        _look(sky, geometry, telescope.at(pointing), generator) for pointing in telescope.pointings
    ]
    if len(looks) == 1:
        look = looks[0]
        planes = (look.data, look.rms, look.level, look.artefact, look.frequency)
        data, rms, level, artefact, frequency = planes
        psf = PointSpread(look.beam, geometry.wcs)
        observed = look.sky
    else:
        average = Average(geometry.shape)
        for look in looks:
            shape = np.array([look.beam[0, 0], look.beam[0, 1], look.beam[1, 1]])
            average.add(
                look.rms,
                data=look.data,
                level=look.level,
                artefact=look.artefact,
                frequency=look.frequency,
                beam=np.broadcast_to(shape[:, None, None], (3, *geometry.shape)),
            )
        rms = average.rms
        data, level, artefact, frequency, beam = (
            average.mean(name) for name in ("data", "level", "artefact", "frequency", "beam")
        )
        psf = _mosaic_psf(geometry, beam, looks)
        observed = _mosaic_sky(geometry, looks)
    blank = ~np.isfinite(rms)
    for plane in (data, level):
        plane[blank] = np.nan
    found = telescope.artefact_threshold
    with np.errstate(invalid="ignore"):
        some = bool(np.any(artefact > found * rms))
    true_sky = render_sky(observed, psf, geometry.shape) if some else np.zeros_like(data)
    return TelescopeObservation(
        data=data,
        rms=rms,
        level=level,
        psf=psf,
        sky=observed,
        artefacts=find_artefacts(artefact, rms, true_sky, found),
        frequency=frequency,
    )


def _mosaic_psf(
    geometry: Geometry, beam: NDArray[np.float32], looks: list[_Planes]
) -> PointSpreadMap:
    x, y = geometry.pointing
    local = PointSpreadMap(looks[0].beam, geometry.wcs, samples=GridSamples(beam))
    return replace(local, covariance=local.covariances(np.array([x]), np.array([y]))[0])


def _mosaic_sky(geometry: Geometry, looks: list[_Planes]) -> SkyModel:
    """Mean over the pointings of what each shows, weighted as the mosaic is at each element."""
    first = looks[0].sky
    ny, nx = geometry.shape
    row = np.clip(np.rint(first.y), 0, ny - 1).astype(int)
    column = np.clip(np.rint(first.x), 0, nx - 1).astype(int)
    average = Average((len(first),))
    for look in looks:
        average.add(
            look.rms[row, column],
            values=np.stack([look.sky.flux, look.sky.sxx, look.sky.sxy, look.sky.syy]),
        )
    # NaN, where no pointing reaches, would not draw: such elements keep what the first shows
    mean = average.mean("values").astype(float)
    kept = [first.flux, first.sxx, first.sxy, first.syy]
    flux, sxx, sxy, syy = np.where(np.isfinite(mean), mean, np.stack(kept))
    return first.replace(flux=flux, sxx=sxx, sxy=sxy, syy=syy)
