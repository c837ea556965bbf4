"""Fields with truth on which routes are compared, read or simulated one at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclades.pipeline.comparison.fields_file import FieldFiles, read_fields
from cyclades.pipeline.simulation.truth import COCO_SUFFIX, TRUTH_SUFFIX, read_truth
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from cyclades.pipeline.comparison.field import TrueSky
    from cyclades.pipeline.simulation.field import FieldOptions
    from cyclades.stages.core.image import SkyImage

IMAGE_SUFFIX = ".fits"


@dataclass(frozen=True)
class TrueField:
    """A field with its truth, not yet read.

    Parameters
    ----------
    name : str
    load : callable
        Returns the image and the truth.
    """

    name: str
    load: "Callable[[], tuple[SkyImage, TrueSky]]"


def read_true_fields(source: str | Path) -> list[TrueField]:
    """List the fields of a file or folder.

    Parameters
    ----------
    source : path
        A list of fields as of ``cyclades compare --fields``, whose catalogues are not looked at
        and may be left out; or a folder, in which every ``X.fits`` with an ``X.truth.fits``
        beside it is a field, as ``cyclades simulate`` writes them.

    Raises
    ------
    InputError
        Where there is no field, or one has no image or no truth.
    """
    path = Path(source)
    if path.is_dir():
        truths = sorted(path.rglob(f"*{TRUTH_SUFFIX}"))
        pairs = [(t, t.with_name(t.name.removesuffix(TRUTH_SUFFIX) + IMAGE_SUFFIX)) for t in truths]
        pairs = [(truth, image) for truth, image in pairs if image.is_file()]
        if not pairs:
            raise InputError(
                f"{path} holds no image X.fits with its truth X.truth.fits beside it; make some "
                "with cyclades simulate."
            )
        return [
            _field(FieldFiles(str(image.relative_to(path).with_suffix("")), {}, image, truth))
            for truth, image in pairs
        ]
    return [_field(files) for files in read_fields(path, catalogues=False).fields]


def _field(files: FieldFiles) -> TrueField:
    image, truth = files.image, files.truth
    if image is None or truth is None:
        missing = "image" if image is None else "truth"
        raise InputError(f"The field {files.name} has no {missing}, which a matrix needs; add it.")

    def load() -> "tuple[SkyImage, TrueSky]":
        from cyclades.stages.core.io import read_image

        return read_image(image), _truth(truth)

    return TrueField(files.name, load)


def _truth(path: Path) -> "TrueSky":
    """A simulation's truth as such: read by its path it would bring its true maps along."""
    beside = Path(str(path).removesuffix(TRUTH_SUFFIX) + COCO_SUFFIX)
    return read_truth(path) if path.name.endswith(TRUTH_SUFFIX) and beside.is_file() else path


def simulated_fields(
    options: "FieldOptions", seeds: Sequence[int], folder: str | Path | None = None
) -> list[TrueField]:
    """List fields that are simulated when they are wanted.

    Parameters
    ----------
    options : FieldOptions
    seeds : sequence of int
        One a field.
    folder : path, optional
        Where they are kept, and taken from again; otherwise they are made anew every time.

    Raises
    ------
    InputError
        On loading, where the folder holds fields of other options.
    """

    def one(seed: int) -> TrueField:
        name = f"seed{seed}"

        def load() -> "tuple[SkyImage, TrueSky]":
            from cyclades.pipeline.simulation.field import simulate

            if folder is None:
                made = simulate(options, seed)
                return made.image, made.truth
            image = Path(folder) / f"{name}{IMAGE_SUFFIX}"
            if not image.is_file():
                simulate(options, seed).write(image.with_suffix(""))
            elif options.to_yaml() not in image.with_suffix(".config.yaml").read_text("utf-8"):
                raise InputError(
                    f"{image} was simulated with other options; choose another folder."
                )
            return _field(FieldFiles(name, {}, image, image.with_suffix(TRUTH_SUFFIX))).load()

        return TrueField(name, load)

    return [one(seed) for seed in seeds]
