"""Truth, runs and catalogues as the instances that object-detection metrics compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.comparison.any_catalogue import from_catalogue
from cyclades.pipeline.comparison.association import source_groups
from cyclades.pipeline.comparison.outcome import (
    EXTENDED,
    FLOOR,
    OBJECTS,
    SPURIOUS,
    detection_snr,
    integrated_snr,
)
from cyclades.pipeline.comparison.overlaps import LEAST_BOX, Objects, ellipse_boxes, pixel_edges
from cyclades.pipeline.comparison.reading import read_table
from cyclades.pipeline.comparison.tables import ComparisonTable, PathType
from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.products import Detections, Segments
from cyclades.stages.core.segments import segment_maximum, significance_map

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from cyclades.pipeline.chain import Pipeline, Result
    from cyclades.pipeline.simulation.field import Simulation
    from cyclades.pipeline.simulation.truth import Truth


def truth_objects(truth: "Truth", *, floor: float = FLOOR, artefacts: bool = False) -> Objects:
    """Objects of a simulated field with their boxes, masks and classes.

    Those below the floor (in peak S/N; extended classes in integrated S/N) are ignored.

    Parameters
    ----------
    truth : Truth
    floor : float
    artefacts : bool
        Whether objects of the class ``spurious`` are objects too, as in the radio benchmark;
        otherwise what is found on them is false.
    """
    sources = from_catalogue(truth.catalogue, table="sources")
    order = np.argsort(sources["source"])
    sources = sources.take(order)
    labels = truth.morphology
    snr = np.where(np.isin(labels, EXTENDED), integrated_snr(sources), sources["snr"])
    every = Objects(
        pixel_edges(truth.boxes), None, tuple(labels.tolist()), truth.segments, snr < floor
    )
    return every if artefacts else every.take(np.flatnonzero(labels != SPURIOUS))


def found_objects(result: "Result") -> Objects:
    """Objects that a run detected, with boxes and masks: islands, unless the detector knows better.

    The score is the detector's own where it tells rows apart, else the peak S/N. Classes are
    the detector's.

    Raises
    ------
    InputError
        Where the run did not keep its products.
    """
    if result.detections is None or result.background is None or result.image is None:
        raise InputError("instances of a run need its products; run it with keep=True.")
    detections = result.detections
    if detections.source is not None:
        return _detected_objects(detections)
    rows = np.flatnonzero((detections.parent < 0) & (detections.signs > 0))
    found = Objects.from_detections(detections, rows=rows)
    scores = detections.score[rows]
    if found.masks is not None and len(rows) and scores.min() == scores.max():
        significance = significance_map(result.image, result.background)
        scores = segment_maximum(significance, found.masks)
    return Objects(found.boxes, scores, found.labels, found.masks)


def _detected_objects(detections: Detections) -> Objects:
    """Objects of a detector that tells those of one island apart, from the leaves of each."""
    leaves = detections.leaves[detections.signs[detections.leaves] > 0]
    assert detections.source is not None
    source, island = detections.source[leaves], detections.island_of[leaves]
    rows: list[int] = []
    boxes, masks = [], []
    for number in np.unique(source):
        mine = leaves[source == number]
        home = island[source == number][0]
        # an object that has its island for itself is that row, with the detector's box
        alone = (source[island == home] == number).all()
        parts = np.array([home]) if alone else mine
        rows.append(int(parts[0]))
        box = detections.box[parts]
        boxes.append(np.concatenate([box[:, :2].min(0), box[:, 2:].max(0)]))
        if detections.segments is not None:
            masks.append(np.concatenate([detections.segments[row] for row in parts]))
    found = Objects.from_detections(detections, rows=np.array(rows, np.int64))
    return Objects(
        pixel_edges(np.array(boxes).reshape(-1, 4)),
        found.scores,
        found.labels,
        Segments.from_lists(masks) if detections.segments is not None else None,
    )


def oracle_objects(pipeline: "Pipeline", simulation: "Simulation") -> Objects:
    """Islands that a route's detector finds where level and rms are known exactly.

    Beside the route's own score this tells what its background estimate costs; what is missing
    even here is lost in the noise or to the detector.
    """
    from cyclades.pipeline.chain import Result

    background = simulation.background
    with Context(workers=1, seed=pipeline.config.seed) as context:
        detections = pipeline.config.detection.detect(simulation.image, background, context=context)
    return found_objects(Result(pipeline.config, {}, simulation.image, background, detections))


def table_objects(table: ComparisonTable, wcs: "WCS", *, least: float = LEAST_BOX) -> Objects:
    """Sources of a catalogue of which no masks are known, as boxes.

    The box of a component reaches one FWHM to either side of its position along both pixel
    axes; that of a source is the smallest around those of its components.

    Parameters
    ----------
    table : ComparisonTable
        Components; rows without a position or size are left out.
    wcs : astropy.wcs.WCS
    least : float
        Least side of a component's box in pixels.

    Returns
    -------
    Objects
        In the order of the numbers of the sources. The score is the largest of the components'
        scores, or of their S/N where scores tell no rows apart; the class that of the brightest.
    """
    boxes, table = _component_boxes(table, wcs, least)
    names, group = np.unique(source_groups(table), return_inverse=True)
    corners = np.full((len(names), 4), np.inf)
    np.minimum.at(corners, group, boxes * np.array([1.0, 1.0, -1.0, -1.0]))
    known = table["score"][np.isfinite(table["score"])]
    strength: Any = table["score"] if len(np.unique(known)) > 1 else table["snr"]
    strength = np.nan_to_num(strength, nan=-np.inf)
    scores = np.full(len(names), -np.inf)
    np.maximum.at(scores, group, strength)
    labels = None
    if (table["morphology"] != "").any():
        order = np.lexsort((-np.nan_to_num(table["peak_flux"]), group))
        brightest = order[np.unique(group[order], return_index=True)[1]]
        labels = tuple(table["morphology"][brightest].tolist())
    return Objects(corners * np.array([1.0, 1.0, -1.0, -1.0]), scores, labels)


def true_table_objects(
    truth: ComparisonTable, wcs: "WCS", *, floor: float = FLOOR, least: float = LEAST_BOX
) -> Objects:
    """Objects of a truth of which no masks are known, as `table_objects` draws boxes.

    Those none of whose rows reaches the floor (see `detection_snr`) are ignored. Artefacts are
    among the objects, under the label ``spurious``.
    """
    # only these classes are objects of several rows; blends are sources of their own
    together = np.isin(truth["morphology"], OBJECTS)
    truth = truth.replace(source=np.where(together, truth["source"], -1))
    made = table_objects(truth, wcs, least=least)
    rows = _component_boxes(truth, wcs, least)[1]
    group = np.unique(source_groups(rows), return_inverse=True)[1]
    strongest = np.full(len(made), -np.inf)
    # sources of unknown S/N count, as they do in an outcome
    np.maximum.at(strongest, group, np.nan_to_num(detection_snr(rows), nan=np.inf))
    return Objects(made.boxes, None, made.labels, None, strongest < floor)


def _component_boxes(
    table: ComparisonTable, wcs: "WCS", least: float
) -> tuple[Any, ComparisonTable]:
    """Boxes of the rows that have a position and a size, and these rows."""
    major = table["major"]
    # catalogues of finders that give one width only are round
    minor = np.where(np.isfinite(table["minor"]), table["minor"], major)
    angle = np.nan_to_num(table["position_angle"])
    boxes = ellipse_boxes(wcs, table["ra"], table["dec"], major, minor, angle, least=least)
    good = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    return boxes[good], table.take(good)


def catalogue_islands(value: Catalogue | PathType) -> Objects | None:
    """Positive islands of a catalogue of our own, with boxes, peak S/N as score, and masks.

    Masks come from the label map ``X.islands.fits`` beside a file ``X.catalogue.fits``, as
    ``cyclades run --products islands`` writes it.

    Returns
    -------
    Objects or None
        None for catalogues that list no islands.
    """
    if isinstance(value, Catalogue):
        table, path = value.islands, None
    else:
        path = Path(value)
        table = read_table(path, "islands")
    needed = ("island_id", "x_min", "x_max", "y_min", "y_max", "snr")
    if any(name not in table.colnames for name in needed):
        return None
    columns = {name: np.asarray(table[name], float) for name in needed}
    columns = {name: values[columns["snr"] > 0] for name, values in columns.items()}
    box = np.stack([columns[name] for name in ("x_min", "y_min", "x_max", "y_max")], -1)
    masks = None
    if path is not None:
        labels = path.with_name(path.name.removesuffix(".catalogue.fits") + ".islands.fits")
        if path.name.endswith(".catalogue.fits") and labels.is_file():
            masks = _label_masks(labels, columns["island_id"].astype(np.int64))
    return Objects(pixel_edges(box), columns["snr"], None, masks)


def _label_masks(path: Path, numbers: Any) -> Segments:
    """Pixels of each number of a label map."""
    from astropy.io import fits

    held = fits.getdata(path).astype(np.int64).ravel()
    pixels = np.flatnonzero(held)
    order = np.argsort(held[pixels], kind="stable")
    pixels, labels = pixels[order], held[pixels][order]
    low, high = (np.searchsorted(labels, numbers, side) for side in ("left", "right"))
    return Segments.from_lists([pixels[a:b] for a, b in zip(low, high, strict=True)])
