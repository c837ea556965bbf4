"""Physics of an observed sky: fluxes, smearing, primary beam, bowls, errors, mosaics."""

import numpy as np
import pytest

from cyclades.pipeline.simulation.artefacts import draw_ripples
from cyclades.pipeline.simulation.instrument import instrument, suit_geometry
from cyclades.pipeline.simulation.model import DISC, GAUSSIAN, SkyModel
from cyclades.pipeline.simulation.render import render_sky
from cyclades.pipeline.simulation.telescope import View, observe, primary_beam
from cyclades.pipeline.simulation.telescope_options import Pointing, TelescopeOptions, hexagon
from cyclades.pipeline.simulation.visibilities import LIGHT
from cyclades.stages.core.geometry import covariance_from_shape, gaussian_area

SIZE = 200
MIDDLE = SIZE // 2
# nothing but the sky: everything cleaned, hardly any noise, no primary beam
CLEAN = {
    "rms": 1e-9,
    "clean_threshold": 0.0,
    "clean_depth": 0.0,
    "short_spacings": True,
    "primary_beam": False,
}


def options(**changes):
    return TelescopeOptions(**({"array": "vla-d", "duration": 4.0, "channels": 4} | changes))


@pytest.fixture(scope="module")
def geometry():
    return suit_geometry(options(), (SIZE, SIZE), centre=(180.0, 35.0))


def make_sky(x, y, flux, *, shape=None, kind=GAUSSIAN, spectral_index=0.0):
    x = np.atleast_1d(np.asarray(x, float))
    n = len(x)
    shape = np.zeros((2, 2)) if shape is None else np.asarray(shape)
    return SkyModel(
        x=x,
        y=np.broadcast_to(np.asarray(y, float), n).copy(),
        flux=np.broadcast_to(np.asarray(flux, float), n).copy(),
        sxx=np.full(n, shape[0, 0]),
        sxy=np.full(n, shape[0, 1]),
        syy=np.full(n, shape[1, 1]),
        kind=np.full(n, kind, np.int64),
        spectral_index=np.full(n, spectral_index),
        owner=np.arange(n),
        object_class=np.zeros(n, np.int64),
        frequency=1.4e9,
    )


NOTHING = make_sky(-500.0, -500.0, 0.0)


def look(sky, geometry, seed=1, **changes):
    return observe(sky, geometry, options(**changes), np.random.default_rng(seed))


def seen_view(geometry, **changes):
    return View.of(geometry, options(**changes))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (None, GAUSSIAN),
        (covariance_from_shape(12.0, 5.0, 40.0), GAUSSIAN),
        (np.diag([30.0, 12.0]), DISC),
    ],
)
def test_cleaned_sources_are_drawn_in_the_restoring_beam_and_keep_their_flux(geometry, shape, kind):
    sky = make_sky([70.3, 130.6], [100.2, 90.7], [1.0, 0.3], shape=shape, kind=kind)
    seen = look(sky, geometry, **CLEAN)
    area = gaussian_area(seen.psf.covariance)
    assert seen.data.sum(dtype=float) / area == pytest.approx(1.3, rel=2e-3)
    exact = render_sky(sky, seen.psf, geometry.shape)
    assert np.abs(seen.data - exact).max() < 2e-3 * exact.max()
    assert seen.sky.flux == pytest.approx(sky.flux)


