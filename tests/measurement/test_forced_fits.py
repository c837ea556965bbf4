"""The fits: fluxes and errors of known components, in units of the noise."""

import numpy as np
import pytest
from skies import BEAM, correlated_noise, lattice, sky_image, source_rows

from cyclades.stages.characterization.forced import measure_forced
from cyclades.stages.characterization.forced_groups import blends, group_components
from cyclades.stages.core.context import Context
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import SIGMA_TO_FWHM, covariance_from_shape

SHAPE = (900, 900)


def forced(rows, noise=None, shape=SHAPE, at=None, intrinsic=None, **options):
    """Measure rows at their true positions, or at others."""
    image, flat = sky_image(rows, shape, noise)
    x, y = (rows[:, 1], rows[:, 2]) if at is None else at
    extended = np.zeros((len(x), 2, 2)) if intrinsic is None else intrinsic
    with Context() as context:
        return measure_forced(image, flat, x, y, extended, context=context, **options)


def scatter(pull):
    """Mean, standard deviation and their 4-sigma intervals."""
    n = len(pull)
    return np.mean(pull), 4 / np.sqrt(n), np.std(pull), 4 / np.sqrt(2 * n)


@pytest.mark.parametrize("natural", [True, False])
@pytest.mark.parametrize("peak", [0.0, 2.0, 30.0, -8.0])
def test_fixed_positions_are_unbiased_at_any_flux(natural, peak):
    rng = np.random.default_rng(5)
    x, y = lattice(SHAPE, 22, rng)
    noise = correlated_noise(SHAPE, rng, natural=natural)
    found = forced(source_rows(peak, x, y), noise).components
    pull = (found.peak - peak) / found.error("peak")
    mean, mean_limit, std, std_limit = scatter(pull)
    assert abs(mean) < mean_limit
    assert 0.9 < std < 1.1
    assert std_limit < 0.1
    # As good as the best possible measurement, the rms, within a tenth (a fifth: wider noise).
    assert np.median(found.error("peak")) < (1.1 if natural else 1.2)


def test_extended_sources_are_measured_with_their_own_shape():
    rng = np.random.default_rng(6)
    x, y = lattice(SHAPE, 40, rng)
    extra = covariance_from_shape(6.0, 2.0, 60.0)
    rows = source_rows(20.0, x, y, BEAM + extra)
    found = forced(
        rows, correlated_noise(SHAPE, rng), intrinsic=np.broadcast_to(extra, (len(x), 2, 2))
    ).components
    total = 20.0 * np.sqrt(np.linalg.det(BEAM + extra) / np.linalg.det(BEAM))
    mean, mean_limit, std, std_limit = scatter((found.total - total) / found.total_err)
    assert abs(mean) < mean_limit
    assert abs(std - 1.0) < std_limit


def test_blended_pairs_are_measured_jointly():
    rng = np.random.default_rng(7)
    x, y = lattice(SHAPE, 36, rng)
    n = len(x)
    peak = np.concatenate([np.full(n, 100.0), np.full(n, 5.0)])
    angle = rng.uniform(0, 2 * np.pi, n)
    apart = 0.8 * 4.5
    x = np.concatenate([x, x + apart * np.cos(angle)])
    y = np.concatenate([y, y + apart * np.sin(angle)])
    measured = forced(source_rows(peak, x, y), correlated_noise(SHAPE, rng))
    found = measured.components
    assert (found.flags & Flag.BLENDED > 0).all()
    pull = (found.peak - peak) / found.error("peak")
    for part in (pull[:n], pull[n:]):
        mean, mean_limit, std, std_limit = scatter(part)
        assert abs(mean) < mean_limit
        assert abs(std - 1.0) < std_limit
    # The sum is known better than the parts, and its error is right too.
    covariance = np.array([measured.flux_covariance(i, i + n) for i in range(n)])
    both = np.sqrt(found.error("peak")[:n] ** 2 + found.error("peak")[n:] ** 2 + 2 * covariance)
    assert (covariance < 0).all()
    _, _, std, std_limit = scatter((found.peak[:n] + found.peak[n:] - 105.0) / both)
    assert abs(std - 1.0) < std_limit
    # Measured alone, the faint ones are swamped by their neighbours.
    alone = forced(
        source_rows(peak, x, y), correlated_noise(SHAPE, rng), at=(x[n:], y[n:])
    ).components
    assert np.median(alone.peak) > 10.0


def test_large_groups_are_cut_and_still_right():
    rng = np.random.default_rng(8)
    shape = (100, 100)
    y, x = (c.ravel() for c in np.mgrid[20:76:5, 20:76:5].astype(float))
    peak = rng.uniform(0, 50, len(x))
    whole = forced(source_rows(peak, x, y), shape=shape, joint_limit=200).components
    cut = forced(source_rows(peak, x, y), shape=shape, joint_limit=30).components
    assert (cut.flags & Flag.TOO_MANY_COMPONENTS > 0).all()
    np.testing.assert_allclose(whole.peak, peak, atol=1e-3)
    np.testing.assert_allclose(cut.peak, peak, atol=0.1)


