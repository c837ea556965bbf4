"""Catalogues and images for TOPCAT, DS9, Aladin and others, by SAMP.

SAMP is the protocol by which desktop programs of astronomy talk to each other over a hub on the
same machine (IVOA Recommendation SAMP 1.3); TOPCAT and Aladin start a hub by themselves.
"""

import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from cyclades.stages.core.catalogue import Catalogue
from cyclades.stages.core.errors import InputError

if TYPE_CHECKING:
    from astropy.table import QTable, Table

    from cyclades.stages.core.image import SkyImage

TABLE, IMAGE, POINT = "table.load.votable", "image.load.fits", "coord.pointAt.sky"
TIMEOUT = 60.0
"""Seconds that a program may take for a file."""


class Delivery(NamedTuple):
    """What became of a message to a program: an empty error where it took it."""

    client: str
    message: str
    what: str
    error: str


def send(
    catalogues: "Mapping[str, Catalogue | Table | str | PathLike[str]]",
    image: "SkyImage | str | PathLike[str] | None" = None,
    *,
    to: str | None = None,
    at: str | tuple[float, float] | None = None,
    table: str = "components",
    timeout: float = TIMEOUT,
) -> list[Delivery]:
    """Send catalogues, an image and a direction to the programs on a SAMP hub.

    Every program is sent what it says it takes: images go to DS9 and Aladin, tables to TOPCAT as
    well. Files are written to a temporary folder, and removed when the programs have read them.

    Parameters
    ----------
    catalogues : mapping of label to Catalogue, astropy table or path
        Paths of any table that astropy or cyclades reads; of a catalogue of cyclades one table.
    image : SkyImage or path, optional
    to : str, optional
        Only to programs with this in their name, whatever the case.
    at : str or (ra, dec), optional
        Where to point: a name of a row, or degrees (ICRS).
    table : str
        ``components``, ``sources`` or ``islands`` of catalogues of cyclades.
    timeout : float
        Seconds that a program may take for a file.

    Returns
    -------
    list of Delivery
        One for every program and message.

    Raises
    ------
    InputError
        Where there is no hub, no program takes what is sent, or something cannot be read.
    """
    tables = {label: _table(value, table) for label, value in catalogues.items()}
    point = None if at is None else _position(at, tables)
    with tempfile.TemporaryDirectory(prefix="cyclades-samp-") as scratch, _client() as client:
        messages = [
            (TABLE, label, _written(label, held, Path(scratch))) for label, held in tables.items()
        ]
        if image is not None:
            path, name = _image(image, Path(scratch))
            messages.append((IMAGE, name, {"url": path.as_uri(), "name": name, "image-id": name}))
        if point is not None:
            ra, dec = (f"{value:.8f}" for value in point)
            messages.append((POINT, f"{ra} {dec}", {"ra": ra, "dec": dec}))
        made = []
        for kind, what, parameters in messages:
            for number, name in _takers(client, kind, to):
                error = _call(client, number, kind, parameters, timeout)
                made.append(Delivery(name, kind, what, error))
    if not made:
        whom = "no program" if to is None else f"no program called {to!r}"
        raise InputError(
            f"There is {whom} on the SAMP hub that takes what is sent; start TOPCAT, DS9 or "
            "Aladin, and connect it (Interop, File > SAMP)."
        )
    return made


def samp_package() -> Any:
    """Return the client library: that of pyvo, or of an astropy that still has it.

    Raises
    ------
    InputError
        Where neither is installed.
    """
    try:
        from pyvo import samp
    except ImportError:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from astropy import samp
        except ImportError as error:
            raise InputError(
                "Sending to other programs needs the package pyvo; install cyclades[viewer]."
            ) from error
    return samp


@contextmanager
def _client() -> Iterator[Any]:
    samp = samp_package()
    client = samp.SAMPIntegratedClient(
        name="cyclades", description="finds, measures and catalogues sources", addr="127.0.0.1"
    )
    try:
        client.connect()
    except Exception as error:
        # SAMPHubError and errors of the network, where a hub left its lock file behind
        raise InputError(
            "There is no SAMP hub on this machine; start TOPCAT or Aladin, which bring one."
        ) from error
    try:
        yield client
    finally:
        client.disconnect()


