"""Maps of an image that was worked through in windows, made and written strip by strip."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclades.pipeline.panels import LARGEST, shrink
from cyclades.pipeline.quicklook import Picture, draw_picture, median_of
from cyclades.pipeline.windows import Survey, full_frame
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.products import Floats
from cyclades.stages.core.rendering import REACH_SIGMA, render_gaussians
from cyclades.stages.core.segments import significance_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cyclades.stages.core.image import SkyImage

MAPS = ("background", "rms", "significance", "model", "residual")


@dataclass(frozen=True, eq=False)
class WindowedMaps:
    """What is needed to make any map of an image again, some rows at a time.

    Parameters
    ----------
    survey : Survey
    gaussians : ndarray, shape (n, 6)
        Measured components as ``peak, x, y, sxx, sxy, syy`` in pixels of the full image.
    """

    survey: Survey
    gaussians: Floats

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

    def write(self, name: str, path: Path, header: Any) -> None:
        """Write a map as a FITS image.

        Parameters
        ----------
        name : str
            One of `MAPS`.
        path : Path
        header : astropy.io.fits.Header
            Without the size of the image.

        Raises
        ------
        InputError
            For another product, which needs the image as a whole.
        """
        from astropy.io import fits

        if name not in MAPS:
            raise InputError(
                f"The product {name!r} is not made of an image that is worked through in windows; "
                "leave it out, or use --set image.window=0 where the image fits into memory."
            )
        ny, nx = self.survey.plane.shape
        full = fits.PrimaryHDU(np.zeros((1, 1), np.float32), header).header
        full["NAXIS1"], full["NAXIS2"] = nx, ny
        stream = fits.StreamingHDU(path, full)
        try:
            for rows in self.survey.plane.strips():
                stream.write(self.rows(name, rows).astype(">f4"))
        finally:
            stream.close()

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
