"""Pictures of the sources of a catalogue, sized by the sources, and their features."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.studies.files import written_whole
from cyclades.stages.core.errors import ConfigurationError, CycladesError, InputError
from cyclades.stages.core.geometry import pixel_positions
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.io import FitsSource
from cyclades.stages.networks.classification import FeatureSpec
from cyclades.stages.networks.cutouts import FrameSpec, Place, cut_out
from cyclades.stages.networks.pictures import Bytes, PictureOptions
from cyclades.stages.networks.weights_files import weights_folder

if TYPE_CHECKING:
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.source import ImageSource

logger = logging.getLogger("cyclades.similarity")

SIZE = 96
"""Side of the pictures."""
SCALES = (1.0, 2.5)
"""The close and the wide picture of a source, in units of `sides`."""
LEAST_BEAMS = 8.0
"""A close picture is at least so many beams wide."""
SOURCE_SIZES = 3.0
"""A close picture is so many times the FWHM of the source's major axis wide."""
_SURROUNDINGS = 2
"""The noise is measured in a square so many times as wide as a picture."""
_PIXELS_A_BEAM = 2.5
"""Where the pixels of a picture are larger, the image is smoothed before it is sampled."""
_CUTTING = 0.2
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures and features of the sources of a catalogue, row by row.

    Parameters
    ----------
    pictures : ndarray of uint8, shape (n, size, size)
        The close ones; black where there is nothing to see.
    features : ndarray, shape (n, k), float32
        NaN where there is nothing to see, or more than half of it is blank.
    widths : ndarray, shape (n,)
        Of the close pictures on the sky, arcsec; NaN outside the image.
    """

    pictures: Bytes
    features: NDArray[np.float32]
    widths: NDArray[np.float64]


def open_image(image: str | Path, beam: str | None = None) -> FitsSource:
    """Open the image whose sources are compared.

    Raises
    ------
    InputError
        Where it cannot be used, or has no beam.
    """
    source = FitsSource(image, ImageOptions(beam=beam))
    if source.psf is None:
        raise InputError(f"{source.name} has no beam; give it with --beam 5.4arcsec.")
    return source


def make_gallery(
    catalogue: "Catalogue",
    source: "ImageSource",
    weights: str,
    *,
    device: str = "cpu",
    report: Callable[[float], None] | None = None,
) -> Gallery:
    """Cut out the sources and compute their features, or read these where they are kept.

    Parameters
    ----------
    catalogue : Catalogue
    source : ImageSource
        With beam and sky coordinates.
    weights : str
        Of a backbone: a name of ``cyclades weights``, or a file of ``cyclades pretrain``.
    device : str
        A torch device.
    report : callable, optional
        Told the share that is done.

    Raises
    ------
    ConfigurationError
        Where torch is not installed, or the weights do not say of which architecture they are.
    InputError
        Where weights or image cannot be used.
    """
    x, y, major = places(catalogue, source)
    if not len(x):
        raise InputError("The catalogue has no sources to compare; find some first.")
    # in an order of their own, so that nothing depends on the order of the rows
    order = np.lexsort((major, x, y))
    pictures, clear, width = _pictures(source, x[order], y[order], major[order], report)
    if not clear.any():
        raise InputError(
            f"{source.name} shows none of the {len(x)} sources whole (blank there, or beyond its "
            "edge); give the image that the catalogue is of."
        )
    close = np.zeros((len(x), SIZE, SIZE), np.uint8)
    close[order] = pictures[:, 0]
    widths = np.full(len(x), np.nan)
    widths[order] = width
    features = _features(pictures[clear], weights, device, report)
    made = np.full((len(x), features.shape[1]), np.nan, np.float32)
    made[order[clear]] = features
    return Gallery(close, made, widths)


def places(
    catalogue: "Catalogue", source: "ImageSource"
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return where sources lie in an image, and how large they are.

    Returns
    -------
    x, y : ndarray, shape (n,)
        0-based pixels of the full image; from ``ra`` and ``dec`` where the catalogue has them.
    major : ndarray, shape (n,)
        FWHM of the major axis, arcsec; NaN where it is not known on the sky.

    Raises
    ------
    InputError
        Where the image has no sky coordinates.
    """
    from cyclades.stages.core.tiling import Box

    table = catalogue.sources
    corner = source.window(Box(0, 1, 0, 1))
    if corner.wcs is None:
        raise InputError(f"{source.name} has no sky coordinates, which cut-outs are made by.")
    if "ra" not in table.colnames:
        raise InputError(
            "The catalogue has no sky coordinates; make it anew on an image that has them."
        )
    ra, dec = (np.asarray(table[name].to_value("deg"), float) for name in ("ra", "dec"))
    x, y = pixel_positions(corner.wcs, ra, dec)
    return x, y, np.asarray(table["major"].to_value("arcsec"), float)


