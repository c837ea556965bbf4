"""The record of a run: enough to repeat it and to see whether anything differs."""

import hashlib
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades import __version__
from cyclades.stages.core.remote import RemoteFile, as_file

if TYPE_CHECKING:
    from astropy.table import Table

    from cyclades.pipeline.config import RouteConfig
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.source import ImageSource


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of cyclades and of the packages that it requires."""
    found = {"python": platform.python_version(), "cyclades": __version__}
    try:
        required = requires("cyclades") or []
    except PackageNotFoundError:
        required = []
    for requirement in required:
        name, _, marker = requirement.partition(";")
        # an optional package belongs to the record only where this process used it
        name = name.strip()
        for end in "<>=!~[ (":
            name = name.partition(end)[0]
        if "extra" in marker and name not in sys.modules:
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def describe_file(path: str | Path) -> dict[str, Any]:
    """Return path, size in bytes and SHA-256 checksum of a file.

    A file at an address is not fetched for its checksum, which is then None, as that of a folder.
    """
    file = as_file(path)
    if isinstance(file, RemoteFile):
        return {"path": str(file), "size": file.stat().st_size, "sha256": None}
    if file.is_dir():
        size = sum(part.stat().st_size for part in file.rglob("*") if part.is_file())
        return {"path": str(file.resolve()), "size": size, "sha256": None}
    with file.open("rb", buffering=0) as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return {
        "path": str(file.resolve()),
        "size": file.stat().st_size,
        "sha256": digest.hexdigest(),
    }


def plain(value: Any) -> Any:
    """Return a value as numbers, strings, lists and mappings that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        # JSON has no NaN or infinity
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def records(table: "Table") -> list[dict[str, Any]]:
    """Return the rows of a table as plain values; what is masked or not finite becomes None."""
    columns = [plain(table[name].tolist()) for name in table.colnames]
    return [dict(zip(table.colnames, row, strict=True)) for row in zip(*columns, strict=True)]


def other_files(config: "RouteConfig") -> list[str]:
    """Return the files besides the image that the configuration names (mask, maps, weight)."""
    found = []
    for section in config.to_mapping().values():
        for entry in section if isinstance(section, list) else [section]:
            values = entry.values() if isinstance(entry, dict) else ()
            found += [v for v in values if isinstance(v, str) and "." in v and Path(v).is_file()]
    return found


def record(
    config: "RouteConfig",
    source: "ImageSource",
    context: "Context",
    timings: Mapping[str, float],
    products: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the provenance of a run as plain values.

    Parameters
    ----------
    config : RouteConfig
        The effective configuration.
    source : ImageSource
        What was read; a source with a `path` gets its checksum recorded.
    context : Context
        Its notes are what the stages decided while they ran.
    timings : mapping of str to float
        Seconds of each stage.
    products : mapping
        What the stages made, for the counts.
    counts : mapping of str to int, optional
        Counts of a run that does not hold its products.
    """
    path = getattr(source, "path", None)
    entry = describe_file(path) if path is not None else {"path": None}
    detections, components = products.get("detections"), products.get("components")
    counts = {"pixels": source.shape[0] * source.shape[1], **(counts or {})}
    if "image" in products:
        data = products["image"].data
        # row by row: a mask of the whole plane would be one more of its kind
        counts["blank_pixels"] = sum(int(np.count_nonzero(np.isnan(row))) for row in data)
    if detections is not None:
        counts["detections"] = len(detections)
        counts["islands"] = len(detections.islands)
    if components is not None:
        counts["components"] = len(components)
    return {
        "software": versions(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "directory": str(Path.cwd()),
        "input": {"name": source.name, **entry},
        "other_files": [describe_file(file) for file in other_files(config)],
        "workers": context.workers,
        "configuration": plain(config.to_mapping()),
        "notes": plain(context.notes),
        "counts": counts,
        "timings": {label: round(seconds, 4) for label, seconds in timings.items()},
    }
