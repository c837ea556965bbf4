"""Radio Galaxy Zoo labels: reading, extents, what is judged, and shares by consensus."""

import numpy as np
import pytest

from cyclades.pipeline.comparison.labels import (
    JUDGED_RADIUS,
    Label,
    bootstrap_share,
    component_recall,
    group_rows,
    labelled_shares,
    name_position,
    read_labels,
    tangent_offsets,
)
from cyclades.stages.core.errors import InputError

ARCSEC = 1.0 / 3600.0
RA, DEC = 150.0, 40.0
HEADER = "field,first_id,component_ras,component_decs,ang_extent_arcsec,consensus_level\n"


def at(east, north):
    """Position at offsets in arcsec from the target."""
    return RA + np.asarray(east) * ARCSEC / np.cos(np.radians(DEC)), DEC + np.asarray(
        north
    ) * ARCSEC


def label(east=(0.0,), north=(0.0,), extent=40.0, consensus=1.0, field="a.fits"):
    ra, dec = at(np.array(east), np.array(north))
    return Label(field, "J100000.0+400000", ra, dec, extent, consensus, RA, DEC)


def test_a_table_of_labels_is_read(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        HEADER + "a.fits.gz,FIRSTJ100000.0+400000,150.0;150.01,40.0;40.001,30.5,0.75\n"
        "b.fits,FIRSTJ235959.5-003000,359.99,-0.5,12,1.0\n"
    )
    first, second = read_labels(path)
    assert first.field == "a.fits"
    assert (first.extent, first.consensus) == (30.5, 0.75)
    np.testing.assert_allclose(first.ra, [150.0, 150.01])
    assert (first.target_ra, first.target_dec) == (150.0, 40.0)
    assert second.target_dec == -0.5
    assert second.target_ra == pytest.approx(359.9979166667)


def test_a_wrong_table_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("field,ra\na,1\n")
    with pytest.raises(InputError, match="first_id"):
        read_labels(path)
    with pytest.raises(InputError, match="no file"):
        read_labels(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="holds no position"):
        name_position("3C 405")


def test_tangent_offsets_are_those_of_astropy():
    from astropy.coordinates import SkyCoord, SkyOffsetFrame

    rng = np.random.default_rng(3)
    ra, dec = RA + rng.uniform(-0.2, 0.2, 20), DEC + rng.uniform(-0.2, 0.2, 20)
    x, y = tangent_offsets(ra, dec, RA, DEC)
    frame = SkyOffsetFrame(origin=SkyCoord(RA, DEC, unit="deg"))
    there = SkyCoord(ra, dec, unit="deg").transform_to(frame)
    np.testing.assert_allclose(x, there.lon.arcsec, atol=0.01)
    np.testing.assert_allclose(y, there.lat.arcsec, atol=0.01)
    np.testing.assert_allclose(tangent_offsets(359.999, 0.0, 0.001, 0.0)[0], -7.2, atol=1e-6)


def test_the_extent_is_half_the_label_and_two_beams_around_its_middle():
    source = label(east=(-20.0, 20.0), north=(0.0, 0.0))
    inside = source.inside(*at([0, 30.0, 31.0, 0.0], [0, 0, 0, 30.7]), beam=5.4)
    assert inside.tolist() == [True, True, False, True]
    assert source.inside(*at([29.9, 30.1], [0, 0]), beam=5.0).tolist() == [True, False]


def test_positions_outside_the_shown_area_are_unknown():
    rows = group_rows(
        [label(extent=20.0)],
        *at([0.0, 50.0, JUDGED_RADIUS - 1, JUDGED_RADIUS + 1], np.zeros(4)),
        beam=5.0,
    )
    assert rows.tolist() == [0, -1, -1, -2]


def test_of_overlapping_extents_the_nearest_label_gets_the_position():
    two = [label(east=(0.0,), extent=60.0), label(east=(40.0,), extent=60.0)]
    assert group_rows(two, *at([15.0, 25.0], [0.0, 0.0]), beam=5.0).tolist() == [0, 1]


def test_recall_counts_components_with_a_detection_near():
    source = label(east=(-20.0, 0.0, 20.0), north=(0.0, 0.0, 0.0))
    assert component_recall(source, *at([-20.0, 1.0, 60.0], np.zeros(3)), radius=5.0) == 2
    assert component_recall(source, np.zeros(0), np.zeros(0), radius=5.0) == 0


def test_shares_use_the_consensus_as_weight_and_as_cut():
    labels = [label(consensus=c, field=f) for c, f in ((1.0, "a"), (0.6, "a"), (0.9, "b"))]
    shares = labelled_shares(labels, [1, 0, 0])
    assert shares.plain.value == pytest.approx(1 / 3)
    assert shares.weighted.value == pytest.approx(1 / 2.5)
    assert shares.cut.value == pytest.approx(1 / 2)
    assert (shares.plain.number, shares.cut.number) == (3, 2)
    several = labelled_shares(labels, [2, 1, 0], [2, 3, 5])
    assert several.plain.value == pytest.approx(0.3)


def test_the_bootstrap_draws_whole_fields():
    """Labels that agree within a field are worth one each field: errors grow by sqrt(10)."""
    rng = np.random.default_rng(4)
    field_hits = rng.random(100) < 0.5
    hits = np.repeat(field_hits, 10)
    names = np.repeat(np.arange(100), 10).astype(str)
    together = bootstrap_share(hits, np.ones(1000), names)
    apart = bootstrap_share(hits, np.ones(1000), np.arange(1000).astype(str))
    assert together.value == apart.value == hits.mean()
    ratio = (together.high - together.low) / (apart.high - apart.low)
    # 400 resamples give widths to about 5 % each
    assert ratio == pytest.approx(np.sqrt(10), rel=0.3)


def test_a_share_of_nothing_is_nan():
    assert np.isnan(bootstrap_share([], [], []).value)


def test_the_labels_of_the_first_fields(shared_data):
    path = shared_data / "first-rgz-fields-dev" / "labels.csv"
    labels = read_labels(path)
    assert len(labels) == 207
    assert len({entry.field for entry in labels}) == 155
    # every labelled source lies near the source that the volunteers were shown
    distance = [
        np.hypot(*tangent_offsets(e.ra, e.dec, e.target_ra, e.target_dec)).min() for e in labels
    ]
    assert np.max(distance) < JUDGED_RADIUS + 15
