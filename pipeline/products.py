"""Products of a run: maps as FITS images, and the files of a result, written all or not at all."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import ConfigurationError, InputError, OutputError
from cyclades.stages.core.products import PARAMETERS
from cyclades.stages.core.registry import suggestion

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Result


logger = logging.getLogger("cyclades.pipeline")


class Product(NamedTuple):
    """How to make a map: the last stage it needs, whether it has the image's unit, the array."""

    needs: str
    in_image_unit: bool
    make: Callable[["Result"], NDArray[Any]]
    description: str


def _map(result: "Result", name: str) -> NDArray[np.float32]:
    assert result.background is not None
    return cast("NDArray[np.float32]", getattr(result.background, name))


def _plain(column: Any) -> Any:
    """Return the numbers of a table column, with or without a unit."""
    return getattr(column, "value", column)


def _significance(result: "Result") -> NDArray[np.float32]:
    from cyclades.stages.core.segments import significance_map

    assert result.image is not None
    assert result.background is not None
    return significance_map(result.image, result.background)


def _islands(result: "Result") -> NDArray[np.int32]:
    """Label map whose labels are the catalogue's island identifiers, 0 outside islands."""
    assert result.image is not None
    assert result.detections is not None
    detections = result.detections
    if detections.segments is None:
        raise InputError(
            "The detection gives boxes only; run the chain to characterization for islands."
        )
    rows = detections.islands
    labels = detections.segments.take(rows).label_map(detections.shape)
    if result.catalogue is None:
        return labels
    # the catalogue counts islands in sky order and gives the brightest pixel of each
    table, (y0, x0) = result.catalogue.islands, result.image.origin
    y, x = (np.asarray(_plain(table[name]), int) for name in ("y", "x"))
    numbers = np.zeros(len(rows) + 1, np.int32)
    numbers[labels[y - y0, x - x0]] = table["island_id"]
    return numbers[labels]


def _model(result: "Result") -> NDArray[np.float32]:
    from cyclades.stages.core.rendering import render_gaussians

    assert result.image is not None
    assert result.components is not None
    values = [getattr(result.components, name) for name in PARAMETERS]
    return render_gaussians(result.image.shape, np.stack(values, -1))


def _residual(result: "Result") -> NDArray[np.float32]:
    assert result.image is not None
    assert result.background is not None
    return result.image.data - result.background.level - result.model


PRODUCTS: dict[str, Product] = {
    "background": Product("background", True, partial(_map, name="level"), "level map"),
    "rms": Product("background", True, partial(_map, name="rms"), "rms map"),
    "significance": Product(
        "background", False, _significance, "image minus level, in units of the local rms"
    ),
    "islands": Product("detection", False, _islands, "label map: island_id, 0 outside islands"),
    "model": Product("characterization", True, _model, "sum of the measured Gaussians"),
    "residual": Product(
        "characterization", True, _residual, "image minus level and model, blank where it is"
    ),
}
QUICKLOOK = "quicklook"
COMPRESSION_SUFFIXES = (".gz", ".bz2", ".fz", ".xz", ".zst", ".zip", ".z")
FITS_SUFFIXES = (".fits", ".fit", ".fts", ".zarr")


def make_map(name: str, result: "Result") -> NDArray[Any]:
    """Return a map of a result as an array.

    Raises
    ------
    InputError
        Where the run stopped before the stage that the map needs, or kept no products.
    """
    product = PRODUCTS[name]
    held = {
        "background": result.background,
        "detection": result.detections,
        "characterization": result.components,
    }
    if result.image is None or held[product.needs] is None:
        raise InputError(
            f"The product {name!r} needs the {product.needs}, which this result does not hold; "
            "run the whole chain and keep its products."
        )
    return product.make(result)


