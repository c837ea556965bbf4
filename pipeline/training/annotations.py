"""Labels of one image in the formats of CAESAR and LabelMe, both JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclades.pipeline.training.samples import Booleans, Floats, Integers
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.masks import FitsMask
from cyclades.stages.core.planes import open_plane
from cyclades.stages.core.products import Segments
from cyclades.stages.core.segments import segment_boxes
from cyclades.stages.core.tiling import full_box

CAESAR_CLASSES = {"extended-multisland": "multi-component"}
"""Our names of CAESAR's classes where they differ."""
FLAGGED = "flagged"
"""CAESAR's class of objects that are imaged too poorly to say what they are; they are ignored."""
_TWO_POINTS = 2


class Annotations(NamedTuple):
    """Labels of one image.

    Parameters
    ----------
    boxes : ndarray, shape (n, 4)
        ``x0, y0, x1, y1`` with (0, 0) the outer corner of the first pixel.
    names : list of str
        Classes of the objects.
    segments : Segments or None
        None where labels are boxes alone.
    ignore : ndarray of bool, shape (n,)
    """

    boxes: Floats
    names: list[str]
    segments: Segments | None
    ignore: Booleans


def caesar_labels(
    content: dict[str, Any], file: Path, shape: tuple[int, int], classes: Sequence[str]
) -> Annotations:
    """Read the objects of CAESAR's JSON (Riggi et al. 2023, Astronomy and Computing 42, 100682).

    The file names in ``objs`` for each object its ``class`` and, relative to itself, a FITS image
    ``mask`` on the pixels of the image that is not zero on the object.

    Parameters
    ----------
    content : dict
    file : path
        That the content is from.
    shape : (ny, nx)
        Of the image.
    classes : sequence of str
        Of the network. Where ``flagged`` is none of them, such objects are ignored.

    Raises
    ------
    InputError
        Where it cannot be read, or a mask is missing or of another shape.
    """
    try:
        objects = [(str(one["class"]), str(one["mask"])) for one in content["objs"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{file}: each of objs in a file of CAESAR has a class and a mask; write it again."
        ) from error
    pixels, names, ignore = [], [], []
    for name, mask in objects:
        plane = open_plane(file.parent / mask)
        if plane.shape != shape:
            raise InputError(
                f"{file.parent / mask}: the mask has shape {plane.shape}, the image {shape}; give "
                "masks on the image's own pixels."
            )
        pixels.append(np.flatnonzero(FitsMask(plane).window(full_box(shape))))
        flagged = name == FLAGGED and FLAGGED not in classes
        ignore.append(flagged)
        names.append(name if name in classes else CAESAR_CLASSES.get(name, name))
    segments = Segments.from_lists(pixels)
    boxes = segment_boxes(segments, shape[1]) + np.array([0.0, 0.0, 1.0, 1.0])
    kept = np.flatnonzero(segments.lengths > 0)
    return Annotations(
        boxes[kept],
        [names[row] for row in kept],
        segments.take(kept),
        np.array(ignore, bool)[kept],
    )


def labelme_labels(content: dict[str, Any], file: Path, shape: tuple[int, int]) -> Annotations:
    """Read the shapes of a LabelMe file: polygons, rectangles and circles.

    Shapes of one label that share a ``group_id`` are one object; points and lines are no objects.

    Parameters
    ----------
    content : dict
    file : path
        That the content is from.
    shape : (ny, nx)
        Of the image.

    Raises
    ------
    InputError
        Where it cannot be read.
    """
    check_size((content.get("imageHeight"), content.get("imageWidth")), shape, file)
    groups: dict[Any, list[Floats]] = {}
    try:
        for number, one in enumerate(content["shapes"]):
            outline = _outline(one.get("shape_type") or "polygon", np.array(one["points"], float))
            if outline is None:
                continue
            group = one.get("group_id")
            key = (str(one["label"]), "alone" if group is None else "group",
                   number if group is None else group)  # fmt: skip
            groups.setdefault(key, []).append(outline)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{file}: each of shapes in a file of LabelMe has a label and points of a polygon, "
            "rectangle or circle; write it again."
        ) from error
    corners = [np.concatenate(outlines) for outlines in groups.values()]
    boxes = np.array([[*c.min(0), *c.max(0)] for c in corners], float).reshape(-1, 4)
    pixels = [
        np.unique(np.concatenate([filled(outline, shape) for outline in outlines]))
        for outlines in groups.values()
    ]
    names = [name for name, _, _ in groups]
    return Annotations(boxes, names, Segments.from_lists(pixels), np.zeros(len(names), bool))


def check_size(told: tuple[Any, Any], shape: tuple[int, int], file: Path) -> None:
    """Refuse labels that were drawn on a picture of other pixels than the image's.

    Parameters
    ----------
    told : (height, width)
        Of the picture, as the file says; None where it does not.
    shape : (ny, nx)
        Of the image.
    file : path

    Raises
    ------
    InputError
    """
    if all(isinstance(side, int) and side > 0 for side in told) and told != shape:
        raise InputError(
            f"{file}: the labels are of a picture {told[0]} pixels high and {told[1]} wide, "
            f"the image is {shape[0]} and {shape[1]}; give labels on the image's own pixels."
        )


def filled(corners: Floats, shape: tuple[int, int]) -> Integers:
    """Pixels whose centres lie in a polygon of (x, y), (0, 0) being the outer corner."""
    from skimage.draw import polygon

    y, x = corners[:, 1] - 0.5, corners[:, 0] - 0.5
    row, column = polygon(y, x, shape)  # type: ignore[no-untyped-call]
    return np.asarray(row * shape[1] + column, np.int64)


def _outline(kind: str, points: Floats) -> Floats | None:
    """Corners of a shape's outline; None for points and lines.

    Raises
    ------
    ValueError
        For other kinds of shapes, or too few points.
    """
    if kind in ("point", "points", "line", "linestrip"):
        return None
    if kind == "polygon" and len(points) > _TWO_POINTS:
        return points.reshape(-1, 2)
    if kind == "rectangle" and len(points) >= _TWO_POINTS:
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    if kind == "circle" and len(points) == _TWO_POINTS:
        radius = float(np.hypot(*(points[1] - points[0])))
        angle = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
        made: Floats = points[0] + radius * np.stack([np.cos(angle), np.sin(angle)], -1)
        return made
    raise ValueError(f"a {kind} of {len(points)} points is no outline")
