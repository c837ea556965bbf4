"""Requests to survey services: with timeouts and retries, and errors in one sentence."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from cyclades import __version__
from cyclades.stages.core.errors import InputError

TIMEOUT = (10.0, 120.0)
"""Seconds to wait for a connection, and for the next bytes of an answer."""
RETRIES = 3
BACKOFF = 1.0
"""Seconds before the second retry; twice as long before each further one."""
CHUNK = 1 << 16
TOLD_EVERY = 0.1
"""Seconds between news of a download."""

Told = Callable[[int, int], None]


class Session(requests.Session):
    """A session whose requests end: they have timeouts, and few retries where a server is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.headers["User-Agent"] = f"cyclades/{__version__}"
        # queries are sent by POST and change nothing on the server, so they may be repeated
        retry = Retry(
            RETRIES,
            connect=min(RETRIES, 1),  # who is not there will not be there in a moment
            backoff_factor=BACKOFF,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self.mount(scheme, HTTPAdapter(max_retries=retry))

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Send a request; one without a timeout gets ours."""
        if options.get("timeout") is None:
            options["timeout"] = TIMEOUT
        return super().request(*args, **options)


@contextmanager
def answering(service: str, url: str) -> Iterator[None]:
    """Turn what goes wrong with a service into one sentence.

    Parameters
    ----------
    service : str
        Its name.
    url : str
        Its address.

    Raises
    ------
    InputError
        Where it cannot be reached, refuses, or answers with what cannot be read.
    """
    from pyvo.dal import DALServiceError

    host = urlsplit(url).netloc
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # readers of tables and pages raise whatever an unexpected answer makes them stumble over
        failed = (requests.RequestException, OSError, DALServiceError)
        if any(isinstance(cause, failed) for cause in _causes(error)):
            raise InputError(
                f"The service {service} at {host} cannot be reached or did not answer "
                f"({_reason(error)}); check the network and try again later."
            ) from error
        raise InputError(
            f"The service {service} at {host} answered with an error ({_reason(error)}); "
            "try again later, or with a smaller --size."
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it stems from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """The innermost cause of an error, in a few words."""
    words = [str(cause) for cause in _causes(error)]
    text = " ".join(" ".join(words).split())
    for known, said in (
        ("Read timed out", "it took too long"),
        ("timed out", "it took too long"),
        ("Connection refused", "connection refused"),
        ("Name or service not known", "its name is not known here"),
        ("name resolution", "its name is not known here"),
        ("too many 5", "it is out of order"),
        ("503", "it is out of order"),
    ):
        if known in text:
            return said
    first = words[0].strip().splitlines()[0] if words[0].strip() else type(error).__name__
    return first[:160].rstrip(".")


def download(
    url: str,
    target: Path,
    service: str,
    params: Mapping[str, Any] | None = None,
    told: Told | None = None,
) -> Path:
    """Fetch a FITS file, completely or not at all.

    Parameters
    ----------
    url : str
    target : Path
        In a folder that exists.
    service : str
        For messages.
    params : mapping, optional
        Of the query.
    told : callable, optional
        Called with the bytes so far and in all (0 where unknown), now and then.

    Raises
    ------
    InputError
        Where the service does not answer, or not with a FITS file.
    """  # fmt: skip
    partial = target.with_name(f".{target.name}.partial")
    try:
        with (
            answering(service, url),
            Session() as session,
            session.get(url, params=params, stream=True) as answer,
        ):
            answer.raise_for_status()
            size, last = int(answer.headers.get("Content-Length") or 0), 0.0
            done = 0
            with partial.open("wb") as file:
                for chunk in answer.iter_content(CHUNK):
                    done += file.write(chunk)
                    if told is not None and time.monotonic() - last > TOLD_EVERY:
                        last = time.monotonic()
                        told(done, size)
            if size and done < size and "Content-Encoding" not in answer.headers:
                raise requests.ConnectionError("the connection broke")
        with partial.open("rb") as file:
            start = file.read(200)
        if not start.startswith(b"SIMPLE"):
            words = " ".join(start.decode("latin-1").split())[:60]
            raise InputError(
                f"The service {service} gave no FITS image ({words!r}); the position may lie "
                "outside its images, or the --size be too large."
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
