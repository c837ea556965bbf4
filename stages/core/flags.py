"""The one definition of the catalogue's flag bits."""

from enum import IntFlag

import numpy as np
from numpy.typing import ArrayLike


class Flag(IntFlag):
    """Bits of the `flags` column; `DESCRIPTIONS` says what each means."""

    EDGE = 1
    BLANK_NEIGHBOUR = 2
    FIT_FAILED = 4
    SIZE_AT_LIMIT = 8
    TOO_FEW_PIXELS = 16
    NEGATIVE = 32
    NEGATIVE_BACKGROUND = 64
    BLENDED = 128
    POOR_FIT = 256
    TOO_MANY_COMPONENTS = 512
    NO_SKY_POSITION = 1024
    NO_BEAM = 2048
    BELOW_BEAM = 4096
    ERRORS_FROM_BEAM = 8192
    SMOOTHED = 16384
    NOT_COVERED = 32768
    POSITION_AT_LIMIT = 65536
    WAVELET = 131072
    BACKGROUND_UNCERTAIN = 262144
    ARTEFACT = 524288
    NOT_CLASSIFIED = 1048576
    ASSOCIATED = 2097152
    SATURATED = 4194304


DESCRIPTIONS: dict[Flag, str] = {
    Flag.EDGE: "the island touches the edge of the image",
    Flag.BLANK_NEIGHBOUR: "the island touches blank or masked pixels",
    Flag.FIT_FAILED: "no free shape could be fitted: the beam's was, without errors where that "
    "failed too; a forced measurement has no values",
    Flag.SIZE_AT_LIMIT: "a fitted size or position stopped at its limit; its error "
    "is not meaningful",
    Flag.TOO_FEW_PIXELS: "too few pixels for a free shape; the beam's shape was fitted",
    Flag.NEGATIVE: "a negative source",
    Flag.NEGATIVE_BACKGROUND: "the background level is negative by more than half the rms: "
    "subtracting it raised the flux",
    Flag.BLENDED: "fitted together with other components of its island",
    Flag.POOR_FIT: "the residual of the fit is much larger than the noise",
    Flag.TOO_MANY_COMPONENTS: "the island has more components than may be fitted together (some "
    "were held while others were fitted, and the errors leave out what they share), or as many "
    "as may be added to it",
    Flag.NO_SKY_POSITION: "the image has no celestial coordinates here",
    Flag.NO_BEAM: "no beam is known: total flux is a pixel sum, sizes are not deconvolved",
    Flag.BELOW_BEAM: "fitted size significantly below the beam's",
    Flag.ERRORS_FROM_BEAM: "errors assume the beam as noise autocorrelation",
    Flag.SMOOTHED: "found on a smoothed map: extended, with a peak below the threshold",
    Flag.NOT_COVERED: "a given position lies outside the image or on blank pixels; "
    "nothing was measured",
    Flag.POSITION_AT_LIMIT: "a free position of a forced measurement stopped at its limit",
    Flag.WAVELET: "a component of the residual-wavelet model: part of a source that its other "
    "Gaussians did not fit, not a detection of its own",
    Flag.BACKGROUND_UNCERTAIN: "sources fill so much of a box of the background that its level "
    "was taken from elsewhere; part of the flux may have been taken for background",
    Flag.ARTEFACT: "near a much brighter source and no higher than the holes around it are deep: "
    "most likely a piece of that source's sidelobes",
    Flag.NOT_CLASSIFIED: "no class could be looked for: the source is cut by the edge or blank "
    "pixels, shows nothing above the clip, is outshone by a neighbour, is seen by too coarse a "
    "beam, or is saturated in every band",
    Flag.ASSOCIATED: "put together from several sources of the catalogue, by a model of which "
    "lobes and cores belong together",
    Flag.SATURATED: "bright pixels share one value, as where a detector's range ends: fluxes are "
    "too low and the shape is not the object's",
}


def decode(value: int) -> list[str]:
    """Return the names of the bits set in a `flags` value."""
    return [flag.name.lower() for flag in Flag if flag.name and int(value) & flag]


def describe(value: int) -> list[str]:
    """Return one sentence for each bit set in a `flags` value."""
    return [DESCRIPTIONS[flag] for flag in Flag if int(value) & flag]


def count(values: ArrayLike) -> dict[str, int]:
    """Return how many rows have each bit set, by name."""
    flags = np.asarray(values, np.int64)
    return {f.name.lower(): int(np.count_nonzero(flags & f)) for f in Flag if f.name}
