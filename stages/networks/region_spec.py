"""What a region head is, and where it is: everything but its numbers. Nothing here needs torch."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.specification import FORMAT, MEASURER_KEY, Part, parsed
from cyclades.stages.networks.weights_files import read_metadata

OUTPUTS = 7
"""Peak, offset along two axes, logarithm of the profile's covariance (three elements), flux."""


class RegionTrunk(Part):
    """The detector whose backbone gives features beside the windows."""

    weights: str
    """A name of ``cyclades weights``, or a file."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the detector's tensors; see `cyclades.stages.networks.weights_files.tensors_digest`."""
    channels: int = Field(ge=1)
    """Features of a cell,"""
    few: int = Field(default=16, ge=1)
    """and those that a head takes of them."""


class RegionSpec(Part):
    """A region head."""

    format: int = FORMAT
    name: str = "measurement"
    members: int = Field(default=1, ge=1)
    """Heads in the file, whose mixture is the answer."""
    width: int = Field(default=160, ge=8)
    """Of the hidden layers."""
    trunk: RegionTrunk | None = None
    beam_pixels: tuple[float, float] = (2.8, 12.0)
    """Geometric mean FWHM of the beams that it can be used with."""
    snr: tuple[float, float] = (2.0, 1000.0)
    """Peaks of the training; brighter sources are measured as if they were that bright."""
    largest: float = 9.0
    """Largest side of a segment, in beams from the summit, that it can be used with."""
    calibration: dict[str, Any] = Field(default_factory=dict)
    """See `cyclades.stages.networks.region_results.Calibration`."""
    licence: str = "BSD-3-Clause"
    training: dict[str, Any] = Field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file of weights."""
        return {MEASURER_KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True)}

    @classmethod
    def from_file(cls, path: Path) -> "RegionSpec":
        """Read the specification of a file.

        Raises
        ------
        InputError
            Where it is no region head, or one of a newer version.
        """
        text = read_metadata(path).get(MEASURER_KEY)
        if text is None:
            raise InputError(
                f"{path}: these weights are no region head, so they cannot measure; give "
                "'measurement' or a file that python -m cyclades.pipeline.training.measurement "
                "wrote."
            )
        return parsed(cls, text, path)
