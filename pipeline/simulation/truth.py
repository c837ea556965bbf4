"""The truth of a simulated image: a catalogue, the pixels, the box and the class of each object."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.simulation.coco import read_coco, to_coco, write_coco
from cyclades.pipeline.simulation.model import CLASSES, Floats, Integers
from cyclades.pipeline.simulation.objects import SPURIOUS_CLASS, ObservedObjects
from cyclades.pipeline.simulation.observation import Artefacts
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.catalogue import Catalogue, read_catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import gaussian_area
from cyclades.stages.core.products import Background, Components, Detections, Segments
from cyclades.stages.core.schema import ColumnSpec
from cyclades.stages.core.tables import add_column

if TYPE_CHECKING:
    from cyclades.stages.core.image import SkyImage

TRUTH_SUFFIX, COCO_SUFFIX = ".truth.fits", ".truth.coco.json"
FIT_TYPE = "truth"
OBJECT = ColumnSpec(
    "object", "", "meta.id", "number in the sky model; -1 for an artefact", ("components",), "i4"
)


@dataclass(frozen=True, eq=False)
class Truth:
    """What is in an image.

    Row i of `segments`, `boxes` and `classes` is the source with ``source_id`` i + 1.

    Parameters
    ----------
    catalogue : Catalogue
        In the schema of every product. Components are elements as the beam shows them (those
        that it does not separate are one), sources and islands are objects; `morphology` is the
        class; errors are zero. The column ``object`` of the components is the number of the
        object in the `SkyModel`, -1 for artefacts.
    segments : Segments
        Pixels of each source, which may overlap those of others: where its own noise-free image
        exceeds one local rms, or half of its peak where that is less.
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1`` of the segments, 0-based pixel centres.
    classes : ndarray of int, shape (n,)
        Position in `names`.
    shape : (ny, nx)
    names : tuple of str
        Of the classes.
    """

    catalogue: Catalogue
    segments: Segments
    boxes: Floats
    classes: Integers
    shape: tuple[int, int]
    names: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def morphology(self) -> NDArray[np.str_]:
        """Name of the class of each source."""
        return np.array(self.names)[self.classes]

    def coco(self) -> dict[str, Any]:
        """Return masks, boxes and classes as a COCO data set; annotation ids are source_id."""
        name = str(self.catalogue.meta.get("image", "image"))
        return to_coco(
            self.segments, self.boxes, self.classes, self.shape, f"{name}.fits", self.names
        )

    def write(self, prefix: "str | Path") -> list[Path]:
        """Write ``PREFIX.truth.fits`` and ``PREFIX.truth.coco.json`` and return their paths."""
        files = [Path(f"{prefix}{suffix}") for suffix in (COCO_SUFFIX, TRUTH_SUFFIX)]
        write_coco(self.coco(), files[0])
        self.catalogue.write(files[1], format="fits")
        return files[::-1]


def read_truth(path: "str | Path") -> Truth:
    """Read a truth that `Truth.write` wrote.

    Parameters
    ----------
    path : path
        Either of its two files, the image beside them, or their common prefix.

    Raises
    ------
    InputError
        Where a file is missing, damaged, or does not belong to the other.
    """
    text = str(path)
    for suffix in (TRUTH_SUFFIX, COCO_SUFFIX, ".fits"):
        if text.endswith(suffix):
            text = text.removesuffix(suffix)
            break
    file = Path(f"{text}{TRUTH_SUFFIX}")
    if not file.is_file():
        raise InputError(f"{file}: there is no such file.")
    catalogue = read_catalogue(file, format="fits")
    segments, boxes, classes, shape, names = read_coco(Path(f"{text}{COCO_SUFFIX}"))
    if len(boxes) != len(catalogue.sources):
        raise InputError(
            f"{text}{COCO_SUFFIX} has {len(boxes)} masks, {text}{TRUTH_SUFFIX} "
            f"{len(catalogue.sources)} sources; use the two files of one simulation."
        )
    return Truth(catalogue, segments, boxes, classes, shape, names)


def make_truth(
    objects: ObservedObjects,
    artefacts: Artefacts,
    image: "SkyImage",
    background: Background,
    clean: NDArray[np.float32],
    names: tuple[str, ...] = CLASSES,
) -> Truth:
    """Make the truth of an image.

    Parameters
    ----------
    objects : ObservedObjects
    artefacts : Artefacts
        They become sources of the class ``spurious``.
    image : SkyImage
        Gives coordinates, beam, unit and name.
    background : Background
        True level and rms.
    clean : ndarray, shape (ny, nx)
        The image without noise and level, for fluxes summed over pixels.
    names : tuple of str
        Of the classes of the objects.
    """
    from cyclades.stages.cataloguing.components import ComponentsCatalogue
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.segments import segment_boxes

    psf = image.psf
    assert psf is not None
    everything = with_artefacts(objects, artefacts, image.data, background.rms, psf)
    boxes = segment_boxes(everything.segments, image.shape[1])
    n = len(everything)
    detections = Detections(
        shape=image.shape,
        box=boxes,
        score=np.ones(n),
        parent=np.full(n, -1, np.int64),
        segments=everything.segments,
        summit=np.stack(np.divmod(everything.pixel, image.shape[1])[::-1], -1).astype(float),
    )
    context = Context()
    context.note("detected_by", FIT_TYPE)
    context.note("measured_by", FIT_TYPE)
    catalogue = ComponentsCatalogue(name_prefix="SIM", limit_significance=0.0).build(
        image.replace(data=clean + background.level),
        background,
        detections,
        _components(everything, psf),
        context=context,
    )
    return _linked(catalogue, everything, boxes, image.shape, names)


def with_artefacts(
    objects: ObservedObjects,
    artefacts: Artefacts,
    data: NDArray[np.float32],
    rms: NDArray[np.float32],
    psf: PointSpread,
) -> ObservedObjects:
    """Append artefacts as objects of one component that has the shape of the beam."""
    n = len(artefacts)
    if not n:
        return objects
    segments = artefacts.segments
    brightness = np.nan_to_num(data.ravel()[segments.indices], nan=-np.inf)
    order = np.lexsort((brightness, segments.owner()))
    pixel = segments.indices[order[segments.offsets[1:] - 1]]
    snr = artefacts.peak / rms.ravel()[pixel]
    y, x = np.divmod(pixel, data.shape[1])
    beam = psf.covariances(x, y)
    values = np.column_stack([artefacts.peak, x, y, beam[:, 0, 0], beam[:, 0, 1], beam[:, 1, 1]])
    join = np.concatenate
    return ObservedObjects(
        number=join([objects.number, np.full(n, -1)]),
        object_class=join([objects.object_class, np.full(n, SPURIOUS_CLASS)]),
        segments=Segments.concatenate([objects.segments, segments]),
        peak=join([objects.peak, artefacts.peak]),
        pixel=join([objects.pixel, pixel]),
        snr=join([objects.snr, snr]),
        total_snr=join([objects.total_snr, snr]),
        owner=join([objects.owner, len(objects) + np.arange(n)]),
        values=join([objects.values, values]),
        total=join([objects.total, artefacts.peak]),
    )


def _components(objects: ObservedObjects, psf: PointSpread) -> Components:
    """Components of the truth, exact and therefore without errors."""
    n = len(objects.owner)
    peak, x, y, sxx, sxy, syy = objects.values.T
    covariance = np.stack([np.stack([sxx, sxy], -1), np.stack([sxy, syy], -1)], -2)
    wider = gaussian_area(covariance) > psf.areas(x, y) * (1.0 + 1e-6)
    unknown = np.full(n, np.nan)
    return Components(
        detection=objects.owner,
        island=objects.owner,
        peak=peak,
        x=x,
        y=y,
        sxx=sxx,
        sxy=sxy,
        syy=syy,
        total=objects.total,
        total_err=np.zeros(n),
        covariance=np.zeros((n, 6, 6)),
        beam_flux=unknown,
        beam_flux_err=unknown,
        resolved_probability=wider.astype(float),
        flags=np.zeros(n, np.int64),
        chi2=unknown,
        degrees_of_freedom=unknown,
        residual_mean=unknown,
        residual_rms=unknown,
        n_pixels=objects.segments.lengths[objects.owner],
        fit_type=(FIT_TYPE,) * n,
        extra={"row": objects.owner},
    )


def _linked(
    catalogue: Catalogue,
    objects: ObservedObjects,
    boxes: Floats,
    shape: tuple[int, int],
    class_names: tuple[str, ...],
) -> Truth:
    """Bring segments, boxes and classes to the order of the sources, and name the classes."""
    import astropy.units as u

    components, sources = catalogue.components.copy(), catalogue.sources.copy()
    component_row = np.asarray(components["row"], np.int64)
    components.remove_column("row")
    add_column(components, OBJECT, objects.number[component_row], None)
    row = np.zeros(len(sources), np.int64)
    row[np.asarray(components["source_id"]) - 1] = component_row
    names = np.array(class_names)[objects.object_class]
    for table, rows in ((components, component_row), (sources, row)):
        info = table["morphology"].info
        description, meta = info.description, info.meta
        table["morphology"] = names[rows]
        table["morphology"].info.description = description
        table["morphology"].info.meta = meta
        table["morphology_probability"][:] = 1.0
    # components that are not separate may add up to more than the brightest of them
    unit = sources["peak_flux"].unit or u.dimensionless_unscaled
    sources["peak_flux"][:] = objects.peak[row] * unit
    return Truth(
        catalogue.replace(components=components, sources=sources),
        objects.segments.take(row),
        boxes[row],
        objects.object_class[row],
        shape,
        class_names,
    )