def _takers(client: Any, kind: str, to: str | None) -> list[tuple[str, str]]:
    """Numbers and names of the programs that take a kind of message."""
    found = []
    for number in client.get_subscribed_clients(kind):
        name = str(client.get_metadata(number).get("samp.name", number))
        if to is None or to.lower() in name.lower():
            found.append((number, name))
    return found


def _call(client: Any, number: str, kind: str, parameters: dict[str, str], timeout: float) -> str:
    """Send a message and wait for the answer; what is wrong with it, or nothing."""
    # The hub could wait for us, but that of pyvo and astropy makes the place for the answer after
    # it has sent the message, and loses the answer of a program that is faster.
    tag, answers, told = f"{kind}-{uuid4().hex}", [], threading.Event()

    def take(private_key: str, responder: str, tag: str, response: dict[str, Any]) -> None:
        answers.append(response)
        told.set()

    client.bind_receive_response(tag, take)
    try:
        client.call(number, tag, {"samp.mtype": kind, "samp.params": parameters})
    except Exception as error:
        # faults of the hub, among them programs that went away
        return str(getattr(error, "faultString", error)) or type(error).__name__
    if not told.wait(timeout):
        return f"it did not answer for {timeout:g} seconds"
    answer = answers[0]
    if answer.get("samp.status") in ("samp.ok", "samp.warning"):
        return ""
    wrong = answer.get("samp.error") or {}
    return str(wrong.get("samp.errortxt") or "it could not read it")


def _table(value: Any, name: str) -> "Table | QTable":
    """One table of whatever stands for a catalogue."""
    if isinstance(value, Catalogue):
        return value.tables[name]
    if not isinstance(value, str | PathLike):
        return value
    from cyclades.pipeline.comparison.reading import read_table
    from cyclades.stages.core.catalogue import read_catalogue

    path = Path(value)
    try:
        return read_catalogue(path).tables[name]
    except InputError:
        return read_table(path, name)


def votable_of(table: "Table | QTable", path: Path, label: str) -> None:
    """Write one table as a VOTable with units, UCDs and descriptions.

    A VOTable of a whole catalogue has three tables, of which programs load the first, or all.

    Parameters
    ----------
    table : astropy Table
    path : Path
    label : str
        Name of the table.
    """
    from astropy.io.votable import from_table, writeto

    plain = table.copy(copy_data=False)
    plain.meta.clear()
    file = from_table(plain, table_id="table")
    element = file.get_first_table()
    element.name = label
    writeto(file, str(path), tabledata_format="binary2")


def _written(label: str, table: "Table | QTable", folder: Path) -> dict[str, str]:
    """Write a table; the parameters of the message that tells of it."""
    path = folder / f"table-{len(list(folder.iterdir()))}.vot"
    votable_of(table, path, label)
    return {"url": path.as_uri(), "name": label, "table-id": label}


def _image(image: "SkyImage | str | PathLike[str]", folder: Path) -> tuple[Path, str]:
    """The file of an image, and what to call it."""
    if isinstance(image, str | PathLike):
        path = Path(image).resolve()
        if not path.is_file():
            raise InputError(f"There is no file {image}; give a FITS image.")
        return path, path.name
    from cyclades.pipeline.viewing.sky_widget import image_file

    path = folder / "image.fits"
    image_file(image).writeto(path)
    return path, image.name


def _position(
    at: str | tuple[float, float], tables: "Mapping[str, Table | QTable]"
) -> tuple[float, float]:
    """Degrees of a row by its name, or as they were given."""
    if not isinstance(at, str):
        return at
    for table in tables.values():
        if {"name", "ra", "dec"} <= set(table.colnames):
            (rows,) = np.nonzero(np.asarray(table["name"]).astype(str) == at)
            if len(rows):
                row = int(rows[0])
                return tuple(  # type: ignore[return-value]
                    float(np.asarray(table[name])[row]) for name in ("ra", "dec")
                )
    try:
        ra, dec = (float(part) for part in at.replace(",", " ").split())
    except ValueError:
        raise InputError(
            f"There is no row called {at!r}; give a name of a row, or degrees as '180.1,-30.2'."
        ) from None
    return ra, dec
