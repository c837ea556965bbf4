"""A search among sources whose features and pictures are made, for tests of its page."""

import numpy as np
from factories import make_catalogue

from cyclades.pipeline.similarity.gallery import SIZE, Gallery
from cyclades.pipeline.similarity.ranking import oddness, similarities
from cyclades.pipeline.similarity.search import Search
from cyclades.stages.core.schema import column
from cyclades.stages.core.tables import add_column, replace_values

NASTY = "</script><script>window.broken=1</script>@data@"
"""A class that a careless page would run."""
BLIND = 7
"""Row without a picture."""
TWINS = (3, 11)
"""Rows with the same features; the first is the target."""
ODD = 5


def make_pictures(n):
    """Pictures that tell their row: the grey level of the lower half; the left is brighter."""
    pictures = np.zeros((n, SIZE, SIZE), np.uint8)
    pictures[:, : SIZE // 2] = (40 + np.arange(n) % 180)[:, None, None]
    pictures[:, : SIZE // 2, : SIZE // 2] += 30
    return pictures


def make_search(n=40, *, targets=TWINS[:1], classes=True, seed=4):
    """Sources in two clusters, FRI and bent ones, with a pair of twins and an odd one."""
    rng = np.random.default_rng(seed)
    # the first two components share a source
    catalogue = make_catalogue(n + 1)
    assert len(catalogue.sources) == n
    side = np.arange(n) % 2
    reduced = rng.normal(0, 0.3, (n, 6)) + np.where(side[:, None] == 0, 1.0, -1.0)
    if n > max(TWINS):
        reduced[TWINS[1]] = reduced[TWINS[0]]
        reduced[ODD] = [2.5, -2.5, 2.5, -2.5, 2.5, -2.5]
        reduced[BLIND] = np.nan
    sources = catalogue.sources.copy()
    chosen = np.array(targets, np.int64)
    if len(chosen):
        add_column(sources, column("sources", "similarity"), similarities(reduced, chosen), None)
    add_column(sources, column("sources", "oddness"), oddness(reduced), None)
    if classes:
        names = np.where(side == 0, "FRI", "bent").astype("U60")
        names[:2] = NASTY
        replace_values(sources, "morphology", names)
        replace_values(sources, "morphology_probability", np.linspace(0.3, 0.9, n))
    pictures = make_pictures(n)
    pictures[np.isnan(reduced[:, 0])] = 0
    gallery = Gallery(pictures, reduced.astype(np.float32), np.linspace(60.0, 90.0, n))
    return Search(catalogue.replace(sources=sources), chosen, gallery, reduced)
