"""Samples of simulated optical images: planes with their labels, and a network that takes them."""

import numpy as np
import pytest
from pydantic import ValidationError

from cyclades.pipeline.simulation.optical_sky import BANDS, CLASSES
from cyclades.pipeline.simulation.stream import OpticalTileStream
from cyclades.pipeline.training.augmentation import (
    AugmentationOptions,
    add_noise,
    augment,
    blank,
    flip,
    noise_level,
    smooth,
    warp,
)
from cyclades.pipeline.training.ceiling import observe
from cyclades.pipeline.training.optical_tiles import (
    OPTICAL_FLOOR,
    OpticalSource,
    OpticalTilesOptions,
    optical_presets,
)
from cyclades.pipeline.training.samples import input_channels
from cyclades.pipeline.training.sources import build_source
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.inputs import normalise, stretch
from cyclades.stages.networks.specification import InputSpec

CROWDED = optical_presets()["mixed"][1]
OPTIONS = OpticalTilesOptions(preset="crowded", fields={"crowded": (CROWDED,)}, seed=3,
                              tiles_a_side=2)  # fmt: skip
SIZE = 96


@pytest.fixture(scope="module")
def source():
    return OpticalSource(OPTIONS, SIZE, CLASSES)


@pytest.fixture(scope="module")
def sample(source):
    """The tile of a field that has most objects."""
    return max((source.sample(i) for i in range(4)), key=lambda one: int((~one.ignore).sum()))


def test_planes_with_labels(source, sample):
    again = OpticalSource(OPTIONS, SIZE, CLASSES).sample(2)
    np.testing.assert_array_equal(again.image, source.sample(2).image)
    assert sample.image.shape == sample.rms.shape == (3, SIZE, SIZE)
    assert sample.planes == BANDS
    assert sample.shape == (SIZE, SIZE)
    assert sample.known.shape == (SIZE, SIZE)
    kept = np.flatnonzero(~sample.ignore)
    assert len(kept) >= 3
    assert np.all(sample.snr[kept] >= OPTICAL_FLOOR)
    r = normalise(sample.image)[BANDS.index("r")].ravel()
    for row in kept:
        # of a flux of ten times its noise the mean pixel is well above the noise
        pixels = sample.segments[row]
        assert r[pixels].mean() * np.sqrt(len(pixels)) > 4.0


def test_the_network_chooses_planes_and_their_order(sample):
    spec = InputSpec(planes=("z", "r", "g"), stretches=("asinh", "bright"))
    assert spec.channels == 6
    assert InputSpec().channels == 3
    made = input_channels(sample, spec)
    assert made.shape == (6, SIZE, SIZE)
    for k, (curve, band) in enumerate((c, b) for c in spec.stretches for b in spec.planes):
        own = normalise(sample.image[BANDS.index(band)], spec.mesh)
        np.testing.assert_array_equal(made[k], stretch(own, (curve,))[0])
    # each plane is normalised by itself: its unit does not show
    scaled = sample.replace(image=sample.image * np.array([1, 50, 0.02], np.float32)[:, None, None])
    np.testing.assert_allclose(input_channels(scaled, spec), made, atol=2e-4)
    for planes in (("z", "i"), ()):
        with pytest.raises(ConfigurationError, match=r"network.input.planes to \[g, r, z\]"):
            input_channels(sample, InputSpec(planes=planes))
    with pytest.raises(ValidationError, match="name each once"):
        InputSpec(planes=("r", "r"))
    assert observe(sample, CLASSES) is None


def test_flips_move_all_planes_with_the_labels(sample):
    for turn in range(8):
        turned = flip(sample, turn)
        for row in range(len(sample)):
            before, after = sample.segments[row], turned.segments[row]
            for plane in range(3):
                one, other = sample.image[plane].ravel(), turned.image[plane].ravel()
                np.testing.assert_array_equal(np.sort(one[before]), np.sort(other[after]))
    np.testing.assert_array_equal(
        flip(flip(sample, 1), 3).image, sample.image
    )  # a quarter and three quarters


