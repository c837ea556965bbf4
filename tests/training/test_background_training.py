"""Learning the head of a dense background."""

import numpy as np
import pytest

from tests.requirements import require

require("learned")

import torch  # noqa: E402

from cyclades.pipeline.simulation.field import FieldOptions, simulate  # noqa: E402
from cyclades.pipeline.training import background_skies  # noqa: E402
from cyclades.pipeline.training.background import (  # noqa: E402
    LARGEST,
    Cells,
    TrainedHead,
    batch_of,
    fit_head,
    likelihood,
    save_head,
    specification,
    wanted_corrections,
)
from cyclades.stages.background.cells import STATISTICS, CellGrid  # noqa: E402
from cyclades.stages.core.products import Background  # noqa: E402
from cyclades.stages.networks import dense_background  # noqa: E402
from cyclades.stages.networks.dense_background import read_head  # noqa: E402

FEATURES, SMALL = 6, {"few": 3, "hidden": 8}


def made_up(seed, shape=(14, 17), blank=True):
    """Cells of whose wanted corrections one is a feature, the other a mean over neighbours."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(FEATURES, *shape)).astype(np.float16)
    statistics = rng.normal(1.0, 2.0, (len(STATISTICS), *shape)).astype(np.float32)
    share = np.ones(shape, np.float32)
    wanted = np.stack([0.3 * np.tanh(features[2]), 0.1 + 0.05 * np.tanh(statistics[1] - 1.0)])
    if blank:
        share[:, :4] = 0.0
        wanted[:, :, :4] = np.nan
    return Cells(features, statistics, share, wanted.astype(np.float32))


def test_the_head_without_torch_computes_the_same(tmp_path, monkeypatch):
    head = TrainedHead(FEATURES, len(STATISTICS), 5, **SMALL)
    cells = made_up(1)
    head.standardise([cells])
    with torch.no_grad():
        for parameter in (head.last, head.direct):
            parameter.normal_(0.0, 0.1)
    for value in head.parameters():
        value.data = value.data.half().float()
    path = tmp_path / "own.safetensors"
    save_head(head, specification("own", {}), path)
    read = read_head(path)
    assert (read.spec.trunk, read.spec.statistics) == ("yolo", STATISTICS)
    *given, _ = batch_of([cells])
    with torch.no_grad():
        made = head(*given)[0].numpy()
    for block in (256, 5):
        monkeypatch.setattr(dense_background, "BLOCK", block)
        few = read.project(cells.features.astype(np.float32))
        found = read.corrections(few, cells.statistics, cells.share)
        for value, row, limit in zip(found, (0, 2), LARGEST, strict=True):
            np.testing.assert_allclose(value, np.clip(made[row], -limit, limit), atol=2e-5)
    assert np.ptp(found[0]) > 0.1


def test_a_head_learns_what_features_and_pixels_tell():
    fields = [made_up(seed) for seed in range(6)]
    head = fit_head(fields, steps=140, seed=1, **SMALL)
    test = made_up(99, blank=False)
    *given, wanted = batch_of([test])
    with torch.no_grad():
        left = (wanted - head(*given)[:, ::2])[0].numpy()
    for before, after in zip(test.wanted, left, strict=True):
        assert after.std() < 0.75 * before.std()
        assert abs(after.mean()) < 0.02


def test_the_likelihood_is_least_at_the_truth_and_its_scatter():
    rng = np.random.default_rng(3)
    wanted = torch.tensor(rng.normal(0.05, 0.05, (1, 2, 60, 60))).float()
    wanted[:, :, :10] = torch.nan

    def gradient(value, error):
        made = torch.tensor([value, np.log(error)] * 2).float()
        made = made[None, :, None, None].expand(1, 4, 60, 60).clone().requires_grad_()
        likelihood(made, wanted).backward()
        return made.grad.sum((0, 2, 3)).numpy()

    # of 3000 cells a map, half of the loss each: standard errors are 0.18 and 0.013
    at_truth = gradient(0.05, 0.05)
    assert np.abs(at_truth[::2]).max() < 0.8
    assert np.abs(at_truth[1::2]).max() < 0.06
    assert gradient(0.075, 0.05)[::2] == pytest.approx(5.0, abs=0.8)
    assert gradient(0.05, 0.075)[1::2] == pytest.approx(0.28, abs=0.06)
    assert gradient(0.05, 0.035)[1::2] == pytest.approx(-0.52, abs=0.12)


def test_wanted_corrections_lead_from_the_first_maps_to_the_truth():
    made = simulate(FieldOptions(size=80), 3)
    data = made.image.data.copy()
    data[:, 60:] = np.nan
    image = made.image.replace(data=data)
    made = type(made)(**{**vars(made), "image": image})
    first = Background(made.level - 0.25 * made.rms, made.rms * np.float32(1.25))
    grid = CellGrid.of(image.shape, (0, 0), 1.0, 16)
    level, rms = wanted_corrections(made, first, grid)
    np.testing.assert_allclose(level[:, :4], 0.2, rtol=1e-3)
    np.testing.assert_allclose(rms[:, :4], -np.log(1.25), rtol=1e-3)
    assert np.isnan(level[:, 4]).all()


def test_skies_are_of_many_kinds_and_told_by_their_seed():
    options = [
        background_skies.random_options(np.random.default_rng([seed, 7]), 64) for seed in range(60)
    ]
    observed = [o.telescope for o in options if o.telescope is not None]
    plain = [o.plain for o in options if o.telescope is None]
    assert 8 < len(observed) < 35
    assert {t.array for t in observed} >= {"vla-b", "askap"}
    assert min(t.ripple for t in observed) == 0.0
    assert max(p.beam_major for p in plain) > 13.0
    one, again = (background_skies.random_field(4, 64) for _ in range(2))
    np.testing.assert_array_equal(one.image.data, again.image.data)
