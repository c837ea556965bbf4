"""Injected sources: what is added, where, and what a route makes of it."""

import numpy as np
import pytest

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.any_catalogue import from_catalogue, from_truth
from cyclades.pipeline.comparison.match import match
from cyclades.pipeline.simulation.geometry import Geometry
from cyclades.pipeline.simulation.injection import (
    CAVEAT,
    InjectionOptions,
    draw_injection,
    inject,
    injected_completeness,
)
from cyclades.pipeline.simulation.plain import unit_noise
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import read_image
from cyclades.stages.core.products import Background

RMS = 1e-4


def noise_image(size=512, seed=1, sources=()):
    """An image of natural noise of known rms, some sources, and its exact background."""
    beam = (10.0 / 3600.0, 8.0 / 3600.0, 30.0)
    geometry = Geometry.make((size, size), pixel=2.0 / 3600.0, beam=beam, frequency=1.4e9)
    generator = np.random.default_rng(seed)
    data = RMS * unit_noise((size, size), geometry.psf.covariance, generator)
    for x, y, peak in sources:
        dx, dy = np.arange(size) - x, np.arange(size)[:, None] - y
        data += peak * np.exp(-0.5 * (dx * dx + dy * dy) / 4.0).astype(np.float32)
    flat = Background(np.zeros_like(data), np.full_like(data, RMS))
    return geometry.image(data), flat


def test_injection_adds_the_flux_that_it_says():
    image, background = noise_image()
    options = InjectionOptions(number=60, extended=0.5)
    injection = inject(image, options, background, np.random.default_rng(3))
    added = injection.image.data.astype(float) - image.data
    table = injection.truth.catalogue.components
    total = np.sum(table["total_flux"].value, dtype=float)
    assert added.sum() / image.psf.area == pytest.approx(total, rel=2e-4)
    assert len(table) == 60
    assert set(table["morphology"]) == {"compact", "extended"}
    assert np.all((table["snr"] > 2.9) & (table["snr"] < 101.0))
    x, y = (table[name].value for name in "xy")
    peaks = added[np.rint(y).astype(int), np.rint(x).astype(int)]
    assert peaks == pytest.approx(table["peak_flux"].value, rel=0.12)
    assert injection.image.psf is image.psf


def test_sources_keep_their_distance_from_each_other_and_from_what_is_there():
    places = [(100.0, 100.0), (300.0, 150.0), (200.0, 400.0)]
    image, background = noise_image(sources=[(*place, 0.05) for place in places])
    options = InjectionOptions(number=80, separation=5.0, avoid=3.0)
    sky = draw_injection(image, background, options, np.random.default_rng(4))
    place = np.stack([sky.x, sky.y], -1)
    beam = image.psf.size
    apart = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    # positions are moved within their pixel
    assert apart.min() > 5.0 * beam - 1.5
    away = np.hypot(*(place[:, None] - np.array(places)[None]).transpose(2, 0, 1))
    assert away.min() > 3.0 * beam
    crowded = InjectionOptions(number=5000, separation=12.0)
    few = draw_injection(image, background, crowded, np.random.default_rng(5))
    assert 10 < len(few) < 200


def test_blank_pixels_stay_blank_and_receive_nothing():
    image, background = noise_image()
    data = image.data.copy()
    data[:, :200] = np.nan
    injection = inject(
        image.replace(data=data), InjectionOptions(number=50), background, np.random.default_rng(6)
    )
    assert np.isnan(injection.image.data[:, :200]).all()
    assert injection.truth.catalogue.components["x"].value.min() > 200 + image.psf.size


def test_injected_fluxes_are_recovered_within_their_errors():
    image, background = noise_image(768)
    options = InjectionOptions(number=150, lowest_snr=15.0, highest_snr=60.0)
    injection = inject(image, options, background, np.random.default_rng(7))
    catalogue = Pipeline.from_route("classical").run(injection.image, workers=1).catalogue
    truth, found = from_truth(injection.truth), from_catalogue(catalogue)
    pairs = match(truth, found)
    assert len(pairs) == len(truth) == 150
    peak = found["peak_flux"][pairs.second_rows] - truth["peak_flux"][pairs.first_rows]
    pull = peak / found["peak_flux_err"][pairs.second_rows]
    # a pull of unit scatter: 4 standard errors of the mean, and of the scatter
    assert abs(pull.mean()) < 4.0 / np.sqrt(150.0)
    assert abs(pull.std() - 1.0) < 4.0 / np.sqrt(300.0)


def test_completeness_rises_with_signal_to_noise_and_carries_its_caveat():
    image, _ = noise_image(512)
    edges = (2.0, 3.0, 5.0, 8.0, 20.0)
    options = InjectionOptions(number=120, lowest_snr=2.0, highest_snr=20.0)
    result = injected_completeness(
        Pipeline.from_route("classical"), image, options, repeats=2, edges=edges, workers=1
    )
    table = result.table
    assert table["injected"].sum() == len(result.snr) == 240
    assert table["completeness"][0] < 0.1
    assert table["completeness"][-1] > 0.97
    assert np.all(np.diff(table["completeness"]) > 0.0)
    share = table["completeness"]
    assert np.all((table["completeness_low"] <= share) & (share <= table["completeness_high"]))
    bright = result.found & (result.snr > 8.0)
    spread = result.flux_ratio[bright].std() / np.sqrt(bright.sum())
    assert abs(np.median(result.flux_ratio[bright]) - 1.0) < 4.0 * 1.25 * spread
    assert result.caveat == CAVEAT
    assert table.meta["caveat"] == CAVEAT
    assert CAVEAT in str(result)
    assert "CLEAN bias, sidelobes or calibration errors" in " ".join(CAVEAT.split())


def test_sources_that_were_there_before_do_not_count():
    # injected anywhere in a field full of sources, far below the noise: nothing can be found
    size = 256
    places = [(x, y, 0.02) for x in range(20, size, 30) for y in range(20, size, 30)]
    image, _ = noise_image(size, sources=places)
    options = InjectionOptions(
        number=60, lowest_snr=1.2, highest_snr=1.5, avoid=0.0, separation=3.0
    )
    result = injected_completeness(
        Pipeline.from_route("classical"), image, options, edges=(1.0, 2.0), workers=1
    )
    assert len(result.found) > 20
    assert result.found.mean() < 0.05


def test_an_image_without_a_beam_or_room_is_refused():
    image, background = noise_image(64)
    with pytest.raises(InputError, match="has no beam"):
        inject(image.replace(psf=None), InjectionOptions(), background, np.random.default_rng(1))
    full = image.replace(data=np.full_like(image.data, np.nan))
    with pytest.raises(InputError, match="no room"):
        inject(full, InjectionOptions(), background, np.random.default_rng(1))


def test_a_real_image_gains_sources_that_are_found(shared_data):
    paths = sorted((shared_data / "first-rgz-fields-dev").glob("*.fits.gz"))
    image = read_image(paths[0], beam="5.4arcsec")
    options = InjectionOptions(number=25, lowest_snr=12.0)
    result = injected_completeness(
        Pipeline.from_route("classical"), image, options, repeats=2, edges=(12, 101), workers=1
    )
    assert result.found.mean() > 0.9
