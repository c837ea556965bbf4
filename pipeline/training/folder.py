"""Labels in the formats of other people's annotation tools: COCO JSON and YOLO text files.

Rows of an image count from the first row of the file, as in the array, not from the top of a
plot.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cyclades.pipeline.simulation.coco import decode
from cyclades.pipeline.training.labelled import (
    PLACE,
    ImageFilesOptions,
    LabelledImage,
    LabelledSource,
    image_name,
)
from cyclades.pipeline.training.samples import Floats, Integers, class_numbers
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.products import Segments
from cyclades.stages.core.stage import parameter

_YOLO_BOX = 5


class FolderOptions(ImageFilesOptions):
    """FITS images with labels in COCO or YOLO format."""

    kind: Literal["folder"] = "folder"
    labels: str = parameter(
        ...,
        "COCO file (.json) of all images, or of one each where its path holds {name}; or YOLO "
        "files, as in labels/{name}.txt.",
    )
    names: tuple[str, ...] = parameter((), "Classes of YOLO labels, in the order of their numbers.")


class FolderSource(LabelledSource):
    """Crops of images with COCO or YOLO labels.

    Parameters
    ----------
    options : FolderOptions
    size, classes
        See `SampleSource`.

    Raises
    ------
    InputError
        Where there are no images, or the labels cannot be read.
    """

    def __init__(self, options: FolderOptions, size: int, classes: Sequence[str]) -> None:
        super().__init__(options, size, classes)
        self.options = options
        self._whole: dict[str, Any] | None = None

    def load(self, path: Path) -> LabelledImage:
        """Read the labels of an image; an image without any holds no objects."""
        file = Path(self.options.labels.replace(PLACE, image_name(path))).expanduser()
        source = self.open(path)
        if file.suffix.lower() == ".json":
            content = self._coco(file)
            boxes, numbers, segments, crowd = _coco_labels(content, path, source.shape, file)
            names = [str(row["name"]) for row in content["categories"]]
        else:
            boxes, numbers, segments = _yolo_labels(file, source.shape)
            crowd, names = np.zeros(len(boxes), bool), list(self.options.names)
            if len(numbers) and numbers.max() >= len(names):
                raise InputError(
                    f"{file}: there is no name for class {numbers.max()}; list the names of all "
                    "classes in the option names."
                )
        classes = class_numbers(names, self.classes, self.options.classes)[numbers]
        known = np.flatnonzero(classes >= 0)
        return LabelledImage(
            source,
            boxes[known],
            classes[known],
            None if segments is None else segments.take(known),
            crowd[known],
            np.full(len(known), np.nan),
        )

    def _coco(self, file: Path) -> dict[str, Any]:
        shared = PLACE not in self.options.labels
        if shared and self._whole is not None:
            return self._whole
        try:
            content = json.loads(file.read_text("utf-8"))
            content["images"], content["categories"], content["annotations"]
        except FileNotFoundError:
            raise InputError(f"{file}: there is no such file of labels.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: this is no COCO file with images, categories and annotations."
            ) from error
        if shared:
            self._whole = content
        return dict(content)


def _coco_labels(
    content: dict[str, Any], path: Path, shape: tuple[int, int], file: Path
) -> tuple[Floats, Integers, Segments | None, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Boxes, positions among the categories, pixels, and whether a crowd, of one image."""
    try:
        wanted = [
            row["id"]
            for row in content["images"]
            if image_name(Path(row["file_name"])) == image_name(path)
        ]
        position = {row["id"]: k for k, row in enumerate(content["categories"])}
        rows = [row for row in content["annotations"] if row["image_id"] in wanted]
        boxes = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        numbers = np.array([position[row["category_id"]] for row in rows], np.int64)
        crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)
        if not all(row.get("segmentation") for row in rows):
            return boxes, numbers, None, crowd
        masks = [_mask(row["segmentation"], shape) for row in rows]
        return boxes, numbers, Segments.from_lists(masks), crowd
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{file}: the labels of {path.name} are no COCO annotations of an image of its shape; "
            "write them again."
        ) from error


def _mask(value: Any, shape: tuple[int, int]) -> Integers:
    """Pixels of polygons, or of run lengths, compressed or not."""
    if isinstance(value, dict):
        counts = value["counts"]
        return decode(_expanded(counts) if isinstance(counts, str) else counts, shape)
    return np.unique(np.concatenate([_filled(np.reshape(one, (-1, 2)), shape) for one in value]))


def _filled(corners: Floats, shape: tuple[int, int]) -> Integers:
    """Pixels whose centres lie in a polygon of (x, y), (0, 0) being the outer corner."""
    from skimage.draw import polygon

    y, x = corners[:, 1] - 0.5, corners[:, 0] - 0.5
    row, column = polygon(y, x, shape)  # type: ignore[no-untyped-call]
    return np.asarray(row * shape[1] + column, np.int64)


def _expanded(text: str) -> list[int]:
    """Run lengths from the text that COCO compresses them to.

    A run is written in characters of five bits each, lowest first, of which a sixth bit says
    whether more follow and the last one's fifth bit is the sign; from the third run on it is the
    difference from the run two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def _yolo_labels(file: Path, shape: tuple[int, int]) -> tuple[Floats, Integers, Segments | None]:
    """Boxes, classes and pixels of a YOLO file; no file means no objects."""
    lines = file.read_text("utf-8").split("\n") if file.is_file() else []
    try:
        rows = [[float(part) for part in line.split()] for line in lines if line.strip()]
        numbers = np.array([int(row[0]) for row in rows], np.int64)
        if any(len(row) < _YOLO_BOX or row[0] < 0 for row in rows):
            raise ValueError
        scale = np.array([shape[1], shape[0]], float)
        if any(len(row) == _YOLO_BOX for row in rows) or not rows:
            whole = [_corners(row) for row in rows]
            return np.array(whole).reshape(-1, 4) * np.tile(scale, 2), numbers, None
        polygons = [np.reshape(row[1:], (-1, 2)) * scale for row in rows]
    except ValueError as error:
        raise InputError(
            f"{file}: a line of YOLO labels is a class number and a box (x, y, width, height) or "
            "the corners of a polygon, all as parts of the image's sides."
        ) from error
    boxes = np.array([np.concatenate([one.min(0), one.max(0)]) for one in polygons])
    return boxes, numbers, Segments.from_lists([_filled(one, shape) for one in polygons])


def _corners(row: list[float]) -> Floats:
    """Corners of a line's box, or of the box around its polygon."""
    if len(row) == _YOLO_BOX:
        x, y, w, h = row[1:]
        return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    points = np.reshape(row[1:], (-1, 2))
    return np.concatenate([points.min(0), points.max(0)])
