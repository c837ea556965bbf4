"""Find what is like given sources, and what is like nothing else."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cyclades.pipeline.similarity.gallery import Gallery, make_gallery, open_image
from cyclades.pipeline.similarity.ranking import oddness, plane_map, reduce, similarities
from cyclades.stages.core.catalogue import Catalogue, read_catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.registry import suggestion
from cyclades.stages.core.schema import column
from cyclades.stages.core.tables import add_column

if TYPE_CHECKING:
    from astropy.table import QTable

DEFAULT_WEIGHTS = "dinov2-s-derived"
NEAR = 30.0
"""Arcsec from a given position within which its source lies."""
_POSITION = re.compile(r"\s*([-+]?\d+(?:\.\d*)?)\s*,\s*([-+]?\d+(?:\.\d*)?)\s*")


@dataclass(frozen=True, eq=False)
class Search:
    """A catalogue with the similarity and the oddness of its sources.

    Parameters
    ----------
    catalogue : Catalogue
        Its sources have the columns ``similarity`` (where targets were given) and ``oddness``.
    targets : ndarray of int
        Rows that the others were compared to.
    gallery : Gallery
    reduced : ndarray, shape (n, k)
        Features as they were compared; see `cyclades.pipeline.similarity.ranking.reduce`.
    """

    catalogue: Catalogue
    targets: NDArray[np.int64]
    gallery: Gallery
    reduced: NDArray[np.float64]

    @cached_property
    def plane(self) -> NDArray[np.float64]:
        """Places in a plane, shape (n, 2), alike sources near each other; NaN without a picture."""
        known = np.isfinite(self.reduced).all(1)
        made = np.full((len(self.reduced), 2), np.nan)
        made[known] = plane_map(self.reduced[known])
        return made

    def order(self, odd: bool = False) -> NDArray[np.int64]:
        """Rows of the sources, the most similar or the oddest first, those without a picture last.

        Ties go by name.
        """
        table = self.catalogue.sources
        values = np.asarray(table["oddness" if odd else "similarity"], float)
        return np.lexsort((np.asarray(table["name"]), -np.nan_to_num(values, nan=-np.inf)))


def search(
    catalogue: Catalogue | str | Path,
    image: str | Path,
    to: Sequence[str] = (),
    *,
    weights: str = DEFAULT_WEIGHTS,
    beam: str | None = None,
    device: str = "cpu",
    report: Callable[[float], None] | None = None,
) -> Search:
    """Compare the sources of a catalogue by the features of a frozen backbone.

    Parameters
    ----------
    catalogue : Catalogue or path
    image : path
        The image that shows them; not necessarily the one that they were found on.
    to : sequence of str
        Names of sources, or positions as ``RA,DEC`` in degrees.
    weights : str
        Of the backbone; see `cyclades.pipeline.similarity.gallery.make_gallery`.
    beam : str, optional
        Of an image that does not tell it.
    device : str
        A torch device.
    report : callable, optional
        Told the share that is done.

    Raises
    ------
    InputError
        Where a name is unknown, no source lies near a position, or a file cannot be used.
    ConfigurationError
        Where torch is not installed.
    """
    held = catalogue if isinstance(catalogue, Catalogue) else read_catalogue(catalogue)
    targets = find_targets(held.sources, to)
    gallery = make_gallery(held, open_image(image, beam), weights, device=device, report=report)
    # features are reduced in an order that does not depend on that of the rows
    order = np.argsort(np.asarray(held.sources["name"]), kind="stable")
    back = np.argsort(order)
    reduced = reduce(gallery.features[order])[back]
    for row in targets:
        if not np.isfinite(reduced[row]).all():
            raise InputError(
                f"{held.sources['name'][row]} lies outside the image, on blank pixels, or shows "
                "nothing above the noise there; choose another source or image."
            )
    sources = held.sources.copy()
    if len(targets):
        add_column(sources, column("sources", "similarity"), similarities(reduced, targets), None)
    add_column(sources, column("sources", "oddness"), oddness(reduced[order])[back], None)
    return Search(held.replace(sources=sources), targets, gallery, reduced)


def find_targets(sources: "QTable", to: Sequence[str]) -> NDArray[np.int64]:
    """Return the rows of sources by name or position.

    Raises
    ------
    InputError
        Where there is none; the sentence names the nearest.
    """
    names = [str(name) for name in sources["name"]]
    rows = []
    for text in to:
        if text in names:
            rows.append(names.index(text))
        elif (found := _POSITION.fullmatch(text)) and "ra" in sources.colnames:
            rows.append(_nearest(sources, float(found[1]), float(found[2])))
        else:
            raise InputError(
                f"The catalogue has no source {text!r}{suggestion(text, names)}; give one of its "
                f"{len(names)} names, or a position as RA,DEC in degrees."
            )
    return np.array(list(dict.fromkeys(rows)), np.int64)


def _nearest(sources: "QTable", ra: float, dec: float) -> int:
    from astropy.coordinates import SkyCoord

    if not len(sources) or abs(dec) > 90.0:
        raise InputError(f"There is no source at {ra:g},{dec:g}; give RA,DEC in degrees.")
    there = SkyCoord(ra, dec, unit="deg", frame="icrs")
    known = SkyCoord(sources["ra"], sources["dec"], frame="icrs")
    distance = known.separation(there).arcsec
    row = int(np.nanargmin(distance))
    if distance[row] > NEAR:
        raise InputError(
            f"No source lies within {NEAR:g} arcsec of {ra:g},{dec:g}; the nearest is "
            f"{sources['name'][row]}, {distance[row]:.4g} arcsec away."
        )
    return row
