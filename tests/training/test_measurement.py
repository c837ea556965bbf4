"""Rows to learn measurements from, the loss, and a training from end to end."""

import numpy as np
import pytest
from pydantic import ValidationError

from tests.requirements import require

require("learned")

import torch  # noqa: E402

from cyclades.pipeline.training.measured_sources import (  # noqa: E402
    GAUSSIAN_KIND,
    Examples,
    TrueObjects,
    draw_objects,
    field_examples,
    random_beam,
    row_truth,
)
from cyclades.pipeline.training.measurement import (  # noqa: E402
    Errors,
    calibrate,
    calibrated,
    errors_of,
    examples,
    start_from,
    train_measurement,
)
from cyclades.pipeline.training.measurement_module import (  # noqa: E402
    MeasurementOptions,
    as_tensors,
    measurement_losses,
    turned,
)
from cyclades.stages.core.errors import InputError  # noqa: E402
from cyclades.stages.core.geometry import determinant  # noqa: E402
from cyclades.stages.networks.adaptive_moments import adaptive_moments  # noqa: E402
from cyclades.stages.networks.region_answers import turning  # noqa: E402
from cyclades.stages.networks.region_cells import REGION, trunk_of  # noqa: E402
from cyclades.stages.networks.region_head import (  # noqa: E402
    OUTPUTS,
    REGION_NUMBERS,
    TRIANGLE,
    RegionHead,
    RegionNetwork,
    load_region_network,
)
from cyclades.stages.networks.region_runtime import TorchHeads  # noqa: E402
from cyclades.stages.networks.region_spec import RegionSpec  # noqa: E402
from cyclades.stages.networks.region_windows import NUMBERS, SAMPLES, STEP  # noqa: E402
from cyclades.stages.networks.weights import find_measurer  # noqa: E402


@pytest.fixture(scope="module")
def rows() -> Examples:
    return field_examples(3, side=256)


def test_light_is_shared_and_conserved():
    generator = np.random.default_rng(1)
    beam = random_beam(generator)
    objects = draw_objects(generator, beam, 400)
    flux = objects.values[:, 0] * np.sqrt(
        determinant(objects.values[:, [3, 4, 4, 5]].reshape(-1, 2, 2)) / determinant(beam)
    )
    order = np.lexsort([-objects.values[:, 0], objects.owner])
    brightest = order[np.unique(objects.owner[order], return_index=True)[1]]
    summit = objects.values[brightest, 1:3]
    true = row_truth(objects, summit, beam)
    assert np.nansum(true.values[:, 6]) == pytest.approx(flux.sum(), rel=0.01)
    single = TrueObjects(objects.values[:1], np.zeros(1, np.int64), np.zeros(1, np.int64))
    alone = row_truth(single, summit[:1], beam)
    assert alone.alone[0]
    assert np.allclose(alone.values[0, :6], single.values[0])


def test_no_cut_selects_the_sources(rows: Examples):
    """Realisations of a source have the same truth, down to far below any threshold."""
    faint = np.unique(rows.group[(rows.group >= 0) & (rows.truth[:, 0] < 4.0)])
    assert len(faint) > 0
    for group in np.unique(rows.group[rows.group >= 0]):
        mine = rows.group == group
        assert mine.sum() == 4
        assert np.ptp(rows.truth[mine, 6]) < 0.02 * rows.truth[mine, 6].mean()
        if rows.kind[mine][0] == GAUSSIAN_KIND:
            assert np.ptp(rows.truth[mine, 3:6], axis=0).max() < 0.05


def test_orientations_are_consistent(rows: Examples):
    """Moments of a turned window are the turned moments, and turning back gives the first."""
    first = rows.take(np.flatnonzero(rows.scale > 20.0)[:20])
    for orientation in range(8):
        batch = as_tensors(first, orientation)
        made = adaptive_moments(batch["fine"].numpy(), STEP)
        assert np.allclose(made, batch["numbers"][:, 2:], atol=2e-3)
        back = turned(torch.from_numpy(first.truth), orientation).numpy() @ turning(orientation).T
        assert np.allclose(back, first.truth, rtol=1e-6)


def test_an_untrained_head_gives_the_adaptive_moments(rows: Examples):
    torch.manual_seed(0)
    head = RegionHead(32).eval()
    torch.nn.init.zeros_(head.last.weight)
    batch = as_tensors(rows)
    mean, _, units = head(batch["fine"], batch["coarse"], batch["numbers"])
    assert torch.allclose(mean[:, :6], batch["numbers"][:, 2:8])
    assert (units > 0).all()


