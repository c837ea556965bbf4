"""Pictures: panels that share a stretch, outlines of pixels."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cyclades.pipeline.panels import _outlines, panels, sky_stretch
from cyclades.pipeline.quicklook import round_values


def test_outlines_go_round_every_pixel_of_a_label():
    labels = np.zeros((7, 9), np.int32)
    labels[2:5, 3:7] = 1
    labels[0, 8] = 2
    (x0, y0), (x1, y1) = _outlines(labels)
    # each edge once: a rectangle of 3 x 4 pixels, and a pixel in the corner
    assert len(x0) // 3 == 2 * 4 + 2
    assert len(x1) // 3 == 2 * 3 + 2
    assert (np.nanmin(y0), np.nanmax(y0)) == (-0.5, 4.5)
    assert (np.nanmin(x1), np.nanmax(x1)) == (2.5, 8.5)
    # neighbours that are alike have no edge between them
    assert not np.any((x1 == 4.5) & np.isfinite(y1))


def test_panels_share_a_stretch_and_stay_as_they_are(image):
    planes = {"one": image.data, "other": 2 * image.data, "third": image.data}
    figure, axes = panels(planes, rms=1.0, columns=2)
    shown = {title: one.get_images()[0] for title, one in axes.items()}
    assert len({id(one.norm) for one in shown.values()}) == 1
    ny, nx = image.data.shape
    axes["one"].plot([-99, 999], [-99, 999])
    assert axes["one"].get_xlim() == (-0.5, nx - 0.5)
    assert axes["one"].get_ylim() == (-0.5, ny - 0.5)
    plt.close(figure)
    figure, axes = panels({"difference": image.data}, rms=0.5, level=3.0, limit=2.0)
    norm = axes["difference"].get_images()[0].norm
    assert (norm.vmin, norm.vmax) == (2.0, 4.0)
    plt.close(figure)


@pytest.mark.parametrize("numbers", [(0.08, 2.8e-4, 1.15e-3), (1.0, 1e-3, 0.0), (50.0, 1.0, -3.0)])
def test_ticks_of_a_stretch_are_round_and_lie_all_along_it(numbers):
    norm = sky_stretch(*numbers)
    ticks = np.array(round_values(norm))
    places = np.asarray(norm(ticks), float)
    assert 6 <= len(ticks) <= 9
    assert np.all((places >= 0.0) & (places <= 1.0))
    assert np.diff(places, prepend=0.0, append=1.0).max() < 0.3
    assert max(len(f"{abs(tick):g}") for tick in ticks) <= 6
