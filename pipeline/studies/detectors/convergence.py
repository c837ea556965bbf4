"""Whether a validation curve has flattened, so that a row may stand for its detector."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_POINTS = 3
"""Of the last third of a curve."""
LARGEST_ERROR = 0.05
"""Of the rise over the last third; curves that scatter more say nothing."""
Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Flatness:
    """What the last third of the validation curves of a row says.

    Parameters
    ----------
    flat : bool
    rise, error : float
        Of the figure over the last third, by a straight line, and its standard error; NaN where
        there are too few points.
    reason : str
        In words.
    """

    flat: bool
    rise: float
    error: float
    reason: str


def flatness(curves: Sequence[Curve], tolerance: float) -> Flatness:
    """Fit a common slope to the last third of the curves of all seeds.

    A row is not flat where the rise over the last third exceeds both its standard error and a
    tolerance, or where the error is too large to tell. Each seed has a level of its own; the error
    is that of the slope of a least-squares line by the scatter about it. The learning rate falls to
    zero along a cosine, which flattens every end: a flat curve says that this budget is used up.

    Parameters
    ----------
    curves : sequence of sequences of (int, float)
        Steps and values of each seed.
    tolerance : float
    """
    x, y = [], []
    for curve in curves:
        if not curve:
            continue
        steps, values = np.array(curve, float).T
        last = steps > steps[-1] * 2.0 / 3.0
        if last.sum() < LEAST_POINTS:
            continue
        share = steps[last] / steps[-1]
        x.append(share - share.mean())
        y.append(values[last] - values[last].mean())
    if not x:
        return Flatness(False, np.nan, np.nan, "too few points of the curve")
    place, value = np.concatenate(x), np.concatenate(y)
    spread = float(place @ place)
    slope = float(place @ value) / spread
    freedom = max(len(place) - len(x) - 1, 1)
    scatter = float(np.sum((value - slope * place) ** 2)) / freedom
    rise, error = slope / 3.0, float(np.sqrt(scatter / spread)) / 3.0
    if error > LARGEST_ERROR:
        return Flatness(False, rise, error, f"the curve scatters too much ({error:.3f})")
    said = f"{rise:+.3f} +- {error:.3f} over the last third"
    return Flatness(rise <= max(tolerance, error), rise, error, said)
