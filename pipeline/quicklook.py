"""A quick-look PNG: the image with the measured components, and what is left without them."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.panels import draw_ellipses, show, sky_stretch
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from cyclades.pipeline.chain import Result
    from cyclades.stages.core.image import SkyImage


def draw(result: "Result", path: str | Path) -> None:
    """Draw a result to a PNG file.

    Left the image in an asinh stretch with the FWHM ellipses of the components (negative ones
    dashed), right the residual within five times the rms; both with sky coordinates where the
    image has them.

    Raises
    ------
    InputError
        Where the result does not hold the image and its components.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    image, background = result.image, result.background
    if image is None or background is None or result.components is None:
        raise InputError("A quick-look needs the image and its components; run the whole chain.")
    rms = _median(background.rms, 1.0)
    level = _median(background.level, 0.0)
    norms = (sky_stretch(image.data, rms, level), Normalize(vmin=-5 * rms, vmax=5 * rms))
    ny, nx = image.shape
    height = float(np.clip(6.5 * ny / nx, 3.5, 11.0))
    figure = Figure(figsize=(16, height + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    titles = (f"{image.name}: {len(result.components)} components", "residual")
    with warnings.catch_warnings():
        # grid lines of curved projections may run out of the sky
        warnings.simplefilter("ignore")
        for number, data in enumerate((image.data, result.residual)):
            axes = _axes(figure, number, image)
            shown = show(axes, data, norms[number], difference=number == 1)
            axes.set_title(titles[number])
            unit = "" if image.unit is None else image.unit.to_string()
            figure.colorbar(shown, ax=axes, shrink=0.85, label=unit)
            if number == 0:
                draw_ellipses(axes, result.components)
            axes.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))
        figure.savefig(path, dpi=100, format="png")


def _median(values: NDArray[np.float32], default: float) -> float:
    """Median of the finite values of a map, thinned out; the default without any or for zero."""
    step = max(1, max(values.shape) // 500)
    finite = values[::step, ::step]
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite)) if finite.size and np.any(finite) else default


def _axes(figure: Any, number: int, image: "SkyImage") -> Any:
    """Return the axes of a panel: with sky coordinates where the image has them."""
    if image.wcs is None:
        axes = figure.add_subplot(1, 2, number + 1)
        axes.set(xlabel="x (pixels)", ylabel="y (pixels)")
        return axes
    axes = figure.add_subplot(1, 2, number + 1, projection=image.wcs)
    for coordinate, ctype in zip(axes.coords, image.wcs.wcs.ctype, strict=True):
        coordinate.set_axislabel(ctype.split("-")[0])
    return axes
