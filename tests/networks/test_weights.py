"""The table of weights, files of them, and the hub, faked on this machine."""

import hashlib
import http.server
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cyclades.pipeline.cli import cli
from cyclades.stages.core.errors import InputError
from cyclades.stages.networks import weights
from cyclades.stages.networks.specification import HeadSpec, NetworkSpec
from cyclades.stages.networks.weights import (
    WEIGHTS,
    available_offline,
    fetch,
    find_detector,
    find_file,
    read_metadata,
    verify,
)
from cyclades.stages.networks.weights_files import tensors_digest
from cyclades.stages.networks.weights_listing import describe


def write_safetensors(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A file with one number, written by hand."""
    header = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps({"__metadata__": metadata or {}, **header}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<f", 1.0))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights."""
    monkeypatch.setenv("CYCLADES_WEIGHTS", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


KINDS = {".safetensors", ".onnx"}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped detectors with one, its card and its hash."""
    place = tmp_path / "shipped"
    spec = NetworkSpec(name="small", head=HeadSpec(name="yolo"), licence="AGPL-3.0")
    path = write_safetensors(place / "small.safetensors", spec.metadata())
    (place / "small.md").write_text("# Small\n\nA card.\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (place / "SHA256SUMS").write_text(f"{digest}  small.safetensors\n")
    monkeypatch.setattr(weights, "_shipped_folder", lambda: place)
    return place


def test_shipped_files_have_their_recorded_hashes() -> None:
    folder = weights._shipped_folder()
    shipped = {path.name: path for path in folder.iterdir() if path.suffix in KINDS}
    recorded = weights._recorded_hashes()
    assert shipped.keys() == recorded.keys()
    for name, path in shipped.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded[name], name


def test_every_set_is_described() -> None:
    for name, entry in WEIGHTS.items():
        assert entry.name == name
        assert bool(entry.repository) != bool(entry.package), name
        assert "arXiv:" in entry.publication or "doi" in entry.publication.lower(), name
        assert all((entry.licence, entry.data, entry.summary, entry.megabytes > 1)), name
        assert not entry.package or len(entry.sha256) == 64, name
        assert name in describe(name)
    families = ("resnet18", "resnet50", "resnet101", "vit_tiny", "vit_small", "vit_base")
    for family in families:
        assert any(entry.architecture.startswith(family) for entry in WEIGHTS.values())


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys; from cyclades.pipeline.cli import main\n"
        "try: main(['weights'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'timm', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "dinov2-s-derived" in done.stdout


def test_command(shipped: Path, folder: Path) -> None:
    runner = CliRunner()
    rows = runner.invoke(cli, ["weights"]).output.splitlines()
    assert rows[0].split() == ["name", "kind", "licence", "size", "offline"]
    assert rows[1].split() == ["small", "detector,", "yolo", "AGPL-3.0", "0.0", "MB", "yes"]
    assert len(rows) == 2 + len(WEIGHTS)
    assert runner.invoke(cli, ["weights", "small"]).output == "# Small\n\nA card.\n\n"
    shown = runner.invoke(cli, ["weights", "mae-b"]).output
    assert "arXiv:2111.06377" in shown
    assert "CC-BY-NC-4.0" in shown
    wrong = runner.invoke(cli, ["weights", "nothing"])
    assert isinstance(wrong.exception, InputError)
    assert "small" in str(wrong.exception)
    near = runner.invoke(cli, ["weights", "mae_b"])
    assert "(did you mean 'mae-b'?)" in str(near.exception)


def test_what_lies_in_the_folder_is_available(folder: Path, offline: None) -> None:
    entry = WEIGHTS["resnet50-coco"]
    assert not available_offline(entry)
    path = write_safetensors(folder / "resnet50-coco.safetensors")
    assert available_offline(entry)
    assert find_file("resnet50-coco") == (path, entry)
    mine = write_safetensors(folder / "someone--thing.safetensors")
    assert find_file("someone/thing") == (mine, None)
    inside = write_safetensors(folder / "someone--else" / "model.safetensors")
    assert find_file("someone/else")[0] == inside


def test_without_a_network_the_sentence_says_what_to_do(folder: Path, offline: None) -> None:
    with pytest.raises(InputError) as caught:
        find_file("dinov2-s")
    sentence = str(caught.value)
    assert "https://huggingface.co/facebook/dinov2-small/resolve/main/model.safetensors" in sentence
    assert str(folder / "dinov2-s.safetensors") in sentence
    assert "\n" not in sentence


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A hub with one file in one repository, and one repository that is gated."""
    pytest.importorskip("huggingface_hub")
    content = write_safetensors(tmp_path / "served").read_bytes()
    digest = hashlib.sha256(content).hexdigest()

    class Handler(http.server.BaseHTTPRequestHandler):
        def reply(self) -> None:
            parts = self.path.split("/")
            headers = {"X-Repo-Commit": "a" * 40, "ETag": f'"{digest}"'}
            body, status = content, 200
            if self.path.startswith("/gated/"):
                status, body, headers = 403, b"", {"X-Error-Code": "GatedRepo"}
            elif parts[1:3] != ["someone", "thing"]:
                status, body, headers = 404, b"", {"X-Error-Code": "RepoNotFound"}
            elif parts[-1] != "model.safetensors":
                status, body = 404, b""
                headers["X-Error-Code"] = "EntryNotFound"
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = reply  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_from_the_hub(hub: str, folder: Path, tmp_path: Path) -> None:
    path = fetch("someone/thing", folder=tmp_path / "cache")
    assert read_metadata(path) == {}
    assert path.is_relative_to(tmp_path / "cache")
    for repository, words in {
        "gated/thing": f"licence.*{hub}/gated/thing",
        "no/thing": "no such repository",
        "not a/name!": "not a name",
    }.items():
        with pytest.raises(InputError, match=words):
            fetch(repository, folder=tmp_path / "cache")
    with pytest.raises(InputError, match="pickled weights are not read"):
        fetch("someone/thing", file="other.safetensors", folder=tmp_path / "cache")


def test_hash() -> None:
    path = Path(__file__)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    verify(path, digest.upper())
    with pytest.raises(InputError, match="SHA-256"):
        verify(path, "0" * 64)
    with pytest.raises(InputError, match="cannot be read"):
        verify(path.with_name("missing"), digest)


def test_find_detector(shipped: Path, tmp_path: Path, folder: Path) -> None:
    assert find_detector("small") == shipped / "small.safetensors"
    copy = tmp_path / "mine" / "model.safetensors"
    write_safetensors(copy, NetworkSpec().metadata())
    assert find_detector(copy) == find_detector(str(copy.parent)) == copy
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    assert find_detector(copy, digest) == copy


def test_detectors_that_are_refused(shipped: Path, tmp_path: Path, folder: Path) -> None:
    plain = write_safetensors(tmp_path / "plain.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("no header at all, but more than eight letters")
    (tmp_path / "old.pth").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for given, words in {
        plain: "do not say what network",
        text: "not a safetensors file",
        tmp_path / "old.pth": "pickled",
        "missing.pt": "pickled",
        tmp_path / "empty": "must hold model.safetensors",
        "large": "shipped with cyclades: small",
        tmp_path / "no.safetensors": "shipped with cyclades: small",
    }.items():
        with pytest.raises(InputError, match=words):
            find_detector(given)
    with pytest.raises(InputError, match="SHA-256"):
        find_detector(plain, "0" * 64)
    with open(shipped / "small.safetensors", "ab") as damaged:
        damaged.write(b"\0")
    with pytest.raises(InputError, match="SHA-256"):
        find_detector("small")


def test_the_digest_of_tensors_is_of_their_names_types_and_numbers_alone(tmp_path) -> None:
    from safetensors.numpy import save_file

    def digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
        save_file(tensors, tmp_path / "one.safetensors", metadata=metadata)
        return tensors_digest(tmp_path / "one.safetensors")

    plain = {"a": np.arange(6.0), "b": np.ones((2, 3), np.float16)}
    first = digest(plain, {"said": "one thing"})
    assert digest(dict(reversed(plain.items())), {"said": "another", "more": "words"}) == first
    others = (
        {**plain, "a": np.nextafter(plain["a"], 9.0)}, {**plain, "b": np.ones((3, 2), np.float16)},
        {**plain, "a": plain["a"].view(np.int64)}, {"c": plain["a"], "b": plain["b"]},
    )  # fmt: skip
    assert first not in {digest(one, {"said": "one thing"}) for one in others}
    (tmp_path / "one.safetensors").write_bytes(b"no such file")
    with pytest.raises(InputError, match="not a safetensors file"):
        tensors_digest(tmp_path / "one.safetensors")
