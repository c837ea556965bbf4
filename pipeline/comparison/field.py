"""One field of a comparison: its catalogues, truth and image, read and matched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth, read_any
from cyclades.pipeline.comparison.challenge import challenge_file
from cyclades.pipeline.comparison.instances import (
    catalogue_islands,
    found_objects,
    table_objects,
    true_table_objects,
    truth_objects,
)
from cyclades.pipeline.comparison.match import common_beam
from cyclades.pipeline.comparison.outcome import FLOOR, OBJECTS, Outcome
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.comparison.tables import ComparisonTable, Integers, PathType
from cyclades.pipeline.comparison.without_truth import as_seen_by
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import Floats, pixel_positions

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from cyclades.pipeline.simulation.field import Simulation
    from cyclades.pipeline.simulation.truth import Truth
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.products import Background

TRUTH = "truth"
ORACLE = "oracle"
PIXELS_A_BEAM = 5.0
"""Of the frame that boxes are drawn in where there is no image."""

Comparable = ComparisonTable | Catalogue | PathType
Catalogues = Mapping[str, Comparable] | Sequence[Comparable]
TrueSky = Union[Comparable, "Truth", "Simulation"]


@dataclass(frozen=True, eq=False)
class ComparedField:
    """Catalogues of one field and what they are judged by.

    Parameters
    ----------
    name : str
    catalogues : dict of str to ComparisonTable
        By label; with `ORACLE` where the true level and noise are known.
    truth : ComparisonTable, optional
    image : SkyImage, optional
    beam : float
        FWHM of the beam's major axis, arcsec.
    outcomes : dict of str to Outcome
        By label; empty without a truth.
    true_instances : Objects, optional
        Boxes and masks of a simulation's true objects.
    islands : dict of str to Objects
        Islands of the catalogues that list them, with masks where their label map lies beside.
    challenge : dict of str to mapping
        The tables with the columns of SKA Data Challenge 1, by label or `TRUTH`.
    rms_map : path, optional
        The noise map; otherwise the noise is estimated on the image.
    notes : list of str
        What was done that the reader should know.
    """

    name: str
    catalogues: dict[str, ComparisonTable]
    truth: ComparisonTable | None
    image: "SkyImage | None"
    beam: float
    outcomes: dict[str, Outcome]
    true_instances: Objects | None = None
    islands: dict[str, Objects] = field(default_factory=dict)
    challenge: dict[str, dict[str, Floats]] = field(default_factory=dict)
    rms_map: Path | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def background(self) -> "Background | None":
        """Level and rms of the image, the rms from the map that was given; None without image."""
        if self.image is None:
            return None
        return estimate_background(self.image, self.rms_map)

    @cached_property
    def detections(self) -> dict[str, ComparisonTable]:
        """The catalogues with the rows that are parts of a source joined to it."""
        return {name: table.joined() for name, table in self.catalogues.items()}

    @cached_property
    def wcs(self) -> "WCS":
        """Coordinates of the image; without one, a plane around the sources."""
        from astropy.wcs import WCS

        if self.image is not None and self.image.wcs is not None:
            return self.image.wcs
        tables = [*([] if self.truth is None else [self.truth]), *self.catalogues.values()]
        ra, dec = (np.radians(np.concatenate([t[name] for t in tables])) for name in ("ra", "dec"))
        made = WCS(naxis=2)
        # angles around 0 degrees have no plain mean
        centre = (
            [np.arctan2(np.sin(ra).mean(), np.cos(ra).mean()), dec.mean()] if len(ra) else [0, 0]
        )
        made.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        made.wcs.crval = np.degrees(centre)
        made.wcs.cdelt = np.array([-1.0, 1.0]) * self.beam / PIXELS_A_BEAM / 3600.0
        return made

    @cached_property
    def boxes(self) -> dict[str, Objects]:
        """Boxes of one FWHM to either side, of every catalogue.

        Where the truth has no object of several rows, every row of a catalogue is an object too:
        a catalogue that groups its components must not lose by it.
        """
        tables = dict(self.detections)
        if self.truth is not None and not np.isin(self.truth["morphology"], OBJECTS).any():
            for name, table in tables.items():
                tables[name] = table.replace(source=np.full(len(table), -1))
        return {name: table_objects(table, self.wcs) for name, table in tables.items()}

    @cached_property
    def true_boxes(self) -> Objects | None:
        """The same of the truth, artefacts included."""
        if self.truth is None:
            return None
        floor = next(iter(self.outcomes.values())).floor
        return true_table_objects(self.truth, self.wcs, floor=floor)


def load_field(
    catalogues: Catalogues,
    truth: TrueSky | None = None,
    image: "SkyImage | PathType | None" = None,
    *,
    deep: Comparable | None = None,
    rms: PathType | None = None,
    columns: Mapping[str, Any] | PathType | None = None,
    floor: float = FLOOR,
    name: str = "",
) -> ComparedField:
    """Read the catalogues, the truth and the image of one field, and match them.

    The parameters are those of `cyclades.pipeline.comparison.compare.compare`; `name` is what to
    call the field.

    Raises
    ------
    InputError
        Where a table or the image cannot be used, or labels repeat.
    """
    notes: list[str] = []
    held = _load_all(catalogues, columns)
    islands = _islands(catalogues, held)
    held = {label: _placed(table, notes) for label, table in held.items()}
    if truth is not None and deep is not None:
        raise InputError("Give a truth or a deep catalogue, not both; either serves as the truth.")
    true, masks, oracle = _load_truth(truth if deep is None else deep, columns, floor)
    if image is None and oracle is not None:
        image = oracle.image
    if true is not None:
        true = _placed(true, notes)
    tables = [*([] if true is None else [true]), *held.values()]
    plane = _plane(image, tables)
    beam = _beam(plane, tables)
    if rms is not None and plane is None:
        raise InputError("A noise map says nothing without its image; give it with --image.")
    rms_map = None if rms is None else Path(rms)
    if true is not None and plane is not None:
        true = _place_on_image(true, plane, rms_map, notes)
    if plane is not None:
        held = {name: _on_image(c, plane, beam, notes) for name, c in held.items()}
    if true is not None and deep is not None:
        true = _as_seen(true, next(iter(held.values())), plane, rms_map)
        notes.append("the deep catalogue serves as truth, with the noise of the shallow image")
    if true is not None and plane is not None and oracle is not None and ORACLE not in held:
        held[ORACLE], islands[ORACLE] = oracle.run(plane)
        notes.append(
            f"{ORACLE} is the classical route given the true level and noise: a ceiling, no rival"
        )
    outcomes = (
        {}
        if true is None
        else {label: Outcome.of(true, c, beam=beam, floor=floor) for label, c in held.items()}
    )
    return ComparedField(
        name or (plane.name if plane is not None else ""),
        held, true, plane, beam, outcomes, masks, islands,
        _challenge(catalogues, held, truth), rms_map, notes,
    )  # fmt: skip


def estimate_background(image: "SkyImage", rms: Path | None = None) -> "Background | None":
    """Level and rms as the classical route estimates them, or with a noise map of one's own."""
    from cyclades.pipeline.chain import Pipeline

    pipeline = Pipeline.from_route()
    if rms is not None:
        pipeline = pipeline.replace(background={"name": "maps", "rms": str(rms)})
    return pipeline.run_until("background", image).background


