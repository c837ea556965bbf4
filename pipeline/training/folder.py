"""Labels in the formats of other people's annotation tools.

COCO, CAESAR and LabelMe JSON, told apart by what is in them, and YOLO text files. Rows of an image
count from the first row of the file, as in the array, unless ``top_first`` says that they count
from the top of a picture.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cyclades.pipeline.simulation.coco import decode
from cyclades.pipeline.training.annotations import (
    Annotations,
    caesar_labels,
    check_size,
    filled,
    labelme_labels,
)
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
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


class FolderOptions(ImageFilesOptions):
    """FITS images with labels in COCO, CAESAR, LabelMe or YOLO format."""

    kind: Literal["folder"] = "folder"
    labels: str = parameter(
        ...,
        "COCO file (.json) of all images; or COCO, CAESAR or LabelMe files of one each, where the "
        "path holds {name} or is their folder; or YOLO files, as in labels/{name}.txt.",
    )
    names: tuple[str, ...] = parameter((), "Classes of YOLO labels, in the order of their numbers.")
    top_first: bool = parameter(
        False, "Whether rows of the labels count from the top of a picture, the image's last row."
    )


class FolderSource(LabelledSource):
    """Crops of images with labels of `FolderOptions`.

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
        self._by_image: dict[str, Path] | None = None

    def load(self, path: Path) -> LabelledImage:
        """Read the labels of an image; an image without any holds no objects."""
        source = self.open(path)
        made, names = self._annotations(path, source.shape)
        if self.options.top_first:
            made = _turned(made, source.shape)
        judged = [one for one, skipped in zip(made.names, made.ignore, strict=True) if not skipped]
        known = list(dict.fromkeys([*names, *judged]))
        numbers = class_numbers(known, self.classes, self.options.classes)
        place = dict(zip(known, numbers.tolist(), strict=True))
        # what is ignored needs no class of the network
        classes = np.array([place.get(name, 0) for name in made.names], np.int64)
        kept = np.flatnonzero(classes >= 0)
        return LabelledImage(
            source,
            made.boxes[kept],
            classes[kept],
            None if made.segments is None else made.segments.take(kept),
            made.ignore[kept],
            np.full(len(kept), np.nan),
        )

    def _annotations(self, path: Path, shape: tuple[int, int]) -> tuple[Annotations, list[str]]:
        """Labels of an image, and the classes that there are labels of."""
        place = self.options.labels
        shared = Path(place).expanduser()
        if shared.is_dir():
            file = self._files(shared).get(_stem(path))
            if file is None:
                raise InputError(
                    f"{shared}: none of its files names the image {path.name}; add its labels, or "
                    "leave the image out of the option images."
                )
        else:
            file = Path(place.replace(PLACE, image_name(path))).expanduser()
        if file.suffix.lower() != ".json":
            return self._yolo(file, shape)
        content = self._json(file)
        # files of one image each know only the classes that are on it
        further = [*self.options.classes]
        if "objs" in content:
            return caesar_labels(content, file, shape, self.classes), further
        if "shapes" in content:
            return labelme_labels(content, file, shape), further
        boxes, numbers, segments, crowd = _coco_labels(content, path, shape, file)
        names = [str(row["name"]) for row in content["categories"]]
        return Annotations(boxes, [names[k] for k in numbers], segments, crowd), names

    def _yolo(self, file: Path, shape: tuple[int, int]) -> tuple[Annotations, list[str]]:
        boxes, numbers, segments = _yolo_labels(file, shape)
        names = list(self.options.names)
        if len(numbers) and numbers.max() >= len(names):
            raise InputError(
                f"{file}: there is no name for class {numbers.max()}; list the names of all "
                "classes in the option names."
            )
        ignore = np.zeros(len(boxes), bool)
        return Annotations(boxes, [names[k] for k in numbers], segments, ignore), names

    def _files(self, folder: Path) -> dict[str, Path]:
        """Files of a folder by the image that each names."""
        if self._by_image is None:
            self._by_image = {}
            for file in sorted(folder.rglob("*.json")):
                content = self._json(file)
                named = content.get("img") or content.get("imagePath")
                self._by_image[_stem(Path(str(named or file.name)))] = file
        return self._by_image

    def _json(self, file: Path) -> dict[str, Any]:
        shared = file == Path(self.options.labels).expanduser()
        if shared and self._whole is not None:
            return self._whole
        try:
            content = json.loads(file.read_text("utf-8"))
            if "objs" not in content and "shapes" not in content:
                content["images"], content["categories"], content["annotations"]
        except FileNotFoundError:
            raise InputError(f"{file}: there is no such file of labels.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: this is no COCO file with images, categories and annotations, nor one of "
                "CAESAR (objs) or LabelMe (shapes)."
            ) from error
        if shared:
            self._whole = content
        return dict(content)


def _stem(path: Path) -> str:
    """Name of an image without the suffixes of FITS files and of pictures made of them."""
    name = path.name
    for suffix in _PICTURES:
        if name.lower().endswith(suffix):
            return image_name(Path(name[: -len(suffix)]))
    return image_name(Path(name.removesuffix(".json")))


def _turned(made: Annotations, shape: tuple[int, int]) -> Annotations:
    """Labels whose rows counted from the last row of the image."""
    ny, nx = shape
    x0, y0, x1, y1 = made.boxes.T
    segments = made.segments
    if segments is not None:
        y, x = np.divmod(segments.indices, nx)
        segments = Segments.from_lists(
            [np.sort(row) for row in np.split((ny - 1 - y) * nx + x, segments.offsets[1:-1])]
            if len(segments)
            else []
        )
    return made._replace(boxes=np.stack([x0, ny - y1, x1, ny - y0], -1), segments=segments)


def _coco_labels(
    content: dict[str, Any], path: Path, shape: tuple[int, int], file: Path
) -> tuple[Floats, Integers, Segments | None, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Boxes, positions among the categories, pixels, and whether a crowd, of one image."""
    images = content.get("images")
    for row in images if isinstance(images, list) else ():
        if isinstance(row, dict) and _stem(Path(str(row.get("file_name")))) == _stem(path):
            check_size((row.get("height"), row.get("width")), shape, file)
    try:
        wanted = [
            row["id"] for row in content["images"] if _stem(Path(row["file_name"])) == _stem(path)
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
    return np.unique(np.concatenate([filled(np.reshape(one, (-1, 2)), shape) for one in value]))


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
    return boxes, numbers, Segments.from_lists([filled(one, shape) for one in polygons])


def _corners(row: list[float]) -> Floats:
    """Corners of a line's box, or of the box around its polygon."""
    if len(row) == _YOLO_BOX:
        x, y, w, h = row[1:]
        return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    points = np.reshape(row[1:], (-1, 2))
    return np.concatenate([points.min(0), points.max(0)])
