"""The page on which a person accepts, rejects, merges and classifies objects."""

from pathlib import Path
from typing import Any

import numpy as np

from cyclades.pipeline.comparison.report_image import Frame, picture
from cyclades.pipeline.labelling.candidates import Candidates, edges_of
from cyclades.pipeline.page import asset, render_page, write_page
from cyclades.stages.core.geometry import shape_from_covariance

PACKAGE = "cyclades.pipeline.labelling"
FORMAT = "cyclades-labels"
VERSION = 1
SHARED_SCRIPTS = ("figures.js", "values.js", "viewer.js")


def write_label_page(candidates: Candidates, path: str | Path) -> Path:
    """Write the page: one HTML file that needs no network.

    It keeps what was decided in the browser, and saves it as a file for `apply_decisions`.

    Parameters
    ----------
    candidates : Candidates
    path : path
        Its folder is made where it is missing.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    path = Path(path)
    own = [asset(name, PACKAGE) for name in ("label_viewer.js", "label.js")]
    text = render_page(
        asset("label.html", PACKAGE),
        {},
        title=f"Labels of {candidates.image.name}",
        subtitle=_subtitle(candidates),
        style=[asset("label.css", PACKAGE)],
        scripts=[*map(asset, SHARED_SCRIPTS), *own],
        data=payload(candidates),
    )
    write_page(text, path)
    return path


def payload(candidates: Candidates) -> dict[str, Any]:
    """Return what the page knows, as plain values."""
    nx = candidates.image.shape[1]
    segments = candidates.segments
    objects = []
    for number in range(len(candidates)):
        pixels = segments[number]
        y, x = np.divmod(pixels, nx)
        objects.append(
            {
                "box": [int(x.min()), int(y.min()), int(x.max()), int(y.max())],
                "pixels": len(pixels),
                "snr": round(float(candidates.snr[number]), 2),
                "edges": edges_of(pixels, nx).ravel().tolist(),
                "suggestion": candidates.suggestion[number],
            }
        )
    return {
        "format": FORMAT,
        "version": VERSION,
        "image": candidates.image.name,
        "identity": candidates.identity,
        "configuration": candidates.result.config.to_mapping(),
        "frame": _frame(candidates),
        "classes": list(candidates.classes),
        "objects": objects,
    }


def _frame(candidates: Candidates) -> dict[str, Any]:
    """The frame that the viewer draws in, without a sky where the image has none."""
    image = candidates.image
    if image.wcs is not None:
        return Frame.of_image(image).payload()
    ny, nx = image.shape
    beam = None
    if image.psf is not None:
        major, minor, angle = shape_from_covariance(image.psf.covariance)
        beam = [float(major), float(minor), float(90.0 - angle)]
    unit = "" if image.unit is None else image.unit.to_string()
    return {"nx": nx, "ny": ny, "sky": None, "unit": unit, "beam": beam, **picture(image.data)}


def _subtitle(candidates: Candidates) -> str:
    config = candidates.result.config
    ny, nx = candidates.image.shape
    return (
        f"{nx} x {ny} pixels; {len(candidates)} candidates by the detection {config.detection.name}"
    )
