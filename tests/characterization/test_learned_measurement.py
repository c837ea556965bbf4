"""The shipped region head: invariances, pulls, what it leaves to others, and its errors."""

import importlib.util
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

from cyclades.pipeline.cli import cli
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import gaussian_area
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import PARAMETERS, Background, Detections, Segments
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.detection.islands import IslandsDetection
from cyclades.stages.networks.region_spec import RegionSpec
from cyclades.stages.networks.region_windows import NUMBERS, SAMPLES
from cyclades.stages.networks.weights import find_measurer
from tests.requirements import require
from tests.skies import BEAM, correlated_noise, lattice, source_rows, truth_detections

require("onnx")

SHAPE = (420, 420)


def stage(**parameters):
    return create_stage("characterization", "learned", **parameters)


def flat(data, rms=1.0):
    image = SkyImage(data.astype(np.float32), psf=PointSpread(BEAM))
    level = np.zeros(data.shape, np.float32)
    return image, Background(level, level + np.float32(rms))


@cache
def field():
    """Points and wider sources of S/N 6 to 100 in natural noise, and what is true of them."""
    rng = np.random.default_rng(5)
    x, y = lattice(SHAPE, 40, rng)
    peak = np.exp(rng.uniform(np.log(6.0), np.log(100.0), x.size))
    rows = source_rows(peak, x, y)
    rows[::2, 3:] += [3.0, -1.0, 2.0]
    data = render_gaussians(SHAPE, rows) + correlated_noise(SHAPE, rng)
    return data, rows


def measure(data, detections, rms=1.0, **parameters):
    image, background = flat(data, rms)
    return stage(**parameters).measure(image, background, detections, context=Context())


def test_fluxes_scale_with_the_image():
    data, rows = field()
    found = truth_detections(SHAPE, rows)
    one, many = measure(data, found), measure(1000.0 * data, found, rms=1000.0)
    for name in ("peak", "total", "total_err", "beam_flux"):
        assert np.allclose(getattr(many, name), 1000.0 * getattr(one, name), rtol=1e-5)
    for name in ("x", "y", "sxx", "syy"):
        assert np.allclose(getattr(many, name), getattr(one, name), rtol=1e-5, atol=1e-4)
    scale = np.array([1000.0, 1, 1, 1, 1, 1])
    error = scale * np.sqrt(np.einsum("nii->ni", one.covariance))
    difference = many.covariance - one.covariance * np.outer(scale, scale)
    assert (np.abs(difference) < 1e-4 * error[:, :, None] * error[:, None, :]).all()


def mirrored(detections):
    """Detections of the image whose x axis is turned over."""
    nx = detections.shape[1]
    y, x = np.divmod(detections.segments.indices, nx)
    segments = Segments(y * nx + nx - 1 - x, detections.segments.offsets)
    box = detections.box.copy()
    box[:, [0, 2]] = nx - 1 - box[:, [2, 0]]
    summit = detections.summit * [-1, 1] + [nx - 1, 0]
    return detections.replace(segments=segments, box=box, summit=summit)


def test_mirrored_images_give_mirrored_sources():
    data, rows = field()
    image, background = flat(data)
    found = truth_detections(SHAPE, rows)
    there = SkyImage(
        np.ascontiguousarray(image.data[:, ::-1]),
        psf=PointSpread(BEAM * [[1.0, -1.0], [-1.0, 1.0]]),
    )
    for orientations, bound in ((1, 0.5), (8, 1e-2)):
        learned = stage(orientations=orientations)
        one = learned.measure(image, background, found, context=Context())
        other = learned.measure(there, background, mirrored(found), context=Context())
        differences = {
            "x": SHAPE[1] - 1 - other.x - one.x, "y": other.y - one.y,
            "peak": other.peak - one.peak, "sxx": other.sxx - one.sxx, "sxy": other.sxy + one.sxy,
        }  # fmt: skip
        for name, difference in differences.items():
            assert np.median(np.abs(difference) / one.error(name)) < bound, name


def test_pulls_and_bias():
    data, rows = field()
    made = measure(data, truth_detections(SHAPE, rows))
    n = len(rows)
    total = rows[:, 0] * gaussian_area(rows[:, [3, 4, 4, 5]].reshape(-1, 2, 2))
    total /= gaussian_area(BEAM)
    pulls = {
        name: (getattr(made, name) - rows[:, k]) / made.error(name)
        for k, name in enumerate(PARAMETERS)
    }
    pulls["total"] = (made.total - total) / made.total_err
    for name, pull in pulls.items():
        # four standard errors of a median and of a robust sigma of n, and what training leaves
        assert abs(np.median(pull)) < 4 * 1.25 / n**0.5 + 0.15, name
        assert abs(1.48 * np.median(np.abs(pull)) - 1.0) < 4 * 1.17 / n**0.5 + 0.15, name


