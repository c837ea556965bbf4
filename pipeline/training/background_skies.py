"""Skies of many kinds whose true level and rms a dense background learns from."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator

from cyclades.pipeline.simulation.counts import HopkinsCounts, PowerLawCounts
from cyclades.pipeline.simulation.field import FieldOptions, Simulation, simulate
from cyclades.pipeline.simulation.plain import PlainOptions
from cyclades.pipeline.simulation.sky import SkyOptions
from cyclades.pipeline.simulation.telescope_options import Pointing, TelescopeOptions

SIZE = 640
TELESCOPES = 0.35
"""Share of fields that an array observes."""
BLANK = 0.35
"""Share of fields with blank pixels."""
PIXEL = 2.0
ARRAYS: tuple[tuple[float, dict[str, Any]], ...] = (
    (0.0, {}),
    (35.0, {"duration": 0.5, "pointings": (Pointing(east=0.1, north=0.08),)}),
    (5.0, {"duration": 0.2, "clean_depth": 2.0}),
    (-30.0, {"duration": 1.5}),
    (20.0, {"duration": 4.0, "robust": 0.0}),
    (-30.0, {"array": "askap", "frequency": 9e8, "bandwidth": 2.88e8, "duration": 8.0}),
    (-50.0, {"array": "askap", "frequency": 9e8, "bandwidth": 2.88e8, "duration": 2.0,
             "pointings": (Pointing(east=0.4, north=-0.3),)}),
    (-40.0, {"array": "atca-6a", "frequency": 2.1e9, "bandwidth": 1e9, "duration": 10.0}),
    (-30.0, {"array": "meerkat", "frequency": 1.28e9, "bandwidth": 5e8, "duration": 5.0}),
)  # fmt: skip
"""Declination and observation; errors of the calibration, ripples and noise are drawn."""


def random_field(seed: int, size: int = SIZE) -> Simulation:
    """Simulate a field whose kind and options the seed tells.

    Parameters
    ----------
    seed : int
    size : int
        Pixels along a side.
    """
    generator = np.random.default_rng([seed, 7])
    made = simulate(random_options(generator, size), seed)
    if generator.random() < BLANK:
        data = made.image.data.copy()
        data[_blank(data.shape, generator)] = np.nan
        made = replace(made, image=made.image.replace(data=data))
    return made


def random_options(generator: Generator, size: int = SIZE) -> FieldOptions:
    """Draw the options of a field."""
    if generator.random() < TELESCOPES:
        declination, options = ARRAYS[generator.integers(len(ARRAYS))]
        telescope = {
            **options,
            "rms": _between(8e-6, 1e-4, generator),
            "ripple": float(generator.choice([0.0, generator.uniform(0.1, 0.6)], p=[0.3, 0.7])),
            "gain_amplitude": _between(2e-3, 4e-2, generator),
            "gain_phase": _between(0.2, 3.0, generator),
            "padding": 1.6,
        }
        return FieldOptions(
            size=size,
            dec=declination,
            sky=_sky(generator),
            telescope=TelescopeOptions.model_validate(telescope),
        )
    beam, ratio = generator.uniform(3.0, 8.0), generator.uniform(1.0, 1.8) ** 0.5
    plain = PlainOptions(
        pixel=PIXEL,
        beam_major=PIXEL * beam * ratio,
        beam_minor=PIXEL * beam / ratio,
        beam_angle=generator.uniform(0.0, 180.0),
        autocorrelation="natural" if generator.random() < 0.85 else "beam",
        stripes=generator.uniform(0.3, 0.8) if generator.random() < 0.1 else 0.0,
        stripes_angle=generator.uniform(0.0, 180.0),
        rms=_between(4e-6, 1.2e-4, generator),
        rms_ratio=generator.uniform(1.0, 3.0),
        level=generator.uniform(0.0, 1.2),
        wavelength=_between(60.0, 200.0, generator),
    )
    return FieldOptions(size=size, sky=_sky(generator), plain=plain)


def _sky(generator: Generator) -> SkyOptions:
    """A population: as surveys see it, rich in wide sources, or of any mixture."""
    options: dict[str, Any] = {
        "faintest": _between(0.3, 8.0, generator) if generator.random() < 0.35 else 0.3,
    }
    if generator.random() < 0.25:
        options["counts"] = PowerLawCounts(
            slope=generator.uniform(1.4, 2.0), density=_between(30.0, 600.0, generator)
        )
    else:
        options["counts"] = HopkinsCounts(faint_slope=generator.uniform(1.5, 1.9))
    if generator.random() < 0.6:
        shares = generator.dirichlet([1.5, 1.0, 1.5, 1.0, 1.0, 2.0])
        names = ("galaxies", "discs", "doubles", "bent", "diffuse")
        options |= {name: float(0.98 * v) for name, v in zip(names, shares[1:], strict=True)}
        options |= {
            "half_share_flux": _between(2e-5, 5e-4, generator),
            "disc_size": (2.0, generator.uniform(8.0, 25.0)),
            "radio_galaxy_size": (3.0, generator.uniform(15.0, 30.0)),
            "diffuse_size": (6.0, generator.uniform(15.0, 35.0)),
        }
    return SkyOptions.model_validate(options)


def _between(low: float, high: float, generator: Generator) -> float:
    """Draw a number between two, uniformly in its logarithm."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def _blank(shape: tuple[int, ...], generator: Generator) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Pixels beyond a circle, in a strip, or in a corner."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    kind = generator.integers(3)
    if kind == 0:
        centre = generator.uniform(0.3, 0.7, 2)
        return np.asarray(np.hypot(y - centre[0], x - centre[1]) > generator.uniform(0.4, 0.7))
    angle = generator.uniform(0.0, 2.0 * np.pi)
    along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    if kind == 1:
        return np.asarray(np.abs(along - generator.uniform(-0.4, 0.4)) < generator.uniform(0, 0.1))
    return np.asarray(along > generator.uniform(0.1, 0.5))
