"""Files of weights: what is written is read back, and what is wrong is refused with advice."""
# ruff: noqa: E402

import errno
import json
import pickle

import pytest
from requirements import require

require("learned")

import torch
from safetensors.torch import save_file

from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.networks import pretrained as module
from cyclades.stages.networks.detector import Detector, load_detector, save_detector
from cyclades.stages.networks.specification import (
    FORMAT,
    METADATA_KEY,
    BackboneSpec,
    Calibration,
    HeadSpec,
    NetworkSpec,
)

SPEC = NetworkSpec(
    name="small",
    classes=("compact", "spurious"),
    backbone=BackboneSpec(name="resnet18", options={"channels": [8, 16, 24, 32]}, channels=8),
    head=HeadSpec(name="mask_rcnn", options={"hidden": 16, "mask_channels": 8, "mask_layers": 1}),
    calibration=Calibration(score_logit=(-1.0, 1.0), probability_logit=(-2.0, 2.0)),
    training={"steps": 3, "metrics": {"ap50": 0.5}},
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = Detector(SPEC)
    made.train()
    with torch.no_grad():  # statistics of batch normalisation other than the first ones
        made.features(torch.randn(4, 3, 64, 64))
    return made.eval()


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "small.safetensors"
    save_detector(network, path)
    return path


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_detector_comes_back_as_it_was(network, file):
    read = load_detector(file)
    assert read.spec == SPEC
    assert not read.training
    for mine, theirs in zip(network.predict(images()), read.predict(images()), strict=True):
        assert len(mine.boxes) > 0
        for name in ("boxes", "scores", "masks"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_file_of_half_precision_is_half_as_large_and_close(network, file, tmp_path):
    half = tmp_path / "half.safetensors"
    save_detector(network, half, half=True)
    assert half.stat().st_size < 0.6 * file.stat().st_size
    read = load_detector(half)
    for name, value in network.state_dict().items():
        other = read.state_dict()[name]
        assert other.dtype == value.dtype, name
        # 11 bits, rounded; below 6e-5 float16 has fewer
        assert torch.allclose(other.double(), value.double(), rtol=2.0**-11, atol=1e-7), name
    with torch.no_grad():
        mine, theirs = network.features(images()), read.features(images())
    for stride, wanted in mine.items():
        assert (theirs[stride] - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such file of weights"):
        load_detector(tmp_path / "none.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    for content in (b"", b"not weights at all", b"\xff" * 64):
        garbage.write_bytes(content)
        with pytest.raises(InputError, match="not a safetensors file, or damaged"):
            load_detector(garbage)


def test_a_pickled_file_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(InputError, match=r"pickled ones .* can run any code"):
            load_detector(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_was_cut_short_is_refused(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_detector(file)


def with_metadata(network, path, metadata):
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        (None, "do not say what network they belong to; use a file that cyclades train wrote"),
        ({"format": "pt"}, "do not say what network they belong to"),
        ({METADATA_KEY: "{"}, "its description of the network is damaged"),
        ({METADATA_KEY: "[1]"}, "its description of the network is damaged"),
        ({METADATA_KEY: '{"format": "x"}'}, "its description of the network is damaged"),
        ({METADATA_KEY: '{"format": 1, "head": 3}'}, "its description of the network is damaged"),
        (
            {METADATA_KEY: json.dumps({"format": FORMAT + 1, "new": 1})},
            f"written by a newer version of cyclades .format {FORMAT + 1}.; update cyclades",
        ),
    ],
)
def test_a_file_says_what_network_it_is(network, tmp_path, metadata, sentence):
    path = with_metadata(network, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(InputError, match=sentence) as refusal:
        load_detector(path)
    assert "odd.safetensors" in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("compact", "diffuse", "spurious")},
        {"backbone": SPEC.backbone.model_copy(update={"channels": 16})},
        {"head": SPEC.head.model_copy(update={"name": "faster_rcnn"})},
    ],
    ids=["classes", "width", "head"],
)
def test_weights_that_do_not_fit_their_description_are_refused(network, tmp_path, change):
    other = SPEC.model_copy(update=change)
    path = with_metadata(network, tmp_path / "odd.safetensors", other.metadata())
    with pytest.raises(InputError, match=r"do not fit .* \(first at \S+\)"):
        load_detector(path)


def test_a_description_with_a_wrong_option_is_refused(network, tmp_path):
    head = HeadSpec(name="mask_rcnn", options={"hiden": 16})
    other = SPEC.model_copy(update={"head": head})
    path = with_metadata(network, tmp_path / "odd.safetensors", other.metadata())
    with pytest.raises(ConfigurationError, match="hiden"):
        load_detector(path)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("name", ["small.safetensors", "new.safetensors"])
def test_an_interrupted_write_leaves_what_was_there(
    network, file, monkeypatch, error, raised, name
):
    before = file.read_bytes()

    def broken(state, path, metadata):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(module, "save_file", broken)
    with pytest.raises(raised):
        save_detector(network, file.with_name(name))
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "taken").write_text("a file, no folder")
    for path in (tmp_path / "taken" / "a.safetensors", tmp_path / f"{'n' * 250}.safetensors"):
        with pytest.raises(InputError, match="cannot be written"):
            save_detector(network, path)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
