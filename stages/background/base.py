"""What the mesh estimators share: cells, source masking, two passes, maps."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.background.mesh import (
    Floats,
    Map,
    Mesh,
    Surface,
    bands,
    fill_missing,
    median_filter,
    smooth,
)
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.geometry import shape_from_covariance
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from cyclades.stages.core.stage import BackgroundStage, WindowMaps, parameter
from cyclades.stages.core.streaming import BitMask, Plane

DEFAULT_BOX = 64
"""Side of a box in pixels where no beam is known."""

MINIMUM_FRACTION = 0.5
"""Usable part of a cell below which it is filled from its neighbours."""

MINIMUM_PIXELS = 4
"""Usable pixels below which a cell says nothing, however small it is."""

ROUGH_SAMPLES = 24
"""Samples along a cell from which on every other one is enough for a first level."""

CellStatistics = Callable[[Map, NDArray[np.bool_], int, int], tuple[Floats, Floats]]


class MeshBackground(BackgroundStage):
    """Base of the estimators that take clipped statistics in the cells of a mesh.

    First the statistics of all pixels give a map in which sources stand out; they are masked, and
    the level is taken again from the pixels that are left. What the residual still shows in its
    cells is added to the level (which removes most of the smoothing that a box causes), and the
    rms is measured on the residual, where a slope of the level does not widen it.

    Sources wider than a box are kept out as long as they are brighter than about 2.5 times the
    rms (in each beam). What is as wide as a box and fainter than twice the rms is taken for level,
    for nothing tells the two apart; larger boxes do.
    """

    box_beams: float = parameter(
        20.0, "Side of a box in geometric mean FWHMs of the beam.", unit="beams", gt=0
    )
    box_size: int | None = parameter(
        None,
        "Side of a box in pixels; overrides box_beams. Without a beam the default is 64 pixels.",
        unit="pixels",
        ge=3,
    )
    mask_seed_threshold: float = parameter(
        5.0,
        "Regions with a pixel that deviates by this much are left out as sources or holes.",
        unit="local rms",
        gt=0,
    )
    mask_flood_threshold: float = parameter(
        3.0, "Deviation down to which a region left out reaches.", unit="local rms", gt=0
    )

    def box(self, image: SkyImage | Plane) -> int:
        """Side of a box in pixels."""
        if self.box_size is not None:
            return self.box_size
        if image.psf is None:
            return DEFAULT_BOX
        return max(3, round(self.box_beams * image.psf.size))

    def mesh(self, image: SkyImage | Plane) -> Mesh:
        """Return boxes side by side, to be read twice a beam: the noise holds no more."""
        return Mesh.anchored(image.shape, image.origin, self.box(image), stride=stride(image.psf))

    @abstractmethod
    def statistics(self, data: Map, usable: NDArray[np.bool_], mesh: Mesh) -> tuple[Floats, Floats]:
        """Return clipped location and scale of each cell.

        Parameters
        ----------
        data : ndarray of float32, shape (ny, nx)
            C-contiguous; not finite only where not usable.
        usable : ndarray of bool, shape (ny, nx)
            Pixels that count.
        mesh : Mesh
            Cells of the plane.

        Returns
        -------
        location, scale : ndarray, shape of the mesh
            The scale is unbiased for Gaussian noise. NaN where a cell has too few pixels.
        """

    def estimate(
        self, image: SkyImage, *, context: Context, sources: NDArray[np.bool_] | None = None
    ) -> Background:
        """Return level and rms maps of the image's shape and unit, NaN where it is blank.

        Parameters
        ----------
        image : SkyImage
        context : Context
        sources : ndarray of bool, shape (ny, nx), optional
            Pixels known to be of sources, which count for neither map, besides those that stand
            out; it is not changed. Not heeded where it leaves no pixel.
        """
        data = image.data
        usable = np.isfinite(data)
        root = None
        if image.weight is not None:
            with np.errstate(invalid="ignore"):
                usable &= np.isfinite(image.weight) & (image.weight > 0)
                root = np.sqrt(image.weight)
        blank = ~usable
        if not usable.any():
            empty = np.full(data.shape, np.nan, np.float32)
            return Background(empty, empty.copy())
        from cyclades.stages.background.edges import edge_factor
        from cyclades.stages.background.extended import uncertain_pixels

        if sources is not None:
            outside = usable > sources
            sources, usable = (sources, outside) if outside.any() else (None, usable)
        mesh = self.mesh(image)
        floor = noise_floor(data, usable)
        # Planes of a whole image decide how much memory a run takes, and clearing new ones costs
        # time: these two hold everything in turn.
        level, spare = np.empty_like(data), np.empty_like(data)
        found = self.source_pixels(image, usable, root, mesh, floor, level)
        if sources is not None:
            found |= sources
        np.greater(found, blank, out=found)
        uncertain = uncertain_pixels(found, self.box(image), image.origin)
        left = usable > found
        if left.any():
            usable = left
        del found, left

        location, _ = self.statistics(data, usable, rough(mesh))
        surface, residual = mesh.surface(self.complete(location, data, usable)), spare
        for rows in bands(len(data)):
            np.subtract(data[rows], surface.draw(level[rows], rows=rows), out=residual[rows])
        location, scale = self.statistics(residual, usable, mesh)
        mesh.interpolate(self.complete(location, residual, usable), level, add=True)
        if root is not None:
            scale = self.statistics(residual * root, usable, mesh)[1]
        rms = self.rms_map(scale, residual, usable, root, mesh, floor, spare)
        fwhm, area = (1.0, 1.0) if image.psf is None else (image.psf.size, image.psf.area)
        factor = edge_factor(data, level, rms, blank, self.box(image), fwhm, area)
        if factor is not None:
            rms *= factor
        if blank.any():
            level[blank] = np.nan
            rms[blank] = np.nan
        return Background(level, rms, uncertain)

    def survey(
        self, plane: Plane, *, context: Context, sources: BitMask | None = None
    ) -> WindowMaps | None:
        """Measure a plane that is read by strips, for the same maps in little memory.

        Parameters
        ----------
        plane : Plane
        context : Context
        sources : BitMask, optional
            Pixels known to be of sources, as for `estimate`.
        """
        from cyclades.stages.background.streamed import stream

        return stream(self, plane, context, sources)

    def source_pixels(
        self,
        image: SkyImage,
        usable: NDArray[np.bool_],
        root: Map | None,
        mesh: Mesh,
        floor: float,
        plane: Map,
    ) -> NDArray[np.bool_]:
        """Find the pixels of sources and holes, which must not count for the level.

        A source wider than a few cells outweighs the sky in the neighbourhoods of its inner
        cells, and passes for the level there; its rim stands out and is masked. While the mask
        takes further cells, the statistics are taken again without its pixels, so that such a
        source is peeled from its rim to its middle. Without a cell that is mostly source, which
        is the rule, there is one round.

        Parameters
        ----------
        image : SkyImage
        usable : ndarray of bool, shape (ny, nx)
            Pixels that count.
        root : ndarray of float32, shape (ny, nx), optional
            Root of the weights.
        mesh : Mesh
        floor : float
            Least rms.
        plane : ndarray of float32, shape (ny, nx)
            Overwritten.

        Returns
        -------
        ndarray of bool, shape (ny, nx)
        """
        from cyclades.stages.background.extended import MOSTLY_SOURCE, extended_mask
        from cyclades.stages.core.masking import source_mask

        data = image.data
        mesh = rough(mesh)
        size = 3 if mesh.y.margin == 0 else 5
        radius = 2 if image.psf is None else int(np.ceil(0.5 * image.psf.size))
        sources = np.zeros(data.shape, bool)
        taken = np.zeros(mesh.shape, bool)
        left, mostly = usable, MOSTLY_SOURCE * mesh.y.step * mesh.x.step
        while True:
            location, scale = self.statistics(data, left, mesh)
            if root is not None:
                scale = self.statistics(data * root, left, mesh)[1]
            location, scale = without_bumps(location, scale, size)
            level = mesh.surface(self.complete(location, data, left))
            rms = self.rms_surface(scale, data, left, root, mesh, floor)
            significance = plane
            for rows in bands(len(data)):
                band = np.subtract(data[rows], level.draw(rows=rows), out=significance[rows])
                with np.errstate(over="ignore"):
                    band /= self.rms_rows(rms, root, floor, rows)
            sources |= source_mask(
                significance,
                seed=self.mask_seed_threshold,
                flood=self.mask_flood_threshold,
                grow=radius,
            )
            sources |= extended_mask(
                significance,
                usable,
                sources,
                self.box(image),
                image.origin,
                seed=self.mask_seed_threshold,
                flood=self.mask_flood_threshold,
            )
            before, taken = taken, mesh.counts(sources & usable) > mostly
            left = usable > sources
            if not (taken & ~before).any() or not left.any():
                return sources

    def complete(self, cells: Floats, data: Map, usable: NDArray[np.bool_]) -> Floats:
        """Fill cells with too few pixels from their neighbours, or from the whole plane."""
        if not np.isfinite(cells).any():
            return np.full(cells.shape, clipped(data[usable])[0])
        return fill_missing(cells)

    def rms_map(
        self,
        scale: Floats,
        data: Map,
        usable: NDArray[np.bool_],
        root: Map | None,
        mesh: Mesh,
        floor: float,
        out: Map,
    ) -> Map:
        """Fill `out` with a smooth positive map of the scales of cells.

        `root` is the root of the weights; `out` may be `data`, which is read first.
        """
        surface = self.rms_surface(scale, data, usable, root, mesh, floor)
        for rows in bands(len(data)):
            self.rms_rows(surface, root, floor, rows, out[rows])
        return out

    def rms_surface(
        self,
        scale: Floats,
        data: Map,
        usable: NDArray[np.bool_],
        root: Map | None,
        mesh: Mesh,
        floor: float,
    ) -> Surface:
        """Smooth map of the logarithm of the scales of cells: so it stays positive at an edge."""
        cells = np.where(scale > 0, scale, np.nan)
        if not np.isfinite(cells).any():
            values = data[usable] if root is None else data[usable] * root[usable]
            cells = np.full(cells.shape, max(clipped(values)[1], floor))
        return mesh.surface(smooth(np.log(fill_missing(cells))))

    def rms_rows(
        self, surface: Surface, root: Map | None, floor: float, rows: slice, out: Map | None = None
    ) -> Map:
        """Rows of the rms from those of its logarithm."""
        rms = surface.draw(out, rows=rows)
        np.exp(rms, out=rms)
        if root is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                rms /= root[rows]
        return np.maximum(rms, np.float32(floor), out=rms)


def rough(mesh: Mesh) -> Mesh:
    """Read every other sample of large boxes: enough for a level that is refined later."""
    large = mesh.y.step >= ROUGH_SAMPLES * mesh.stride
    return replace(mesh, stride=2 * mesh.stride) if large else mesh


def without_bumps(location: Floats, scale: Floats, size: int) -> tuple[Floats, Floats]:
    """Replace cells that stand out by the medians of their `size` x `size` neighbourhoods.

    A source as large as a box passes for background in the box that it fills, and would never be
    masked. Slopes within the noise are kept.
    """
    typical, noise = median_filter(location, size), median_filter(scale, size)
    with np.errstate(invalid="ignore"):
        stands_out = (np.abs(location - typical) > noise) | (scale > 1.5 * noise)
    return np.where(stands_out, typical, location), np.where(stands_out, noise, scale)


def stride(psf: PointSpread | None) -> int:
    """Pixels between samples that are half the beam's minor FWHM apart at most; 1 without."""
    if psf is None:
        return 1
    return max(1, int(0.5 * float(shape_from_covariance(psf.covariance)[1])))


