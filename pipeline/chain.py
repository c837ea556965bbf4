"""The chain: background, detection, characterization, cataloguing, whatever is chosen for each."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclades.pipeline.config import DEFAULT_ROUTE, RouteConfig
from cyclades.pipeline.progress import Progress
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.io import FitsSource
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.source import ImageSet, ImageSource, MemorySource
from cyclades.stages.core.stage import KINDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cyclades.pipeline.chain_run import ChainRun
    from cyclades.pipeline.measurement.planes import PlaneMeasurements
    from cyclades.pipeline.windowed_maps import WindowedMaps
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.products import Background, Components, Detections

MOST_WORKERS = 8
"""Threads used at most unless asked: the classical stages gain little beyond."""


PRODUCT_OF = dict(zip(KINDS, ("background", "detections", "components", "catalogue"), strict=True))
"""The attribute of a result that each stage makes."""


def default_workers() -> int:
    """Return how many threads a run uses unless told: the processors it may use, at most 8."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        available = os.cpu_count() or 1
    return min(available, MOST_WORKERS)


@dataclass(frozen=True, eq=False)
class Result:
    """What a run made; what a stage that did not run would have made is None.

    Parameters
    ----------
    config : RouteConfig
        The effective configuration.
    provenance : dict
        Input, versions, time, timings, counts and notes; see `cyclades.pipeline.provenance`.
    image : SkyImage, optional
        The plane that was read; None where the run was asked not to keep products.
    background : Background, optional
    detections : Detections, optional
        Complete, with segments and summits, once characterization ran.
    components : Components, optional
    catalogue : Catalogue, optional
    planes : PlaneMeasurements, optional
        Of a run on an `ImageSet`: the forced measurements of each plane.
    windows : WindowedMaps, optional
        What maps are made from after a run in windows, which holds no other product.
    """

    config: RouteConfig
    provenance: dict[str, Any]
    image: SkyImage | None = None
    background: "Background | None" = None
    detections: "Detections | None" = None
    components: "Components | None" = None
    catalogue: "Catalogue | None" = None
    planes: "PlaneMeasurements | None" = None
    windows: "WindowedMaps | None" = None

    def __repr__(self) -> str:
        held = ("image", "background", "detections", "components", "catalogue")
        return (
            "\n  ".join(
                [
                    "<Result of a run, holding",
                    *(f"{n}: {v!r}" for n in held if (v := getattr(self, n)) is not None),
                ]
            )
            + ">"
        )

    @cached_property
    def model(self) -> "NDArray[np.float32]":
        """The measured Gaussians as an image, in the image's unit; finite everywhere."""
        from cyclades.pipeline.products import make_map

        return make_map("model", self)

    @cached_property
    def residual(self) -> "NDArray[np.float32]":
        """The image minus the background level and the model; NaN where the image is blank."""
        from cyclades.pipeline.products import make_map

        return make_map("residual", self)

    def write(
        self,
        directory: str | Path,
        *,
        stem: str | None = None,
        formats: str | Iterable[str] = ("fits",),
        products: str | Iterable[str] = (),
        columns: str | Iterable[str] = (),
    ) -> list[Path]:
        """Write the catalogue, the configuration, the provenance and the products asked for.

        Parameters
        ----------
        directory : path
            Made where it is missing.
        stem : str, optional
            First part of every file name; the image's name by default.
        formats : str or iterable of str
            Formats of the catalogue.
        products : str or iterable of str
            Images to write; see `cyclades.pipeline.products.PRODUCTS`.
        columns : str or iterable of str
            Other source finders, ``aegean``, ``pybdsf`` or ``selavy``, in whose columns to write
            the catalogue too: as FITS, and as CSV where that is among the formats.

        Returns
        -------
        list of Path
            The files, the catalogue first. Nothing is left behind where one of them fails.
        """
        from cyclades.pipeline.products import write_result

        return write_result(
            self, directory, stem=stem, formats=formats, products=products, columns=columns
        )


