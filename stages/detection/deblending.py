"""Islands handed to a deblender of another library, and what comes back as linked rows."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.products import Detections, Integers, Segments
from cyclades.stages.core.segments import nearest_summit, segment_boxes
from cyclades.stages.core.summits import refine_summits

Map = NDArray[np.float32]
Deblender = Callable[[Map, Segments, Integers], list[Integers]]
"""``deblend(significance, islands, rows)``: labels of the pixels of each of the given rows, in
the order of their pixels; 0 for a pixel that no object has, and all equal where nothing parts."""


def count_peaks(significance: Map, islands: Segments) -> Integers:
    """Local maxima (none of eight neighbours is higher) in each island.

    Only an island with two or more can be parted.
    """
    ny, nx = significance.shape
    y, x = np.divmod(islands.indices, nx)
    here = significance.ravel()[islands.indices]
    peak = np.ones(len(here), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            yy, xx = np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)
            # A comparison with NaN is false, so that blank neighbours do not count.
            peak &= ~(significance[yy, xx] > here)
    return np.bincount(islands.owner()[peak], minlength=len(islands)).astype(np.int64)


def cut_out(significance: Map, pixels: Integers) -> tuple[Map, NDArray[np.bool_]]:
    """Smallest rectangle that holds some pixels, zero elsewhere, and where they are in it."""
    y, x = np.divmod(pixels, significance.shape[1])
    inside = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1), bool)
    inside[y - y.min(), x - x.min()] = True
    cut = np.zeros(inside.shape, np.float32)
    cut[y - y.min(), x - x.min()] = significance.ravel()[pixels]
    return cut, inside


def brightest(significance: Map, segments: Segments) -> Integers:
    """Flat index of the brightest pixel of each segment, none of which is empty."""
    values = significance.ravel()[segments.indices]
    order = np.lexsort((-values, segments.owner()))
    return segments.indices[order[segments.offsets[:-1]]]


def deblended(
    significance: Map, islands: Segments, psf: PointSpread | None, deblend: Deblender
) -> Detections:
    """Islands and, where the deblender parts one, a child row for each of its objects.

    Parameters
    ----------
    significance : ndarray of float32, shape (ny, nx)
        (data - level) / rms.
    islands : Segments
        Connected pixels, none empty.
    psf : PointSpread, optional
        Metric in which a pixel that no object has goes to the nearest.
    deblend : callable
        The deblender.

    Returns
    -------
    Detections
        Complete: the children's pixels partition their island's, the summit is the brightest
        pixel, refined by a parabola.
    """
    rows = np.flatnonzero(count_peaks(significance, islands) > 1)
    nx = significance.shape[1]
    pieces: list[Integers] = []
    parents: list[int] = []
    for row, labels in zip(rows, deblend(significance, islands, rows), strict=True):
        pixels = islands[int(row)]
        names = np.unique(labels[labels > 0])
        if len(names) < 2:
            continue
        members = Segments.from_lists([pixels[labels == name] for name in names])
        y, x = np.divmod(brightest(significance, members), nx)
        lost = labels == 0
        owner = np.searchsorted(names, labels)
        owner[lost] = nearest_summit(pixels[lost], np.stack([x, y], -1).astype(float), nx, psf)
        pieces += [pixels[owner == k] for k in range(len(names))]
        parents += [int(row)] * len(names)
    children = Segments.from_lists(pieces)
    segments = Segments(
        np.concatenate([islands.indices, children.indices]),
        np.concatenate([islands.offsets, children.offsets[1:] + islands.offsets[-1]]),
    )
    parent = np.concatenate([np.full(len(islands), -1), parents]).astype(np.int64)
    summit = np.full((len(segments), 2), np.nan)
    leaf = np.ones(len(segments), bool)
    leaf[parents] = False
    peaks = brightest(significance, segments)[leaf]
    summit[leaf] = np.stack(refine_summits(significance, peaks), -1)
    return Detections(
        shape=(significance.shape[0], nx),
        box=segment_boxes(segments, nx),
        score=np.ones(len(segments)),
        parent=parent,
        segments=segments,
        summit=summit,
    )