def sides(major: float, beam: float) -> float:
    """Side of the close picture of a source in arcsec, by its FWHM and that of the beam."""
    return max(LEAST_BEAMS * beam, SOURCE_SIZES * major if np.isfinite(major) else 0.0)


def _pictures(
    source: "ImageSource",
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    major: NDArray[np.float64],
    report: Callable[[float], None] | None,
) -> tuple[Bytes, NDArray[np.bool_], NDArray[np.float64]]:
    """Pictures of all scales, which rows show something, and how wide the close ones are."""
    made = np.zeros((len(x), len(SCALES), SIZE, SIZE), np.uint8)
    clear = np.zeros(len(x), bool)
    widths = np.full(len(x), np.nan)
    for row in range(len(x)):
        if report is not None:
            report(_CUTTING * row / len(x))
        place = Place.of(source, x[row], y[row])
        if place is None:
            continue
        cuts = []
        widths[row] = sides(major[row], place.beam_size)
        for scale in SCALES:
            pixel = scale * widths[row] / SIZE
            frame = FrameSpec(pixel=pixel, beam=_PIXELS_A_BEAM * pixel, side=_SURROUNDINGS * SIZE)
            cuts.append(cut_out(place, frame, SIZE))
        made[row] = [cut.picture for cut in cuts]
        clear[row] = not cuts[0].empty and cuts[0].blank <= 0.5
    return made, clear, widths


def _features(
    pictures: Bytes, weights: str, device: str, report: Callable[[float], None] | None
) -> NDArray[np.float32]:
    """Features of all scales side by side, kept by what they depend on."""
    try:
        from cyclades.stages.networks.features import Extractor, backbone_of
        from cyclades.stages.networks.torch_device import torch_device
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Comparing sources needs the package {error.name!r}; install cyclades[learned]."
        ) from error
    torch_device(device)
    spec = FeatureSpec(
        backbone=backbone_of(weights), pictures=PictureOptions(crop=SIZE, precision="float32")
    )
    extractor = Extractor(spec, device)
    content = {
        "version": _VERSION,
        "features": spec.model_dump(mode="json", exclude={"frame": True, "backbone": {"weights"}}),
        "weights": extractor.sha256,
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode() + pictures.tobytes())
    path = features_folder() / f"{key.hexdigest()[:32]}.npy"
    try:
        held = np.load(path, allow_pickle=False)
        logger.info("features of %d sources from %s", len(held), path)
        return np.asarray(held, np.float32)
    except (OSError, ValueError):
        pass
    flat = pictures.reshape(-1, SIZE, SIZE)

    def told(share: float) -> None:
        if report is not None:
            report(_CUTTING + (1.0 - _CUTTING) * share)

    values = extractor(flat, told).reshape(len(pictures), -1)
    try:
        with written_whole(path) as temporary:
            np.save(temporary, values, allow_pickle=False)
    except CycladesError as error:  # computed anew the next time
        logger.warning("%s", error)
    return values


def features_folder() -> Path:
    """Folder in which features are kept: beside the folder of weights."""
    return weights_folder().parent / "features"