@dataclass(frozen=True)
class Pipeline:
    """A route that can be run on images.

    Parameters
    ----------
    config : RouteConfig
        The stages and their parameters; see `from_route`.
    """

    config: RouteConfig

    @classmethod
    def from_route(
        cls, route: str | Path | Mapping[str, Any] | RouteConfig = DEFAULT_ROUTE
    ) -> "Pipeline":
        """Make a pipeline from a route's name, a YAML file or a mapping."""
        if isinstance(route, RouteConfig):
            return cls(route)
        return cls(RouteConfig.from_route(route))

    @classmethod
    def from_config(cls, config: RouteConfig) -> "Pipeline":
        """Make a pipeline from a configuration."""
        return cls(config)

    def replace(self, **sections: Any) -> "Pipeline":
        """Return a pipeline with other stages: names, mappings, or stage objects.

        Examples
        --------
        ``pipeline.replace(background="sep", detection={"name": "islands", "seed_threshold": 6})``
        """
        return Pipeline(self.config.replace(**sections))

    def prepare(self, *, device: str = "cpu") -> None:
        """Load what the stages need, such as networks, so that what lacks shows.

        Raises
        ------
        CycladesError
            Where a stage cannot run; the sentence says what to do.
        """
        with Context(seed=self.config.seed, device=device) as own:
            self._prepare(own, KINDS)

    def run(
        self,
        image: "str | Path | ImageSource | ImageSet | SkyImage",
        *,
        workers: int | None = None,
        device: str = "cpu",
        context: Context | None = None,
        keep: bool = True,
        progress: Progress | None = None,
    ) -> Result:
        """Run all four stages.

        Parameters
        ----------
        image : path, ImageSource, ImageSet or SkyImage
            A set is detected on its detection plane and measured on every plane; see
            `cyclades.pipeline.image_sets.SetRun`.
        workers : int, optional
            Threads in all; by default the processors available, at most 8.
        device : str
            Where networks run: ``"cpu"``, or a torch device as ``"cuda"``; classical stages
            ignore it.
        context : Context, optional
            Used instead of a new one, and left open; its notes are those of the last run, and
            its workers and device count in place of those given here.
        keep : bool
            Whether the result holds the image and the products of the stages. Without them it
            holds the catalogue and the provenance only, for many images in one process.
        progress : callable, optional
            Called with the name of each stage before it runs; by a stage that works through
            tiles also with its name and the share that is done, as ``"detection 40 %"``.

        Raises
        ------
        InputError
            Where the image cannot be used, or lacks what a stage needs.
        """
        if context is None:
            threads = default_workers() if workers is None else workers
            with Context(workers=threads, seed=self.config.seed, device=device) as own:
                return self._run(image, KINDS[-1], None, own, keep, progress)
        return self._run(image, KINDS[-1], workers, context, keep, progress)

    def run_until(
        self,
        stage: str,
        image: "str | Path | ImageSource | ImageSet | SkyImage",
        *,
        workers: int | None = None,
        context: Context | None = None,
    ) -> Result:
        """Run the chain up to and with a stage: ``"background"``, ``"detection"``, ..."""
        if stage not in KINDS:
            raise ConfigurationError(
                f"There is no stage {stage!r}{suggestion(stage, list(KINDS))}; "
                f"the stages are {', '.join(KINDS)}."
            )
        return self._run(image, stage, workers, context, True, None)

    def run_from(
        self,
        stage: str,
        result: Result,
        *,
        workers: int | None = None,
        context: Context | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Run the chain from a stage on, with what an earlier result holds of those before it.

        Parameters
        ----------
        stage : str
            The first stage to run.
        result : Result
            Of a run with the same stages before that one, which kept its products.
        workers, context, progress
            As for `run`.

        Raises
        ------
        ConfigurationError
            Where the stages before differ from those of the result.
        InputError
            Where the result does not hold their products.
        """
        if stage not in KINDS:
            raise ConfigurationError(
                f"There is no stage {stage!r}{suggestion(stage, list(KINDS))}; "
                f"the stages are {', '.join(KINDS)}."
            )
        before = KINDS[: KINDS.index(stage)]
        for kind in before:
            if getattr(self.config, kind) != getattr(result.config, kind):
                raise ConfigurationError(
                    f"The result was made with another {kind}; run the chain from there on."
                )
        held = {"image": result.image}
        held |= {PRODUCT_OF[kind]: getattr(result, PRODUCT_OF[kind]) for kind in before}
        absent = [name for name, product in held.items() if product is None]
        if absent or result.image is None:
            raise InputError(f"The result does not hold its {absent[0]}; run the chain anew.")
        if context is None:
            threads = default_workers() if workers is None else workers
            with Context(workers=threads, seed=self.config.seed) as own:
                return self.run_from(stage, result, context=own, progress=progress)
        source = MemorySource(result.image)
        self._check_beam(source)
        self._note_stages(context)
        self._prepare(context, KINDS[KINDS.index(stage) :])
        from cyclades.pipeline.chain_run import ChainRun

        run = ChainRun(self.config, source, context, progress, products=held)
        run.advance(KINDS[-1], first=stage)
        return run.result(keep=True)

    def _run(
        self,
        image: "str | Path | ImageSource | ImageSet | SkyImage",
        last: str,
        workers: int | None,
        context: Context | None,
        keep: bool,
        progress: Progress | None,
    ) -> Result:
        if context is None:
            threads = default_workers() if workers is None else workers
            with Context(workers=threads, seed=self.config.seed) as own:
                return self._run(image, last, None, own, keep, progress)
        image = self._read(image)
        source = self.check(image)
        self._note_stages(context)
        self._prepare(context, KINDS[: KINDS.index(last) + 1])
        run = self._new_run(image, source, context, progress)
        if last == KINDS[-1] and run.in_windows():
            return run.result(keep=False)
        run.advance(last)
        return run.result(keep=keep)

    def _new_run(
        self, image: Any, source: ImageSource, context: Context, progress: Progress | None
    ) -> "ChainRun":
        """Return the state of a run on one image, or on the planes of a set."""
        if not isinstance(image, ImageSet):
            from cyclades.pipeline.chain_run import ChainRun

            return ChainRun(self.config, source, context, progress)
        from cyclades.pipeline.image_sets import SetRun

        return SetRun(self.config, source, context, progress, planes=image)

    def _prepare(self, context: Context, kinds: Sequence[str]) -> None:
        """Let stages say at once what they lack, not after the stages before them.

        The last come first, since they may want something of those before them.
        """
        context.wanted.clear()
        for kind in reversed(kinds):
            named = getattr(self.config, kind)
            for stage in named if isinstance(named, tuple) else (named,):
                stage.prepare(context=context)

    def _note_stages(self, context: Context) -> None:
        """Start the notes of a run with what the catalogue says of its rows."""
        context.notes.clear()
        context.note("detected_by", self.config.detection.name)
        context.note("measured_by", self.config.characterization.name)

    def _read(self, image: Any) -> Any:
        """Have the files of a set read as the configuration says, like an image alone."""
        return image.read_with(self.config.image) if isinstance(image, ImageSet) else image

    def _source(self, image: "str | Path | ImageSource | ImageSet | SkyImage") -> ImageSource:
        """Return the plane to work on as a source, without reading its pixels."""
        if isinstance(image, ImageSet):
            return image.detection_plane
        if isinstance(image, SkyImage):
            return MemorySource(image)
        if isinstance(image, (str, Path)):
            return FitsSource(image, self.config.image)
        if not hasattr(image, "read"):
            raise InputError(
                f"A pipeline runs on a path or an image, not on {type(image).__name__}; for an "
                "array give cyclades.SkyImage(array, unit=..., wcs=..., psf=...)."
            )
        return image

    def check(self, image: "str | Path | ImageSource | ImageSet | SkyImage") -> ImageSource:
        """Open an image and see that the stages can work on it, without reading its pixels.

        Raises
        ------
        InputError
            Where it cannot be opened, or lacks a beam that a stage needs.
        """
        image = self._read(image)
        source = self._source(image)
        self._check_beam(source)
        if isinstance(image, ImageSet):
            from cyclades.pipeline.image_sets import no_psf

            for name, plane in image.planes.items():
                if plane.psf is None:
                    raise InputError(no_psf(name, plane.name))
        return source

    def _check_beam(self, source: ImageSource) -> None:
        """Refuse an image without a beam where a stage cannot work without one."""
        needing = [stage for stage in self.config.stages if stage.capabilities.needs_beam]
        if needing and source.psf is None:
            stage = needing[0]
            if getattr(source, "wcs", "unknown") is None:
                lacks, size = "no beam in pixels and no celestial coordinates", "4pixel"
            else:
                lacks, size = "no beam", "5.4arcsec"
            raise InputError(
                f"{source.name} has {lacks}, and the {stage.kind} {stage.name!r} needs a beam; "
                f"give it with --beam {size} (Python: read_image(path, beam={size!r}))."
            )