@dataclass(frozen=True)
class _Oracle:
    """True level and noise: maps in memory, or files beside a truth."""

    image: "SkyImage | None"
    level: Any
    rms: Any

    def run(self, image: "SkyImage") -> tuple[ComparisonTable, Objects]:
        """Run the classical route with them: its catalogue, and its islands."""
        from cyclades.pipeline.chain import Pipeline, Result
        from cyclades.stages.background.maps import read_map
        from cyclades.stages.core.products import Background

        level, rms = (
            read_map(str(value), image, what) if isinstance(value, Path) else value
            for value, what in ((self.level, "level"), (self.rms, "rms"))
        )
        blank = np.isnan(image.data)
        background = Background(*(np.where(blank, np.float32(np.nan), v) for v in (level, rms)))
        pipeline = Pipeline.from_route()
        start = Result(pipeline.config, {}, image, background)
        result = pipeline.run_from("detection", start)
        assert result.catalogue is not None
        return _placed(from_catalogue(result.catalogue, ORACLE), []), found_objects(result)


def _load_truth(
    value: TrueSky | None, columns: Mapping[str, Any] | PathType | None, floor: float
) -> tuple[ComparisonTable | None, Objects | None, _Oracle | None]:
    """The truth, its instances, and the true maps: each where it is known."""
    if value is None:
        return None, None, None
    if isinstance(value, Catalogue | ComparisonTable):
        return _load(value, columns, TRUTH), None, None
    if not isinstance(value, str | PathLike):
        from cyclades.pipeline.simulation.field import Simulation

        known = value.truth if isinstance(value, Simulation) else value
        oracle = None
        if isinstance(value, Simulation):
            oracle = _Oracle(value.image, value.level, value.rms)
        return from_truth(known, TRUTH), truth_objects(known, floor=floor), oracle
    from cyclades.pipeline.simulation.truth import COCO_SUFFIX, TRUTH_SUFFIX, read_truth

    path = Path(value)
    prefix = str(path).removesuffix(TRUTH_SUFFIX)
    masks = None
    if path.name.endswith(TRUTH_SUFFIX) and Path(f"{prefix}{COCO_SUFFIX}").is_file():
        masks = truth_objects(read_truth(path), floor=floor)
    maps = [Path(f"{prefix}{suffix}") for suffix in (".level.fits", ".rms.fits")]
    there = path.name.endswith(TRUTH_SUFFIX) and all(_is_true_map(file) for file in maps)
    return _load(path, columns, TRUTH), masks, _Oracle(None, *maps) if there else None