def test_uncleaned_sources_are_drawn_in_the_dirty_beam(geometry):
    sky = make_sky(MIDDLE, MIDDLE, 1.0)
    seen = look(sky, geometry, **{**CLEAN, "clean_threshold": 1e30})
    dirty = instrument(geometry, options()).dirty_beam
    row, column = (n // 2 for n in dirty.shape)
    cut = dirty[row - MIDDLE : row + MIDDLE, column - MIDDLE : column + MIDDLE]
    assert np.abs(seen.data - cut).max() < 2e-3
    assert cut.min() < -0.02


def test_clean_leaves_its_depth_in_the_residual_and_takes_its_bias(geometry):
    sky = make_sky([50.0, 150.0], 100.0, [100.0, 3.0])
    changes = {**CLEAN, "rms": 1.0, "clean_threshold": 5.0}
    plain = look(sky, geometry, **changes)
    deep = look(sky, geometry, **{**changes, "clean_depth": 2.0})
    biased = look(sky, geometry, **{**changes, "clean_bias": 1.7})
    made = instrument(geometry, options())
    # two of the hundred are in the dirty beam instead; the faint one always is
    inner = np.s_[60:140, 10:90]
    dirty = made.dirty_beam
    row, column = (n // 2 for n in dirty.shape)
    cut = dirty[row - 40 : row + 40, column - 40 : column + 40]
    exact = render_sky(make_sky(40.0, 40.0, 1.0), plain.psf, (80, 80))
    assert np.abs((deep.data - plain.data)[inner] - 2.0 * (cut - exact)).max() < 0.02
    assert biased.sky.flux == pytest.approx([98.3, 3.0])
    lost = (plain.data - biased.data)[100, 50]
    assert lost == pytest.approx(1.7, abs=0.02)
    assert deep.sky.flux == pytest.approx(sky.flux)


def test_smearing_keeps_the_total_and_lowers_the_peak_as_it_should(geometry):
    sky = make_sky([MIDDLE, 180.0], [MIDDLE, 160.0], 1.0)
    changes = {"channel_width": 4e7, "integration": 300.0}
    sharp, smeared = look(sky, geometry, **CLEAN), look(sky, geometry, **CLEAN, **changes)
    assert smeared.data.sum(dtype=float) == pytest.approx(sharp.data.sum(dtype=float), rel=2e-3)
    assert smeared.data[MIDDLE, MIDDLE] == pytest.approx(1.0, rel=2e-3)
    # independent of the code: the beam's variance along and across the radius, in pixels
    beam = sharp.psf.covariance
    offset = np.array([80.0, 60.0])
    distance = np.hypot(*offset)
    radial = offset / distance
    across = np.array([-radial[1], radial[0]])
    extra = (distance * 4e7 / 1.4e9) ** 2 / 12.0 * np.outer(radial, radial)
    extra += (distance * 7.292e-5 * 300.0) ** 2 / 12.0 * np.outer(across, across)
    factor = gaussian_area(beam) / gaussian_area(beam + extra)
    assert factor < 0.9
    assert smeared.data[160, 180] == pytest.approx(factor, rel=3e-3)
    # pixels are square here to 1e-3, and the observed sky says the same
    assert smeared.sky.shapes[1] == pytest.approx(extra, rel=2e-3, abs=1e-3)


def test_noise_rises_with_the_primary_beam_and_the_edge_is_blank(geometry):
    generator = np.random.default_rng(2)
    stack = [
        observe(NOTHING, geometry, options(primary_beam_cut=0.4), generator) for _ in range(30)
    ]
    rms = stack[0].rms
    centre = seen_view(geometry).distances
    fwhm = 1.05 * LIGHT / 1.4e9 / 25.0
    expected = 5e-5 * np.exp(4 * np.log(2) * (centre / fwhm) ** 2)
    inside = expected < 5e-5 / 0.4
    assert 0.1 < inside.mean() < 0.9
    assert np.isnan(stack[0].data[~inside]).all()
    assert np.isnan(rms[~inside]).all()
    assert rms[inside] == pytest.approx(expected[inside], rel=1e-4)
    ratio = np.stack([seen.data for seen in stack]) / rms
    beams = inside.sum() / gaussian_area(stack[0].psf.covariance)
    for low, high in ((1.0, 1.3), (1.3, 1.8), (1.8, 2.4)):
        ring = (expected > low * 5e-5) & (expected < high * 5e-5)
        error = 1.0 / np.sqrt(2.0 * 30.0 * beams * ring.sum() / inside.sum())
        assert abs(ratio[:, ring].std() - 1.0) < 4.0 * error


def test_the_primary_beam_is_taken_out_of_fluxes(geometry):
    sky = make_sky([MIDDLE, 170.0], MIDDLE, 1.0)
    changes = {**CLEAN, "primary_beam": True, "bandwidth": 0.0, "channels": 1}
    seen = look(sky, geometry, **changes)
    attenuation = primary_beam(seen_view(geometry).distances, 1.4e9, options())[MIDDLE, 170]
    assert attenuation < 0.7
    assert seen.data[MIDDLE, 170] == pytest.approx(1.0, rel=3e-3)
    assert seen.sky.flux == pytest.approx(1.0)


def test_effective_frequency_falls_from_the_pointing_and_so_does_a_flat_flux(geometry):
    flat = make_sky([MIDDLE, 180.0], MIDDLE, 1.0)
    seen = look(flat, geometry, **{**CLEAN, "primary_beam": True, "bandwidth": 6e8})
    row = seen.frequency[MIDDLE, MIDDLE:180]
    assert row[0] == pytest.approx(1.4e9, rel=1e-6)
    assert np.all(np.diff(row.astype(float)) <= 0.0)
    assert row[-1] < 1.38e9
    channels = options(bandwidth=6e8).frequencies
    distance = seen_view(geometry).distances[MIDDLE, 180]
    parts = [float(primary_beam(distance, nu, options())) for nu in channels]
    expected = np.mean(parts) / float(primary_beam(distance, 1.4e9, options()))
    assert seen.sky.flux[1] == pytest.approx(expected)
    assert seen.data[MIDDLE, 180] == pytest.approx(expected, rel=4e-3)


def test_missing_spacings_put_extended_emission_in_a_bowl_and_leave_points(geometry):
    wide = make_sky(MIDDLE, MIDDLE, 100.0, shape=np.diag([225.0, 225.0]))
    changes = {**CLEAN, "short_spacings": False, "rms": 1e-7}
    seen = look(wide, geometry, **changes)
    full = look(wide, geometry, **{**changes, "short_spacings": True})
    peak = full.data.max()
    assert full.data.min() > -1e-4 * peak
    assert seen.data.min() < -0.01 * peak
    assert seen.data.max() < 0.95 * peak
    assert seen.data[MIDDLE, MIDDLE] == seen.data.max()
    # the level is what was taken away
    assert np.abs(seen.data - full.data - seen.level).max() < 1e-4 * peak
    point = look(make_sky(MIDDLE, MIDDLE, 100.0), geometry, **changes)
    assert not point.level.any()
    assert point.data.min() > -1e-4 * point.data.max()


def test_gain_errors_scale_with_the_source_and_are_listed_round_it(geometry):
    sky = make_sky(MIDDLE, MIDDLE, 1.0)
    errors = {"gain_amplitude": 0.05, "gain_phase": 5.0, "clean_threshold": 5.0}
    quiet = {"primary_beam": False, "short_spacings": True, "rms": 1e-4}
    assert len(look(sky, geometry, **quiet).artefacts) == 0
    bright = look(sky, geometry, **quiet, **errors)
    found = bright.artefacts
    assert len(found) > 5
    assert found.peak.min() > 4.5e-4
    assert found.peak.max() < 0.1
    y, x = np.divmod(found.segments.indices, SIZE)
    assert np.hypot(x - MIDDLE, y - MIDDLE).min() > 3.0
    # no error at the source itself, and errors in proportion elsewhere
    assert bright.data[MIDDLE, MIDDLE] == pytest.approx(1.0, rel=3e-3)
    noise = look(NOTHING, geometry, **quiet)
    base = look(sky, geometry, **quiet).data
    ten = look(sky.replace(flux=10.0 * sky.flux), geometry, **quiet, **errors).data
    ten_base = look(sky.replace(flux=10.0 * sky.flux), geometry, **quiet).data
    assert noise.data.std() == pytest.approx(1e-4, rel=0.1)
    assert ten - ten_base == pytest.approx(10.0 * (bright.data - base), abs=2e-4)


def test_ripples_are_smooth_have_their_rms_and_are_part_of_the_level(geometry):
    made = instrument(geometry, options())
    generator = np.random.default_rng(3)
    draws = np.array(
        [draw_ripples(made.transfer, made.grid, made.beam, generator).std() for _ in range(40)]
    )
    assert abs(draws.mean() - 1.0) < 4.0 * draws.std(ddof=1) / np.sqrt(40.0) + 0.05
    seen = look(NOTHING, geometry, ripple=2.0, primary_beam=False)
    plain = look(NOTHING, geometry, primary_beam=False)
    assert seen.level.std() > 0.3 * 2.0 * 5e-5
    assert seen.data - seen.level == pytest.approx(plain.data, abs=1e-9)
    step = np.abs(np.diff(seen.level, axis=1)).max()
    assert step < 0.5 * np.ptp(seen.level)


def test_mosaics_have_the_rms_of_their_weights(geometry):
    pointings = (
        Pointing(east=-0.12, rms=1.0),
        Pointing(east=0.12, rms=2.0, frequency=1.2, hour_angle=2.0),
    )
    settings = {"pointings": pointings, "primary_beam_cut": 0.3}
    seen = look(NOTHING, geometry, **settings)
    weight = np.zeros(geometry.shape)
    frequency = np.zeros(geometry.shape)
    beams = []
    for pointing in pointings:
        single = options(**settings).at(pointing)
        distance = View.of(geometry, single).distances
        beam = primary_beam(distance, single.frequency, single)
        part = np.where(beam >= 0.3, (beam / single.rms) ** 2, 0.0)
        weight += part
        frequency += part * single.frequency
        beams.append(instrument(geometry, single).beam)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(weight > 0.0, weight**-0.5, np.nan)
    assert seen.rms == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert np.array_equal(np.isnan(seen.data), np.isnan(expected))
    # the second pointing looks east, which is left
    both = np.isfinite(expected)
    x = np.indices(geometry.shape)[1]
    assert x[both & (seen.frequency > 1.6e9)].max() < x[both & (seen.frequency < 1.42e9)].min()
    # the beam is one of the pointings' where one looks alone, and lies between elsewhere
    row = int(geometry.pointing[1])
    columns = np.flatnonzero(both[row])
    local = seen.psf.covariances(columns, np.full(len(columns), row))
    assert local[0] == pytest.approx(beams[1], rel=1e-5)
    assert local[-1] == pytest.approx(beams[0], rel=1e-5)
    areas = gaussian_area(local)
    low, high = sorted(float(gaussian_area(beam)) for beam in beams)
    assert low < areas[len(areas) // 2] < high
    generator = np.random.default_rng(4)
    scatter = [
        (observe(NOTHING, geometry, options(**settings), generator).data / seen.rms)[both].std()
        for _ in range(12)
    ]
    error = np.std(scatter, ddof=1) / np.sqrt(12.0)
    assert abs(np.mean(scatter) - 1.0) < 4.0 * error + 0.01


def test_mosaicked_fluxes_are_the_mean_of_what_the_pointings_show(geometry):
    pointings = (Pointing(east=-0.1), Pointing(east=0.1, frequency=1.3))
    sky = make_sky([MIDDLE, 80.0], [MIDDLE, 110.0], 1.0, spectral_index=-0.8)
    changes = {**CLEAN, "primary_beam": True, "bandwidth": 0.0, "pointings": pointings}
    seen = look(sky, geometry, **changes)
    assert np.all((seen.sky.flux < 1.0) & (seen.sky.flux > 1.3**-0.8))
    assert seen.data[MIDDLE, MIDDLE] == pytest.approx(seen.sky.flux[0], rel=5e-3)
    assert seen.data[110, 80] == pytest.approx(seen.sky.flux[1], rel=5e-3)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(geometry):
    sky = make_sky([40.0, 120.0], 77.0, [1e-3, 2e-4])
    changes = {"gain_amplitude": 0.02, "ripple": 0.5}
    one, again, other = (look(sky, geometry, seed, **changes) for seed in (7, 7, 8))
    for name in ("data", "rms", "level"):
        mine, same = getattr(one, name), getattr(again, name)
        assert mine.dtype == np.float32
        assert mine.tobytes() == same.tobytes()
    assert one.data.tobytes() != other.data.tobytes()


def test_a_hexagonal_mosaic_has_its_spacing():
    pointings = hexagon(0.3, 2, np.random.default_rng(1))
    assert len(pointings) == 19
    place = np.array([(p.east, p.north) for p in pointings])
    distance = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    assert distance[distance > 0].min() == pytest.approx(0.3)
    assert np.std([p.rms for p in pointings]) > 0.05


def test_options_survive_a_round_trip_and_describe_themselves():
    one = options(pointings=hexagon(0.2, 1, np.random.default_rng(1)), declination=-20.0)
    assert TelescopeOptions(**one.model_dump(mode="json")) == one
    assert all(field.description for field in TelescopeOptions.model_fields.values())
    with pytest.raises(ValueError, match="robust"):
        TelescopeOptions(robust=5.0)
