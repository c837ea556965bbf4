"""Many images one after another: one bad image does not stop the others."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cyclades.pipeline.chain import Pipeline, Progress, Result
from cyclades.pipeline.products import check_products, file_names, image_stem, prepare_directory
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import CycladesError, OutputError
from cyclades.stages.core.source import ImageSet

logger = logging.getLogger("cyclades.pipeline")


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error stems from Ctrl-C: compiled code turns that into a SystemError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Parameters
    ----------
    image : Path
        The input.
    files : tuple of Path
        What was written, the catalogue first; empty where it failed.
    counts : dict of str to int
        Counts of the provenance record.
    seconds : float
        Wall time.
    error : str
        One sentence where it failed.
    kind : str
        Of the failure: ``input``, ``output``, ``memory``, or ``defect`` (of ours).
    """

    image: Path
    files: tuple[Path, ...] = ()
    counts: dict[str, int] | None = None
    seconds: float = 0.0
    error: str = ""
    kind: str = ""


def plan(
    images: Sequence[str | Path],
    directory: str | Path,
    *,
    formats: Sequence[str] = ("fits",),
    products: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> dict[Path, str]:
    """Return ``{image: stem of its outputs}`` after checking that they can be written.

    Raises
    ------
    OutputError
        As `check_outputs`, or where the directory cannot be written to.
    ConfigurationError
        For an unknown format or product.
    """
    stems = check_outputs(images, directory, formats=formats, products=products, columns=columns)
    prepare_directory(directory)
    return stems


def check_outputs(
    images: Sequence[str | Path],
    directory: str | Path,
    *,
    formats: Sequence[str] = ("fits",),
    products: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> dict[Path, str]:
    """Return ``{image: stem of its outputs}`` after checking that nothing is overwritten.

    Raises
    ------
    OutputError
        Where two inputs would write the same files, or an output would replace an input.
    ConfigurationError
        For an unknown format or product.
    """
    products = check_products(products)
    paths = [Path(image) for image in dict.fromkeys(images)]
    inputs = {path.resolve() for path in paths}
    made_by: dict[Path, Path] = {}
    folder = Path(directory).resolve()
    for path in paths:
        names = file_names(image_stem(path), formats, products, columns)
        for name in chain.from_iterable(names.values()):
            output = folder / name
            if output in inputs:
                raise OutputError(
                    f"The output {output} would replace an input; choose another --output."
                )
            if output in made_by:
                raise OutputError(
                    f"{made_by[output]} and {path} would both write {name}; "
                    "run them with different --output directories."
                )
            made_by[output] = path
    return {path: image_stem(path) for path in paths}


def run_batch(
    pipeline: Pipeline,
    images: Sequence[str | Path],
    directory: str | Path,
    *,
    formats: Sequence[str] = ("fits",),
    products: Sequence[str] = (),
    columns: Sequence[str] = (),
    workers: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Run a pipeline on each image and write its files.

    Parameters
    ----------
    pipeline : Pipeline
        What to run.
    images : sequence of paths
        FITS images; one given twice runs once.
    directory : path
        Where the files go, as ``directory/<image>.catalogue.fits``.
    formats, products, columns : sequence of str
        As in `Result.write`.
    workers : int, optional
        Threads in all.
    device : str
        Where networks run: ``"cpu"``, or a torch device as ``"cuda"``.
    progress : callable, optional
        Called with the name of each stage before it runs.

    Yields
    ------
    Outcome
        In input order. An image that cannot be processed has its `error` filled.

    Raises
    ------
    CycladesError
        Before the first image, for what would fail all of them; see `plan`.
    """
    named = plan(images, directory, formats=formats, products=products, columns=columns)
    for path, stem in named.items():
        yield run_one(
            pipeline,
            path,
            directory,
            stem,
            formats=formats,
            products=products,
            columns=columns,
            workers=workers,
            device=device,
            progress=progress,
        )


def run_one(
    pipeline: Pipeline,
    path: Path | ImageSet,
    directory: str | Path,
    stem: str,
    *,
    formats: Sequence[str] = ("fits",),
    products: Sequence[str] = (),
    columns: Sequence[str] = (),
    workers: int | None = None,
    device: str = "cpu",
    context: Context | None = None,
    progress: Progress | None = None,
    also: Callable[[Result], None] | None = None,
) -> Outcome:
    """Run a pipeline on an image and write its files; what goes wrong is in the outcome.

    Parameters
    ----------
    pipeline, directory, formats, products, columns, workers, device, progress
        As for `run_batch`.
    path : Path or ImageSet
    stem : str
        First part of the names of the files.
    context : Context, optional
        Used in place of a new one, `workers` and `device`.
    also : callable, optional
        Given the result before its files are written; what it raises fails the image.

    Raises
    ------
    KeyboardInterrupt
        Where compiled code made another error of it.
    """
    start = time.perf_counter()
    named = Path(stem) if isinstance(path, ImageSet) else path

    def failed(kind: str, message: str) -> Outcome:
        return Outcome(named, seconds=time.perf_counter() - start, error=message, kind=kind)

    try:
        result = pipeline.run(
            path, workers=workers, device=device, context=context, progress=progress
        )
        if progress is not None:
            progress("write")
        if also is not None:
            also(result)
        files = result.write(
            directory, stem=stem, formats=formats, products=products, columns=columns
        )
    except OutputError as error:
        return failed("output", str(error))
    except CycladesError as error:
        return failed("input", str(error))
    except MemoryError:
        return failed(
            "memory", f"{named} does not fit into memory; use a smaller cutout or more memory."
        )
    except Exception as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        # a defect of ours, not of the image; the other images still deserve their catalogue
        logger.exception("%s: unexpected error", named)
        return failed(
            "defect",
            f"{named}: an unexpected {type(error).__name__} ({error}); this is a defect of "
            "cyclades, please report it with the lines above.",
        )
    return Outcome(named, tuple(files), result.provenance["counts"], time.perf_counter() - start)
