"""Similarity and oddness from features: plain functions on arrays."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COMPONENTS = 32
"""Principal components that the features of a catalogue are reduced to."""
NEIGHBOURS = 5
"""Nearest neighbours whose mean distance is the oddness."""
_FEW = 5
"""Fewer sources than this give no scale to judge by."""
_TO_SIGMA = 1.4826


def reduce(features: NDArray[np.floating]) -> Floats:
    """Standardise features over a catalogue and keep their principal components.

    Parameters
    ----------
    features : ndarray, shape (n, k)
        A row with NaN stands for a source without a picture.

    Returns
    -------
    ndarray, shape (n, at most `COMPONENTS`)
        With the variance that they have; NaN rows stay.
    """
    from sklearn.decomposition import PCA

    known = np.isfinite(features).all(1) if features.size else np.zeros(len(features), bool)
    values = np.asarray(features[known], np.float64)
    if len(values) < 2:
        return np.where(known[:, None], 0.0, np.nan)
    spread = values.std(0)
    standard = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
    number = min(COMPONENTS, len(values) - 1, standard.shape[1])
    reduced = PCA(number, svd_solver="full").fit_transform(standard)
    made = np.full((len(features), number), np.nan)
    made[known] = reduced
    return made


def similarities(reduced: Floats, targets: NDArray[np.int64]) -> Floats:
    """Return the mean cosine of the angles to the targets, as seen from the catalogue's mean.

    Parameters
    ----------
    reduced : ndarray, shape (n, k)
        See `reduce`.
    targets : ndarray of int
        Rows.

    Returns
    -------
    ndarray, shape (n,)
        From -1 to 1; NaN where a source, or every target, has no picture.
    """
    length = np.linalg.norm(reduced, axis=1, keepdims=True)
    unit = reduced / np.where(length > 0, length, 1.0)
    wanted = unit[targets]
    wanted = wanted[np.isfinite(wanted).all(1)]
    if not len(wanted):
        return np.full(len(reduced), np.nan)
    return np.asarray(np.clip(unit @ wanted.T, -1.0, 1.0).mean(1))


def most_alike(reduced: Floats, number: int = NEIGHBOURS) -> tuple[NDArray[np.int64], Floats]:
    """Return the sources that are most like each one, and how like they are.

    Parameters
    ----------
    reduced : ndarray, shape (n, k)
        See `reduce`.
    number : int
        Sources wanted for each; fewer where there are fewer.

    Returns
    -------
    rows : ndarray of int, shape (n, m)
        The most alike first, never the source itself; -1 without a picture.
    likeness : ndarray, shape (n, m)
        Cosines, as `similarities` has them; NaN without a picture.
    """
    from scipy.spatial import KDTree

    known = np.flatnonzero(np.isfinite(reduced).all(1))
    wanted = max(0, min(number, len(known) - 1))
    rows = np.full((len(reduced), wanted), -1)
    likeness = np.full((len(reduced), wanted), np.nan)
    if not wanted:
        return rows, likeness
    length = np.linalg.norm(reduced[known], axis=1, keepdims=True)
    unit = reduced[known] / np.where(length > 0, length, 1.0)
    # on the unit sphere, near is alike
    near = np.asarray(KDTree(unit).query(unit, k=wanted + 1)[1])
    # a twin may come before the source itself: move that to the front by a stable sort
    itself = near == np.arange(len(known))[:, None]
    itself[~itself.any(1), -1] = True
    others = np.take_along_axis(near, np.argsort(~itself, axis=1, kind="stable"), 1)[:, 1:]
    rows[known] = known[others]
    likeness[known] = np.clip(np.einsum("ik,ijk->ij", unit, unit[others]), -1.0, 1.0)
    return rows, likeness


def oddness(reduced: Floats) -> Floats:
    """Return how far sources are from their neighbours, in deviations of the catalogue.

    Parameters
    ----------
    reduced : ndarray, shape (n, k)
        See `reduce`.

    Returns
    -------
    ndarray, shape (n,)
        Mean Euclidean distance to the nearest `NEIGHBOURS` others, minus its median over the
        catalogue, over its scaled median absolute deviation. NaN without a picture, and for all
        where fewer than 5 have one.
    """
    from scipy.spatial import KDTree

    made = np.full(len(reduced), np.nan)
    known = np.flatnonzero(np.isfinite(reduced).all(1))
    if len(known) < _FEW:
        return made
    values = reduced[known]
    others = min(NEIGHBOURS, len(known) - 1)
    distance = KDTree(values).query(values, k=others + 1)[0][:, 1:].mean(1)
    middle = np.median(distance)
    spread = _TO_SIGMA * np.median(np.abs(distance - middle))
    made[known] = (distance - middle) / (spread if spread > 0 else 1.0)
    return made


def plane_map(reduced: Floats, seed: int = 0) -> Floats:
    """Lay sources out in a plane, alike ones near each other.

    Parameters
    ----------
    reduced : ndarray, shape (n, k)
        Without NaN.
    seed : int

    Returns
    -------
    ndarray, shape (n, 2)
        The first two principal components; of more than 50 sources, t-SNE (van der Maaten &
        Hinton 2008) that starts from them.
    """
    if len(reduced) <= 50:
        return np.pad(reduced[:, :2], ((0, 0), (0, max(0, 2 - reduced.shape[1]))))
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(reduced) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(model.fit_transform(reduced), np.float64)
