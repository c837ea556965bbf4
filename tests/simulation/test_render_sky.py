"""Rendering conserves flux and convolves exactly."""

import numpy as np
import pytest
from scipy import fft
from sky_cases import from_elements, geometry, make_sky

from cyclades.pipeline.simulation import galaxies
from cyclades.pipeline.simulation.model import DISC
from cyclades.pipeline.simulation.render import disc_nodes, render_sky

GEOMETRY = geometry(512)
BEAM = GEOMETRY.psf.covariance
MAKERS = {
    "points": lambda extent, generator: galaxies.points(len(extent)),
    "galaxies": galaxies.galaxies,
    "discs": galaxies.discs,
    "doubles": galaxies.doubles,
    "bent": galaxies.bent,
    "diffuse": galaxies.diffuse,
}


@pytest.mark.parametrize("name", MAKERS)
def test_flux_is_conserved(name):
    generator = np.random.default_rng(4)
    flux = np.array([1.0, 0.2, 3.0])
    elements = MAKERS[name](np.array([6.0, 30.0, 70.0]), generator)
    sky = from_elements(elements, [100.3, 250.0, 256.8], [250.2, 120.0, 256.5], flux, "compact")
    np.testing.assert_allclose(elements.share.sum(1), 1.0, rtol=1e-12)
    for k in range(3):
        rows = sky.owner == k
        one = make_sky(
            sky.x[rows], sky.y[rows], sky.flux[rows],
            (sky.sxx[rows], sky.sxy[rows], sky.syy[rows]),
            owner=np.zeros(rows.sum(), int), kind=elements.kind,
        )  # fmt: skip
        plane = render_sky(one, GEOMETRY.psf, GEOMETRY.shape).astype(float)
        assert plane.sum() / GEOMETRY.beam_area == pytest.approx(flux[k], rel=2e-6)


@pytest.mark.parametrize("name", ["doubles", "bent", "diffuse"])
def test_extents_are_as_asked(name):
    extent = np.full(400, 50.0)
    elements = MAKERS[name](extent, np.random.default_rng(9))
    reach = np.hypot(elements.x, elements.y)
    assert np.all(reach.max(1) < 0.9 * 50.0)
    assert np.median(reach.max(1)) > 0.25 * 50.0


def test_a_point_is_the_beam():
    plane = render_sky(make_sky(256.0, 256.0, 2.0), GEOMETRY.psf, GEOMETRY.shape).astype(float)
    y, x = np.mgrid[: plane.shape[0], : plane.shape[1]] - 256.0
    total = plane.sum()
    moments = [[np.sum(plane * a * b) / total for a in (x, y)] for b in (x, y)]
    np.testing.assert_allclose(moments, BEAM, rtol=1e-5)
    assert plane.max() == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize(("radius", "ratio"), [(2.0, 1.0), (9.0, 0.4), (25.0, 0.8)])
def test_a_disc_is_a_convolved_disc(radius, ratio):
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    shape = turn @ np.diag([radius**2 / 4, (ratio * radius) ** 2 / 4]) @ turn.T
    size, over, centre = 128, 16, 63.7
    sky = make_sky(centre, centre, 1.0, (shape[0, 0], shape[0, 1], shape[1, 1]), kind=DISC)
    field = geometry(size)
    plane = render_sky(sky, field.psf, field.shape)
    # the disc itself on a fine grid, convolved in the Fourier plane
    fine = (np.arange(size * over) + 0.5) / over - 0.5 - centre
    place = np.stack(np.meshgrid(fine, fine), -1) @ turn
    inside = (place[..., 0] / radius) ** 2 + (place[..., 1] / (ratio * radius)) ** 2 < 1.0
    fy, fx = fft.fftfreq(size * over, 1 / over)[:, None], fft.rfftfreq(size * over, 1 / over)
    q = BEAM[0, 0] * fx**2 + 2 * BEAM[0, 1] * fx * fy + BEAM[1, 1] * fy**2
    smooth = fft.irfft2(fft.rfft2(inside / inside.sum()) * np.exp(-2 * np.pi**2 * q))
    # the value at the centre of a pixel lies between its fine pixels
    middle = over // 2
    rows = smooth.reshape(size, over, size, over)[:, middle - 1 : middle + 1]
    exact = rows[..., middle - 1 : middle + 1].mean((1, 3)) * over**2 * field.beam_area
    assert np.abs(plane - exact).max() < 2e-3 * exact.max()


def test_disc_nodes_have_the_moments_of_the_disc():
    shape = np.array([[30.0, 8.0], [8.0, 12.0]])
    offsets, weights = disc_nodes(shape, BEAM)
    np.testing.assert_allclose(offsets.T @ (offsets * weights[:, None]), shape, rtol=1e-10)
    np.testing.assert_allclose(weights @ offsets, 0.0, atol=1e-10)


def test_sources_beyond_the_edge_are_drawn_inside():
    inside = render_sky(make_sky(-2.0, 50.0, 1.0), GEOMETRY.psf, GEOMETRY.shape)
    assert inside[50, 0] > 0.3
