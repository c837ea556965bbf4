"""Files that are read where they lie, by ranges: http, https and object stores."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from cyclades.stages.core.errors import InputError

_SCHEMES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""What `fsspec` needs for each."""
BLOCK = 5 * 2**20
"""Bytes that are fetched at once; s3fs takes ten times as many unless told, for every window."""
# A path of the command line has lost one of the two slashes.
_ADDRESS = re.compile(rf"({'|'.join(_SCHEMES)}):/+(.+)")


class Size(NamedTuple):
    """What is known of a file without reading it."""

    st_size: int


class RemoteFile:
    """An address, with what is used of a `pathlib.Path`.

    Parameters
    ----------
    address : str
        ``http://...``, ``https://...``, ``s3://...`` or ``gs://...``.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Last part of the address, without a query."""
        return Path(re.split(r"[?#]", self.address)[0]).name

    def is_dir(self) -> bool:
        """Return False: nothing is known of folders."""
        return False

    def expanduser(self) -> "RemoteFile":
        """Return the file itself."""
        return self

    def resolve(self) -> "RemoteFile":
        """Return the file itself."""
        return self

    def open(self, mode: str = "rb") -> Any:
        """Open it for reading.

        Raises
        ------
        InputError
            Where it cannot be reached.
        """
        try:
            from fsspec.core import url_to_fs

            system, path = url_to_fs(self.address)
            return system.open(path, mode, block_size=BLOCK)
        except Exception as error:
            raise self.unreachable(error) from error

    def stat(self) -> Size:
        """Return its size in bytes."""
        with self.open() as stream:
            return Size(int(stream.size))

    def unreachable(self, error: Exception) -> InputError:
        """Return what to say of a file that could not be opened."""
        if isinstance(error, InputError):
            return error
        if isinstance(error, ImportError):
            package = _SCHEMES[self.address.partition(":")[0]]
            return InputError(
                f"{self.address}: reading it from there needs the packages fsspec and {package}; "
                f"install cyclades[{'s3' if package == 's3fs' else 'remote'}]."
            )
        reason = str(error) or type(error).__name__
        return InputError(f"{self.address}: it cannot be read ({reason}); check the address.")


def as_file(path: str | Path) -> "Path | RemoteFile":
    """Return a path on this machine, or a file at an address."""
    address = _ADDRESS.fullmatch(str(path))
    if address is None:
        return Path(path).expanduser()
    return RemoteFile(f"{address[1]}://{address[2]}")
