"""Which rows of overlapping fields are the same, and which of them is kept."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from cyclades.pipeline.survey.depth import (
    Sources,
    flux_correction,
    snr_corrections,
    source_counts,
    survey_area,
)
from cyclades.pipeline.survey.facts import SNR_EDGES
from cyclades.pipeline.survey.merging import NEEDED, join, overlapping
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.pipeline.survey.quality import deviations, expected_sources, looks_of
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import sky_jacobian
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background
from tests.survey_fields import PIXEL, field_wcs

SIZE = 128
STEP = SIZE * PIXEL / 3600
DEC = 30.0


def grid(east, rms, limit=5.0):
    """A field whose centre lies some field widths east of (150, 30)."""
    wcs = field_wcs(150.0 + east * STEP / np.cos(np.radians(DEC)), DEC, SIZE)
    image = SkyImage(np.zeros((SIZE, SIZE), np.float32), wcs=wcs)
    noise = np.full((SIZE, SIZE), rms, np.float32)
    return NoiseGrid.of(image, Background(noise * 0, noise), limit)


def rows(*components):
    """Columns of components given as (field, source, east in field widths, rms, flags)."""
    columns = {name: np.zeros(len(components)) for name in NEEDED}
    owner = np.array([c[0] for c in components])
    columns["source_id"] = np.array([c[1] for c in components])
    columns["island_id"] = columns["source_id"]
    columns["component_id"] = np.arange(len(components))
    columns["ra"] = 150.0 + np.array([c[2] for c in components]) * STEP / np.cos(np.radians(DEC))
    columns["dec"] = np.full(len(components), DEC)
    columns["local_rms"] = np.array([c[3] for c in components])
    columns["flags"] = np.array([c[4] if len(c) > 4 else 0 for c in components])
    columns["psf_major"] = columns["major"] = np.full(len(components), 10.0)
    return columns, owner


def kept(grids, *components):
    columns, owner = rows(*components)
    return join(columns, owner, grids, overlapping(grids))


def test_of_a_pair_that_of_the_lower_noise_is_kept():
    grids = [grid(0, 2.0), grid(0.5, 1.0)]
    made = kept(grids, (0, 1, 0.25, 2.0), (1, 1, 0.25, 1.0), (1, 2, 0.4, 1.0))
    assert made.kept.tolist() == [False, True, True]
    assert made.n_fields.tolist() == [2, 2, 1]
    assert made.n_covering.tolist() == [2, 2, 2]
    # 1.8 arcsec is a fifth of the beam, 9 arcsec nearly all of it
    shift = 1 / SIZE / PIXEL
    made = kept(grids, (0, 1, 0.25, 2.0), (1, 1, 0.25 + 1.8 * shift, 1.0))
    assert made.kept.tolist() == [False, True]
    made = kept(grids, (0, 1, 0.25, 2.0), (1, 1, 0.25 + 9 * shift, 1.0))
    assert made.kept.all()


def test_a_row_at_the_edge_gives_way_to_a_noisier_one():
    grids = [grid(0, 2.0), grid(0.5, 1.0)]
    made = kept(grids, (0, 1, 0.25, 2.0), (1, 1, 0.25, 1.0, int(Flag.EDGE)))
    assert made.kept.tolist() == [True, False]


def test_equal_fields_are_chosen_by_their_order():
    grids = [grid(0, 1.0), grid(0.5, 1.0)]
    made = kept(grids, (0, 1, 0.25, 1.0), (1, 1, 0.25, 1.0))
    assert made.kept.tolist() == [True, False]


def test_a_source_that_fields_group_differently_stands_once():
    """One field sees a double as one source, the other as two."""
    grids = [grid(0, 1.0), grid(0.5, 2.0)]
    double = [(0, 1, 0.2, 1.0), (0, 1, 0.3, 1.0), (1, 1, 0.2, 2.0), (1, 2, 0.3, 2.0)]
    assert kept(grids, *double).kept.tolist() == [True, True, False, False]
    grids = [grid(0, 2.0), grid(0.5, 1.0)]
    double = [(f, s, x, {1.0: 2.0, 2.0: 1.0}[rms]) for f, s, x, rms in double]
    assert kept(grids, *double).kept.tolist() == [False, False, True, True]


def test_a_source_that_leaves_the_quieter_field_is_kept_whole():
    """Its second component lies outside the quieter field, which therefore saw half of it."""
    grids = [grid(0, 2.0), grid(0.5, 1.0)]
    made = kept(grids, (0, 1, -0.1, 2.0), (0, 1, 0.1, 2.0), (1, 1, 0.1, 1.0))
    assert made.kept.tolist() == [True, True, False]


def test_the_far_end_of_a_chain_is_not_lost():
    """Three fields, each of which sees two of four components of a long source."""
    grids = [grid(0, 1.0), grid(0.8, 1.0), grid(1.6, 1.0)]
    chain = [
        (0, 1, 0.0, 1.0), (0, 1, 0.4, 1.0), (1, 1, 0.4, 1.0), (1, 1, 1.2, 1.0),
        (2, 1, 1.2, 1.0), (2, 1, 1.6, 1.0),
    ]  # fmt: skip
    made = kept(grids, *chain)
    seen = {round(float(e), 3) for e in np.array([c[2] for c in chain])[made.kept]}
    assert {0.0, 0.4} <= seen or {0.4, 1.2} <= seen
    # nothing twice
    places = [c[2] for c, k in zip(chain, made.kept, strict=True) if k]
    assert len(places) == len(set(places))


def test_faint_and_bright_looks_at_one_position_are_one():
    """A source that varied by a factor of ten is one source."""
    grids = [grid(0, 1.0), grid(0.5, 1.0)]
    columns, owner = rows((0, 1, 0.25, 1.0), (1, 1, 0.25, 1.0))
    columns["peak_flux"] = columns["total_flux"] = np.array([100.0, 10.0])
    assert join(columns, owner, grids, overlapping(grids)).kept.sum() == 1


def test_no_rows_and_fields_apart():
    grids = [grid(0, 1.0), grid(3, 1.0)]
    assert overlapping(grids) == [[], []]
    columns, owner = rows()
    assert len(join(columns, owner.astype(int), grids, overlapping(grids)).kept) == 0


def test_area_counts_the_deepest_look_once():
    one = STEP**2
    rms, limits = survey_area([grid(0, 2.0), grid(0.5, 1.0)], [[1], [0]])
    assert rms.total == pytest.approx(1.5 * one, rel=0.01)
    assert rms.within(1.0) == pytest.approx(one, rel=0.01)
    assert limits.within(5.0) == pytest.approx(one, rel=0.01)
    rms, _ = survey_area([grid(0, 1.0), grid(0.5, 1.0)], [[1], [0]])
    assert rms.total == pytest.approx(1.5 * one, rel=0.01)
    # a field with a higher threshold is the shallower one, whatever its noise
    _, limits = survey_area([grid(0, 1.0, limit=15.0), grid(0.5, 2.0)], [[1], [0]])
    assert limits.within(10.0) == pytest.approx(one, rel=0.01)


def test_grid_of_noise_on_the_sky(tmp_path):
    made = grid(0, 3.0)
    made.write(tmp_path / "x.noise.npz")
    again = NoiseGrid.read(tmp_path / "x.noise.npz")
    ra = 150.0 + np.array([0.0, 0.49, 0.51, -0.51]) * STEP / np.cos(np.radians(DEC))
    for each in (made, again):
        found = each.at(ra, np.full(4, DEC))
        np.testing.assert_array_equal(np.isfinite(found), [True, True, False, False])
        np.testing.assert_allclose(found[:2], 3.0)
    assert made.at([330.0], [-30.0]).tolist() != [3.0]  # the other side of the sky


@pytest.mark.parametrize("turned", [False, True])
def test_grid_of_a_galactic_image(tmp_path, turned):
    """Positions and areas beside those of astropy's own transformations."""
    wcs = WCS(naxis=2)
    axes, centre = ["GLON-TAN", "GLAT-TAN"], [10.5, 60.0]
    wcs.wcs.ctype, wcs.wcs.crval = (axes[::-1], centre[::-1]) if turned else (axes, centre)
    wcs.wcs.crpix, wcs.wcs.cdelt = [64.5, 64.5], [-0.01, 0.01]
    wcs.wcs.pc = [[0.8, -0.6], [0.6, 0.8]]
    image = SkyImage(np.zeros((SIZE, SIZE), np.float32), wcs=wcs)
    noise = np.add.outer(np.arange(SIZE), 1000.0 * np.arange(SIZE)).astype(np.float32)
    made = NoiseGrid.of(image, Background(noise * 0, noise), 5.0)
    made.write(tmp_path / "x.noise.npz")
    cells = NoiseGrid.read(tmp_path / "x.noise.npz").cells
    y, x = (0.5 + 2 * n.ravel() for n in np.mgrid[:64, :64])
    sky = wcs.pixel_to_world(x, y).icrs
    apart = sky.separation(SkyCoord(cells.ra, cells.dec, unit="deg"))
    assert apart.arcsec.max() < 1e-3
    exact = 4 * abs(np.linalg.det(sky_jacobian(wcs, x, y)))
    np.testing.assert_allclose(cells.area, exact, rtol=1e-4)
    np.testing.assert_array_equal(made.at(cells.ra, cells.dec), cells.rms)


