"""A whole simulated field: sky, image, and truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.model import SkyModel
from cyclades.pipeline.simulation.objects import ObservedObjects, candidates, observe_objects
from cyclades.pipeline.simulation.observation import Observation
from cyclades.pipeline.simulation.options import SimulationOptions
from cyclades.pipeline.simulation.plain import PlainOptions, plain_noise, smooth_maps
from cyclades.pipeline.simulation.render import drawn
from cyclades.pipeline.simulation.sky import SkyOptions, draw_sky
from cyclades.pipeline.simulation.telescope_options import TelescopeOptions
from cyclades.pipeline.simulation.truth import Truth, make_truth
from cyclades.stages.core.products import Background
from cyclades.stages.core.rendering import add_gaussians
from cyclades.stages.core.stage import parameter

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

Plane = NDArray[np.float32]


class FieldOptions(SimulationOptions):
    """A simulated field: its size and place, the sky, and what looks at it."""

    sky: SkyOptions = parameter(SkyOptions(), "The population of sources.")
    plain: PlainOptions = parameter(
        PlainOptions(), "Beam, noise and level of an image without a telescope."
    )
    telescope: TelescopeOptions | None = parameter(
        None, "An interferometer, which then decides on pixels, beam and noise instead."
    )

    @model_validator(mode="after")
    def _one_instrument(self) -> "FieldOptions":
        if self.telescope is not None and self.plain != PlainOptions():
            raise ValueError("give the section plain or the section telescope, not both")
        return self

    @property
    def rms(self) -> float:
        """Lowest rms asked for, in Jy/beam."""
        if self.telescope is None:
            return self.plain.rms
        return self.telescope.rms * min(p.rms for p in self.telescope.pointings)

    def geometry(self) -> Geometry:
        """Return the frame of the field."""
        shape, centre = (self.size, self.size), (self.ra, self.dec)
        if self.telescope is None:
            return self.plain.geometry(shape, centre)
        from cyclades.pipeline.simulation.instrument import suit_geometry

        return suit_geometry(self.telescope, shape, centre=centre)


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated image with everything that is known of it.

    Parameters
    ----------
    image : SkyImage
        Jy/beam.
    truth : Truth
    sky : SkyModel
        The sky before the telescope, with objects too faint for the truth.
    rms, level : ndarray, shape (ny, nx), float32
        True rms of the noise and true level, Jy/beam.
    options : FieldOptions
    seed : int
    """

    image: "SkyImage"
    truth: Truth
    sky: SkyModel
    rms: Plane
    level: Plane
    options: FieldOptions
    seed: int

    @property
    def background(self) -> Background:
        """True level and rms, as an oracle would give them to a detector."""
        return Background(self.level, self.rms)

    def write(self, prefix: str | Path) -> list[Path]:
        """Write image, maps, truth and options; see `write_simulation`."""
        from cyclades.pipeline.simulation.files import write_simulation

        return write_simulation(self, prefix)


@dataclass(frozen=True, eq=False)
class Field:
    """A simulated field as plain arrays, before its truth is made into a catalogue."""

    geometry: Geometry
    sky: SkyModel
    observation: Observation
    objects: ObservedObjects
    clean: Plane


def simulate(options: FieldOptions | None = None, seed: int = 0) -> Simulation:
    """Simulate a field.

    The same options and seed give the same sources everywhere, the same bytes on one machine
    with the same versions, and pixels within 1e-5 of the rms (or the last bit of a bright
    pixel) on any other.

    Parameters
    ----------
    options : FieldOptions, optional
    seed : int
        Not negative.

    Raises
    ------
    CycladesError
        Where beam, pixels and telescope do not fit together.
    """
    options = FieldOptions() if options is None else options
    field = make_field(options, options.geometry(), np.random.SeedSequence(seed))
    seen = field.observation
    image = field.geometry.image(seen.data, psf=seen.psf, name=f"simulated-{seed}")
    background = Background(seen.level, seen.rms)
    truth = make_truth(field.objects, seen.artefacts, image, background, field.clean)
    truth.catalogue.meta["configuration"] = {**options.model_dump(mode="json"), "seed": seed}
    return Simulation(image, truth, field.sky, seen.rms, seen.level, options, seed)


def make_field(options: FieldOptions, geometry: Geometry, seed: np.random.SeedSequence) -> Field:
    """Draw a sky, observe it, and note what is seen of each object."""
    sky_seed, image_seed = seed.spawn(2)
    sky = draw_sky(options.sky, geometry, options.rms, np.random.default_rng(sky_seed))
    generator = np.random.default_rng(image_seed)
    if options.telescope is None:
        return _plain(options.plain, geometry, sky, generator)
    from cyclades.pipeline.simulation.telescope import observe

    seen = observe(sky, geometry, options.telescope, generator)
    clean = np.zeros(geometry.shape, np.float32)
    shapes = drawn(seen.sky, seen.psf)
    chosen = candidates(seen.sky, seen.psf, seen.rms)
    objects = observe_objects(seen.sky, seen.psf, shapes, seen.rms, clean, chosen)
    return Field(geometry, sky, seen, objects, clean)


def _plain(
    options: PlainOptions, geometry: Geometry, sky: SkyModel, generator: np.random.Generator
) -> Field:
    """Observe a sky without a telescope.

    The mean of what is too faint for the truth is taken off: no interferometer sees it.
    """
    rms, level = smooth_maps(options, geometry, generator)
    noise = plain_noise(options, geometry, generator)
    shapes = drawn(sky, geometry.psf)
    chosen = candidates(sky, geometry.psf, rms)
    clean = np.zeros(geometry.shape, np.float32)
    rows = np.repeat(~chosen, np.diff(shapes.starts))
    add_gaussians(clean, np.ascontiguousarray(shapes.values[rows]))
    clean -= clean.mean(dtype=float)
    objects = observe_objects(sky, geometry.psf, shapes, rms, clean, chosen)
    noise *= rms
    noise += level
    noise += clean
    observation = Observation(noise, rms, level, geometry.psf, sky)
    return Field(geometry, sky, observation, objects, clean)
