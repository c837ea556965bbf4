"""Files of weights: where they are kept, what their headers say, and how the hub gives them.

The folder of weights is ``$CYCLADES_WEIGHTS``, or ``cyclades/weights`` in the user's cache. What
lies there under the name of a set, as ``resnet18-imagenet.safetensors``, or of a repository, as
``timm--resnet18.a1_in1k.safetensors``, needs no network. Nothing here needs torch.
"""

import hashlib
import importlib.util
import json
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclades.stages.core.cache import user_cache
from cyclades.stages.core.errors import InputError

PICKLED = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
FILE = "model.safetensors"
CONFIG = "config.json"


def weights_folder() -> Path:
    """Folder in which weights are looked for, and converted ones are kept; may not exist yet."""
    given = os.environ.get("CYCLADES_WEIGHTS")
    if given:
        return Path(given).expanduser()
    return user_cache() / "weights"


def verify(path: Path, sha256: str) -> None:
    """Check a file's SHA-256.

    Parameters
    ----------
    path : path
    sha256 : str
        64 hexadecimal digits.

    Raises
    ------
    InputError
        Where it differs.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    if digest.hexdigest() != sha256.lower():
        raise InputError(
            f"{path}: its SHA-256 is {digest.hexdigest()[:16]}..., not {sha256[:16].lower()}... as "
            "recorded: damaged or another file; delete it and fetch it again."
        )


def tensors_digest(path: Path) -> str:
    """SHA-256 of the tensors of a safetensors file: names, types, shapes and numbers.

    What the file says of them beside, such as a calibration made anew, does not change it.

    Raises
    ------
    InputError
        Where it is no safetensors file.
    """
    header, start = _header(path)
    header.pop("__metadata__", None)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    with open(path, "rb") as opened:
        opened.seek(start)
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def refuse_pickled(path: Path) -> None:
    """Refuse kinds of files that can run code when they are read."""
    if path.suffix.lower() in PICKLED:
        raise InputError(
            f"{path}: a pickled checkpoint can run any code when it is read, so cyclades reads "
            "none; save its tensors with safetensors.torch.save_file where you trust it, and give "
            "that file."
        )


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, read from its header alone.

    Raises
    ------
    InputError
        Where it is no safetensors file.
    """
    header, _ = _header(path)
    try:
        return dict(header.get("__metadata__", {}))
    except (ValueError, TypeError) as error:
        raise _damaged(path) from error


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Header of a safetensors file, and where the numbers start.

    The file starts with the length of the header in 8 bytes, little-endian, then comes JSON.
    """
    refuse_pickled(path)
    try:
        with open(path, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > path.stat().st_size - 8:
                raise ValueError("longer than the file")
            header = json.loads(opened.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (struct.error, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(header, dict):
        raise _damaged(path)
    return header, 8 + length


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: not a safetensors file, or damaged; give weights as *.safetensors.")


def local_copies(name: str, folder: Path) -> Iterator[Path]:
    """Where the folder of weights may hold a set or a repository."""
    plain = name.replace("/", "--")
    yield folder / f"{plain}.safetensors"
    yield folder / plain / FILE


def hub_copy(repository: str, file: str, revision: str, cache: Path | None) -> Path | None:
    """A file that the hub's own cache holds."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
    return Path(found) if isinstance(found, str) else None


def fetch(
    repository: str,
    *,
    file: str = FILE,
    revision: str = "main",
    save_as: str = "",
    folder: Path | None = None,
) -> Path:
    """Get a file of the Hugging Face hub, from a local copy where there is one.

    ``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` and ``HF_HOME`` are respected.

    Parameters
    ----------
    repository : str
        As ``timm/resnet18.a1_in1k``.
    file, revision : str
        Which file of it.
    save_as : str
        Name under which the folder of weights may hold it; that of the repository if empty.
    folder : path, optional
        The folder of weights, and the hub's cache.

    Raises
    ------
    InputError
        Where it cannot be had; the sentence says which file to fetch and where to put it.
    """
    kept = folder or weights_folder()
    names = dict.fromkeys([save_as or repository, repository])
    for path in (path for name in names for path in local_copies(name, kept)):
        if path.is_file():
            return path
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    address = f"{endpoint}/{repository}/resolve/{quote(revision, safe='')}/{file}"
    remedy = (
        f"fetch {address} elsewhere and save it as "
        f"{next(local_copies(save_as or repository, kept))}"
    )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(
            f"{repository}: fetching weights needs the package huggingface_hub; install it with "
            f"pip install 'cyclades[learned]', or {remedy}."
        )
    from huggingface_hub import errors, hf_hub_download

    # its tries again are no news to the user, who gets one sentence in the end
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return Path(
            hf_hub_download(
                repository, file, revision=revision, cache_dir=folder, endpoint=endpoint
            )
        )
    except errors.GatedRepoError as error:
        raise InputError(
            f"{repository}: its owner asks you to agree to a licence; do so at "
            f"{endpoint}/{repository}, log in with 'hf auth login' and try again, or {remedy}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{repository}: the hub has no such repository, or it is private; check the name, and "
            "log in with 'hf auth login' where it is private."
        ) from error
    except errors.HFValidationError as error:
        raise InputError(f"{repository}: not a name that the hub can have.") from error
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(
            f"{repository}: holds no {file}; pickled weights are not read: convert them to "
            f"safetensors (https://huggingface.co/spaces/safetensors/convert) and save them as "
            f"{next(local_copies(save_as or repository, kept))}."
        ) from error
    except Exception as error:  # whatever the network layer of the installed version raises
        raise InputError(
            f"{repository}: cannot be fetched, for want of a network or of an answer; {remedy}."
        ) from error
    finally:
        logger.setLevel(level)
