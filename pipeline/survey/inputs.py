"""The images of a batch: from files, folders, patterns and lists."""

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cyclades.pipeline.products import (
    COMPRESSION_SUFFIXES,
    FITS_SUFFIXES,
    PRODUCTS,
    image_stem,
)
from cyclades.stages.core.errors import InputError

LIST_SUFFIXES = (".txt", ".list", ".lst")
_MAGIC = "*?["
BESIDE = ("truth", "rms", "level", "catalogue", *PRODUCTS)
"""What commands write of an image X.fits as X.truth.fits and so on; no images of a batch."""
RECORD = ".provenance.json"


def expand(arguments: Iterable[str | Path], *, without: Path | None = None) -> list[Path]:
    """Return the images that arguments stand for, each once, as absolute paths in order.

    Parameters
    ----------
    arguments : iterable of str or path
        An image; a folder, for all FITS files in it and in the folders below; a pattern, as
        ``fields/*.fits``; or a list, a file ``.txt``, ``.list`` or ``.lst`` with one of these a
        line, relative to its own folder (lines that start with ``#`` are left out).
    without : path, optional
        A folder, that of the outputs, in which no images are looked for.

    Raises
    ------
    InputError
        Where an argument stands for no image at all.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        found |= dict.fromkeys(_expand(str(argument), without, None))
    return sorted(found)


def _expand(argument: str, without: Path | None, listed: Path | None) -> list[Path]:
    path = Path(argument).expanduser()
    if listed is not None and not path.is_absolute():
        path = listed.parent / path
    if path.is_dir():
        images = [p for p in folder_images(path) if without is None or without not in p.parents]
        if not images:
            raise InputError(f"{path} holds no FITS images; name a folder that does.")
        return images
    if path.suffix.lower() in LIST_SUFFIXES and listed is None:
        return _listed(path, without)
    if not path.exists() and any(mark in argument for mark in _MAGIC):
        images = [Path(name) for name in glob.glob(str(path), recursive=True)]
        if not images:
            raise InputError(f"No file matches {argument}; check the pattern.")
        return [absolute(image) for image in images if image.is_file()]
    return [absolute(path)]


def absolute(path: Path) -> Path:
    """Return a path from the root, without following links: a link has a name of its own."""
    return Path(os.path.abspath(path))


def folder_images(folder: Path) -> list[Path]:
    """FITS files of a folder and of those below, compressed ones too.

    Hidden files are left out, and so is what commands write of an image ``X.fits`` that is there,
    or of which a record of theirs is: truth, maps, products and catalogues (`BESIDE`), be it beside
    the image or in another of these folders.
    """
    found: list[Path] = []
    known: set[str] = set()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if is_fits(name)]
        known |= {name.removesuffix(RECORD) for name in names if name.endswith(RECORD)}
    known |= {image_stem(path) for path in found}
    return sorted(absolute(path) for path in found if not _is_written(path.name, known))


def _is_written(name: str, known: set[str]) -> bool:
    """Whether a file is what a command writes of an image of one of the stems."""
    parts = name.split(".")
    return any(
        part in BESIDE and ".".join(parts[:place]) in known
        for place, part in enumerate(parts[1:], 1)
    )


def is_fits(name: str) -> bool:
    """Whether a name is that of a FITS file that is no half-written or hidden one."""
    stem = Path(name)
    if stem.suffix.lower() in COMPRESSION_SUFFIXES:
        stem = stem.with_suffix("")
    return stem.suffix.lower() in FITS_SUFFIXES and not name.startswith(".")


def _listed(path: Path, without: Path | None) -> list[Path]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"The list {path} cannot be read ({reason}).") from error
    lines = [line.strip() for line in lines]
    made = []
    for line in lines:
        if line and not line.startswith("#"):
            made += _expand(line, without, path)
    if not made:
        raise InputError(f"The list {path} names no images; write one a line.")
    return made


def stems(images: Iterable[Path], taken: Mapping[str, str]) -> dict[Path, str]:
    """Return a stem for the outputs of each image, different from all others.

    It is the name of the image; names of folders above it, and at last a number, go before it
    where that is taken.

    Parameters
    ----------
    images : iterable of path
        In the order in which they choose.
    taken : mapping of str to str
        Stems that images have already.
    """
    used = dict(taken)
    kept = {image: stem for stem, image in taken.items()}
    made: dict[Path, str] = {}
    for image in images:
        stem = kept.get(str(image), "")
        if not stem:
            parents = iter(image.parents)
            stem = image_stem(image)
            while stem in used:
                above = next(parents, None)
                if above is None or not above.name:
                    break
                stem = f"{above.name}_{stem}"
            base, number = stem, 1
            while stem in used:
                number += 1
                stem = f"{base}_{number}"
        used[stem] = str(image)
        made[image] = stem
    return made
