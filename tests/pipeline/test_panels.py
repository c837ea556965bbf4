"""Pictures: panels that share a stretch, outlines of pixels."""

import matplotlib.pyplot as plt
import numpy as np

from cyclades.pipeline.panels import _outlines, panels


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
