"""The catalogue of components: conventions, errors, links, flags, units."""

import astropy.units as u
import numpy as np
import pytest
import radio_beam
from astropy.wcs import WCS
from factories import (
    make_background,
    make_components,
    make_context,
    make_detections,
    permute_components,
    square,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sky_grids import CENTRE, GRIDS, SIZE, make_wcs, moments, render

from cyclades.stages.cataloguing.components import ComponentsCatalogue
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Segments
from cyclades.stages.core.schema import TABLES, columns

BEAM = radio_beam.Beam(12 * u.arcsec, 8 * u.arcsec, 20 * u.deg)


def make_image(name="sin", unit="Jy/beam", beam=BEAM, data=None, **changes):
    wcs = make_wcs(name) if name else None
    psf = None
    if beam is not None:
        psf = (
            PointSpread.from_beam(beam, wcs)
            if wcs is not None
            else PointSpread(np.array([[6.0, 1.0], [1.0, 4.0]]))
        )
    data = np.zeros((SIZE, SIZE), np.float32) if data is None else data
    unit = None if unit is None else u.Unit(unit)
    values = {"unit": unit, "wcs": wcs, "psf": psf, "frequency": 1.4e9, "name": "field"}
    return SkyImage(data, **(values | changes))


def build(image, detections, components, *, background=None, **parameters):
    background = make_background(image) if background is None else background
    return ComponentsCatalogue(**parameters).build(
        image, background, detections, components, context=make_context()
    )


def build_at(image, rows, **columns):
    """Catalogue of components that are islands of their own."""
    rows = np.asarray(rows, float).reshape(-1, 6)
    detections = make_detections(image.shape, [square(x, y) for x, y in rows[:, 1:3]])
    parameters = columns.pop("parameters", {})
    return build(image, detections, make_components(rows, **columns), **parameters)


def angle_difference(a, b):
    return (a - b + 90.0) % 180.0 - 90.0


POINT = [1.0, 60.0, 55.0, 7.0, 1.0, 9.0]


@pytest.mark.parametrize("name", GRIDS)
def test_same_sky_same_row_on_every_grid(name):
    wcs = make_wcs(name)
    source = CENTRE.directional_offset_by(40 * u.deg, 20 * u.arcsec)
    major, minor, angle = 30.0, 18.0, 35.0
    data = render(wcs, source, major / 3600, minor / 3600, angle)
    total, x, y, covariance = moments(data)
    # the beam is on the sky in ICRS, so that every grid has its own BPA
    turn = 0.0
    if name.startswith("galactic"):
        pole = source.galactic
        up = pole.directional_offset_by(0 * u.deg, 1 * u.arcsec).icrs
        turn = source.position_angle(up).deg
    beam = radio_beam.Beam(12 * u.arcsec, 8 * u.arcsec, (20.0 - turn) * u.deg)
    image = make_image(name, beam=beam, data=data.astype(np.float32))
    area = image.psf.areas(x, y)[0]
    row = [1.0, x, y, covariance[0, 0], covariance[0, 1], covariance[1, 1]]
    # x and y errors that are 0.05 arcsec, uncorrelated, on the sky of any grid
    pixels = np.linalg.inv(_jacobian(wcs, x, y))
    errors = np.zeros((6, 6))
    errors[1:3, 1:3] = pixels @ np.diag([0.05**2, 0.08**2]) @ pixels.T
    detections = make_detections(
        image.shape, [np.argwhere(data > 0.0005)], summit=np.array([[x, y]])
    )
    components = make_components([row], total=np.array([total / area]), covariance=errors)
    catalogue = build(image, detections, components)

    for table in (catalogue.components, catalogue.sources):
        found = table[0]
        ra_offset = (found["ra"] - source.ra).to_value(u.arcsec) * np.cos(source.dec.rad)
        assert abs(ra_offset) < 0.005
        assert abs((found["dec"] - source.dec).to_value(u.arcsec)) < 0.005
        assert found["ra_err"].to_value(u.arcsec) == pytest.approx(0.05, rel=2e-3)
        assert found["dec_err"].to_value(u.arcsec) == pytest.approx(0.08, rel=2e-3)
        assert found["major"].to_value(u.arcsec) == pytest.approx(major, rel=2e-3)
        assert found["minor"].to_value(u.arcsec) == pytest.approx(minor, rel=2e-3)
        assert abs(angle_difference(found["position_angle"].to_value(u.deg), angle)) < 0.1
        flux = major * minor / (12.0 * 8.0)
        assert found["total_flux"].to_value(u.Jy) == pytest.approx(flux, rel=3e-3)
        assert found["island_flux"].to_value(u.Jy) == pytest.approx(flux, rel=3e-3)
        assert found["psf_major"].to_value(u.arcsec) == pytest.approx(12.0, rel=2e-3)
        assert abs(angle_difference(found["psf_pa"].to_value(u.deg), 20.0)) < 0.1
        true = radio_beam.Beam(major * u.arcsec, minor * u.arcsec, angle * u.deg).deconvolve(
            radio_beam.Beam(12 * u.arcsec, 8 * u.arcsec, 20 * u.deg)
        )
        assert found["deconvolved_major"].to_value(u.arcsec) == pytest.approx(
            true.major.to_value(u.arcsec), rel=3e-3
        )
    assert catalogue.components["name"][0].startswith("CYC J17")


def _jacobian(wcs, x, y):
    """Arcsec per pixel in (east, north), by astropy's coordinates alone."""
    at = wcs.pixel_to_world([x, x + 0.5, x - 0.5, x, x], [y, y, y, y + 0.5, y - 0.5]).icrs
    east, north = at[0].spherical_offsets_to(at)
    east, north = east.arcsec, north.arcsec
    return np.array(
        [[east[1] - east[2], east[3] - east[4]], [north[1] - north[2], north[3] - north[4]]]
    )


def test_errors_of_shapes_agree_with_random_draws():
    """The delta method against draws of the elements, on a rotated grid."""
    image = make_image("tan_rotated_oblong")
    mean = np.array([1.0, 60.0, 55.0, 40.0, 6.0, 22.0])
    factor = np.random.default_rng(3).normal(size=(6, 6)) * [
        [0.01],
        [0.02],
        [0.02],
        [0.2],
        [0.1],
        [0.15],
    ]
    covariance = factor @ factor.T
    n = 4000
    draws = np.random.default_rng(4).multivariate_normal(mean, covariance, n)
    detections = make_detections(image.shape, [square(60, 55)] * n)
    drawn = build(image, detections, make_components(draws)).components
    row = build_at(image, [mean], covariance=covariance).components[0]
    for name in (
        "major",
        "minor",
        "position_angle",
        "deconvolved_major",
        "deconvolved_minor",
        "deconvolved_position_angle",
        "dec",
        "x",
        "peak_flux",
    ):
        spread = np.std(np.asarray(drawn[name], float))
        error = float(row[f"{name}_err"].value)
        # a standard deviation of n draws is known to 1 / sqrt(2 n): five of those
        assert spread == pytest.approx(error, rel=5 / np.sqrt(2 * n) + 0.01), name
    spread = np.std(np.asarray(drawn["ra"], float)) * np.cos(row["dec"].to_value(u.rad))
    assert spread == pytest.approx(row["ra_err"].value, rel=5 / np.sqrt(2 * n) + 0.01)


def test_a_source_has_the_moments_and_errors_of_the_sum_of_its_components():
    image = make_image()
    first = np.array([1.0, 60.0, 55.0, 7.0, 1.0, 9.0])
    second = np.array([0.6, 66.0, 58.0, 8.0, -1.0, 7.0])
    totals = np.array([1.2, 0.7])
    detections = make_detections(
        image.shape,
        [np.unique(np.r_[square(60, 55), square(66, 58)], axis=0), square(60, 55), square(66, 58)],
        parent=[-1, 0, 0],
    )

    def catalogue(rows, total):
        return build(
            image,
            detections,
            make_components(
                rows, island=[0, 0], detection=[1, 2], total=total, total_err=np.full(2, 0.03)
            ),
        )

    source = catalogue([first, second], totals).sources[0]
    weight = totals / totals.sum()
    centre = weight @ np.array([first[1:3], second[1:3]])
    assert [source["x"].value, source["y"].value] == pytest.approx(centre)
    assert source["total_flux"].value == pytest.approx(1.9)
    assert source["total_flux_err"].value == pytest.approx(0.03 * np.sqrt(2))
    assert source["peak_flux"].value == pytest.approx(1.0)
    assert (source["n_components"], source["source_code"]) == (2, "M")
    assert source["resolved"]

    # sizes against moments of the two Gaussians drawn on a fine grid
    y, x = np.mgrid[20:100:0.5, 20:110:0.5]
    model = np.zeros_like(x)
    for (_, x0, y0, sxx, sxy, syy), flux in zip((first, second), totals, strict=True):
        c = np.linalg.inv([[sxx, sxy], [sxy, syy]])
        d = np.stack([x - x0, y - y0], -1)
        model += (
            flux * np.sqrt(np.linalg.det(c)) * np.exp(-0.5 * np.einsum("...i,ij,...j", d, c, d))
        )
    d = np.stack([x - centre[0], y - centre[1]], -1)
    moment = np.einsum("ab,abi,abj->ij", model, d, d) / model.sum()
    eigenvalues = np.linalg.eigvalsh(moment)
    sizes = [source["minor"].to_value("arcsec"), source["major"].to_value("arcsec")]
    assert sizes == pytest.approx(np.sqrt(8 * np.log(2) * eigenvalues) * 2.0, rel=1e-4)

    # errors against draws of all parameters
    rng = np.random.default_rng(5)
    n = 1500
    sigma = np.array([0.02, 0.01, 0.012, 0.05, 0.03, 0.06])
    many = make_detections(
        image.shape,
        [p for _ in range(n) for p in (square(63, 56, 6), square(60, 55), square(66, 58))],
        parent=np.tile([-1, 0, 0], n) + np.repeat(np.arange(n) * 3, 3) * np.tile([0, 1, 1], n),
    )
    rows = np.tile([first, second], (n, 1)) + rng.normal(size=(2 * n, 6)) * sigma
    drawn = build(
        image,
        many,
        make_components(
            rows,
            island=np.repeat(np.arange(n) * 3, 2),
            detection=(np.arange(n)[:, None] * 3 + [1, 2]).ravel(),
            total=np.tile(totals, n) + 0.03 * rng.normal(size=2 * n),
        ),
    ).sources
    for name in ("x", "y", "major", "minor", "position_angle", "total_flux", "dec"):
        spread = np.std(np.asarray(drawn[name], float))
        error = float(source[f"{name}_err"].value)
        assert spread == pytest.approx(error, rel=5 / np.sqrt(2 * n) + 0.01), name


@pytest.mark.filterwarnings("error")
def test_components_without_flux_make_a_source_in_their_middle():
    image = make_image()
    rows = np.array([[0.0, 58.0, 55.0, 6.0, 0.0, 6.0], [0.0, 64.0, 55.0, 6.0, 0.0, 6.0]])
    errors = np.tile(np.diag([0.1, 0.01, 0.01, 0.1, 0.1, 0.1]), (2, 1, 1))
    detections = make_detections(image.shape, [square(61, 55)])
    components = make_components(rows, island=[0, 0], detection=[0, 0], covariance=errors)
    source = build(image, detections, components).sources[0]
    assert source["x"].value == pytest.approx(61.0)
    # half of the two errors of 0.1 pixels, added
    assert source["x_err"].value == pytest.approx(0.1 / np.sqrt(2.0), rel=1e-6)
    assert source["total_flux"].value == 0.0


def test_a_source_of_one_component_is_that_component():
    catalogue = build_at(make_image("tan_rotated_oblong"), [POINT, [2.0, 30, 80, 6, 0, 5]])
    c, s = catalogue.components, catalogue.sources
    assert list(c["source_id"]) == list(s["source_id"]) == [1, 2]
    for name in s.colnames:
        np.testing.assert_array_equal(np.asarray(s[name]), np.asarray(c[name]), err_msg=name)


def test_nearly_round_angle_error_saturates():
    row = build_at(make_image(), [[1.0, 60, 55, 8.0, 0.0, 8.0001]]).components[0]
    assert row["position_angle_err"].to_value(u.deg) == 90.0


def test_upper_limits_and_resolved():
    image = make_image()
    beam = image.psf.covariance
    wide = beam * 3.0
    rows = [
        [1, 30, 30, beam[0, 0], beam[0, 1], beam[1, 1]],
        [1, 80, 80, wide[0, 0], wide[0, 1], wide[1, 1]],
    ]
    table = build_at(image, rows, resolved_probability=np.array([0.5, 0.999])).components
    point, resolved = sorted(table, key=lambda r: r["major"])
    assert point["deconvolved_major_is_limit"]
    assert point["deconvolved_minor_is_limit"]
    assert point["deconvolved_major"] > 0 * u.arcsec
    assert np.isnan(point["deconvolved_major_err"])
    assert np.isnan(point["deconvolved_position_angle"])
    assert not point["resolved"]
    assert not resolved["deconvolved_major_is_limit"]
    assert resolved["resolved"]
    assert resolved["deconvolved_major"].to_value(u.arcsec) == pytest.approx(
        np.sqrt(2) * 12.0, rel=1e-3
    )


def test_links_and_island_columns():
    data = np.zeros((SIZE, SIZE), np.float32)
    data[53:58, 58:63] = 0.1
    data[55, 60] = 1.0
    image = make_image(data=data)
    catalogue = build(
        image,
        make_detections(image.shape, [square(60, 55)]),
        make_components([POINT]),
        background=make_background(image, level=0.02, rms=0.05),
    )
    island = catalogue.islands[0]
    area = image.psf.areas(60, 55)[0]
    assert island["island_flux"].value == pytest.approx((24 * 0.08 + 0.98) / area, rel=1e-5)
    assert island["island_flux_err"].value == pytest.approx(0.05 * np.sqrt(25 / area), rel=1e-5)
    assert island["peak_flux"].value == pytest.approx(0.98, rel=1e-5)
    assert (island["x"].value, island["y"].value) == (60, 55)
    assert [island[k].value for k in ("x_min", "x_max", "y_min", "y_max")] == [58, 62, 53, 57]
    assert (island["n_pixels"], island["n_components"]) == (25, 1)
    assert island["chi2"] == 11.0
    component = catalogue.components[0]
    assert component["island_flux"] == island["island_flux"]
    assert component["snr"] == pytest.approx(20.0)
    assert component["detected_by"] == "islands"
    assert component["measured_by"] == "gaussian"
    assert component["frequency"].to_value(u.GHz) == pytest.approx(1.4)


def test_an_island_of_several_sources_has_what_all_of_them_tell():
    """Objects that a detector tells apart share an island, which speaks for none of them alone."""
    image = make_image()
    halves = square(58, 55), square(63, 55)
    detections = make_detections(
        image.shape,
        [np.concatenate(halves), *halves],
        parent=[-1, 0, 0],
        source=np.array([0, 1, 2]),
    )
    flags = np.array([int(Flag.POOR_FIT), int(Flag.SIZE_AT_LIMIT)])
    components = make_components(
        [[2.0, 58.0, 55.0, 7, 1, 9], [1.0, 63.0, 55.0, 7, 1, 9]],
        island=[0, 0],
        detection=[1, 2],
        flags=flags,
        chi2=np.array([20.0, 10.0]),
        n_pixels=np.array([30, 10]),
        residual_mean=np.array([0.004, 0.0]),
        residual_rms=np.array([0.02, 0.04]),
    )
    for order in ([0, 1], [1, 0]):
        catalogue = build(image, detections, permute_components(components, order))
        assert len(catalogue.sources) == 2
        island = catalogue.islands[0]
        assert island["flags"] & flags.sum() == flags.sum()
        assert island["chi2"] == 20.0
        assert island["residual_mean"].value == pytest.approx(0.003)
        rms = np.sqrt((30 * 0.02**2 + 10 * 0.04**2) / 40)
        assert island["residual_rms"].value == pytest.approx(rms)


def test_an_island_without_components_has_a_row():
    image = make_image()
    detections = make_detections(image.shape, [square(60, 55), square(20, 20)])
    catalogue = build(image, detections, make_components([POINT]))
    assert len(catalogue.components) == len(catalogue.sources) == 1
    assert sorted(catalogue.islands["n_components"]) == [0, 1]


def test_flags_of_surroundings():
    data = np.zeros((SIZE, SIZE), np.float32)
    data[:, 70:] = np.nan
    image = make_image(data=data)
    rows = [[1, x, 55, 6, 0, 5] for x in (2, 40, 67)]
    level = np.where(np.arange(SIZE) < 30, -0.006, -0.004) * np.ones((SIZE, 1))
    background = make_background(image)
    background = type(background)(level.astype(np.float32), background.rms)
    detections = make_detections(image.shape, [square(r[1], r[2]) for r in rows])
    table = build(image, detections, make_components(rows), background=background).components
    flags = table["flags"][np.argsort(table["x"].value)]
    assert list(flags & Flag.EDGE > 0) == [True, False, False]
    assert list(flags & Flag.BLANK_NEIGHBOUR > 0) == [False, False, True]
    assert list(flags & Flag.NEGATIVE_BACKGROUND > 0) == [True, False, False]


def test_positions_and_edges_are_those_of_the_full_image():
    whole = make_image()
    window = whole.cutout(whole.box.grow(-20))
    full = build_at(whole, [POINT]).components[0]
    part = build_at(window, [[1.0, 40.0, 35.0, 7, 1, 9]]).components[0]
    for name in ("x", "y", "ra", "dec", "major", "position_angle"):
        assert part[name].value == pytest.approx(full[name].value, rel=1e-7), name
    assert part["name"] == full["name"]
    at_cut = build_at(window, [[1.0, 2.0, 35.0, 7, 1, 9]])
    assert not at_cut.components["flags"][0] & Flag.EDGE


def test_complex_sources():
    image = make_image()
    flags = np.array([int(Flag.POOR_FIT), 0])
    table = build_at(image, [POINT, [2.0, 30, 80, 6, 0, 5]], flags=flags).components
    assert sorted(table["source_code"]) == ["C", "S"]


@pytest.mark.parametrize(
    ("unit", "beam", "flux", "factor"),
    [
        ("Jy/beam", BEAM, "Jy", 1.0),
        ("mJy/beam", BEAM, "mJy", 1.0),
        (None, BEAM, None, 1.0),
        ("K", BEAM, "K beam", 1.0),
        ("Jy/pix", BEAM, "Jy", np.pi * 6 * 4 / (4 * np.log(2))),
        ("Jy/pix", None, "Jy", 1.0),
        ("Jy/beam", None, "Jy pix/beam", 1.0),
        (None, None, None, 1.0),
    ],
)
def test_units_follow_the_image(unit, beam, flux, factor):
    catalogue = build_at(make_image(unit=unit, beam=beam), [POINT])
    for table in catalogue.tables.values():
        assert table["peak_flux"].unit == (None if unit is None else u.Unit(unit))
        assert table["island_flux"].unit == (None if flux is None else u.Unit(flux))
    total = catalogue.components["total_flux"][0]
    assert float(getattr(total, "value", total)) == pytest.approx(factor, rel=1e-4)
    assert np.isnan(catalogue.components["psf_major"][0]) == (beam is None)


def test_without_celestial_coordinates():
    data = np.zeros((SIZE, SIZE), np.float32)
    data[55, 60] = data[20, 80] = 1.0
    catalogue = build_at(make_image("", data=data), [POINT, [2.0, 80.0, 20.0, 6, 0, 5]])
    for name, table in catalogue.tables.items():
        assert not {"ra", "dec", "ra_err", "dec_err"} & set(table.colnames)
        assert np.all(table["flags"] & Flag.NO_SKY_POSITION)
        assert list(table["y"].value) == [20, 55], name
    row = catalogue.components[1]
    assert row["major"].unit == u.pix
    assert row["name"] == "CYC X60.0Y55.0"
    # the major axis leans to +x from +y, which is clockwise
    assert 90 < row["position_angle"].value < 180


def test_empty_catalogue_has_every_column():
    image = make_image()
    catalogue = build(image, make_detections(image.shape, []), make_components(np.zeros((0, 6))))
    filled = build_at(image, [POINT])
    for name in TABLES:
        empty, full = catalogue.tables[name], filled.tables[name]
        assert len(empty) == 0
        assert empty.colnames == full.colnames == [c.name for c in columns(name)]
        for column in full.colnames:
            assert empty[column].unit == full[column].unit
            assert empty[column].dtype.kind == full[column].dtype.kind, column


def test_extra_columns_follow():
    image = make_image(unit="mJy/beam")
    extra = {"kron_flux": np.array([1.5, 2.5]), "my_code": np.array([7, 8])}
    table = build_at(image, [POINT, [2.0, 30, 80, 6, 0, 5]], extra=extra).components
    assert table.colnames[-2:] == ["kron_flux", "my_code"]
    assert table["kron_flux"].unit == u.mJy
    assert table["kron_flux"].info.meta["ucd"] == "phot.flux.density"
    by_peak = np.argsort(table["peak_flux"])
    assert list(table["my_code"][by_peak]) == [7, 8]


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(12)), st.permutations(range(12)), st.booleans())
def test_rows_and_identifiers_do_not_depend_on_the_order_of_the_input(order, islands, sky):
    image = make_image("galactic_tan_rotated" if sky else "")
    rng = np.random.default_rng(7)
    rows = np.column_stack(
        [rng.uniform(1, 2, 12), rng.uniform(10, 110, (12, 2)), [[6.0, 0.5, 5.0]] * 12]
    )
    pixels = [square(x, y) for x, y in rows[:, 1:3]]
    rows[5, 1:3] = rows[4, 1:3]  # a position found twice
    island = np.array([0, 0, 0, 3, 4, 4, 6, 6, 8, 9, 10, 11])
    score = rng.uniform(0, 1, 12)
    detections = make_detections(image.shape, pixels, score=score)
    components = make_components(rows, island=island)
    plain = build(image, detections, components)
    place = np.argsort(islands)
    shuffled = build(
        image,
        make_detections(image.shape, [pixels[i] for i in islands], score=score[list(islands)]),
        permute_components(
            make_components(rows, island=place[island], detection=place), np.array(order)
        ),
    )
    assert shuffled == plain
    assert len(set(plain.components["name"])) == 12
    assert list(plain.components["component_id"]) == list(range(1, 13))


