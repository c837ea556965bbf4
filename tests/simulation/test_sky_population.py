"""Skies have the counts, kinds, clustering and spectra that were asked for."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial import cKDTree
from sky_cases import geometry

from cyclades.pipeline.simulation.counts import FREQUENCY, HopkinsCounts, PowerLawCounts
from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.simulation.sky import SkyOptions, draw_sky
from cyclades.stages.core.errors import CycladesError

RMS = 5e-5
PLAIN = {"clustered": 0.0, "blends": 0.0}
BRIGHT = {"counts": PowerLawCounts(slope=1.6, density=3000.0), "half_share_flux": 0.0}


def draw(seed=1, size=2048, rms=RMS, field=None, **options):
    return draw_sky(
        SkyOptions(**options), field or geometry(size), rms, np.random.default_rng(seed)
    )


def centres(sky):
    """Flux, and flux-weighted place, of every object."""
    flux = np.bincount(sky.owner, sky.flux)
    return flux, *(np.bincount(sky.owner, sky.flux * v) / flux for v in (sky.x, sky.y))


def inside(x, y, size=2048):
    return (x > -0.5) & (x < size - 0.5) & (y > -0.5) & (y < size - 0.5)


@pytest.mark.parametrize("clustered", [0.0, 0.3])
def test_counts_in_the_field_are_those_asked_for(clustered):
    counts = HopkinsCounts()
    field = geometry(2048)
    edges = np.geomspace(0.3 * RMS * 1.001, 5e-3, 16)
    observed = np.zeros(15)
    for seed in range(4):
        sky = draw(seed, **{**PLAIN, "clustered": clustered})
        flux, x, y = centres(sky)
        observed += np.histogram(flux[inside(x, y)], edges)[0]
    expected = 4 * field.solid_angle * np.array([counts.number(a, b) for a, b in pairwise(edges)])
    assert expected.min() > 10
    chi2 = np.sum((observed - expected) ** 2 / expected)
    # whole clusters inside or outside add little to the scatter of each bin
    assert chi2 < 15 + 4 * np.sqrt(30) + (10 if clustered else 0)
    if not clustered:
        assert chi2 > 15 - 4 * np.sqrt(30)


def test_shares_of_the_kinds():
    sky = draw(size=1024, galaxies=0.2, discs=0.1, doubles=0.1, bent=0.1, diffuse=0.1, **BRIGHT)
    classes = np.bincount(sky.object_class, minlength=len(CLASSES))
    n = classes.sum()
    for name, share in {
        "compact": 0.4, "extended": 0.3, "multi-component": 0.2, "diffuse": 0.1, "spurious": 0.0
    }.items():  # fmt: skip
        error = np.sqrt(n * share * (1 - share))
        assert abs(classes[CLASSES.index(name)] - n * share) <= 4 * error, name


def test_faint_objects_are_points():
    sky = draw(half_share_flux=5e-4)
    flux = np.bincount(sky.owner, sky.flux)
    extended = sky.object_class > 0
    faint, bright = flux < 1e-4, flux > 2e-3
    assert extended[faint].mean() < 0.15 < 0.3 < extended[bright].mean()


def test_elements_belong_to_objects_in_order():
    sky = draw(size=512)
    assert np.all(np.diff(sky.owner) >= 0)
    np.testing.assert_array_equal(np.unique(sky.owner), np.arange(len(sky.object_class)))
    assert np.all(sky.flux > 0)
    assert np.all(sky.sxx * sky.syy - sky.sxy**2 >= -1e-6 * (1 + sky.sxx * sky.syy))


def test_clusters_give_close_neighbours():
    radius = 2.0 * geometry(64).psf.size

    def pairs(**options):
        _, x, y = centres(draw(size=1024, **{**PLAIN, **options}))
        return len(cKDTree(np.stack([x, y], -1)).query_pairs(radius)) / len(x) ** 2

    scattered = pairs()
    number = scattered * len(draw(size=1024, **PLAIN).object_class) ** 2
    assert pairs(clustered=0.6, cluster_radius=5.0) > scattered * (1 + 6 / np.sqrt(number))
    assert pairs(blends=0.3, blend_separation=(0.6, 1.5)) > scattered * (1 + 6 / np.sqrt(number))


def test_blends_have_similar_fluxes():
    flux, x, y = centres(
        draw(blends=0.2, blend_separation=(0.6, 1.0), clustered=0.0, doubles=0, bent=0, diffuse=0)
    )
    pairs = cKDTree(np.stack([x, y], -1)).query_pairs(geometry(64).psf.size, output_type="ndarray")
    ratio = np.log(flux[pairs[:, 0]] / flux[pairs[:, 1]])
    assert len(pairs) > 300
    assert np.median(np.abs(ratio)) < 0.7


def test_spectral_indices():
    options = {"galaxies": 0.0, "discs": 0.0, "doubles": 0.0, "bent": 0.0, "diffuse": 0.0}
    sky = draw(spectral_index=-0.8, spectral_scatter=0.2, **options)
    n = len(sky)
    assert abs(sky.spectral_index.mean() + 0.8) < 4 * 0.2 / np.sqrt(n)
    assert abs(sky.spectral_index.std() - 0.2) < 4 * 0.2 / np.sqrt(2 * n)
    higher = sky.at_frequency(2 * FREQUENCY)
    np.testing.assert_allclose(higher.flux / sky.flux, 2.0**sky.spectral_index)


def test_other_frequencies_see_the_same_counts_fainter():
    field = geometry(2048, frequency=5e9)
    rms = RMS * (5e9 / FREQUENCY) ** -0.7
    there, here = draw(field=field, rms=rms, spectral_scatter=0.0), draw(spectral_scatter=0.0)
    assert there.frequency == 5e9
    assert abs(len(there.object_class) - len(here.object_class)) == 0
    np.testing.assert_allclose(
        np.bincount(there.owner, there.flux)[there.object_class == 0],
        np.bincount(here.owner, here.flux)[here.object_class == 0] * (5e9 / FREQUENCY) ** -0.7,
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "options", [{"galaxies": 0.9}, {"disc_size": (3.0, 1.0)}, {"blend_separation": (0.0, 1.0)}]
)
def test_senseless_options_are_refused(options):
    with pytest.raises((ValueError, CycladesError), match=r"exceed 1|two positive numbers"):
        SkyOptions(**options)