def test_expectation_follows_depth():
    """A field twice as deep holds what the counts say: 2^1.5 times as many for N(>S) ~ S^-1.5."""
    rng = np.random.default_rng(4)
    grids = [grid(3.0 * i, rms) for i, rms in enumerate([1.0, 2.0, 2.0, 2.0, 2.0])]
    _, limits = survey_area(grids, [[]] * 5)
    seen = []
    for each in grids:
        number = rng.poisson(400)
        peak = 5.0 * rng.uniform(0, 1, number) ** (-1 / 1.5)
        seen.append(peak[peak > each.limit * each.rms.max()])
    expected = expected_sources(np.concatenate(seen), limits, grids)
    found = np.array([len(one) for one in seen])
    assert (abs(found - expected) < 4 * np.sqrt(found)).all()
    assert expected[0] / expected[1] == pytest.approx(2**1.5, rel=0.25)


def test_what_stands_out():
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02, 0.98, 3.0])
    assert np.flatnonzero(abs(deviations(values, 0.01)) > 5).tolist() == [8]
    assert not deviations(values[-5:], 0.01).any()  # too few to tell
    assert not deviations(np.full(20, np.nan), 0.01).any()


def facts_of(completeness, reliability, number=1000):
    share, right = np.full(13, completeness), np.full(13, reliability)
    return {
        "injected": [number] * 13,
        "found": np.rint(share * number).astype(int).tolist(),
        "positive": [number] * 13,
        "negative": np.rint((1 - right) * number).astype(int).tolist(),
    }