def test_detections_without_pixels_are_refused():
    image = make_image()
    detections = make_detections(image.shape, [square(60, 55)]).replace(segments=None)
    with pytest.raises(InputError, match="complete_detections"):
        build(image, detections, make_components([POINT]))


def test_a_row_off_the_sky_is_named_by_its_pixel_and_flagged():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---AIT", "DEC--AIT"], [-3.0, 3.0]
    wcs.wcs.crpix = [61, 61]
    wcs.wcs.set()
    image = make_image(None).replace(wcs=wcs)
    catalogue = build_at(image, [[1.0, 5.0, 115.0, 6, 0, 5], [2.0, 60, 61, 6, 0, 5]])
    on, off = catalogue.components
    assert on["name"].startswith("CYC J")
    assert not on["flags"] & Flag.NO_SKY_POSITION
    assert off["name"] == "CYC X5.0Y115.0"
    assert off["flags"] & Flag.NO_SKY_POSITION
    assert np.isnan(off["ra"])
    assert off["peak_flux"].value == 1.0


def test_an_image_of_one_pixel():
    image = make_image(None, data=np.ones((1, 1), np.float32))
    detections = make_detections((1, 1), [np.array([[0, 0]])])
    catalogue = build(image, detections, make_components([[1.0, 0.0, 0.0, 6, 0, 5]]))
    assert catalogue.components["flags"][0] & Flag.EDGE
    assert catalogue.islands["n_pixels"][0] == 1


def test_an_empty_segment_takes_the_middle_of_its_box():
    image = make_image()
    detections = make_detections(image.shape, [square(60, 55), square(20, 30)])
    segments = Segments.from_lists([detections.segments[0], np.zeros(0, np.int64)])
    catalogue = build(image, detections.replace(segments=segments), make_components([POINT]))
    empty = catalogue.islands[catalogue.islands["n_pixels"] == 0][0]
    assert (empty["x"].value, empty["y"].value) == (20, 30)
    assert [empty[k].value for k in ("x_min", "x_max", "y_min", "y_max")] == [18, 22, 28, 32]
    assert np.isnan(empty["local_rms"])
    assert empty["island_flux"].value == 0
