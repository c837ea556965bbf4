"""The shipped region head: invariances, pulls, what it leaves to others, and its errors."""

import importlib.util
from functools import cache

import numpy as np
import pytest

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
from tests.requirements import require
from tests.skies import BEAM, correlated_noise, lattice, source_rows, truth_detections

require("learned")

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
    assert np.allclose(many.covariance, one.covariance * np.outer(scale, scale), rtol=1e-3)


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
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name)
    )
    with pytest.raises(ConfigurationError, match="torch"):
        measure(data, found)