def test_corrections_are_pooled_and_need_enough():
    assert len(SNR_EDGES) == 14
    table = snr_corrections([facts_of(0.8, 0.9), facts_of(0.6, 0.9)])
    np.testing.assert_allclose(table["completeness"], 0.7)
    np.testing.assert_allclose(table["reliability"], 0.9)
    assert np.isnan(snr_corrections([facts_of(0.8, 0.9, number=10)])["completeness"]).all()
    assert snr_corrections([{}]) is None
    edges = np.array([1.0, 10.0, 100.0])
    made = flux_correction(np.array([6.0]), np.array([5.0]), edges, table)
    np.testing.assert_allclose(made["correction"], [0.9 / 0.7, 1.0])
    assert made["correction_err"][0] > 0


def test_counts_recover_the_sky_through_depth_and_completeness():
    """Half of the area is too shallow for half of the fluxes, and a fifth is missed everywhere."""
    rng = np.random.default_rng(7)
    grids = [grid(0.0, 1e-4), grid(3.0, 1e-3)]
    _, limits = survey_area(grids, [[], []])
    flux = 6e-4 * rng.uniform(0, 1, 40000) ** (-1 / 1.5)
    place = rng.integers(0, 2, len(flux))
    seen = (flux > np.array([5e-4, 5e-3])[place]) & (rng.random(len(flux)) < 0.8)
    sources = Sources(flux[seen], flux[seen], np.full(int(seen.sum()), 6.0))
    corrections = snr_corrections([facts_of(0.8, 1.0, number=100000)])
    table = source_counts(sources, limits, corrections)
    density = len(flux) / limits.total * np.degrees(1.0) ** 2
    # integral of n S^-2.5 over a bin, as the Euclidean normalisation sees it
    low, high = table["flux_low"], table["flux_high"]
    number = density * 6e-4**1.5 * (np.maximum(low, 6e-4) ** -1.5 - high**-1.5)
    expected = table["flux"] ** 2.5 / (high - low) * number
    many = (table["number"] > 50) & (low >= 6e-4)
    assert many.sum() >= 8
    error = np.maximum(table["counts_high"] - table["counts"], 1e-12)
    assert (abs(table["counts"] - expected)[many] < 4 * error[many]).all()


def test_counts_are_in_janskys_whatever_the_unit_of_the_images():
    """The same sources and noise in mJy give the same counts; what is no flux density has none."""
    made = []
    for scale, unit in ((1.0, "Jy / beam"), (1e3, "mJy / beam"), (1.0, "K"), (1.0, None)):
        _, limits = survey_area([grid(0.0, scale * 1e-4)], [[]])
        flux = scale * np.geomspace(6e-4, 1e-1, 50)
        sources = Sources(flux, flux, np.full(50, 6.0))
        made.append(source_counts(sources, limits, unit=unit))
    for name in ("flux", "counts", "counts_low", "counts_high"):
        np.testing.assert_allclose(made[1][name], made[0][name], rtol=1e-6)
        assert str(made[1][name].unit) == str(made[0][name].unit)
    assert str(made[0]["flux"].unit) == "Jy"
    assert made[2]["flux"].unit is None
    assert made[3]["counts"].unit is None


def test_a_component_of_three_fields_is_shared_once_by_each():
    grids = [grid(0, 2.0), grid(0.1, 1.0), grid(0.2, 3.0)]
    made = kept(grids, (0, 1, 0.1, 2.0), (1, 1, 0.1, 1.0), (2, 1, 0.1, 3.0))
    made.columns.update({name: np.ones(3) for name in ("snr", "peak_flux")})
    assert looks_of(made, 3).shared.tolist() == [1, 1, 1]