def test_blends_have_a_row_each_and_negative_sources_are_negative():
    rows = source_rows([60.0, 40.0], [100.2, 107.9], [80.4, 83.0])
    rng = np.random.default_rng(3)
    data = render_gaussians((160, 200), rows) + correlated_noise((160, 200), rng)
    image, background = flat(data)
    found = IslandsDetection(seed_threshold=5.0).detect(image, background, context=Context())
    made = stage().measure(image, background, found, context=Context())
    near = np.hypot(made.x[:, None] - rows[:, 1], made.y[:, None] - rows[:, 2])
    assert (near.min(0) < 1.0).all()
    pair = near.argmin(0)
    assert (made.flags[pair] & Flag.BLENDED).all()
    assert np.allclose(made.total[pair], rows[:, 0], rtol=0.2)
    turned, _ = flat(-data)
    below = found.replace(sign=np.full(len(found), -1))
    holes = stage().measure(turned, background, below, context=Context())
    assert np.allclose(holes.total, -made.total, rtol=1e-4)
    assert (holes.flags & Flag.NEGATIVE).all()


def test_what_is_unlike_the_training_is_measured_by_moments():
    rng = np.random.default_rng(4)
    wide = source_rows([30.0], [150.0], [150.0], np.eye(2) * 30.0**2)
    data = render_gaussians((300, 300), wide) + correlated_noise((300, 300), rng)
    image, background = flat(data)
    above = np.flatnonzero(render_gaussians((300, 300), wide).ravel() > 5.0)
    found = Detections(
        (300, 300), np.array([[90.0, 90.0, 210.0, 210.0]]), np.ones(1), np.array([-1]),
        segments=Segments.from_lists([above]), summit=np.array([[150.0, 150.0]]),
    )  # fmt: skip
    context = Context()
    made = stage().measure(image, background, found, context=context)
    assert made.fit_type == ("moments",)
    assert context.notes["characterization.by_moments"] == 1
    assert made.sxx[0] == pytest.approx(900.0, rel=0.2)
    # a beam of one pixel
    tiny = SkyImage(image.data, psf=PointSpread(np.eye(2) * 0.2))
    made = stage().measure(tiny, background, found, context=Context())
    assert made.fit_type == ("moments",)


def test_refusals(tmp_path, monkeypatch):
    data, rows = field()
    found = truth_detections(SHAPE, rows)
    with pytest.raises(InputError, match="no such region head; shipped with cyclades: measure"):
        measure(data, found, weights="nothing.safetensors")
    from cyclades.stages.networks.weights import find_detector

    with pytest.raises(InputError, match="no region head"):
        measure(data, found, weights=str(find_detector("yolo")))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        measure(data, found, weights=str(damaged))


@pytest.mark.parametrize("orientations", [1, 8])
def test_torch_and_onnx_runtime_agree(orientations):
    require("learned")
    data, rows = field()
    found = truth_detections(SHAPE, rows)
    one, other = (
        measure(data, found, runtime=runtime, orientations=orientations)
        for runtime in ("torch", "onnx")
    )
    assert one.fit_type == other.fit_type == ("learned",) * len(rows)
    for name, rtol, atol in (
        ("x", 0.0, 1e-3), ("y", 0.0, 1e-3), ("peak", 1e-4, 0.0), ("total", 1e-4, 0.0),
        ("total_err", 1e-3, 0.0), ("sxx", 1e-4, 0.0), ("syy", 1e-4, 0.0), ("sxy", 0.0, 1e-3),
    ):  # fmt: skip
        np.testing.assert_allclose(
            getattr(other, name), getattr(one, name), rtol=rtol, atol=atol, err_msg=name
        )
    size = np.sqrt(np.einsum("nii->ni", one.covariance))
    apart = (other.covariance - one.covariance) / (size[:, :, None] * size[:, None, :])
    assert np.abs(apart).max() < 1e-3


def hide(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in names else find(name)
    )