def noise_floor(data: Map, usable: NDArray[np.bool_]) -> float:
    """Smallest rms that usable float32 pixels of this size can show; positive even for zeros."""
    limits = np.finfo(np.float32)
    largest = 0.0
    # By some rows at a time: a copy of the usable pixels would be one more plane.
    for rows in bands(len(data)):
        values = data[rows] if usable[rows].all() else data[rows][usable[rows]]
        if values.size:
            largest = max(largest, abs(float(values.min())), abs(float(values.max())))
    return max(float(limits.eps) * largest, float(limits.tiny))


def clipped(values: NDArray[np.floating], sigma: float = 3.0) -> tuple[float, float]:
    """Median and standard deviation of values clipped at `sigma`, corrected for the clipping."""
    kept = np.sort(np.asarray(values, float))
    for _ in range(10):
        centre, spread = float(np.median(kept)), float(kept.std()) * clipping_correction(sigma)
        low, high = np.searchsorted(kept, [centre - sigma * spread, centre + sigma * spread])
        if high - low in (0, len(kept)):
            break
        kept = kept[low:high]
    return float(np.median(kept)), float(kept.std()) * clipping_correction(sigma)


def clipping_correction(sigma: float) -> float:
    """Ratio of the standard deviation of a Gaussian to that of its part within +-`sigma`."""
    from math import erf, exp, pi, sqrt

    inside = erf(sigma / sqrt(2.0))
    cut = sqrt(2.0 / pi) * sigma * exp(-0.5 * sigma**2) / inside
    return 1.0 / sqrt(1.0 - cut)


