"""The ceiling of average precision: what noise alone leaves to be found.

An observer looks at the same noisy tiles as a network, but is told the truth: which pixels each
object has, its class, the objects below the floor (which it leaves alone), the beam, and the rms.
The level is the clipped median of the pixels without objects, on the mesh of the network's input.

- An object is seen where one of its pixels reaches `SEED` rms above the level.
- Its box surrounds those of its pixels that the noise leaves above one rms (the threshold by which
  the simulator draws objects), in groups of touching pixels of which one reaches `SEED` rms. So a
  faint end is cut off, and a lobe that drowns is lost. The box is grown as those of labels are.
- Its score is the observed peak.
- Peaks of the noise are its false detections: as many of each height as Gaussian noise that is
  correlated as the beam has in the area without objects. They look like points. Sidelobes and
  ripples that are no labelled artefact are not among them: they follow from the sky and the
  telescope, and whoever knows these is not deceived.

Classes are given to it, so that what it lacks to 1 is what noise takes from detection and from
boxes; mistaken classes are not in it. A network may come closer than the observer to the box of an
object whose ends drown in the noise, since it may guess where they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cyclades.pipeline.comparison.detection_metrics import (
    MOST_DETECTIONS,
    AveragePrecision,
    average_precision,
)
from cyclades.pipeline.comparison.overlaps import Objects
from cyclades.pipeline.simulation.stamps import MASK_RMS
from cyclades.pipeline.training.samples import SPURIOUS, Plane, Sample, grown_boxes
from cyclades.stages.core.segments import EIGHT_NEIGHBOURS
from cyclades.stages.networks.inputs import MESH, Normalisation

Floats = NDArray[np.float64]

SEED = 4.0
"""Height in rms from which a peak is seen."""
HEIGHTS = np.linspace(SEED, 8.0, 161)
"""Heights in rms above which peaks of the noise are counted; they end where none is left."""
_OFFSETS = (np.arange(8) + 0.5) / 8 - 0.5
"""Where a peak may lie within a pixel, along one axis."""


class Observation(NamedTuple):
    """What the observer makes of one tile.

    Parameters
    ----------
    objects : Objects
        Boxes, observed peaks in rms as scores, and classes of the objects that it sees.
    noise : ndarray, shape (len(HEIGHTS),)
        Expected number of peaks of the noise above each of `HEIGHTS`.
    """

    objects: Objects
    noise: Floats


def observe(sample: Sample, classes: Sequence[str], mesh: int = MESH) -> Observation | None:
    """Look at a tile.

    Parameters
    ----------
    sample : Sample
        With the pixels of its objects. Where it has no rms, that of the mesh is taken; where it
        has no beam, no peak of the noise is expected. Blank pixels show nothing.
    classes : sequence of str
        What the sample's classes are positions in.
    mesh : int
        Side in pixels of the cells that the level is measured in.

    Returns
    -------
    Observation or None
        None where the labels of objects are boxes alone, and of images of several planes.
    """
    if sample.planes:
        return None
    segments = sample.segments
    if segments is None:
        if len(sample):
            return None
        return Observation(Objects(np.zeros((0, 4)), np.zeros(0), ()), _noise(sample, None))
    plane = significance(sample, mesh)
    boxes, peaks, labels = [], [], []
    for row in np.flatnonzero(~sample.ignore):
        pixels = segments.indices[segments.offsets[row] : segments.offsets[row + 1]]
        values = plane.ravel()[pixels]
        peak = float(values.max(initial=-np.inf))
        if peak < SEED:
            continue
        boxes.append(_visible_box(pixels, values, sample.shape[1]))
        peaks.append(peak)
        labels.append(classes[int(sample.classes[row])])
    grown = grown_boxes(np.array(boxes, float).reshape(-1, 4), sample.shape)
    objects = Objects(grown.astype(float), np.array(peaks, float), tuple(labels))
    return Observation(objects, _noise(sample, segments.indices))


def ceiling(
    truth: Sequence[Objects],
    seen: Sequence[Observation | None],
    classes: Sequence[str],
    scores: Floats | None = None,
) -> AveragePrecision | None:
    """Average precision of the observer.

    Parameters
    ----------
    truth : sequence of Objects
        Labels of each tile.
    seen : sequence of Observation
        Of the same tiles.
    classes : sequence of str
        Of the network. Peaks of the noise are taken for ``compact`` sources, or for the first
        class of sources where there is none of that name.
    scores : ndarray, shape (len(HEIGHTS),), optional
        Of peaks of the noise of each of `HEIGHTS`, where objects are not ranked by their peaks.

    Returns
    -------
    AveragePrecision or None
        None without tiles, or where the pixels of some objects are not known.
    """
    known = [one for one in seen if one is not None]
    if not known or len(known) < len(seen):
        return None
    real = [name for name in classes if name != SPURIOUS]
    label = "compact" if "compact" in real else real[0]
    peaks = noise_peaks(np.sum([one.noise for one in known], axis=0))
    if scores is not None:
        peaks = np.interp(peaks, HEIGHTS, scores)
    # as detections on tiles without objects, since they lie on none
    parts = np.array_split(peaks, len(peaks) // MOST_DETECTIONS + 1)
    false = [Objects(np.zeros((len(p), 4)), p, (label,) * len(p)) for p in parts]
    empty = [Objects(np.zeros((0, 4)), None, (), None, np.zeros(0, bool))] * len(parts)
    return average_precision([*truth, *empty], [*(one.objects for one in known), *false])


def significance(sample: Sample, mesh: int = MESH) -> Plane:
    """Height of each pixel above the level in rms, which both are measured beside the objects.

    Returns
    -------
    ndarray, shape (h, w), float32
        0 where the image is blank.
    """
    sky = np.array(sample.image, np.float32)
    if sample.segments is not None:
        sky.ravel()[sample.segments.indices] = np.nan
    measured = Normalisation.measure(sky, mesh)
    if sample.rms is None:
        return measured.apply(sample.image)
    # a noise of 1 leaves the unit as it is
    above = measured._replace(noise=np.ones_like(measured.noise)).apply(sample.image)
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = above / sample.rms
    return np.where(np.isfinite(plane), plane, np.float32(0.0))


def peak_density(beam: Floats) -> Floats:
    """Peaks of noise a pixel above each of `HEIGHTS`, for noise that is correlated as the beam.

    The number of peaks of a Gaussian random field above a high level (Adler 1981, The Geometry of
    Random Fields), of those that a pixel's centre catches: a peak between pixels is lower by its
    curvature times the square of the distance.

    Parameters
    ----------
    beam : ndarray, shape (2, 2)
        Covariance of the noise's autocorrelation in pixels squared.
    """
    inverse = np.linalg.inv(beam)
    x, y = (place.ravel() for place in np.meshgrid(_OFFSETS, _OFFSETS))
    off = inverse[0, 0] * x * x + 2.0 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
    caught = np.exp(-0.5 * HEIGHTS[:, None] ** 2 * off).mean(1)
    peaks = HEIGHTS * np.exp(-0.5 * HEIGHTS**2) / np.sqrt((2.0 * np.pi) ** 3 * np.linalg.det(beam))
    return np.asarray(peaks * caught)


def noise_peaks(expected: Floats) -> Floats:
    """Heights of as many peaks as are expected above each of `HEIGHTS`, highest first."""
    ranks = np.arange(int(np.round(expected[0]))) + 0.5
    return np.asarray(np.interp(ranks, expected[::-1], HEIGHTS[::-1]), float)


def _noise(sample: Sample, taken: NDArray[np.int64] | None) -> Floats:
    """Peaks of the noise that are expected beside the objects."""
    if sample.beam is None:
        return np.zeros(len(HEIGHTS))
    free = np.isfinite(sample.image)
    if sample.unlabelled is not None:
        free &= ~sample.unlabelled
    if taken is not None:
        free.ravel()[taken] = False
    return np.asarray(np.count_nonzero(free) * peak_density(sample.beam))


def _visible_box(pixels: NDArray[np.int64], values: Plane, nx: int) -> Floats:
    """Outer edges of what an object shows above the noise."""
    y, x = np.divmod(pixels, nx)
    above = values > MASK_RMS
    cut = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1), bool)
    cut[y[above] - y.min(), x[above] - x.min()] = True
    group = ndimage.label(cut, EIGHT_NEIGHBOURS)[0][y - y.min(), x - x.min()]
    shown = np.isin(group, group[values >= SEED])
    x, y = x[shown & above], y[shown & above]
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)
