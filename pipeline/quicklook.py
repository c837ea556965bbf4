"""A quick-look PNG: the image with the measured components, and what is left without them."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.panels import brightest, draw_shapes, show, sky_stretch
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, Floats, shape_from_covariance

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

    from cyclades.pipeline.chain import Result
    from cyclades.stages.core.image import SkyImage


class Picture(NamedTuple):
    """What a quick-look shows.

    Parameters
    ----------
    image : SkyImage
        Coordinates, unit and name.
    shape : (ny, nx)
        Of the full image.
    planes : tuple of ndarray
        The image and its residual, shrunk or not.
    level, rms : float
        Typical ones.
    top : float
        Brightest pixel.
    components : tuple of ndarray
        Peak, x, y, shape (n,), and covariances, shape (n, 2, 2), in pixels.
    """

    image: "SkyImage"
    shape: tuple[int, int]
    planes: tuple[NDArray[np.float32], NDArray[np.float32]]
    level: float
    rms: float
    top: float
    components: tuple[Floats, Floats, Floats, Floats]


def draw(result: "Result", path: str | Path) -> None:
    """Draw a result to a PNG file.

    Left the image in an asinh stretch with the FWHM ellipses of the components (negative ones
    dashed) and the beam in the lower left corner, right the residual within five times the rms;
    both with sky coordinates where the image has them.

    Raises
    ------
    InputError
        Where the result does not hold the image and its components.
    """
    image, background, found = result.image, result.background, result.components
    if image is None or background is None or found is None:
        raise InputError("A quick-look needs the image and its components; run the whole chain.")
    components = (found.peak, found.x, found.y, found.shape_covariance)
    draw_picture(
        Picture(
            image, image.shape, (image.data, result.residual), median_of(background.level, 0.0),
            median_of(background.rms, 1.0), brightest(image.data), components,
        ),
        path,
    )  # fmt: skip


def draw_picture(picture: Picture, path: str | Path) -> None:
    """Draw a picture to a PNG file; see `draw`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    image, rms, level = picture.image, picture.rms, picture.level
    norms = (sky_stretch(picture.top, rms, level), Normalize(vmin=-5 * rms, vmax=5 * rms))
    ny, nx = picture.shape
    height = float(np.clip(6.5 * ny / nx, 3.5, 11.0))
    figure = Figure(figsize=(16, height + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    number = len(picture.components[0])
    titles = (f"{image.name}: {number} component{'' if number == 1 else 's'}", "residual")
    with warnings.catch_warnings():
        # grid lines of curved projections may run out of the sky
        warnings.simplefilter("ignore")
        for panel, data in enumerate(picture.planes):
            axes = _axes(figure, panel, image)
            shown = show(axes, data, norms[panel], difference=panel == 1, shape=(ny, nx))
            axes.set_title(titles[panel])
            unit = "" if image.unit is None else image.unit.to_string()
            ticks, form = (None, None) if panel else (round_values(norms[0]), "%g")
            figure.colorbar(shown, ax=axes, shrink=0.85, label=unit, ticks=ticks, format=form)
            if panel == 0:
                draw_shapes(axes, *picture.components)
                _draw_beam(axes, image, picture.shape)
            axes.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))
        figure.savefig(path, dpi=100, format="png")


def round_values(norm: "Normalize") -> list[float]:
    """Round values that lie evenly along a stretch, for the ticks of its bar of colours."""
    even = np.asarray(norm.inverse(np.linspace(0.0, 1.0, 9)), float)
    step = np.abs(np.gradient(even))
    # no finer than the distance to the next one
    unit = 10.0 ** np.floor(np.log10(np.where(step > 0.0, step, 1.0)))
    kept = np.unique(np.round(even / unit) * unit)
    inside = (kept >= even[0]) & (kept <= even[-1])
    return [float(f"{value:.6g}") + 0.0 for value in kept[inside]]


def _draw_beam(axes: Any, image: "SkyImage", shape: tuple[int, int]) -> None:
    """Draw the beam of the image's centre, to scale, into the lower left corner."""
    from matplotlib.patches import Ellipse

    if image.psf is None:
        return
    ny, nx = shape
    covariance = image.psf.covariances(0.5 * (nx - 1), 0.5 * (ny - 1))[0]
    major, minor, angle = (float(v) for v in shape_from_covariance(covariance))
    half = SIGMA_TO_FWHM / 2 * np.sqrt(covariance.diagonal())
    x, y = half + 0.02 * max(nx, ny)
    beam = Ellipse(
        (x, y), major, minor, angle=90.0 - angle, facecolor="white", edgecolor="black", lw=0.5
    )
    beam.set_gid("beam")
    axes.add_patch(beam)


def median_of(values: NDArray[np.float32], default: float) -> float:
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