def _is_true_map(path: Path) -> bool:
    """Whether a file is a map of the simulator, and not an estimate of the same name."""
    from astropy.io import fits

    return path.is_file() and "SEED" in fits.getheader(path)


def _load_all(
    catalogues: Catalogues, columns: Mapping[str, Any] | PathType | None
) -> dict[str, ComparisonTable]:
    if isinstance(catalogues, Mapping):
        named = [_load(value, columns, name) for name, value in catalogues.items()]
    else:
        named = [_load(value, columns) for value in catalogues]
    names = [table.name for table in named]
    for name in names:
        if names.count(name) > 1 or name == TRUTH:
            raise InputError(f"More than one table is called {name!r}; name each as LABEL=FILE.")
    return dict(zip(names, named, strict=True))


def _load(
    value: Comparable, columns: Mapping[str, Any] | PathType | None, name: str = ""
) -> ComparisonTable:
    if isinstance(value, Catalogue):
        return from_catalogue(value, name)
    if isinstance(value, ComparisonTable):
        return value.replace(meta={"name": name}) if name else value
    return read_any(value, columns, name=name)


def _islands(catalogues: Catalogues, held: Mapping[str, ComparisonTable]) -> dict[str, Objects]:
    """Islands of the catalogues that list them."""
    given = catalogues.values() if isinstance(catalogues, Mapping) else catalogues
    made = {}
    for label, value in zip(held, given, strict=True):
        islands = None if isinstance(value, ComparisonTable) else catalogue_islands(value)
        if islands is not None:
            made[label] = islands
    return made


def _challenge(
    catalogues: Catalogues, held: Mapping[str, ComparisonTable], truth: TrueSky | None
) -> dict[str, dict[str, Floats]]:
    """The tables that have the columns of SKA Data Challenge 1."""
    given = catalogues.values() if isinstance(catalogues, Mapping) else catalogues
    files = {**dict(zip(held, given, strict=False)), TRUTH: truth}
    made = {}
    for label, value in files.items():
        if isinstance(value, str | PathLike):
            found = challenge_file(value)
            if found is not None:
                made[label] = found
    return made


def _placed(table: ComparisonTable, notes: list[str]) -> ComparisonTable:
    """Leave out rows without a position, so that row numbers are the same everywhere."""
    usable = np.isfinite(table["ra"]) & np.isfinite(table["dec"])
    if usable.all():
        return table
    notes.append(f"{int((~usable).sum())} rows of {table.name} have no position and are left out")
    return table.take(usable)


