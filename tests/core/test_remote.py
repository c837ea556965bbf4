"""Images at an address: only the parts that are asked for are fetched."""

import functools
import http.server
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from cyclades.pipeline.provenance import describe_file
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import open_image
from cyclades.stages.core.remote import RemoteFile, as_file
from cyclades.stages.core.tiling import Box

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files, and counts the bytes that it sends."""

    sent = 0

    def log_message(self, *arguments):
        """Say nothing."""

    def do_GET(self):
        """Send the part of a file that the header asks for."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        wanted = self.headers.get("Range")
        first, last = 0, len(data) - 1
        if wanted:
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or last), last)
        part = data[first : last + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)
        type(self).sent += len(part)


@pytest.fixture
def server(tmp_path):
    handler = functools.partial(Ranges, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_window_of_an_image_at_an_address(server, tmp_path):
    data = np.random.default_rng(0).normal(size=(6000, 1500)).astype(np.float32)
    fits.PrimaryHDU(data).writeto(tmp_path / "big.fits")
    size = (tmp_path / "big.fits").stat().st_size
    source = open_image(f"{server}/big.fits", beam="4pixel", blank_zeros=False)
    assert source.name == "big"
    assert source.shape == (6000, 1500)
    before = Ranges.sent
    found = source.window(Box(3000, 3100, 100, 900))
    np.testing.assert_array_equal(found.data, data[3000:3100, 100:900])
    assert Ranges.sent - before < size / 2
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.window(Box(0, 5, 0, 5)).data, data[:5, :5])
    about = describe_file(str(source.path))
    assert about == {"path": f"{server}/big.fits", "size": size, "sha256": None}


def test_compressed_tiles_at_an_address(server, tmp_path):
    data = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
    fits.CompImageHDU(data, compression_type="GZIP_2", quantize_level=0).writeto(
        tmp_path / "tiles.fits"
    )
    source = open_image(f"{server}/tiles.fits", beam="4pixel", blank_zeros=False)
    found = source.window(Box(100, 130, 20, 90))
    np.testing.assert_array_equal(found.data, data[100:130, 20:90])


def test_what_cannot_be_reached_is_said_in_a_sentence(server):
    with pytest.raises(InputError, match="cannot be read"):
        open_image(f"{server}/none.fits")


def test_addresses_are_told_from_paths():
    assert str(as_file(Path("http://host/a/b.fits?key=1"))) == "http://host/a/b.fits?key=1"
    file = as_file("s3://bucket/a/b.fits")
    assert isinstance(file, RemoteFile)
    assert file.name == "b.fits"
    assert as_file("http.fits") == Path("http.fits")
