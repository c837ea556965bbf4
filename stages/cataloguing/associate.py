"""Components and islands that are one physical radio source become one row."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from cyclades.stages.cataloguing.bridges import BridgeLight
from cyclades.stages.cataloguing.merging import merge_sources, rows_of
from cyclades.stages.cataloguing.pair_model import agglomerate, default_model
from cyclades.stages.cataloguing.pairs import MOST, pair_features
from cyclades.stages.cataloguing.parts import Parts, find_pairs
from cyclades.stages.cataloguing.splitting import split_groups, split_sources
from cyclades.stages.core.geometry import Floats
from cyclades.stages.core.products import Integers
from cyclades.stages.core.stage import Capabilities, RefinementStage, parameter
from cyclades.stages.core.tiling import Box

if TYPE_CHECKING:
    from cyclades.stages.core.catalogue import Catalogue
    from cyclades.stages.core.context import Context
    from cyclades.stages.core.source import ImageSource


class WeighedPairs(NamedTuple):
    """Parts, and the log-odds that pairs of them (the brighter first) are one source."""

    parts: Parts
    first: Integers
    second: Integers
    log_odds: Floats


class AssociateRefinement(RefinementStage):
    """Puts the lobes, jets and cores of a radio source together to one row of ``sources``.

    The sources of the catalogue as it comes are its parts. Where a small model, trained on
    simulations, says that components of one of them are different objects (crowded islands hold
    strangers), it is split first. The model then gives every pair of parts within a radius the
    probability of being one source: from their distance and what chance would put there, fluxes,
    sizes, how they are elongated towards each other, third parts between or beyond, and emission
    on the line between them. Parts are joined so that the log-odds of all pairs within sources
    add up to the most.

    A catalogue that was associated before is returned as it is.
    """

    name: ClassVar[str] = "associate"
    summary: ClassVar[str] = "lobes and cores in islands of their own become one source"
    capabilities: ClassVar[Capabilities] = Capabilities(needs_beam=True)
    needs: ClassVar[tuple[str, ...]] = (
        "source_id",
        "island_id",
        "x",
        "y",
        "total_flux",
        "peak_flux",
        "snr",
        "major",
        "minor",
        "position_angle",
        "psf_major",
        "psf_minor",
        "n_components",
    )
    adds: ClassVar[tuple[str, ...]] = (
        "n_parts",
        "association_probability",
        "largest_angular_size",
        "host_type",
        "host_x",
        "host_y",
        "host_ra",
        "host_dec",
    )

    radius: float = parameter(
        25.0, "Largest distance of two parts that are looked at.", unit="beams", gt=0.0, le=200.0
    )
    probability: float = parameter(
        0.6,
        "Probability above which two parts are one source. At the default, 2 % of the points put "
        "into FIRST fields are joined wrongly; a lower one joins more lobes and more strangers.",
        gt=0.0,
        lt=1.0,
    )
    split: float = parameter(
        0.3,
        "Probability of being one object below which components of a source are apart; 0 leaves "
        "the sources of the catalogue whole.",
        ge=0.0,
        lt=1.0,
    )
    largest: float = parameter(
        60.0, "Largest distance between the centres of a source's parts.", unit="beams", gt=0.0
    )
    counts_slope: float = parameter(
        0.9,
        "Slope of the integral source counts, N(>S) ~ S^-slope, by which the density of brighter "
        "or fainter sources follows from the catalogue's.",
        gt=0.0,
        le=3.0,
    )
    bridge: bool = parameter(True, "Whether the image is looked at for emission between the parts.")
    limit_significance: float = parameter(
        2.0,
        "Significance of a squared size without the beam below which an upper limit is given.",
        unit="sigma",
        ge=0.0,
    )

    def refine(
        self, catalogue: "Catalogue", source: "ImageSource", *, context: "Context"
    ) -> "Catalogue":
        """Return the catalogue with one row a physical source.

        Parameters
        ----------
        catalogue : Catalogue
        source : ImageSource
            Gives the area of the image, and the emission between parts.
        context : Context
            Its note ``cataloguing.associate`` says how many sources were joined.

        Returns
        -------
        Catalogue
            Islands and components keep their rows; fluxes of sources are sums of their parts'.
        """
        if "association_probability" in catalogue.sources.colnames:
            return catalogue
        catalogue, pairs = self.weigh(catalogue, source)
        parts, first, second, log_odds = pairs
        shift = np.log(self.probability / (1.0 - self.probability))
        group = self.group(parts, first, second, log_odds - shift)
        chance = membership(group, first, second, log_odds)
        made = merge_sources(catalogue, parts, group, chance, significance=self.limit_significance)
        context.note(
            "cataloguing.associate",
            {"parts": len(parts), "pairs": len(first), "sources": len(made.sources)},
        )
        return made

    def weigh(
        self, catalogue: "Catalogue", source: "ImageSource"
    ) -> "tuple[Catalogue, WeighedPairs]":
        """Return the catalogue with strangers split off, and the log-odds of pairs of its sources.

        Parameters
        ----------
        catalogue : Catalogue
        source : ImageSource
            See `refine`.
        """
        area = image_area(source)
        bridge = BridgeLight(source) if self.bridge else None
        whole = np.arange(len(catalogue.sources))
        if self.split:
            catalogue, whole = self._apart(catalogue, area, bridge)
        parts = Parts.of(catalogue.sources, area)
        first, second = find_pairs(parts, self.radius)
        features = pair_features(parts, first, second, slope=self.counts_slope, bridge=bridge)
        log_odds = default_model().log_odds(features, len(parts), first, second)
        # what was split before is not put together again
        log_odds = np.where(whole[first] == whole[second], -MOST, log_odds)
        return catalogue, WeighedPairs(parts, first, second, log_odds)

    def _apart(
        self, catalogue: "Catalogue", area: float, bridge: BridgeLight | None
    ) -> "tuple[Catalogue, Integers]":
        """Return the catalogue with strangers split off, and the row that every source was of."""
        source = rows_of(catalogue.sources, catalogue.components)
        group = split_groups(
            Parts.of(catalogue.components, area),
            source,
            default_model().within,
            probability=self.split,
            slope=self.counts_slope,
            bridge=bridge,
        )
        made = split_sources(catalogue, source, group, area, self.limit_significance)
        whole = np.zeros(len(made.sources), np.int64)
        whole[rows_of(made.sources, made.components)] = source
        return made, whole

    def group(self, parts: Parts, first: Integers, second: Integers, log_odds: Floats) -> Integers:
        """Group parts by the log-odds of pairs, within the largest extent."""
        reach = self.largest * float(np.nanmedian(parts.beam_size)) if len(parts) else 0.0

        def small(rows: Integers) -> bool:
            places = parts.vectors[rows]
            apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
            return bool(apart.max() <= reach)

        return agglomerate(len(parts), first, second, log_odds, allowed=small)


def membership(group: Integers, first: Integers, second: Integers, log_odds: Floats) -> Floats:
    """Probability that every part belongs to its group: of its mean log-odds to the others.

    Returns
    -------
    ndarray, shape (parts,)
        NaN for a part that is alone.
    """
    own = group[first] == group[second]
    total, count = np.zeros(len(group)), np.zeros(len(group))
    for rows in (first[own], second[own]):
        np.add.at(total, rows, log_odds[own])
        np.add.at(count, rows, 1.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-total / count)))


def image_area(source: "ImageSource") -> float:
    """Area of an image in arcsec squared, or in pixels without celestial coordinates."""
    ny, nx = source.shape
    wcs = source.window(Box(ny // 2, ny // 2 + 1, nx // 2, nx // 2 + 1)).wcs
    if wcs is None:
        return float(ny * nx)
    return float(ny * nx * wcs.proj_plane_pixel_area().to_value("arcsec2"))
