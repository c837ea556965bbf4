"""The files of a simulation, written all or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.errors import OutputError

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from cyclades.pipeline.simulation.field import Simulation
    from cyclades.pipeline.simulation.options import SimulationOptions
    from cyclades.stages.core.image import SkyImage


def write_simulation(simulation: "Simulation", prefix: str | Path) -> list[Path]:
    """Write the files of a simulation.

    Parameters
    ----------
    simulation : Simulation
    prefix : path
        ``X`` gives ``X.fits`` (the image), ``X.truth.fits`` and ``X.truth.coco.json`` (see
        `Truth`), ``X.rms.fits`` and ``X.level.fits`` (true maps, for ``cyclades run --rms
        --background``) and ``X.config.yaml`` (options and seed).

    Returns
    -------
    list of Path
        The image first. They appear together, the image last.

    Raises
    ------
    OutputError
        Where they cannot be written.
    """

    def make(scratch: Path) -> list[Path]:
        stem = scratch / Path(prefix).name
        catalogue = simulation.truth.catalogue
        catalogue = catalogue.replace(meta={**catalogue.meta, "image": stem.name})
        truth = replace(simulation.truth, catalogue=catalogue)
        header = simulated_header(simulation.image, simulation.seed)
        return [
            write_options(simulation.options, simulation.seed, stem),
            *truth.write(stem),
            *write_planes(simulation.image, simulation.rms, simulation.level, header, stem),
        ]

    return write_together(prefix, make)


def simulated_header(image: "SkyImage", seed: int) -> "Header":
    """Return the header of the planes of a simulation."""
    from cyclades import __version__
    from cyclades.stages.core.headers import product_header

    header = product_header(image)
    header["OBJECT"] = "simulated"
    header["CREATOR"] = f"cyclades {__version__}"
    header["SEED"] = (seed, "of the simulation")
    return header


def write_options(options: "SimulationOptions", seed: int, stem: Path, command: str = "") -> Path:
    """Write ``X.config.yaml`` and return its path; `command` are options of the command line."""
    config = Path(f"{stem}.config.yaml")
    text = f"# cyclades simulate{command} --seed {seed}\n{options.to_yaml()}"
    config.write_text(text, "utf-8")
    return config


def write_planes(
    image: "SkyImage",
    rms: NDArray[np.float32],
    level: NDArray[np.float32],
    header: "Header",
    stem: Path,
) -> list[Path]:
    """Write ``X.level.fits``, ``X.rms.fits`` and ``X.fits`` and return their paths."""
    from astropy.io import fits

    files = [Path(f"{stem}{suffix}") for suffix in (".level.fits", ".rms.fits", ".fits")]
    for file, plane in zip(files, (level, rms, image.data), strict=True):
        fits.PrimaryHDU(np.asarray(plane, np.float32), header).writeto(file)
    return files


def write_together(prefix: str | Path, make: Callable[[Path], list[Path]]) -> list[Path]:
    """Let files appear together, or not at all.

    Parameters
    ----------
    prefix : path
    make : callable
        Writes files into the folder that it is given, and returns their paths in the order in
        which they are to appear.

    Returns
    -------
    list of Path
        The last first.

    Raises
    ------
    OutputError
        Where they cannot be written.
    """
    prefix = Path(prefix)
    folder, stem = prefix.parent, prefix.name
    if not stem:
        raise OutputError(f"{prefix} is no prefix of file names; give one, as output/field.")
    written: list[Path] = []
    scratch = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{stem}.", suffix=".partial", dir=folder))
        for path in make(scratch):
            os.replace(path, folder / path.name)
            written.append(folder / path.name)
    except BaseException as error:
        for path in written:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise OutputError(
                f"{prefix}.* could not be written ({error.strerror or error}); "
                "make room or choose another place."
            ) from error
        raise
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return written[::-1]