def test_the_penalty_knows_bias_from_scatter():
    """Zero on average for errors that differ between realisations, the square for equal ones."""
    generator = torch.Generator().manual_seed(0)
    n = 4000
    truth = torch.ones(4 * n, OUTPUTS)
    batch = {"scale": torch.ones(4 * n), "truth": truth, "grouped": torch.tensor(4 * n)}
    factor, units = torch.zeros(4 * n, TRIANGLE), torch.ones(4 * n, OUTPUTS)
    noise = torch.randn(4 * n, OUTPUTS, generator=generator)
    scattered = measurement_losses(truth + noise, factor, units, batch, 4)["bias"]
    # the product of two means of two: variance 1/4, summed over 7 and averaged over n
    assert abs(float(scattered)) < 4.0 * 0.5 * (OUTPUTS / n) ** 0.5
    shifted = measurement_losses(truth + 0.5, factor, units, batch, 4)["bias"]
    assert float(shifted) == pytest.approx(0.25 * OUTPUTS, rel=1e-5)


def test_the_calibration_makes_pulls_of_unit_width(rows: Examples):
    generator = np.random.default_rng(2)
    many = rows.take(generator.integers(0, len(rows), 40000))
    scale = np.exp(generator.uniform(np.log(3.0), np.log(300.0), len(many))).astype(np.float32)
    many = Examples(**{**vars(many), "scale": scale, "island": np.arange(len(many))})
    misfit = np.exp(generator.uniform(0.0, 2.0, len(many)))
    factor = (1.0 + 0.3 * np.log(scale)) * (1.0 + 0.2 * np.log(misfit))
    wrong = generator.standard_normal((len(many), OUTPUTS)) * factor[:, None]
    wrong[:, 6] += 0.3 * factor
    errors = Errors(wrong, np.ones_like(wrong), misfit / scale)
    right = calibrated(errors, many, calibrate(errors, many))
    pulls = right.error / right.sigma
    assert np.allclose(pulls.std(0), 1.0, atol=0.06)
    assert np.allclose(np.median(pulls, 0), 0.0, atol=0.06)


def test_training_from_end_to_end(tmp_path):
    options = MeasurementOptions(
        fields=1, held_out=1, side=192, batch=32, steps=4, steps_a_checkpoint=4, warm_up=1,
        members=2, width=16, precision="float32",
    )  # fmt: skip
    paths = [train_measurement(options, tmp_path / name) for name in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "region head" in paths[0].with_suffix(".md").read_text("utf-8").lower()
    heads = TorchHeads.load(paths[0])
    assert heads.spec.members == 2
    held = field_examples(1001, side=192)
    errors = errors_of(heads.network, held)
    assert np.isfinite(errors.error).all()
    assert (errors.sigma > 0).all()


def test_heads_start_as_the_head_that_they_go_on_from():
    require("onnx")
    trunk = trunk_of("yolo")
    network = RegionNetwork(RegionSpec(members=2, trunk=trunk)).eval()
    start_from(network, "measurement")
    given = load_region_network(find_measurer("measurement"))
    torch.manual_seed(4)
    windows = [torch.rand(5, 2, SAMPLES, SAMPLES) for _ in range(2)]
    region = torch.randn(5, 2 * trunk.few, REGION, REGION)
    numbers = 0.3 * torch.rand(5, NUMBERS)
    with torch.inference_mode():
        expected = given(*windows, numbers)[0]
        for said in network(*windows, numbers, region):
            for one, other in zip(said, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    narrow = RegionNetwork(RegionSpec(width=16, trunk=trunk))
    with pytest.raises(InputError, match="same width without a trunk"):
        start_from(narrow, "measurement")


def test_training_with_a_trunk_from_a_start(tmp_path):
    require("onnx")
    tiny = {
        "fields": 1, "held_out": 1, "side": 160, "batch": 32, "steps": 4, "steps_a_checkpoint": 4,
        "warm_up": 1, "precision": "float32", "trunk": "yolo", "start": "measurement",
    }  # fmt: skip
    with pytest.raises(ValidationError, match=r"under its licence; give licence: AGPL-3\.0"):
        MeasurementOptions(**tiny)
    path = train_measurement(MeasurementOptions(**tiny, licence="AGPL-3.0"), tmp_path)
    card = path.with_suffix(".md").read_text("utf-8")
    assert "features of the cells of yolo" in card
    assert "where measurement had ended" in card
    heads = TorchHeads.load(path)
    head = heads.network.heads[0]
    # what the cells are scaled by is that of the rows, and the trunk has begun to say something
    held = examples(MeasurementOptions(**tiny, licence="AGPL-3.0"), range(1000, 1001),
                    tmp_path / "examples")  # fmt: skip
    values = np.moveaxis(held.region.astype(np.float32), 1, -1)
    values = values.reshape(-1, values.shape[-1])
    np.testing.assert_allclose(head.cell_centre, values.mean(0), rtol=2e-3, atol=2e-3)
    assert float(head.hidden[0].weight.detach()[:, -REGION_NUMBERS:].abs().max()) > 0.0
    assert np.isfinite(errors_of(heads.network, held).error).all()
