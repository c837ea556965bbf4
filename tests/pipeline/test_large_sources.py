"""Discs from half to twice a box of the background: their flux is right, or the row says so."""

import numpy as np
import pytest

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.simulation.plain import PlainOptions, unit_noise
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.rendering import render_gaussians

SIZE = 900
GEOMETRY = PlainOptions().geometry((SIZE, SIZE), (180.0, -30.0))
BEAM = GEOMETRY.psf.covariance
BOX = round(30 * GEOMETRY.psf.size)
CENTRE = (420.0, 470.0)


def field(ratio, brightness, seed=5):
    """Unit noise, points and a disc seen with the beam; the disc's flux in units of the rms."""
    rng = np.random.default_rng(seed)
    noise = unit_noise((SIZE, SIZE), BEAM, rng)
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = np.clip(0.5 * ratio * BOX - np.hypot(x - CENTRE[0], y - CENTRE[1]) + 0.5, 0, 1)
    v, u = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]
    shape = BEAM[0, 0] * u**2 + 2 * BEAM[0, 1] * u * v + BEAM[1, 1] * v**2
    disc = np.fft.irfft2(np.fft.rfft2(disc) * np.exp(-2 * np.pi**2 * shape), s=disc.shape)
    px, py = rng.uniform(20, SIZE - 20, (2, 60))
    far = np.hypot(px - CENTRE[0], py - CENTRE[1]) > 0.5 * ratio * BOX + 30
    px, py = px[far], py[far]
    parts = [np.full(px.size, e) for e in (BEAM[0, 0], BEAM[0, 1], BEAM[1, 1])]
    points = render_gaussians(
        (SIZE, SIZE), np.column_stack([np.full(px.size, 30.0), px, py, *parts])
    )
    data = (noise + points + brightness * disc).astype(np.float32)
    return GEOMETRY.image(data, name="disc"), brightness * disc.sum() / GEOMETRY.psf.area


@pytest.mark.parametrize("ratio", [0.5, 1, 2])
@pytest.mark.parametrize("brightness", [3, 5, 10, 30])
def test_the_flux_of_a_disc_is_right_or_flagged(ratio, brightness):
    image, truth = field(ratio, brightness)
    islands = Pipeline.from_route("classical").run(image, keep=False).catalogue.islands
    x, y, flags, flux = (np.asarray(islands[n]) for n in ("x", "y", "flags", "island_flux"))
    on_it = np.hypot(x - CENTRE[0], y - CENTRE[1]) < 0.5 * ratio * BOX
    flagged = flags & Flag.BACKGROUND_UNCERTAIN > 0
    assert on_it.any()
    assert abs(flux[on_it].sum() / truth - 1) < 0.03 or flagged[on_it].all()
    if brightness >= 10:
        # what is left out lies below the threshold at the disc's rim
        assert flux[on_it].sum() / truth == pytest.approx(0.985, abs=0.02)
    assert not flagged[~on_it].any()


def test_a_field_of_points_has_no_uncertain_background():
    image, _ = field(0.0, 0.0)
    islands = Pipeline.from_route("classical").run(image, keep=False).catalogue.islands
    assert len(islands) > 50
    assert not (np.asarray(islands["flags"]) & Flag.BACKGROUND_UNCERTAIN).any()
