"""Background and rms maps of the user's own, from FITS files."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from cyclades.stages.background.grid import GridBackground
from cyclades.stages.background.mesh import Map
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.image_options import absolute_path
from cyclades.stages.core.io import open_image
from cyclades.stages.core.products import Background
from cyclades.stages.core.stage import WindowMaps, parameter
from cyclades.stages.core.streaming import BitMask, Plane


class MapsBackground(GridBackground):
    """Level and rms from FITS images on the image's own pixels.

    A map without BUNIT is taken to be in the image's unit, one with another unit is converted.
    Pixels where a given map is blank, or the rms is not positive, are blank in both.
    """

    name: ClassVar[str] = "maps"
    summary: ClassVar[str] = (
        "level and rms from FITS files; what is left out is estimated as by grid"
    )

    level: Annotated[str | None, BeforeValidator(absolute_path)] = parameter(
        None, "FITS image of the level."
    )
    rms: Annotated[str | None, BeforeValidator(absolute_path)] = parameter(
        None, "FITS image of the rms."
    )

    def estimate(
        self, image: SkyImage, *, context: Context, sources: NDArray[np.bool_] | None = None
    ) -> Background:
        """Return the maps, cut to the image's window; a map left out is estimated."""
        given = {
            name: None if path is None else read_map(path, image, name)
            for name, path in (("background", self.level), ("rms", self.rms))
        }
        level, rms = given["background"], given["rms"]
        if level is None or rms is None:
            estimated = super().estimate(image, context=context, sources=sources)
            return joined(image, level, rms, estimated)
        return joined(image, level, rms)

    def survey(
        self, plane: Plane, *, context: Context, sources: BitMask | None = None
    ) -> WindowMaps | None:
        """Estimate what is left out on a plane that is read by strips."""
        if self.level is not None and self.rms is not None:
            return WindowsOfMaps(self)
        maps = super().survey(plane, context=context, sources=sources)
        return None if maps is None else WindowsOfMaps(self, maps)


@dataclass(frozen=True)
class WindowsOfMaps:
    """Windows of the given maps, and of those that were estimated instead of a missing one."""

    stage: MapsBackground
    estimated: WindowMaps | None = None

    def window(self, image: SkyImage) -> Background:
        """Return the maps of a window."""
        level, rms = (
            None if path is None else read_map(path, image, name)
            for name, path in (("background", self.stage.level), ("rms", self.stage.rms))
        )
        return joined(
            image, level, rms, None if self.estimated is None else self.estimated.window(image)
        )


def joined(
    image: SkyImage, level: Map | None, rms: Map | None, estimated: Background | None = None
) -> Background:
    """Maps that are given, and estimates in place of one that is not."""
    uncertain = None
    if level is None or rms is None:
        assert estimated is not None
        if level is None:
            level, uncertain = estimated.level, estimated.uncertain
        rms = estimated.rms if rms is None else rms
    with np.errstate(invalid="ignore"):
        good = np.isfinite(image.data) & np.isfinite(level) & (rms > 0) & (rms < np.inf)
    nan = np.float32(np.nan)
    return Background(np.where(good, level, nan), np.where(good, rms, nan), uncertain)


def read_map(path: str, image: SkyImage, name: str) -> Map:
    """Read the part of a map that lies under an image, in the image's unit.

    Raises
    ------
    InputError
        Where the file cannot be read, or its shape or unit do not fit the image.
    """
    from astropy.units import UnitConversionError, dimensionless_unscaled

    source = open_image(path, blank_zeros=False)
    if source.shape != image.full_shape:
        raise InputError(
            f"The {name} map {path} has shape {source.shape}, the image {image.full_shape}; "
            "give one on the image's own pixels."
        )
    values = source.window(image.box).data
    unit = image.unit or dimensionless_unscaled
    if source.unit in (unit, dimensionless_unscaled):
        return values
    try:
        factor = source.unit.to(unit)
    except UnitConversionError as error:
        raise InputError(
            f"The {name} map {path} is in {source.unit}, the image in {unit}; "
            "give a map in the image's unit."
        ) from error
    return np.asarray(values * np.float32(factor))
