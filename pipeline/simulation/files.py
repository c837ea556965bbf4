"""The files of a simulation, written all or not at all."""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.core.errors import OutputError

if TYPE_CHECKING:
    from cyclades.pipeline.simulation.field import Simulation


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
    from astropy.io import fits

    from cyclades import __version__
    from cyclades.stages.core.headers import product_header

    prefix = Path(prefix)
    folder, stem = prefix.parent, prefix.name
    if not stem:
        raise OutputError(f"{prefix} is no prefix of file names; give one, as output/field.")
    catalogue = simulation.truth.catalogue
    catalogue = catalogue.replace(meta={**catalogue.meta, "image": stem})
    truth = replace(simulation.truth, catalogue=catalogue)
    header = product_header(simulation.image)
    header["OBJECT"] = "simulated"
    header["CREATOR"] = f"cyclades {__version__}"
    header["SEED"] = (simulation.seed, "of the simulation")
    written: list[Path] = []
    scratch = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{stem}.", suffix=".partial", dir=folder))
        config = scratch / f"{stem}.config.yaml"
        config.write_text(
            f"# cyclades simulate --seed {simulation.seed}\n{simulation.options.to_yaml()}", "utf-8"
        )
        made = [config, *truth.write(scratch / stem)]
        for suffix, plane in (
            (".level.fits", simulation.level),
            (".rms.fits", simulation.rms),
            (".fits", simulation.image.data),
        ):
            made.append(scratch / f"{stem}{suffix}")
            fits.PrimaryHDU(np.asarray(plane, np.float32), header).writeto(made[-1])
        for path in made:
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