def test_augmentation_keeps_colours(sample):
    def colours(one):
        row = int(np.argmax(np.where(one.ignore, 0.0, one.snr)))
        light = one.image - np.nanmedian(one.image, axis=(1, 2), keepdims=True)
        fluxes = light.reshape(3, -1)[:, one.segments[row]].sum(1)
        noise = noise_level(light[0]) * np.sqrt(len(one.segments[row])) / fluxes.sum()
        return fluxes / fluxes.sum(), noise

    wanted, noise = colours(sample)
    smoothed = smooth(sample, 1.2)
    turned = warp(sample, 30.0, 1.0)
    for changed in (smoothed, turned):
        np.testing.assert_allclose(colours(changed)[0], wanted, atol=0.02 + 4 * noise)
    assert smoothed.image.shape == turned.image.shape == sample.image.shape
    noisier = add_noise(sample, 2.0, np.random.default_rng(1))
    for before, after in zip(sample.image, noisier.image, strict=True):
        assert noise_level(after) / noise_level(before) == pytest.approx(2.0, rel=0.1)
    added = (noisier.image - sample.image).reshape(3, -1)
    # the noise of one plane says nothing about that of another
    assert np.abs(np.corrcoef(added) - np.eye(3)).max() < 4.5 / SIZE
    np.testing.assert_allclose(noisier.snr, sample.snr / 2.0)
    dark = blank(sample, np.arange(SIZE * SIZE).reshape(SIZE, SIZE) < 20 * SIZE)
    assert np.isnan(dark.image[:, :20]).all()
    assert np.isfinite(input_channels(dark, InputSpec(planes=("r", "z")))).all()
    everything = AugmentationOptions.from_mapping(
        dict.fromkeys(("rotate", "rescale", "smooth", "noise", "flux", "blank"), 1.0)
    )
    assert augment(sample, np.random.default_rng(2), everything).image.shape == sample.image.shape


def test_presets_and_what_does_not_fit():
    assert set(optical_presets()) == {"survey", "mixed"}
    for fields in optical_presets().values():
        for one in fields:
            width = one.r.seeing / one.pixel
            assert 3.0 <= width <= 6.5
    with pytest.raises(ValidationError, match="did you mean 'survey'"):
        OpticalTilesOptions(preset="survy")
    with pytest.raises(ConfigurationError, match="lists no options"):
        OpticalSource(OpticalTilesOptions(preset="none", fields={"none": ()}), SIZE, CLASSES)
    with pytest.raises(ConfigurationError, match="no class 'star'"):
        build_source(OPTIONS, SIZE, ("compact", "extended"))
    stars = build_source(
        OpticalTilesOptions(preset="survey", seed=3, tiles_a_side=1, classes={"galaxy": ""}),
        SIZE,
        ("star",),
    )
    assert set(stars.sample(0).classes) <= {0}


def test_only_the_fainter_of_a_blend_is_hidden():
    sky = optical_presets()["survey"][0].sky.model_copy(update={"blends": 0.5})
    options = optical_presets()["survey"][0].model_copy(update={"sky": sky})
    tiles = OpticalTileStream(options, 128, 5, 4).field(0)
    inside = [tile.inside == 1 for tile in tiles]
    bright = [(tile.total_snr > 30) & own for tile, own in zip(tiles, inside, strict=True)]
    shares = [
        float(np.concatenate([t.blended[b] for t, b in zip(tiles, chosen, strict=True)]).mean())
        for chosen in (bright, inside)
    ]
    assert 0.0 < shares[0] < 0.3 < shares[1]


def test_a_small_network_trains_on_planes(tmp_path, one_processor):
    torch = pytest.importorskip("torch")
    from cyclades.pipeline.training.options import TrainingOptions
    from cyclades.pipeline.training.trainer import train
    from cyclades.stages.networks.detector import load_detector

    options = TrainingOptions.from_mapping(
        {
            "name": "tiny",
            "network": {
                "backbone": {"options": {"channels": [8, 8, 8, 8]}, "strides": [4, 8],
                             "channels": 8},
                "head": {"options": {"hidden": 8, "mask_channels": 8, "proposals": 50}},
                "input": {"planes": ["z", "g"], "stretches": ["asinh", "bright"]},
                "classes": ["star", "galaxy"],
            },
            "data": {"kind": "optical", "preset": "survey", "tiles_a_side": 2},
            "validation": {"samples": 1, "final_samples": 2},
            "augmentation": {"beam": None},
            "size": 64,
            "batch": 2,
            "steps": 2,
            "steps_a_checkpoint": 2,
        }
    )  # fmt: skip
    path = train(options, tmp_path, progress=False)
    detector = load_detector(path)
    assert detector.spec.input.planes == ("z", "g")
    assert detector.backbone.in_channels == 4
    assert detector.spec.classes == ("star", "galaxy")
    card = path.with_suffix(".md").read_text()
    assert "4 channels" in card
    assert "planes z, g" in card
    with torch.no_grad():
        assert len(detector.predict(torch.zeros(1, 4, 64, 64))) == 1