def _plane(
    image: "SkyImage | PathType | None", tables: Sequence[ComparisonTable]
) -> "SkyImage | None":
    from cyclades.stages.core.image import SkyImage
    from cyclades.stages.core.io import read_image

    if image is None:
        return None
    if isinstance(image, SkyImage):
        return _in_janskys(image)
    plane = read_image(Path(image))
    beams = [table.beam for table in tables]
    known = next((beam for beam in beams if beam is not None), None)
    if plane.psf is None and known is not None:
        # some surveys leave the beam out of the headers; their catalogues tell it
        plane = read_image(Path(image), beam=f"{known[0]}arcsec")
    return _in_janskys(plane)


def _in_janskys(image: "SkyImage") -> "SkyImage":
    """Return an image in the unit of the tables (`ComparisonTable`) where it converts."""
    import astropy.units as u

    for flux in (u.Jy / u.beam, u.Jy / u.pix):
        if image.unit is not None and image.unit != flux and image.unit.is_equivalent(flux):
            return image.replace(data=image.data * np.float32(image.unit.to(flux)), unit=flux)
    return image


def _beam(plane: "SkyImage | None", tables: Sequence[ComparisonTable]) -> float:
    if plane is not None and plane.beam is not None:
        return float(plane.beam.major.to_value("arcsec"))
    return common_beam(tables)


def _place_on_image(
    truth: ComparisonTable, image: "SkyImage", rms_map: Path | None, notes: list[str]
) -> ComparisonTable:
    """Leave out truth on blank pixels, and measure the S/N that it lacks."""
    if image.wcs is None:
        return truth
    row, column, usable = _pixels(truth, image, image.wcs)
    if not usable.all():
        notes.append(
            f"{int((~usable).sum())} true sources off the image or on blank pixels are left out"
        )
    if np.isfinite(truth["snr"]).any():
        return truth.take(usable)
    background = estimate_background(image, rms_map)
    assert background is not None
    excess = np.pad(image.data - background.level, 1, constant_values=-np.inf)
    excess[np.isnan(excess)] = -np.inf
    steps = [(dy, dx) for dy in range(3) for dx in range(3)]
    peak = np.max([excess[row + dy, column + dx] for dy, dx in steps], axis=0)
    rms: Floats = background.rms[row, column].astype(float)
    notes.append("the S/N of the truth was measured on the image")
    return truth.replace(snr=peak / rms, local_rms=rms).take(usable)


def _on_image(
    table: ComparisonTable, image: "SkyImage", beam: float, notes: list[str]
) -> ComparisonTable:
    """Leave out rows more than a beam away from any pixel that is not blank."""
    if image.wcs is None:
        return table
    x, y = pixel_positions(image.wcs, table["ra"], table["dec"])
    _, _, usable = _pixels(table, image, image.wcs)
    reach = beam / (3600.0 * float(np.sqrt(image.wcs.proj_plane_pixel_area().to_value("deg2"))))
    for row in np.flatnonzero(~usable & np.isfinite(x) & np.isfinite(y)):
        low = [max(0, math.ceil(v - reach)) for v in (y[row], x[row])]
        high = [max(0, math.floor(v + reach) + 1) for v in (y[row], x[row])]
        usable[row] = np.isfinite(image.data[low[0] : high[0], low[1] : high[1]]).any()
    if usable.all():
        return table
    number = int((~usable).sum())
    notes.append(f"{number} rows of {table.name} off the image or on blank pixels are left out")
    return table.take(usable)


def _pixels(
    table: ComparisonTable, image: "SkyImage", wcs: "WCS"
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Row and column of the pixel under each position, and whether it is there and not blank."""
    x, y = pixel_positions(wcs, table["ra"], table["dec"])
    ny, nx = image.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    row, column = (np.rint(np.where(inside, v, 0.0)).astype(np.int64) for v in (y, x))
    return row, column, inside & np.isfinite(image.data[row, column])


def _as_seen(
    deep: ComparisonTable,
    shallow: ComparisonTable,
    image: "SkyImage | None",
    rms_map: Path | None,
) -> ComparisonTable:
    """Give a deep catalogue the noise of the shallow image, or else of the shallow catalogue."""
    if image is None or image.wcs is None:
        return as_seen_by(deep, shallow)
    background = estimate_background(image, rms_map)
    assert background is not None
    row, column, _ = _pixels(deep, image, image.wcs)
    return as_seen_by(deep, shallow, background.rms[row, column].astype(float))
