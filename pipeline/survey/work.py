"""What a batch does with each of its images, as it travels to the workers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclades._version import __version__
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.products import check_products, file_names
from cyclades.pipeline.provenance import describe_file, other_files, plain

FORMAT = 1
"""Of the files that a field leaves for the survey; part of every key."""
FIELDS, LOGS, ROWS = "fields", "logs", "rows"
"""Folders of a batch."""


@dataclass(frozen=True)
class Work:
    """What to do with every image.

    Parameters
    ----------
    config : RouteConfig
        The route.
    folder : path
        Of the batch.
    formats, products, columns : tuple of str
        As for `Result.write`.
    injected : int
        Sources to inject into every image, for the completeness; 0 for none.
    inverted : bool
        Whether to search the negative of every image too, for the reliability.
    device : str
        Where networks run.
    files : tuple of (str, int)
        Files that the route names (masks, weights, maps) and their sizes, which a worker must
        see too.
    key : str
        Hash of all that the outcome depends on but the image.
    version : str
        Of cyclades.
    memory : int
        Bytes that a worker process may take; 0 for no limit.
    """

    config: RouteConfig
    folder: Path
    formats: tuple[str, ...] = ("fits",)
    products: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    injected: int = 0
    inverted: bool = False
    device: str = "cpu"
    files: tuple[tuple[str, int], ...] = ()
    key: str = ""
    version: str = __version__
    memory: int = 0

    @classmethod
    def plan(
        cls,
        config: RouteConfig,
        folder: str | Path,
        *,
        formats: Sequence[str] = ("fits",),
        products: Sequence[str] = (),
        columns: Sequence[str] = (),
        injected: int = 0,
        inverted: bool = False,
        device: str = "cpu",
        memory: int = 0,
    ) -> "Work":
        """Check the options and hash them together with the files that the route names.

        Raises
        ------
        ConfigurationError, OutputError
            For an unknown product or format.
        """
        products = check_products(products)
        file_names("x", formats, products, columns)
        described = [describe_file(file) for file in other_files(config)]
        content = {
            "format": FORMAT,
            "version": __version__,
            "configuration": plain(config.to_mapping()),
            "files": sorted(one["sha256"] for one in described),
            "formats": sorted(formats),
            "products": sorted(products),
            "columns": sorted(columns),
            "injected": injected,
            "inverted": inverted,
        }
        return cls(
            config,
            Path(folder).absolute(),
            tuple(formats),
            tuple(products),
            tuple(columns),
            injected,
            inverted,
            device,
            tuple((one["path"], one["size"]) for one in described),
            digest(content),
            memory=memory,
        )


def digest(content: Any) -> str:
    """Hash of plain values."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Task:
    """One image to be processed."""

    image: Path
    stem: str
    attempt: int = 1
