"""Star or galaxy, from how much wider than a star each object is."""

import re
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.flags import Flag
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.stage import RefinementStage, parameter
from cyclades.stages.core.stars import SPREAD_FLOOR
from cyclades.stages.core.tables import replace_values

if TYPE_CHECKING:
    from astropy.table import QTable

    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.source import ImageSource

STAR, GALAXY = "star", "galaxy"
WEIGHTS = (-0.237, 1.014, -5.735, 0.069)
"""Logistic regression on `features`: see docs/optical.md for how it was calibrated."""
_BANDS = re.compile(r"spread_model_(?!err)(\w+)")


def features(spread: Floats, error: Floats, significance: Floats) -> Floats:
    """Return what the regression looks at, shape (n, 4).

    1; the spread model in its errors, within -6 and 12; the logarithm of a tenth of the PSF
    flux's significance, within 2 and 100; and the product of both.
    """
    t = np.clip(spread / np.hypot(error, SPREAD_FLOOR), -6.0, 12.0)
    depth = np.log10(np.clip(significance, 2.0, 100.0)) - 1.0
    return np.stack([np.ones_like(t), t, depth, t * depth], -1)


def combined(table: "QTable") -> tuple[Floats, Floats, Floats]:
    """Return the spread model, its error, and the significance of the PSF flux, over all bands.

    Bands are weighted by the inverse variances of their spread models; where a catalogue is of
    one image, these are its own columns. NaN where nothing was measured; a band in which an object
    is saturated says nothing of it.
    """
    names = [m[1] for name in table.colnames if (m := _BANDS.fullmatch(name))]
    ends = [f"_{name}" for name in names] or [""]
    n = len(table)
    total, weights, square = np.zeros(n), np.zeros(n), np.zeros(n)
    for end in ends:
        labels = ("spread_model", "spread_model_err", "psf_flux", "psf_flux_err")
        held = (table[label + end] for label in labels)
        spread, error, flux, flux_err = (np.asarray(getattr(h, "value", h), float) for h in held)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = 1.0 / (error**2 + SPREAD_FLOOR**2)
            good = np.isfinite(weight * spread) & (flux > 0.0) & ~_saturated(table, end)
            total += np.where(good, weight * spread, 0.0)
            weights += np.where(good, weight, 0.0)
            square += np.where(good, (flux / flux_err) ** 2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, error = total / weights, np.sqrt(np.maximum(1.0 / weights - SPREAD_FLOOR**2, 0.0))
    return (
        np.where(weights > 0.0, mean, np.nan),
        np.where(weights > 0.0, error, np.nan),
        np.sqrt(square),
    )


def _saturated(table: "QTable", end: str) -> NDArray[np.bool_]:
    """Whether the flags of a band say that rows are saturated there."""
    if f"flags{end}" not in table.colnames:
        return np.zeros(len(table), bool)
    return np.asarray((np.asarray(table[f"flags{end}"]) & int(Flag.SATURATED)) > 0)


def galaxy_probability(spread: Floats, error: Floats, significance: Floats) -> Floats:
    """Return the probability of being a galaxy; NaN where the spread model is."""
    odds = features(spread, error, significance) @ np.array(WEIGHTS)
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -50.0, 50.0))))


class StarGalaxyRefinement(RefinementStage):
    """Calls every object a star or a galaxy, with a probability.

    A logistic regression on the spread model of the characterization ``psf``, all bands together,
    and on the significance of the flux; it was calibrated on simulated fields of the density of
    high galactic latitudes. Of faint objects, whose spread model says little, the probability is
    the share of galaxies among them there.
    """

    name: ClassVar[str] = "star_galaxy"
    summary: ClassVar[str] = "star or galaxy, from the spread model of the characterization psf"
    needs: ClassVar[tuple[str, ...]] = ("spread_model", "spread_model_err", "psf_flux", "source_id")
    adds: ClassVar[tuple[str, ...]] = ("morphology", "morphology_probability")

    threshold: float = parameter(
        0.5, "Probability of being a galaxy from which on a row is called one.", gt=0.0, lt=1.0
    )

    def refine(
        self, catalogue: "Catalogue", source: "ImageSource", *, context: "Context"
    ) -> "Catalogue":
        """Return the catalogue with class and probability; a source has its brightest component's.

        Rows without a spread model have no class, and the probability NaN. So have those that are
        saturated in every band, whose flat tops look like galaxies; they are flagged
        ``not_classified``.
        """
        components, sources = catalogue.components.copy(), catalogue.sources.copy()
        galaxy = galaxy_probability(*combined(components))
        known = np.isfinite(galaxy)
        is_galaxy = galaxy >= self.threshold
        classes = np.where(known, np.where(is_galaxy, GALAXY, STAR), "")
        probability = np.where(is_galaxy, galaxy, 1.0 - galaxy).astype(np.float32)
        flux = np.asarray(getattr(components["total_flux"], "value", components["total_flux"]))
        order = np.argsort(np.nan_to_num(np.asarray(flux, float), nan=-np.inf), kind="stable")
        numbers = np.asarray(components["source_id"])
        # of several assigned to one place the last, the brightest, stays
        brightest = dict(zip(numbers[order].tolist(), order.tolist(), strict=True))
        rows = np.array([brightest[i] for i in np.asarray(sources["source_id"]).tolist()], int)
        lost = np.where(_saturated(components, "") & ~known, int(Flag.NOT_CLASSIFIED), 0)
        for table, chosen in ((components, np.arange(len(components))), (sources, rows)):
            replace_values(table, "morphology", classes[chosen])
            replace_values(table, "morphology_probability", probability[chosen])
            table["flags"] |= lost[chosen]
        return catalogue.replace(components=components, sources=sources)
