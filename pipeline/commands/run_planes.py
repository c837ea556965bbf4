"""``cyclades run`` on several planes at once, as g=a.fits r=b.fits z=c.fits."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyclades.pipeline.commands.terminal import USER_ERROR, complain, print_json, say_plan
from cyclades.stages.core.errors import InputError, OutputError

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Pipeline
    from cyclades.stages.core.source import ImageSet


def split_name(argument: str) -> tuple[str, str]:
    """Split ``NAME=FILE``; the name is empty where a file is given alone."""
    name, sign, file = argument.partition("=")
    named = bool(sign and name) and "/" not in name and not Path(argument).exists()
    return (name, file) if named else ("", argument)


def named_planes(images: Sequence[Path]) -> dict[str, Path]:
    """Return the files of planes by name; nothing where none is named.

    Raises
    ------
    InputError
        Where only some are named, or two have one name.
    """
    pairs = [split_name(str(image)) for image in images]
    if not any(name for name, _ in pairs):
        return {}
    for name, file in pairs:
        if not name:
            raise InputError(
                f"{file} has no name, while other planes have; write it as NAME={file}."
            )
    planes = {name: Path(file) for name, file in pairs}
    if len(planes) < len(pairs):
        raise InputError("Two planes have the same name; give each a name of its own.")
    return planes


def set_stem(planes: dict[str, Path]) -> str:
    """Return what the outputs of a set are called: the common beginning of its files' names.

    Where they have none, the names of the planes, as ``g_r_z``.
    """
    from cyclades.pipeline.products import image_stem

    stems = [image_stem(path) for path in planes.values()]
    if len(stems) == 1:
        return stems[0]
    # characters are what is to be compared: names, not paths
    common = os.path.commonprefix(stems)  # noqa: RUF071
    return common.rstrip("._-") or "_".join(planes)


def open_planes(pipeline: "Pipeline", planes: dict[str, Path], detection: str | None) -> "ImageSet":
    """Return the planes as a set, read as the configuration says."""
    from cyclades.stages.core.io import FitsSource
    from cyclades.stages.core.source import ImageSet

    sources = {name: FitsSource(path, pipeline.config.image) for name, path in planes.items()}
    return ImageSet.of(sources, detection or "")


def run_planes(
    pipeline: "Pipeline",
    planes: dict[str, Path],
    detection: str | None,
    output: Path,
    written: dict[str, tuple[str, ...]],
    workers: int | None,
    device: str,
    *,
    quiet: bool,
    as_json: bool,
    dry_run: bool,
) -> int:
    """Run a pipeline on a set and write its files; returns the exit code."""
    from cyclades.pipeline.batch import run_one
    from cyclades.pipeline.products import check_products, file_names, prepare_directory

    stem = set_stem(planes)
    products = check_products(written["products"])
    listed = file_names(stem, written["formats"], products, written["columns"])
    files = [output / name for names in listed.values() for name in names]
    inputs = {path.resolve() for path in planes.values()}
    for file in files:
        if file.resolve() in inputs:
            raise OutputError(f"The output {file} would replace an input; choose another --output.")
    images = open_planes(pipeline, planes, detection)
    source = pipeline.check(images)
    facts: dict[str, Any] = {name: str(path) for name, path in planes.items()}
    if dry_run:
        pipeline.prepare(device=device)
        ny, nx = source.shape
        stages = [stage.name for stage in pipeline.config.stages]
        lines = [
            f"{', '.join(planes)}: {nx} x {ny} pixels, detected on {images.detection}",
            f"would run {' -> '.join(stages)}",
        ]
        say_plan(as_json, files, lines, planes=facts, detection_plane=images.detection)
        return 0
    prepare_directory(output)
    outcome = run_one(
        pipeline, images, output, stem, formats=written["formats"], products=products,
        columns=written["columns"], workers=workers, device=device,
    )  # fmt: skip
    if as_json:
        print_json({"planes": facts, "detection_plane": images.detection, **vars(outcome)})
    if outcome.error:
        complain(outcome.error)
        return USER_ERROR
    if not (quiet or as_json):
        found = (outcome.counts or {}).get("components", 0)
        click.echo(
            f"{outcome.files[0]}: {found} components on {images.detection}, measured in "
            f"{', '.join(planes)}, in {outcome.seconds:.1f} s"
        )
    return 0
