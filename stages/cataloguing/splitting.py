"""Sources that hold strangers are split: the components of an island need not be one object."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cyclades.stages.cataloguing.merging import merge_sources
from cyclades.stages.cataloguing.pair_model import Boosted, agglomerate
from cyclades.stages.cataloguing.pairs import FEATURES, Bridge, pair_features
from cyclades.stages.cataloguing.parts import Parts, pairs_within
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers
from cyclades.stages.core.tables import replace_values

if TYPE_CHECKING:
    from cyclades.stages.core.catalogue import Catalogue

TOUCHING = 1.0
"""Beams between the half-maximum contours of components whose light blends."""


def component_pairs(
    parts: Parts, source: Integers, *, slope: float = 0.9, bridge: Bridge | None = None
) -> tuple[Integers, Integers, Floats]:
    """Pairs of components of one source, and their `pair_features`.

    Parameters
    ----------
    parts : Parts
        Components. How many of them their source has is counted anew.
    source : ndarray of int, shape (parts,)
    slope, bridge
        See `pair_features`.

    Returns
    -------
    first, second : ndarray of int, shape (pairs,)
    features : ndarray, shape (pairs, features)
    """
    _, index, count = np.unique(source, return_inverse=True, return_counts=True)
    parts = replace(parts, pieces=count[index].astype(float))
    first, second = pairs_within(parts, source)
    return first, second, pair_features(parts, first, second, slope=slope, bridge=bridge)


def split_groups(
    parts: Parts,
    source: Integers,
    within: Boosted,
    *,
    probability: float,
    slope: float = 0.9,
    bridge: Bridge | None = None,
) -> Integers:
    """Groups of components that are one object, each within one source.

    A source of more components than `cataloguing.parts.MOST_COMPONENTS` stays whole, and so does
    one whose components do not all touch: a detector that joins what is apart has its reasons,
    and islands, which the model knows, are connected. Components that have no known flux or shape
    stay with the brightest of their source.

    Parameters
    ----------
    parts : Parts
        Components.
    source : ndarray of int, shape (parts,)
    within : Boosted
        The look of a `PairModel` at components of one source.
    probability : float
        That two components of a source are one object, below which they are apart.
    slope, bridge
        See `pair_features`.
    """
    first, second, features = component_pairs(parts, source, slope=slope, bridge=bridge)
    log_odds = within.log_odds(features) - np.log(probability / (1.0 - probability))
    number = len(parts)
    group = agglomerate(number, first, second, log_odds)
    listed = np.zeros(number, bool)
    listed[first] = listed[second] = True
    listed &= ~np.isin(source, _loose(source, first, second, features))
    order = np.lexsort((-np.nan_to_num(parts.total), ~listed, source))
    leader = order[np.searchsorted(source[order], source)] if number else order
    return np.where(listed, group, group[leader])


def _loose(source: Integers, first: Integers, second: Integers, features: Floats) -> Integers:
    """Sources whose components do not all touch, directly or by others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    near = features[:, FEATURES.index("gap")] <= np.log10(TOUCHING)
    shape = (len(source), len(source))
    links = coo_array((np.ones(near.sum(), np.int8), (first[near], second[near])), shape=shape)
    cluster = connected_components(links, directed=False)[1]
    return np.unique(source[first[cluster[first] != cluster[second]]])


def split_sources(
    catalogue: "Catalogue", source: Integers, group: Integers, area: float, significance: float
) -> "Catalogue":
    """Return a catalogue in which the components of each group are one source.

    Parameters
    ----------
    catalogue : Catalogue
    source : ndarray of int, shape (components,)
        Row of the source of every component.
    group : ndarray of int, shape (components,)
        No group reaches over two sources.
    area : float
        Of the image; see `Parts`.
    significance : float
        See `deconvolved_shape`.
    """
    pairs = np.unique(np.stack([source, group], -1), axis=0)
    parted = np.bincount(pairs[:, 0], minlength=len(catalogue.sources)) > 1
    if not parted.any():
        return catalogue
    from astropy.table import vstack

    loose = np.flatnonzero(parted[source])
    alone = catalogue.components[loose][catalogue.sources.colnames]
    replace_values(alone, "n_components", np.ones(len(loose), np.int32))
    code = np.asarray(alone["source_code"])
    replace_values(alone, "source_code", np.where(code == "C", "C", "S"))
    whole = np.flatnonzero(~parted)
    sources = vstack([catalogue.sources[whole], alone], metadata_conflicts="silent")
    sources.meta.update(catalogue.sources.meta)
    row = np.zeros(len(parted), np.int64)
    row[whole] = np.arange(len(whole))
    now = row[source]
    now[loose] = len(whole) + np.arange(len(loose))
    components = catalogue.components.copy()
    replace_values(sources, "source_id", np.arange(1, len(sources) + 1, dtype=np.int32))
    replace_values(components, "source_id", (now + 1).astype(np.int32))
    apart = catalogue.replace(sources=sources, components=components)
    together = np.r_[-1 - np.arange(len(whole)), group[loose]]
    return merge_sources(apart, Parts.of(sources, area), together, None, significance=significance)