def measure_cells(
    data: Map, usable: NDArray[np.bool_], mesh: Mesh, measure: CellStatistics
) -> tuple[Floats, Floats]:
    """Apply an estimator that wants planes of whole cells to any mesh of cells side by side.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
        Plane.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that count.
    mesh : Mesh
        Cells without margins; every `mesh.stride`-th pixel of a cell is used.
    measure : callable
        ``measure(data, masked, height, width)`` returns location and scale of the cells of a
        plane that is cut into whole cells of `height` x `width` pixels.

    Returns
    -------
    location, scale : ndarray, shape of the mesh
        NaN where less than half of a cell is usable.
    """
    location, scale = np.full(mesh.shape, np.nan), np.full(mesh.shape, np.nan)
    for rows, y_pixels, height in mesh.y.runs():
        for columns, x_pixels, width in mesh.x.runs():
            cells = (rows.stop - rows.start, height, columns.stop - columns.start, width)
            every = (slice(None), slice(None, None, mesh.stride)) * 2
            block = data[y_pixels, x_pixels].reshape(cells)[every]
            good = usable[y_pixels, x_pixels].reshape(cells)[every]
            poor = good.mean((1, 3)) < MINIMUM_FRACTION
            poor |= good.sum((1, 3)) < MINIMUM_PIXELS
            if poor.all():
                continue
            _, h, _, w = block.shape
            plane = (cells[0] * h, cells[2] * w)
            found = measure(
                np.ascontiguousarray(block.reshape(plane)),
                np.ascontiguousarray(~good.reshape(plane)),
                h,
                w,
            )
            location[rows, columns] = np.where(poor, np.nan, found[0])
            scale[rows, columns] = np.where(poor, np.nan, found[1])
    return location, scale


def gaussian_scale(measure: CellStatistics) -> float:
    """What an estimator gives for the scale of unit Gaussian noise: clipping narrows it."""
    from scipy.special import ndtri

    side = 256
    values = ndtri((np.arange(side**2) + 0.5) / side**2).astype(np.float32)
    plane = np.random.default_rng(0).permutation(values).reshape(side, side)
    return float(measure(plane, np.zeros(plane.shape, bool), side, side)[1][0, 0])
