"""Many images one after another: one bad image does not stop the others."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cyclades.pipeline.chain import Pipeline, Progress
from cyclades.pipeline.products import check_products, file_names, image_stem, prepare_directory
from cyclades.stages.core.errors import CycladesError, OutputError

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
    """

    image: Path
    files: tuple[Path, ...] = ()
    counts: dict[str, int] | None = None
    seconds: float = 0.0
    error: str = ""


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
    options = {
        "formats": tuple(formats), "products": tuple(products), "columns": tuple(columns),
    }  # fmt: skip
    for path, stem in plan(images, directory, **options).items():
        start = time.perf_counter()
        try:
            result = pipeline.run(path, workers=workers, device=device, progress=progress)
            if progress is not None:
                progress("write")
            files = result.write(directory, stem=stem, **options)
        except CycladesError as error:
            yield Outcome(path, seconds=time.perf_counter() - start, error=str(error))
        except MemoryError:
            message = f"{path} does not fit into memory; use a smaller cutout or more memory."
            yield Outcome(path, seconds=time.perf_counter() - start, error=message)
        except Exception as error:
            if _interrupted(error):
                raise KeyboardInterrupt from error
            # a defect of ours, not of the image; the other images still deserve their catalogue
            logger.exception("%s: unexpected error", path)
            message = (
                f"{path}: an unexpected {type(error).__name__} ({error}); this is a defect of "
                "cyclades, please report it with the lines above."
            )
            yield Outcome(path, seconds=time.perf_counter() - start, error=message)
        else:
            counts = result.provenance["counts"]
            # its planes must not lie beside those of the next image
            del result
            yield Outcome(path, tuple(files), counts, time.perf_counter() - start)
