"""Samples of simulated optical images, without end: stars and galaxies in several bands."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.pipeline.simulation.optical_sky import BANDS, CLASSES, COUNT_BAND, MagnitudeCounts
from cyclades.pipeline.simulation.stream import OpticalTileStream, Tile
from cyclades.pipeline.training.samples import (
    LEAST_INSIDE,
    Sample,
    SampleSource,
    SourceOptions,
    class_numbers,
    pixel_boxes,
)
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.stage import parameter

KEPT_FIELDS = 2
OPTICAL_FLOOR = 10.0
"""S/N of the total flux. Below, stars and galaxies look alike; of a star in the seeing of the
simulation's r the brightest pixel has a third of it."""


def _survey(
    seeing: float = 1.0,
    exposure: float = 1.0,
    density: float = 1.0,
    blends: float = 0.06,
    clusters: int = 0,
) -> OpticalOptions:
    """The survey of the simulator's defaults, with some things multiplied by factors.

    Parameters
    ----------
    seeing, exposure, density : float
        Factors on the FWHM of stars and the exposure time of every band, and on all counts.
    blends, clusters
        See `cyclades.pipeline.simulation.optical_sky.OpticalSkyOptions`.
    """
    options = OpticalOptions()
    bands = {
        name: band.model_copy(
            update={"seeing": band.seeing * seeing, "exposure": band.exposure * exposure}
        )
        for name, band in ((name, options.band(name)) for name in BANDS)
    }

    def denser(counts: MagnitudeCounts) -> MagnitudeCounts:
        return counts.model_copy(update={"density": counts.density * density})

    sky = options.sky.model_copy(
        update={
            "stars": denser(options.sky.stars),
            "galaxies": denser(options.sky.galaxies),
            "blends": blends,
            "clusters": clusters,
        }
    )
    return options.model_copy(update={"sky": sky, **bands})


def optical_presets() -> dict[str, tuple[OpticalOptions, ...]]:
    """Return the ready-made lists of options by name; fields take the options in turn.

    ``survey`` is the simulator's default: counts of high galactic latitude, 6 % of the objects
    beside another. ``mixed`` is crowded, so that a tile has more to learn from: two or three times
    the density in all fields but one of seven, three with 30 % of the objects beside another, two
    with clusters of galaxies; seeing changes by factors of 0.8 to 1.25, exposures of 0.5 to 2.
    """
    return {
        "survey": (_survey(),),
        "mixed": (
            _survey(),
            _survey(density=3.0, blends=0.3),
            _survey(seeing=1.25, exposure=2.0, density=2.0, clusters=2),
            _survey(seeing=0.8, density=2.0),
            _survey(seeing=1.25, density=3.0, blends=0.3),
            _survey(exposure=0.5, density=3.0, clusters=2),
            _survey(seeing=0.8, density=3.0, blends=0.3),
        ),
    }


class OpticalTilesOptions(SourceOptions):
    """Tiles of simulated optical fields in g, r and z; see `optical_presets`."""

    kind: Literal["optical"] = "optical"
    floor: float = parameter(
        OPTICAL_FLOOR,
        "Objects whose total flux in r has a lower signal to noise are ignored by the loss.",
        ge=0.0,
    )
    preset: str = parameter("mixed", "Name of a ready-made list of options, or one further below.")
    fields: Mapping[str, tuple[OpticalOptions, ...]] = parameter(
        {}, "Lists of a field's options by name, which presets may be called as well."
    )
    tiles_a_side: int = parameter(
        4, "Tiles along the side of a field, which share its instrument.", ge=1, le=16
    )

    @model_validator(mode="after")
    def _known(self) -> "OpticalTilesOptions":
        known = [*optical_presets(), *self.fields]
        if self.preset not in known:
            raise ValueError(
                f"there is no preset {self.preset!r}{suggestion(self.preset, known)}; choose one "
                f"of {', '.join(known)}"
            )
        return self


class OpticalSource(SampleSource):
    """Samples from the simulator of optical images, with the planes `BANDS`.

    An object's S/N is that of its total flux in r, of stars and galaxies alike: what a filter of
    its own shape would reach. Those that the seeing does not separate from a brighter one are
    ignored.

    Parameters
    ----------
    options : OpticalTilesOptions
    size, classes
        See `SampleSource`.
    """

    def __init__(self, options: OpticalTilesOptions, size: int, classes: Sequence[str]) -> None:
        super().__init__(size, classes)
        chosen = {**optical_presets(), **options.fields}[options.preset]
        if not chosen:
            raise ConfigurationError(f"The preset {options.preset!r} lists no options of a field.")
        self.options = options
        self.streams = [
            OpticalTileStream(one, size, options.seed, options.tiles_a_side) for one in chosen
        ]
        self._numbers = class_numbers(CLASSES, classes, options.classes)
        self._fields: OrderedDict[int, list[Tile]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fields made so far behind: a worker makes its own."""
        return {**self.__dict__, "_fields": OrderedDict()}

    def sample(self, index: int) -> Sample:
        """Return sample number `index`; the tiles of its field that follow are kept for later."""
        number, place = divmod(index, self.options.tiles_a_side**2)
        stream = self.streams[number % len(self.streams)]
        if number not in self._fields:
            self._fields[number] = stream.field(number)
            while len(self._fields) > KEPT_FIELDS:
                self._fields.popitem(last=False)
        tile = self._fields[number][place]
        classes = self._numbers[tile.classes]
        ignore = (tile.total_snr < self.options.floor) | (tile.inside < LEAST_INSIDE)
        made = Sample(
            image=tile.image,
            boxes=pixel_boxes(tile.segments, (self.size, self.size)),
            classes=classes,
            segments=tile.segments,
            ignore=ignore | tile.blended,
            unlabelled=None,
            beam=stream.options.geometry(COUNT_BAND).psf.covariance,
            rms=tile.rms,
            snr=np.asarray(tile.total_snr, float),
            planes=BANDS,
        )
        return made.keep(classes >= 0)