def test_free_positions_follow_a_shift_within_their_limit():
    rng = np.random.default_rng(9)
    x, y = lattice(SHAPE, 22, rng)
    rows = source_rows(np.where(np.arange(len(x)) % 2, 30.0, 0.0), x, y)
    bright = rows[:, 0] > 0
    noise = correlated_noise(SHAPE, rng)
    at = (x + 0.8, y - 0.5)
    free = forced(rows, noise, at=at, free_positions=0.5)
    found = free.components
    held = forced(rows, noise, at=at).components
    assert np.mean(held.peak[bright]) < 28.5
    for value, error, truth in (
        (found.x, found.error("x"), x),
        (found.y, found.error("y"), y),
        (found.peak, found.error("peak"), rows[:, 0]),
    ):
        mean, mean_limit, std, std_limit = scatter((value - truth)[bright] / error[bright])
        assert abs(mean) < mean_limit
        assert abs(std - 1.0) < std_limit
    # Where nothing is detected, the position is held, and the flux stays unbiased.
    assert {found.fit_type[i] for i in np.flatnonzero(~bright)} == {"forced"}
    assert abs(np.mean(found.peak[~bright])) < 4 * 1.05 / np.sqrt((~bright).sum())
    far = forced(rows, noise, at=(x + 2.0, y), free_positions=0.2).components
    assert (far.flags[bright] & Flag.POSITION_AT_LIMIT > 0).mean() > 0.9
    moved = np.stack([far.x - x - 2.0, far.y - y], -1)[bright]
    scaled = np.einsum("ni,ij,nj->n", moved, np.linalg.inv(BEAM), moved)
    assert np.sqrt(scaled).max() < 0.3 * SIGMA_TO_FWHM


@pytest.mark.parametrize("free_positions", [0.0, 0.5])
def test_crowded_fields_are_measured_to_their_errors(free_positions):
    rng = np.random.default_rng(11)
    n = 4000
    x, y = rng.uniform(10, SHAPE[0] - 10, (2, n))
    rows = source_rows(rng.exponential(10, n), x, y)
    found = forced(rows, correlated_noise(SHAPE, rng), free_positions=free_positions).components
    assert (found.flags & Flag.BLENDED > 0).mean() > 0.5
    assert np.isfinite(found.peak).all()
    pull = (found.peak - rows[:, 0]) / found.error("peak")
    assert abs(np.median(pull)) < 4 * 1.25 / np.sqrt(n)
    # positions that move in blends closer than half a beam leave some outliers
    assert np.std(pull) < (1.05 if free_positions == 0.0 else 1.1)
    assert np.mean(np.abs(pull) > 4) < 0.002


def test_what_is_not_covered_is_not_measured():
    shape = (80, 80)
    x, y = np.array([-20.0, 40.0, 79.4, 20.0, np.nan, 1e9]), np.array([40, 40, 40, 20, 5, 5.0])
    rows = source_rows(10.0, np.array([40.0]), np.array([40.0]))
    image, flat = sky_image(rows, shape)
    image.data[15:26, 15:26] = np.nan
    with Context() as context:
        found = measure_forced(image, flat, x, y, np.zeros((6, 2, 2)), context=context).components
    lost = found.flags & Flag.NOT_COVERED > 0
    assert lost.tolist() == [True, False, False, True, True, True]
    assert np.isnan(found.peak).tolist() == lost.tolist()
    assert found.peak[1] == pytest.approx(10.0, rel=1e-4)


def test_coincident_components_do_not_spoil_their_neighbours():
    rows = source_rows(10.0, np.array([40.0]), np.array([40.0]))
    found = forced(
        rows, shape=(80, 80), at=(np.array([40.0, 40.0, 44.0]), np.array([40.0, 40.0, 40.0]))
    ).components
    assert found.peak[0] == pytest.approx(10.0, rel=1e-3)
    assert np.isnan(found.peak[1])
    assert found.flags[1] & Flag.FIT_FAILED
    assert abs(found.peak[2]) < 1e-2


def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(10)
    x, y = rng.uniform(10, 190, (2, 300))
    rows = source_rows(rng.uniform(-3, 30, 300), x, y)
    noise = correlated_noise((200, 200), rng)
    first = forced(rows, noise, (200, 200), free_positions=0.5).components
    order = rng.permutation(300)
    second = forced(rows[order], noise, (200, 200), free_positions=0.5).components
    np.testing.assert_allclose(second.peak, first.peak[order], atol=0.02)


def test_blends_look_as_far_as_profiles_reach():
    shape = np.stack([np.eye(2), np.eye(2), 100.0 * np.eye(2)])
    x, y = np.array([0.0, 3.0, 25.0]), np.zeros(3)
    found = sorted(map(sorted, blends(x, y, shape, 0.5).tolist()))
    assert found == [[0, 1], [0, 2], [1, 2]]
    assert not len(blends(np.array([0.0, 60.0]), y[:2], shape[:2], 0.5))
    group, parted = group_components(np.array([[0, 1], [1, 2]]), np.stack([x, y], -1), 2)
    assert len(set(group.tolist())) == 2
    assert parted.all()
