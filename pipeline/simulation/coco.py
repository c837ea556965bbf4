"""Instance masks as COCO annotations: boxes, classes and run-length encoded masks.

The encoding is the uncompressed one of the COCO data format, which pycocotools and
faster-coco-eval read: lengths of runs of 0 and 1 in turn, starting with 0, in column order.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cyclades.pipeline.simulation.model import CLASSES, Floats, Integers
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.products import Segments


def encode(pixels: Integers, shape: tuple[int, int]) -> list[int]:
    """Return the run lengths of a mask.

    Parameters
    ----------
    pixels : ndarray of int
        Flat (row by row) indices of its pixels, in any order.
    shape : (ny, nx)
    """
    ny, nx = shape
    y, x = np.divmod(np.asarray(pixels, np.int64), nx)
    place = np.unique(x * ny + y)
    if not place.size:
        return [ny * nx]
    breaks = np.flatnonzero(np.diff(place) > 1)
    first = place[np.concatenate([[0], breaks + 1])]
    end = place[np.concatenate([breaks, [-1]])] + 1
    edges = np.stack([first, end], -1).ravel()
    counts: list[int] = np.diff(np.concatenate([[0], edges, [ny * nx]])).tolist()
    return counts[:-1] if counts[-1] == 0 else counts


def decode(counts: list[int], shape: tuple[int, int]) -> Integers:
    """Return the sorted flat (row by row) indices of a mask from its run lengths.

    Raises
    ------
    ValueError
        Where the runs do not fill the image.
    """
    ny, nx = shape
    edges = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))])
    if edges[-1] != ny * nx or (np.diff(edges) < 0).any():
        raise ValueError("the runs of a mask do not fill the image")
    runs = [np.arange(a, b) for a, b in zip(edges[1:-1:2], edges[2::2], strict=False)]
    place = np.concatenate(runs) if runs else np.zeros(0, np.int64)
    x, y = np.divmod(place, ny)
    return np.sort(y * nx + x).astype(np.int64)


def to_coco(
    segments: Segments,
    boxes: Floats,
    classes: Integers,
    shape: tuple[int, int],
    image: str,
    names: tuple[str, ...] = CLASSES,
) -> dict[str, Any]:
    """Return a COCO data set of one image; annotation i + 1 is row i.

    Boxes are ``x, y, width, height`` with (0, 0) the outer corner of the first pixel, as COCO
    counts them, and not its centre.
    """
    annotations = []
    for row, (box, kind) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True)):
        x0, y0, x1, y1 = box
        annotations.append(
            {
                "id": row + 1,
                "image_id": 1,
                "category_id": kind + 1,
                "bbox": [x0, y0, x1 - x0 + 1.0, y1 - y0 + 1.0],
                "area": int(segments.lengths[row]),
                "iscrowd": 0,
                "segmentation": {"size": list(shape), "counts": encode(segments[row], shape)},
            }
        )
    return {
        "images": [{"id": 1, "file_name": image, "height": shape[0], "width": shape[1]}],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": annotations,
    }


def write_coco(content: dict[str, Any], path: Path) -> None:
    """Write a COCO data set as JSON."""
    path.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n", "utf-8")


def read_coco(
    path: Path,
) -> tuple[Segments, Floats, Integers, tuple[int, int], tuple[str, ...]]:
    """Read what `write_coco` wrote.

    Returns
    -------
    segments : Segments
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1`` of pixel centres.
    classes : ndarray of int, shape (n,)
    shape : (ny, nx)
    names : tuple of str
        Of the classes.

    Raises
    ------
    InputError
        Where the file is missing or is no such data set.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        image = content["images"][0]
        shape = (int(image["height"]), int(image["width"]))
        rows = sorted(content["annotations"], key=lambda row: row["id"])
        masks = [decode(row["segmentation"]["counts"], shape) for row in rows]
        box = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
        classes = np.array([row["category_id"] - 1 for row in rows], np.int64)
        names = tuple(str(row["name"]) for row in content["categories"])
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: this is no COCO file of a simulated truth; write it again."
        ) from error
    box[:, 2:] += box[:, :2] - 1.0
    return Segments.from_lists(masks), box, classes, shape, names