def check_products(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the product names; an unknown one raises ConfigurationError."""
    names = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    known = [*PRODUCTS, QUICKLOOK]
    for name in names:
        if name not in known:
            raise ConfigurationError(
                f"There is no product {name!r}{suggestion(name, known)}; "
                f"choose from {', '.join(known)}."
            )
    return names


def write_map(name: str, result: "Result", path: Path) -> None:
    """Write one map as a FITS image with the WCS, the beam and the unit of the input."""
    import astropy.units as u
    from astropy.io import fits

    from cyclades import __version__
    from cyclades.stages.core.headers import card_text, product_header

    product = PRODUCTS[name]
    image = result.image if result.windows is None else result.windows.frame
    assert image is not None
    header = product_header(image, None if product.in_image_unit else u.dimensionless_unscaled)
    header["PRODUCT"] = (name, product.description[:45])
    header["CREATOR"] = f"cyclades {__version__}"
    header["IMAGE"] = card_text(image.name)[:68]
    if result.windows is not None:
        assert result.catalogue is not None
        result.windows.write(name, path, header, result.catalogue)
        return
    fits.PrimaryHDU(make_map(name, result), header).writeto(path)


def file_names(
    stem: str,
    formats: str | Iterable[str] = ("fits",),
    products: Iterable[str] = (),
    columns: str | Iterable[str] = (),
) -> dict[str, list[str]]:
    """Return the names of the files that writing a result makes, by what they hold.

    The FITS catalogue is always among them, and the last: it stands for the whole.

    Raises
    ------
    OutputError
        For an unknown format.
    """
    from cyclades.stages.core.exports import expand_columns
    from cyclades.stages.core.formats import catalogue_files, format_extension, format_of

    formats = [formats] if isinstance(formats, str) else formats
    names = {"config": [f"{stem}.config.yaml"], "provenance": [f"{stem}.provenance.json"]}
    for product in products:
        suffix = "png" if product == QUICKLOOK else "fits"
        names[product] = [f"{stem}.{product}.{suffix}"]
    known = [format_of("", name, error=OutputError) for name in formats]
    layouts = expand_columns(columns)
    if "csv" in known:
        names |= {f"columns:{name}": [f"{stem}.catalogue.{name}.csv"] for name in layouts}
    known += layouts
    for name in (*(name for name in dict.fromkeys(known) if name != "fits"), "fits"):
        path = f"{stem}.catalogue.{format_extension(name)}"
        names[f"catalogue:{name}"] = [str(f) for f in catalogue_files(path, name).values()]
    return names


def prepare_directory(directory: str | Path) -> Path:
    """Make the output directory and prove that it can be written to.

    Raises
    ------
    OutputError
        Where it cannot be made or written to.
    """
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"The output directory {folder} cannot be written to ({error.strerror}); "
            "choose another with --output."
        ) from error
    return folder


def write_result(
    result: "Result",
    directory: str | Path,
    *,
    stem: str | None = None,
    formats: str | Iterable[str] = ("fits",),
    products: str | Iterable[str] = (),
    columns: str | Iterable[str] = (),
) -> list[Path]:
    """Write the files of a result; see `Result.write`.

    Everything is written to a temporary directory beside its place and then renamed, the
    catalogue last, so a catalogue that is there is complete and so is what belongs to it.
    """
    products = check_products(products)
    if result.catalogue is None:
        raise InputError("The run stopped before cataloguing; run the whole chain to write it.")
    if stem is None:
        stem = result.provenance["input"]["name"]
    names = file_names(stem, formats, products, columns)
    folder = prepare_directory(directory)
    scratch = Path(tempfile.mkdtemp(prefix=f".{stem}.", suffix=".partial", dir=folder))
    written = []
    try:
        for what, files in names.items():
            _write_one(what, result, scratch / files[0])
        for name in chain.from_iterable(names.values()):
            os.replace(scratch / name, folder / name)
            written.append(folder / name)
    except BaseException as error:
        for path in written:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise OutputError(
                f"{folder / stem}.* could not be written ({error.strerror or error}); "
                "make room or choose another directory with --output."
            ) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return written[::-1]


def _write_one(what: str, result: "Result", path: Path) -> None:
    if what == "config":
        path.write_text(result.config.to_yaml(), "utf-8")
    elif what == "provenance":
        text = json.dumps(result.provenance, indent=2, ensure_ascii=False, default=str)
        path.write_text(text + "\n", "utf-8")
    elif what == QUICKLOOK:
        from cyclades.pipeline.quicklook import draw

        if result.windows is not None:
            result.windows.draw(path)
        else:
            draw(result, path)
    elif what in PRODUCTS:
        write_map(what, result, path)
    elif what == "catalogue:moc":
        from cyclades.stages.core.footprints import write_moc

        if result.windows is not None:
            result.windows.write_moc(path)
            return
        if result.image is None:
            raise InputError("The format moc needs the image, which this result does not hold.")
        write_moc(result.image, path)
    elif what.startswith("columns:"):
        assert result.catalogue is not None
        result.catalogue.export(what.partition(":")[2]).write(path, format="ascii.csv")
    else:
        assert result.catalogue is not None
        result.catalogue.write(path, format=what.partition(":")[2])


def image_stem(path: str | Path) -> str:
    """Return a file name without its folder, its compression and its FITS suffix."""
    stem = Path(path).name
    for suffixes in (COMPRESSION_SUFFIXES, FITS_SUFFIXES):
        suffix = Path(stem).suffix
        if suffix.lower() in suffixes:
            stem = stem.removesuffix(suffix)
    return stem
