"""Boosted trees of scikit-learn as plain numbers."""

from typing import Any

import numpy as np

from cyclades.stages.cataloguing.trees import LEAF, Tree


def exported_trees(machine: Any) -> tuple[tuple[Tree, ...], float]:
    """The numbers of scikit-learn's boosted trees, and the log-odds before the first of them.

    The trees of a fitted `HistGradientBoostingClassifier` are in no public attribute; a test
    asserts that these numbers give its probabilities.
    """
    trees = []
    for (predictor,) in machine._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                np.where(leaf, LEAF, nodes["feature_idx"]).astype(np.int64),
                np.where(leaf, 0.0, nodes["num_threshold"]),
                np.where(leaf, 0, nodes["left"]).astype(np.int64),
                np.where(leaf, 0, nodes["right"]).astype(np.int64),
                nodes["missing_go_to_left"].astype(np.int64),
                np.where(leaf, nodes["value"], 0.0),
            )
        )
    return tuple(trees), float(np.ravel(machine._baseline_prediction)[0])
