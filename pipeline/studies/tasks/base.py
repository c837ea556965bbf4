"""What every task has: data with splits, training, judgement and figures."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclades.stages.networks.specification import BackboneSpec

if TYPE_CHECKING:
    from cyclades.pipeline.studies.cells import Cell, Outcome

Unit = Mapping[str, Any]


@dataclass(frozen=True)
class Workshop:
    """Where a cell is computed.

    Parameters
    ----------
    folder : path
        Of the study; features and unfinished trainings are kept below it.
    device : str
        A torch device.
    threads : int
        Of the CPU.
    """

    folder: Path
    device: str = "cpu"
    threads: int = 1


class Task(ABC):
    """Something that a network learns from labels, and how well it did.

    Parameters
    ----------
    name : str
        In the configuration; errors mention it.
    """

    main: ClassVar[str] = ""
    """The figure that curves and label-saving factors are made of; more is better."""
    what: ClassVar[str] = "labels"
    """What is counted as a label."""
    version: ClassVar[int] = 1
    """Raised when the same options lead to other results."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def fingerprint(self, mode: str) -> dict[str, Any]:
        """Everything of options and data that results of cells of a mode depend on, as JSON."""
        raise NotImplementedError

    @abstractmethod
    def run(self, cell: "Cell", backbone: BackboneSpec, workshop: Workshop, key: str) -> "Outcome":
        """Train and judge a cell.

        Parameters
        ----------
        cell : Cell
        backbone : BackboneSpec
            Its ``weights`` are None where the cell does not start from any.
        workshop : Workshop
        key : str
            Of the cell, unique to it.
        """
        raise NotImplementedError

    @abstractmethod
    def figures(self, units: Sequence[Unit]) -> dict[str, float]:
        """Figures of merit from the results on units of the test set, `main` among them."""
        raise NotImplementedError

    def preparations(self, cell: "Cell", backbone: BackboneSpec) -> Sequence[Hashable]:
        """Work that cells share and that has to be done once before them, as computing features.

        Parameters
        ----------
        cell, backbone
            As of `run`.
        """
        return ()

    def prepare(self, preparation: Any, workshop: Workshop) -> None:
        """Do what `preparations` named; nothing where it is done already."""
        raise NotImplementedError


def sky_groups(ra: ArrayLike, dec: ArrayLike, radius: float) -> NDArray[np.int64]:
    """Number groups of positions that are linked by separations below a radius.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees.
    radius : float
        Arcsec.

    Returns
    -------
    ndarray of int, shape (n,)
        Friends of friends have the same number.
    """
    from astropy import units
    from astropy.coordinates import SkyCoord, search_around_sky
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    place = SkyCoord(np.asarray(ra, float), np.asarray(dec, float), unit="deg")
    number = len(place)
    if number < 2:
        return np.zeros(number, np.int64)
    one, other, _, _ = search_around_sky(place, place, radius * units.arcsec)
    links = coo_matrix((np.ones(len(one)), (one, other)), shape=(number, number))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of files with their names, in the order given."""
    made = hashlib.sha256()
    for path in paths:
        made.update(f"{path.name} ".encode())
        with open(path, "rb") as opened:
            while block := opened.read(1 << 20):
                made.update(block)
    return made.hexdigest()
