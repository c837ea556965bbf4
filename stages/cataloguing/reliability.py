"""The probability that each row is a real source, from features of the catalogue and the image."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.cataloguing.image_holes import find_holes
from cyclades.stages.cataloguing.reliability_model import (
    ReliabilityModel,
    default_model,
    read_model,
)
from cyclades.stages.cataloguing.row_features import row_features
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.schema import column
from cyclades.stages.core.stage import RefinementStage, parameter
from cyclades.stages.core.tables import add_column, replace_values

if TYPE_CHECKING:
    from astropy.table import QTable

    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.source import ImageSource

COLUMN = "reliability"
BEAM_WITHOUT_ONE = 4.0
"""Side of the squares of holes, in pixels, where no beam is known."""
_PART = int(Flag.WAVELET)
_NEGATIVE = int(Flag.NEGATIVE)


class ReliabilityRefinement(RefinementStage):
    """Gives every row the calibrated probability that it is a real source.

    A small model, trained on simulations from clean to full of artefacts and on rows of classical
    and learned routes, looks at the signal to noise, the shape and the quality of the fit of each
    component, the score of its detector, brighter rows around it, and how deep the holes of the
    image are around it and everywhere. The holes, and how many bright rows there are, tell which
    share of rows is unreal in this image. A higher signal to noise never lowers the probability.

    Real is what has a true source of S/N 3 or more at its place, and every piece of an extended
    one; the noise, sidelobes, and further rows on a compact source are not. A source or an island
    has the probability of its most reliable component, and so have wavelet components, which are
    parts of their source. Negative rows have none (NaN).
    """

    name: ClassVar[str] = "reliability"
    summary: ClassVar[str] = "calibrated probability that each row is a real source"
    needs: ClassVar[tuple[str, ...]] = (
        "source_id",
        "island_id",
        "x",
        "y",
        "peak_flux",
        "snr",
        "local_rms",
        "flags",
    )
    adds: ClassVar[tuple[str, ...]] = (COLUMN,)

    model: str = parameter(
        "",
        "A file that 'python -m cyclades.pipeline.training.reliability' wrote; by default the "
        "model of the package.",
    )

    def prepare(self, *, context: "Context") -> None:
        """Read the model.

        Raises
        ------
        InputError
            Where its file cannot be read or holds no such model.
        """
        self._model()

    def refine(
        self, catalogue: "Catalogue", source: "ImageSource", *, context: "Context"
    ) -> "Catalogue":
        """Return the catalogue with the column ``reliability`` in all three tables.

        Parameters
        ----------
        catalogue : Catalogue
            Columns that it lacks, and values that are NaN, count as unknown.
        source : ImageSource
            Gives the beam, and the holes of the image.
        context : Context
            Its note ``cataloguing.reliability`` has the rows and how many of them are expected to
            be real.

        Returns
        -------
        Catalogue
            The same rows in the same order.
        """
        psf = source.psf
        table = catalogue.components
        holes = find_holes(source, BEAM_WITHOUT_ONE if psf is None else psf.size)
        chance = self._model().probability(row_features(table, psf, holes))
        snr = np.asarray(table["snr"], float)
        flags = np.asarray(table["flags"], np.int64)
        chance = np.where(np.isfinite(snr) & ((flags & _NEGATIVE) == 0), chance, np.nan)
        owner = np.asarray(table["source_id"])
        part = (flags & _PART) != 0
        of_source = largest(chance[~part], owner[~part], owner[part])
        chance[part] = np.where(np.isfinite(of_source), of_source, chance[part])
        sources, islands = catalogue.sources, catalogue.islands
        made = catalogue.replace(
            components=_with(table, "components", chance),
            sources=_with(
                sources, "sources", largest(chance, owner, np.asarray(sources["source_id"]))
            ),
            islands=_with(
                islands,
                "islands",
                largest(chance, np.asarray(table["island_id"]), np.asarray(islands["island_id"])),
            ),
        )
        judged = chance[~part & np.isfinite(chance)]
        context.note(
            "cataloguing.reliability",
            {"rows": len(judged), "expected_real": round(float(judged.sum()), 1)},
        )
        return made

    def _model(self) -> ReliabilityModel:
        return read_model(self.model) if self.model else default_model()


def largest(chance: Floats, owner: NDArray[Any], wanted: NDArray[Any]) -> Floats:
    """The largest probability of the rows of each owner; NaN for one without any.

    Parameters
    ----------
    chance : ndarray, shape (rows,)
        NaN counts for nothing.
    owner : ndarray of int, shape (rows,)
    wanted : ndarray of int, shape (n,)

    Returns
    -------
    ndarray, shape (n,)
    """
    names, index = np.unique(np.concatenate([wanted, owner]), return_inverse=True)
    best = np.full(len(names), -1.0)
    np.maximum.at(best, index[len(wanted) :], np.nan_to_num(chance, nan=-1.0))
    own = best[index[: len(wanted)]]
    return np.where(own >= 0.0, own, np.nan)


def _with(table: "QTable", name: str, values: Floats) -> "QTable":
    made = table.copy()
    if COLUMN in made.colnames:
        replace_values(made, COLUMN, np.asarray(values, np.float32))
    else:
        add_column(made, column(name, COLUMN), values, None)
    return made
