"""Pictures of radio galaxies as the input of networks: classes, crop, brightness curves."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.stage import parameter
from cyclades.stages.networks.inputs import stretch
from cyclades.stages.networks.specification import Part

CLASSES = ("FRI", "FRII", "compact", "bent")
Stretch = Literal["linear", "sqrt", "asinh"]
Pooling = Literal["token", "mean", "max", "deviation"]
Bytes = NDArray[np.uint8]
PEAK = 100.0
"""S/N of the brightest pixel of a picture, for networks that were pre-trained on radio sky."""
_FAINT = np.float32(30.0)
"""The asinh curve is linear below one of so many parts of the brightest pixel."""


class PictureOptions(Part):
    """From a picture to the input of a network."""

    crop: int = parameter(
        96, "Side of the square about the centre that is cut out.", unit="pixels", ge=8
    )
    size: int = parameter(112, "Side that it is resampled to.", unit="pixels", ge=14)
    stretches: tuple[Stretch, Stretch, Stretch] = parameter(
        ("linear", "sqrt", "asinh"), "Brightness curves of the three channels."
    )
    precision: Literal["float32", "bfloat16"] = parameter(
        "bfloat16", "Of the network where nothing is trained, and on GPUs where something is."
    )


def centred(images: Bytes, crop: int) -> Bytes:
    """Cut the middle out of pictures and make its brightest pixel white.

    A neighbour outside the crop then does not decide how bright the object is.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, ny, nx)
    crop : int
        Side; larger pictures are cut, smaller ones left as they are.

    Returns
    -------
    ndarray of uint8, shape (n, crop, crop)
        Black pictures stay black.
    """
    ny, nx = images.shape[1:]
    high, wide = min(crop, ny), min(crop, nx)
    y0, x0 = (ny - high) // 2, (nx - wide) // 2
    cut = images[:, y0 : y0 + high, x0 : x0 + wide]
    brightest = np.maximum(cut.max((1, 2), keepdims=True), 1).astype(np.float32)
    return np.asarray(cut * (np.float32(255.0) / brightest) + np.float32(0.5), np.uint8)


def prepare_pictures(
    images: Bytes,
    options: PictureOptions,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    radio: tuple[str, ...] = (),
) -> NDArray[np.float32]:
    """Cut, stretch and normalise pictures, still at their own resolution.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, ny, nx)
    options : PictureOptions
    mean, std : tuple of float
        Of the three channels that the network was pre-trained with.
    radio : tuple of str
        For a network that was pre-trained on radio sky, the names of its brightness curves in
        `cyclades.stages.networks.inputs`, which take the place of those of the options. They are
        of S/N, which a picture no longer has: its brightest value is taken as `PEAK`.

    Returns
    -------
    ndarray, shape (n, 3, crop, crop), float32
    """
    ny, nx = images.shape[1:]
    crop = min(options.crop, ny, nx)
    y0, x0 = (ny - crop) // 2, (nx - crop) // 2
    plane = images[:, y0 : y0 + crop, x0 : x0 + crop].astype(np.float32) / np.float32(255.0)
    if radio:
        return np.stack([stretch(np.float32(PEAK) * one, radio) for one in plane])
    channels = [
        (_stretched(plane, name) - np.float32(m)) / np.float32(s)
        for name, m, s in zip(options.stretches, mean, std, strict=True)
    ]
    return np.stack(channels, 1).astype(np.float32)


def _stretched(plane: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return pixels from 0 to 1 on one of the brightness curves."""
    if name == "sqrt":
        return np.sqrt(plane)
    if name == "asinh":
        return np.asarray(np.arcsinh(_FAINT * plane) / np.arcsinh(_FAINT), np.float32)
    return plane
