"""Samples from the simulator, without end."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import model_validator

from cyclades.pipeline.simulation.counts import PowerLawCounts
from cyclades.pipeline.simulation.field import FieldOptions
from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.simulation.plain import PlainOptions
from cyclades.pipeline.simulation.sky import SkyOptions
from cyclades.pipeline.simulation.stream import TRAINING, Tile, TileStream
from cyclades.pipeline.simulation.telescope_options import Pointing, TelescopeOptions
from cyclades.pipeline.training.samples import (
    LEAST_INSIDE,
    Floats,
    Sample,
    SampleSource,
    SourceOptions,
    class_numbers,
    detectability,
    pixel_boxes,
)
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.stage import parameter

TILES_A_SIDE = 2
"""A batch of 16 then holds four fields, each with another instrument, and shares none."""
BEAMS = (3.5, 4.0, 4.5, 5.0, 5.5, 6.5, 8.0)
"""FWHM of the beams of plain fields, pixels (geometric mean)."""
KEPT_FIELDS = 2
COMPACT = CLASSES.index("compact")

_PIXEL = 2.0
_DENSITY = 300.0
_BRIGHTEST = {"plain": 0.3, "telescope": 1.0}
"""Jy; of telescopes, sources of thousands of rms, since artefacts lie around those."""


def _sky(pixel: float, beam: float, brightest: float) -> SkyOptions:
    """The sky of `TRAINING` with as many objects a tile, a little fewer where beams are large.

    Parameters
    ----------
    pixel : float
        Arcsec.
    beam : float
        FWHM in pixels.
    brightest : float
        Jy.
    """
    density = _DENSITY * (_PIXEL / pixel) ** 2 * min(1.0, 5.0 / beam)
    counts = PowerLawCounts(slope=1.5, density=density, brightest=brightest)
    return TRAINING.sky.model_copy(update={"counts": counts})


def _complex_sky(beam: float) -> SkyOptions:
    """A sky of bright structure, as along the Galactic plane: few objects, most of them large."""
    counts = PowerLawCounts(slope=1.3, density=_DENSITY / 1.5, brightest=10.0)
    return _sky(_PIXEL, beam, 1.0).model_copy(
        update={
            "counts": counts,
            "discs": 0.1,
            "doubles": 0.2,
            "diffuse": 0.3,
            "disc_size": (2.0, 20.0),
            "radio_galaxy_size": (4.0, 40.0),
            "diffuse_size": (5.0, 40.0),
        }
    )


def _benchmark_sky(pixel: float, beam: float, brightest: float) -> SkyOptions:
    """A sky in which about four of five objects above the floor are compact, as in surveys."""
    sky = _sky(pixel, beam, brightest)
    counts = PowerLawCounts(
        slope=1.5, density=2.0 * _DENSITY * (_PIXEL / pixel) ** 2, brightest=brightest
    )
    return sky.model_copy(
        update={"counts": counts, "galaxies": 0.12, "discs": 0.02, "doubles": 0.11, "bent": 0.05,
                "diffuse": 0.05}
    )  # fmt: skip


def _plain(
    number: int,
    beam: float,
    autocorrelation: Literal["natural", "beam"],
    sky: SkyOptions | None = None,
    stripes: float = 0.0,
) -> FieldOptions:
    """A field without an array; axial ratio, angles, noise map and level differ by number."""
    ratio = (1.0, 1.25, 1.6, 1.1, 2.2)[number % 5]
    return FieldOptions(
        sky=_sky(_PIXEL, beam, _BRIGHTEST["plain"]) if sky is None else sky,
        plain=PlainOptions(
            pixel=_PIXEL,
            beam_major=_PIXEL * beam * ratio**0.5,
            beam_minor=_PIXEL * beam / ratio**0.5,
            beam_angle=67.0 * number % 180.0,
            autocorrelation=autocorrelation,
            stripes=stripes,
            stripes_angle=113.0 * number % 180.0,
            rms_ratio=(1.0, 2.0, 4.0)[number % 3],
            level=(0.0, 0.5, 2.0)[number % 3],
        ),
    )


class _Array(NamedTuple):
    """An array and what is imaged with it: pixel in arcsec, beam in pixels, declination."""

    name: str
    pixel: float
    beam: float
    dec: float
    options: dict[str, Any]

    def field(self, population: Callable[[float, float, float], SkyOptions] = _sky) -> FieldOptions:
        """Return the options of its field, with the sky of a population."""
        telescope = TelescopeOptions(array=self.name, padding=1.6, **self.options)
        sky = population(self.pixel, self.beam, _BRIGHTEST["telescope"])
        return FieldOptions(dec=self.dec, sky=sky, telescope=telescope)


def _errors(amplitude: float, ripple: float) -> dict[str, Any]:
    """Gain errors of an amplitude and of as many radians, and ripples."""
    return {
        "gain_amplitude": amplitude,
        "gain_phase": float(np.degrees(amplitude)),
        "ripple": ripple,
    }


_OFF = (Pointing(east=0.12, north=0.1),)
_WIDE_OFF = (Pointing(east=0.4, north=-0.3),)
_ASKAP_BAND = {"frequency": 9e8, "bandwidth": 2.88e8}
_ATCA_BAND = {"frequency": 2.1e9, "bandwidth": 1e9}
_MEERKAT_BAND = {"frequency": 1.28e9, "bandwidth": 5e8}
_VLA = (
    _Array("vla-b", 1.0, 4.2, 35.0, {"duration": 0.5, "pointings": _OFF, **_errors(0.009, 0.3)}),
    _Array("vla-b", 1.0, 4.2, 5.0, {"duration": 0.2, "clean_depth": 2.0, **_errors(0.006, 0.0)}),
    _Array("vla-b", 1.0, 6.3, -30.0, {"duration": 1.5, **_errors(0.03, 0.5)}),
    _Array("vla-b", 0.9, 4.9, -15.0, {"duration": 1.0, "robust": 0.0, **_errors(0.015, 0.2)}),
)
_ASKAP = (
    _Array("askap", 3.5, 4.4, -30.0, {**_ASKAP_BAND, "duration": 8.0, **_errors(0.04, 0.5)}),
    _Array(
        "askap",
        3.5,
        4.4,
        -50.0,
        {**_ASKAP_BAND, "duration": 2.0, "pointings": _WIDE_OFF, **_errors(0.025, 0.0)},
    ),
    _Array("askap", 3.0, 4.5, 0.0, {**_ASKAP_BAND, "duration": 9.0, "robust": 0.0,
                                    **_errors(0.03, 0.3)}),
)  # fmt: skip
_ATCA = (
    _Array("atca-6a", 1.04, 5.6, -40.0, {**_ATCA_BAND, "duration": 10.0, **_errors(0.014, 0.3)}),
    _Array(
        "atca-6a",
        1.04,
        4.6,
        -65.0,
        {**_ATCA_BAND, "duration": 12.0, "pointings": _OFF, **_errors(0.02, 0.0)},
    ),
    _Array("atca-6a", 0.95, 7.3, -25.0, {**_ATCA_BAND, "duration": 8.0, **_errors(0.02, 0.4)}),
)
_MEERKAT = (
    _Array("meerkat", 1.8, 4.3, -30.0, {**_MEERKAT_BAND, "duration": 5.0, "robust": 0.0,
                                        **_errors(0.04, 0.3)}),
    _Array("meerkat", 1.8, 4.6, 5.0, {**_MEERKAT_BAND, "duration": 0.5, "robust": -0.5,
                                      **_errors(0.03, 0.0)}),
)  # fmt: skip


def _telescopes(arrays: Sequence[_Array]) -> tuple[FieldOptions, ...]:
    return tuple(array.field() for array in arrays)


def _benchmark() -> tuple[FieldOptions, ...]:
    """Plain fields, and one in three observed by an array, which brings artefacts."""
    plain = [
        _plain(k, beam, "natural", _benchmark_sky(_PIXEL, beam, _BRIGHTEST["plain"]))
        for k, beam in enumerate(BEAMS)
    ]
    observed = [one.field(_benchmark_sky) for one in (_VLA[0], _ASKAP[0], _ATCA[0], _MEERKAT[0])]
    mixed = list(plain)
    for k, one in enumerate(observed):
        mixed.insert(2 + 3 * k, one)
    return tuple(mixed)


def presets() -> dict[str, tuple[FieldOptions, ...]]:
    """Return the ready-made lists of options by name; fields take the options in turn.

    ``natural`` and ``beam`` are plain images with beams of 3.5 to 8 pixels whose noise has the
    autocorrelation of naturally weighted noise, or of white noise convolved with the beam;
    ``complex`` is natural noise with bright structure as along the Galactic plane, ``scans`` has
    stripes as the scans of a single dish leave them. ``vla``, ``askap``, ``atca`` and ``meerkat``
    are observations with sidelobes, gain errors, ripples and primary beams, and ``telescopes`` is
    all four. ``mixed`` is natural noise, telescopes in one field of three, and bright structure
    and stripes in one of nine each. ``benchmark`` is natural noise and telescopes with a sky of
    mostly compact objects, for tables of detectors.
    """
    natural = tuple(_plain(k, b, "natural") for k, b in enumerate((*BEAMS, *BEAMS)))
    rich = tuple(
        _plain(k + 3, b, "natural", _complex_sky(b)) for k, b in enumerate((5.0, 3.5, 6.5, 4.5))
    )
    scans = tuple(
        _plain(k + 2, b, "natural", stripes=stripes)
        for k, (b, stripes) in enumerate(((3.6, 0.6), (4.2, 0.75), (5.0, 0.5), (3.8, 0.8)))
    )
    arrays = (_VLA, _ASKAP, _ATCA, _MEERKAT)
    vla, askap, atca, meerkat = map(_telescopes, arrays)
    places = itertools.zip_longest(vla, askap, atca, meerkat)
    telescopes = tuple(one for several in places for one in several if one is not None)
    mixed = list(natural)
    for k, one in enumerate(rich):
        mixed.insert(3 + 4 * k, one)
    for k, one in enumerate(scans):
        mixed.insert(5 + 5 * k, one)
    for k, one in enumerate(telescopes):
        mixed.insert(2 + 5 * k // 2, one)
    return {
        "mixed": tuple(mixed),
        "benchmark": _benchmark(),
        "natural": natural,
        "beam": tuple(_plain(k, b, "beam") for k, b in enumerate(BEAMS)),
        "complex": rich,
        "scans": scans,
        "telescopes": telescopes,
        "vla": vla,
        "askap": askap,
        "atca": atca,
        "meerkat": meerkat,
    }


class SimulatedOptions(SourceOptions):
    """Tiles of simulated fields; see `presets`."""

    kind: Literal["simulated"] = "simulated"
    preset: str = parameter("mixed", "Name of a ready-made list of options, or one further below.")
    fields: Mapping[str, tuple[FieldOptions, ...]] = parameter(
        {}, "Lists of a field's options by name, which presets may be called as well."
    )
    tiles_a_side: int = parameter(
        TILES_A_SIDE, "Tiles along the side of a field, which share its instrument.", ge=1, le=16
    )

    @model_validator(mode="after")
    def _known(self) -> "SimulatedOptions":
        known = [*presets(), *self.fields]
        if self.preset not in known:
            raise ValueError(
                f"there is no preset {self.preset!r}{suggestion(self.preset, known)}; choose one "
                f"of {', '.join(known)}"
            )
        return self


class SimulatedSource(SampleSource):
    """Samples from the simulator.

    Parameters
    ----------
    options : SimulatedOptions
    size, classes
        See `SampleSource`.
    """

    def __init__(self, options: SimulatedOptions, size: int, classes: Sequence[str]) -> None:
        super().__init__(size, classes)
        chosen = {**presets(), **options.fields}[options.preset]
        if not chosen:
            raise ConfigurationError(f"The preset {options.preset!r} lists no options of a field.")
        self.options = options
        self.stream = TileStream(chosen, size, options.seed, options.tiles_a_side)
        self._numbers = class_numbers(CLASSES, classes, options.classes)
        self._beams: dict[int, Floats] = {}
        self._fields: OrderedDict[int, list[Tile]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fields made so far behind: a worker makes its own."""
        return {**self.__dict__, "_fields": OrderedDict()}

    def sample(self, index: int) -> Sample:
        """Return sample number `index`; the tiles of its field that follow are kept for later."""
        number, place = divmod(index, self.stream.tiles_a_field)
        if number not in self._fields:
            self._fields[number] = self.stream.field(number)
            while len(self._fields) > KEPT_FIELDS:
                self._fields.popitem(last=False)
        return self._as_sample(self._fields[number][place], self._beam(number))

    def _beam(self, number: int) -> Floats:
        """Beam of a field in pixels squared."""
        place = number % len(self.stream.options)
        if place not in self._beams:
            self._beams[place] = self.stream.options[place].geometry().psf.covariance
        return self._beams[place]

    def _as_sample(self, tile: Tile, beam: Floats) -> Sample:
        compact = (tile.classes == COMPACT) | (tile.classes == CLASSES.index("spurious"))
        snr = detectability(tile.snr, tile.total_snr, compact)
        classes = self._numbers[tile.classes]
        made = Sample(
            image=tile.image,
            boxes=pixel_boxes(tile.segments, (self.size, self.size)),
            classes=classes,
            segments=tile.segments,
            ignore=(snr < self.options.floor) | (tile.inside < LEAST_INSIDE) | tile.blended,
            unlabelled=None,
            beam=beam,
            rms=tile.rms,
            snr=snr,
        )
        return made.keep(classes >= 0)
