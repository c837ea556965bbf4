"""Completeness and reliability of a field that is worked through in windows."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.comparison.any_catalogue import from_catalogue
from cyclades.pipeline.comparison.match import match
from cyclades.pipeline.comparison.without_truth import bright_surroundings, near_bright
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.simulation.injection import InjectionOptions, usable_pixels
from cyclades.pipeline.survey.journal import read_entries
from cyclades.pipeline.survey.run import run_survey
from cyclades.pipeline.survey.windowed_injection import inject_in_windows
from cyclades.pipeline.survey.work import Work
from cyclades.stages.core.altered import NegativeSource
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.headers import product_header
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.source import MemorySource
from cyclades.stages.core.tiling import Box
from tests.windowed import differences, seamed_sky

NUMBER = 150


def route(window, threshold=4.5):
    return RouteConfig.from_mapping(
        {"background": "grid", "detection": {"name": "islands", "seed_threshold": threshold},
         "image": {"window": window, "blank_zeros": False}}
    )  # fmt: skip


@pytest.fixture(scope="module")
def context():
    with Context(workers=1, seed=3) as made:
        yield made


@pytest.fixture(scope="module")
def windowed(context):
    """A run in windows of 128 pixels."""
    return Pipeline(route(128)).run(seamed_sky(), context=context)


@pytest.fixture(scope="module")
def injected(windowed):
    options = InjectionOptions(number=NUMBER, highest_snr=12.0, separation=4.0)
    return inject_in_windows(windowed.windows.survey, options, np.random.default_rng(5))


def test_injected_sources_keep_their_distances(windowed, injected):
    truth = injected.truth
    x, y = injected.source.gaussians[:, 1:3].T
    assert len(truth) == len(x) >= 100
    image, survey = seamed_sky(), windowed.windows.survey
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(x))
    # positions are drawn as pixels, and moved within these
    assert apart.min() > 4.0 * image.psf.size - np.sqrt(2.0)
    usable = usable_pixels(image, survey.maps.window(image), image.psf, InjectionOptions())
    assert usable[np.rint(y).astype(int), np.rint(x).astype(int)].all()
    assert 3.0 * (1 - 1e-3) <= truth["snr"].min() < truth["snr"].max() <= 12.0 * (1 + 1e-3)


def test_injected_positions_are_spread_evenly(windowed):
    """Twelve draws together: as many in every part of the image as it has pixels for them."""
    image, survey = seamed_sky(), windowed.windows.survey
    options = InjectionOptions(number=20, separation=1.0)
    usable = usable_pixels(image, survey.maps.window(image), image.psf, options)
    found = np.zeros((4, 4))
    for seed in range(12):
        sources = inject_in_windows(survey, options, np.random.default_rng(seed)).source
        x, y = sources.gaussians[:, 1:3].T
        found += np.histogram2d(y, x, bins=4, range=((0, 400), (0, 368)))[0]
    room = usable.reshape(4, 100, 4, 92).sum((1, 3))
    expected = found.sum() * room / room.sum()
    assert found.sum() == 240
    assert (np.abs(found - expected) <= 4.0 * np.sqrt(expected) + 1.0).all()


def test_windows_find_the_injected_sources_that_the_whole_finds(context, injected):
    found = Pipeline(route(128)).run(injected.source, context=context).catalogue
    whole = Pipeline(route(0)).run(injected.source.read(), context=context).catalogue
    assert differences(found, whole) == {}
    hits, right = (match(injected.truth, from_catalogue(one)) for one in (found, whole))
    np.testing.assert_array_equal(hits.first_rows, right.first_rows)
    bright = injected.truth["snr"] > 7.0
    # 4.5 is asked for: noise of 1 leaves 0.6 % of these below it
    assert np.isin(np.flatnonzero(bright), hits.first_rows).mean() > 0.9
    ratio = injected.truth["total_flux"][hits.first_rows]
    ratio = from_catalogue(found)["total_flux"][hits.second_rows] / ratio
    error = 1.25 * ratio.std() / np.sqrt(len(ratio))
    assert abs(np.median(ratio[injected.truth["snr"][hits.first_rows] > 7.0]) - 1) < 4 * error


def test_a_field_gives_the_same_corrections_whole_and_in_windows(tmp_path):
    image = seamed_sky()
    path = tmp_path / "seams.fits"
    fits.PrimaryHDU(image.data, product_header(image)).writeto(path)
    facts, tables = [], []
    for window in (0, 128):
        folder = tmp_path / str(window)
        work = Work.plan(route(window, 3.7), folder, injected=NUMBER, inverted=True)
        run_survey(work, [path])
        facts.append(read_entries(folder)[0].facts)
        tables.append(Table.read(folder / "survey.corrections.ecsv"))
    assert tables[0].colnames == tables[1].colnames
    for name in ("positive", "negative"):
        assert facts[0][name] == facts[1][name]
        assert sum(facts[0][name]) > 0
    number, hits = (np.array([one[name] for one in facts]) for name in ("injected", "found"))
    assert (number.sum(1) > 40).all()
    # bins together, so that each has enough: below, around and well above the threshold
    for bins in (slice(0, 2), slice(2, 5), slice(5, None)):
        n, k = number[:, bins].sum(1), hits[:, bins].sum(1)
        pooled = (k.sum() + 1) / (n.sum() + 2)
        error = np.sqrt(pooled * (1 - pooled) * (1 / n).sum())
        assert abs(np.diff(k / n)[0]) <= 4.0 * error


def test_the_negative_is_read_by_windows():
    image = seamed_sky()
    source = NegativeSource(MemorySource(image))
    box = Box(100, 180, 150, 260)
    np.testing.assert_array_equal(source.window(box).data, -image.data[100:180, 150:260])
    assert source.window(box).origin == (100, 150)
    assert (source.name, source.shape, source.psf) == (image.name, image.shape, image.psf)


def test_surroundings_of_bright_islands_are_the_same_by_geometry():
    rng = np.random.default_rng(11)
    image = SkyImage(np.zeros((120, 150), np.float32))
    low = rng.integers(0, 100, (2, 12))
    high = low + rng.integers(0, 20, (2, 12))
    islands = {"x_min": low[0], "x_max": high[0], "y_min": low[1], "y_max": high[1]}
    islands["snr"] = rng.uniform(10, 90, 12)
    zone = bright_surroundings(image, islands, 50.0, 7.3)
    y, x = np.divmod(np.arange(image.data.size), 150)
    assert 0.1 < zone.mean() < 0.9
    np.testing.assert_array_equal(near_bright(x, y, islands, 50.0, 7.3), zone.ravel())


def test_no_room_is_said(windowed):
    options = InjectionOptions(number=5, extended=1.0, extended_size=(30.0, 40.0))
    with pytest.raises(InputError, match="no room"):
        inject_in_windows(windowed.windows.survey, options, np.random.default_rng(1))
