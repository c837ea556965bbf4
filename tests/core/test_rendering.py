import numpy as np

from cyclades.stages.core.rendering import (
    BAND,
    gaussian_cutouts,
    gaussians_at,
    render_gaussians,
)

SHAPE = (2 * BAND + 40, 150)


def components(n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(n)
    x, y = rng.uniform(-5, SHAPE[1] + 5, n), rng.uniform(-5, SHAPE[0] + 5, n)
    major, minor, angle = rng.uniform(3, 40, n), rng.uniform(0.3, 3, n), rng.uniform(0, 3, n)
    c, s = np.cos(angle), np.sin(angle)
    xx, yy = (major * c) ** 2 + (minor * s) ** 2, (major * s) ** 2 + (minor * c) ** 2
    xy = (major**2 - minor**2) * c * s
    return np.column_stack([rng.normal(size=n), x, y, xx, xy, yy])


def test_a_gaussian_is_drawn_as_its_formula_says():
    y, x = np.indices(SHAPE)
    expected = np.zeros(SHAPE)
    for peak, x0, y0, xx, xy, yy in components():
        a, b, c = np.array([yy, -xy, xx]) / (xx * yy - xy**2)
        q = a * (x - x0) ** 2 + 2 * b * (x - x0) * (y - y0) + c * (y - y0) ** 2
        expected += np.where(q < 36.0, peak * np.exp(-0.5 * q), 0.0)
    np.testing.assert_allclose(render_gaussians(SHAPE, components()), expected, atol=1e-6)


def test_what_cannot_be_drawn_is_left_out():
    rows = np.array([[1, np.nan, 5, 4, 0, 4], [1, 5, 5, 4, 4, 4], [np.nan, 5, 5, 4, 0, 4]], float)
    assert (render_gaussians((10, 10), rows) == 0).all()
    tiny = render_gaussians((10, 10), np.array([[2.0, 4, 5, 1e-8, 0, 1e-8]]))
    assert tiny[5, 4] == 2
    assert tiny.sum() == 2


def test_pixels_and_cutouts_are_those_of_the_whole_plane():
    values = components()
    plane = render_gaussians(SHAPE, values)
    pixels = np.random.default_rng(4).integers(0, plane.size, 3000)
    np.testing.assert_allclose(
        gaussians_at(SHAPE, values, pixels), plane.ravel()[pixels], atol=1e-6
    )
    boxes = np.array([[3, 5, 80, BAND + 30], [0, 0, 149, SHAPE[0] - 1], [7, BAND, 7, BAND]])
    for cut, (x0, y0, x1, y1) in zip(gaussian_cutouts(SHAPE, values, boxes), boxes, strict=True):
        np.testing.assert_allclose(cut, plane[y0 : y1 + 1, x0 : x1 + 1], atol=1e-6)