def test_what_runs_the_heads(monkeypatch, tmp_path):
    path = find_measurer("measurement")
    apart = tmp_path / path.name
    apart.write_bytes(path.read_bytes())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name)
    assert stage()._runtime(path, "cpu") == "onnx"
    assert stage()._runtime(path, "cuda") == "torch"
    assert stage(runtime="torch")._runtime(path, "cpu") == "torch"
    assert stage()._runtime(apart, "cpu") == "torch"
    hide(monkeypatch, "onnxruntime")
    assert stage()._runtime(path, "cpu") == "torch"
    hide(monkeypatch, "torch")
    with pytest.raises(ConfigurationError, match="needs ONNX Runtime or torch; install cyclades"):
        stage()._runtime(path, "cpu")
    with pytest.raises(ConfigurationError, match=r"weights 'mine' need torch; install"):
        stage(weights="mine")._runtime(apart, "cpu")
    with pytest.raises(InputError, match=r"measure\.onnx: there is no such file; export"):
        measure(*field_and_truth(), weights=str(apart), runtime="onnx")


def field_and_truth():
    data, rows = field()
    return data, truth_detections(SHAPE, rows)


def test_heads_of_ones_own_are_exported(tmp_path):
    require("learned")
    pytest.importorskip("onnxscript")
    import torch

    from cyclades.stages.networks.region_cells import REGION, trunk_of
    from cyclades.stages.networks.region_graphs import GraphHeads
    from cyclades.stages.networks.region_head import RegionNetwork, save_region_network
    from cyclades.stages.networks.region_runtime import TorchHeads

    torch.manual_seed(3)
    path, command = tmp_path / "two.safetensors", ["export", str(tmp_path / "two.safetensors")]
    trunk = trunk_of("yolo")
    spec = RegionSpec(width=16, members=2, trunk=trunk)
    save_region_network(RegionNetwork(spec), path)
    with pytest.raises(ConfigurationError, match="leave out --tile"):
        CliRunner().invoke(cli, [*command, "--tile", "256"], catch_exceptions=False)
    assert "two.measure.onnx: 0." in CliRunner().invoke(cli, command).output
    heads, graphs = TorchHeads.load(path), GraphHeads(path)
    rng = np.random.default_rng(7)
    for n in (1, 6):
        windows = rng.normal(size=(2, n, 2, SAMPLES, SAMPLES)).astype(np.float32)
        numbers = rng.uniform(0.0, 0.5, (n, NUMBERS)).astype(np.float32)
        few = rng.normal(size=(n, 2 * trunk.few, REGION, REGION)).astype(np.float32)
        wanted, made = (one.say(*windows, numbers, few) for one in (heads, graphs))
        assert len(wanted) == len(made) == 2
        assert np.ptp([one.mean for one in made], 0).max() > 1e-3  # the heads differ
        for one, other in zip(wanted, made, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)
    features = rng.normal(size=(trunk.channels, 5)).astype(np.float32)
    np.testing.assert_allclose(
        graphs.projection(features), heads.projection(features), rtol=1e-6, atol=1e-6
    )
    own = heads.network.heads[1]
    given = torch.from_numpy(features.T[:, :, None, None])
    np.testing.assert_allclose(
        graphs.projection(features)[trunk.few :].T, own.projected(given)[..., 0, 0].detach(),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        "",
        "background=dense detection=yolo characterization.weights=measurement_yolo",
    ],
    ids=["windows-alone", "fully-learned"],
)
def test_a_run_without_torch(options, tmp_path):
    """A whole run where torch cannot be imported, as where it is not installed."""
    data, _ = field()
    header = fits.Header(
        {
            "BMAJ": 1e-3, "BMIN": 1e-3, "BPA": 0.0, "BUNIT": "Jy/beam", "CTYPE1": "RA---SIN",
            "CTYPE2": "DEC--SIN", "CRVAL1": 30.0, "CRVAL2": -20.0, "CRPIX1": 210.0,
            "CRPIX2": 210.0, "CDELT1": -2e-4, "CDELT2": 2e-4,
        }
    )  # fmt: skip
    fits.writeto(tmp_path / "field.fits", data.astype(np.float32), header)
    script = (
        "import sys; sys.modules['torch'] = None; from cyclades.pipeline.cli import main; "
        "main(['run', 'field.fits', '--output', '.', *sys.argv[1:]])"
    )
    settings = ["characterization=learned", *options.split()]
    given = [text for one in settings for text in ("--set", one)]
    command = [sys.executable, "-c", script, *given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = Table.read(tmp_path / "field.catalogue.fits", hdu="components")
    assert len(made) > 50
    assert set(made["fit_type"]) == {"learned"}
