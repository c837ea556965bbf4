"""Maps of an image that was worked through in windows, made and written strip by strip."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.island_runs import IslandRuns
from cyclades.pipeline.panels import LARGEST, shrink
from cyclades.pipeline.quicklook import Picture, draw_picture, median_of
from cyclades.pipeline.window_survey import Survey, full_frame
from cyclades.stages.core.footprints import covered_blocks, moc_from_blocks, moc_step
from cyclades.stages.core.products import Floats
from cyclades.stages.core.rendering import REACH_SIGMA, render_gaussians
from cyclades.stages.core.segments import significance_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.image import SkyImage


@dataclass(frozen=True, eq=False)
class WindowedMaps:
    """What is needed to make any map of an image again, some rows at a time.

    Parameters
    ----------
    survey : Survey
    gaussians : ndarray, shape (n, 6)
        Measured components as ``peak, x, y, sxx, sxy, syy`` in pixels of the full image.
    islands : IslandRuns
        The pixels of the islands.
    """

    survey: Survey
    gaussians: Floats
    islands: IslandRuns

    @property
    def frame(self) -> "SkyImage":
        """Coordinates, beam and units."""
        return full_frame(self.survey.plane)

    def model(self, rows: slice) -> "NDArray[np.float32]":
        """Rows of the measured Gaussians."""
        reach = REACH_SIGMA * np.sqrt(np.maximum(self.gaussians[:, 5], 0.0)) + 1.0
        near = self.gaussians[:, 2] + reach >= rows.start
        near &= self.gaussians[:, 2] - reach <= rows.stop
        values = self.gaussians[near]
        values[:, 2] -= rows.start
        return render_gaussians((rows.stop - rows.start, self.survey.plane.shape[1]), values)

    def rows(self, name: str, rows: slice) -> "NDArray[np.float32]":
        """Rows of a map."""
        if name == "model":
            return self.model(rows)
        image = self.survey.plane.rows(rows)
        background = self.survey.maps.window(image)
        if name == "significance":
            return significance_map(image, background)
        if name == "residual":
            return np.asarray(image.data - background.level - self.model(rows))
        return background.level if name == "background" else background.rms

    def write(self, name: str, path: Path, header: Any, catalogue: "Catalogue") -> None:
        """Write a map as a FITS image.

        Parameters
        ----------
        name : str
            Of a product.
        path : Path
        header : astropy.io.fits.Header
            Without the size of the image.
        catalogue : Catalogue
            Its identifiers of islands are those of the label map.
        """
        from astropy.io import fits

        ny, nx = self.survey.plane.shape
        make: Callable[[slice], NDArray[Any]] = partial(self.rows, name)
        if name == "islands":
            labels = self.islands.identifiers(catalogue.islands)
            make = partial(self.islands.label_rows, nx=nx, labels=labels)
        code = ">i4" if name == "islands" else ">f4"
        full = fits.PrimaryHDU(np.zeros((1, 1), code), header).header
        full["NAXIS1"], full["NAXIS2"] = nx, ny
        stream = fits.StreamingHDU(path, full)
        try:
            for rows in self.survey.plane.strips():
                stream.write(make(rows).astype(code))
        finally:
            stream.close()

    def write_moc(self, path: Path) -> None:
        """Write the coverage as a FITS MOC, the same as that of the image at once."""
        plane = self.survey.plane
        step = moc_step(plane.shape)
        blocks = [
            covered_blocks(np.isfinite(plane.rows(rows).data), step) for rows in plane.strips(step)
        ]
        moc = moc_from_blocks(self.frame, plane.shape, np.concatenate(blocks), step)
        moc.save(str(path), format="fits", overwrite=True)

    def draw(self, path: Path) -> None:
        """Draw the quick-look; see `cyclades.pipeline.quicklook.draw`."""
        plane = self.survey.plane
        step = -(-max(plane.shape) // LARGEST)
        planes: list[list[NDArray[np.float32]]] = [[], [], [], []]
        top = -np.inf
        for rows in plane.strips(step):
            image = plane.rows(rows)
            background = self.survey.maps.window(image)
            residual = image.data - background.level - self.model(rows)
            if np.isfinite(image.data).any():
                top = max(top, float(np.nanmax(image.data)))
            for kept, values in zip(
                planes, (image.data, residual, background.level, background.rms), strict=True
            ):
                kept.append(shrink(values, step=step))
        shown, left, level, rms = (np.concatenate(parts) for parts in planes)
        peak, x, y, sxx, sxy, syy = self.gaussians.T
        shapes = np.stack([sxx, sxy, sxy, syy], -1).reshape(-1, 2, 2)
        draw_picture(
            Picture(
                self.frame, plane.shape, (shown, left), median_of(level, 0.0),
                median_of(rms, 1.0), top, (peak, x, y, shapes),
            ),
            path,
        )  # fmt: skip
