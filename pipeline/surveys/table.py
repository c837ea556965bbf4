"""The surveys that can be fetched: what they are, and where their catalogues and images are."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion

SERVICES: dict[str, str] = {
    "vizier": "https://tapvizier.cds.unistra.fr/TAPVizieR/tap",
    "casda": "https://casda.csiro.au/casda_vo_tools/tap",
    "astron": "https://vo.astron.nl/__system__/tap/run/tap",
    "skyview": "https://skyview.gsfc.nasa.gov/current/cgi/basicform.pl",
    "hips2fits": "https://alasky.cds.unistra.fr/hips-image-services/hips2fits",
    "cadc": "http://www.cadc-ccda.hia-iha.nrc-cnrc.gc.ca/reg/resource-caps",
    "lofar": "https://lofar-surveys.org/dr2-cutout.fits",
}
"""Addresses of the services by name: TAP of VizieR, CASDA and ASTRON, forms and cut-outs."""


class CatalogueService(NamedTuple):
    """Where a catalogue is: a TAP service, its tables there, and the rows that count.

    Parameters
    ----------
    service : str
        A key of `SERVICES`.
    tables : tuple of str
        Tables whose rows are joined, as ADQL spells them.
    ra, dec : str
        Columns of the position, in degrees.
    condition : str
        Further condition, in ADQL.
    source : str
        Where it is published, for the file's header.
    """

    service: str
    tables: tuple[str, ...]
    ra: str
    dec: str
    condition: str
    source: str


class ImageService(NamedTuple):
    """Where images are: the service, the survey's name there, and a pixel's side in arcsec."""

    service: str
    name: str
    pixel: float


class Survey(NamedTuple):
    """A published survey.

    Parameters
    ----------
    name, title : str
    frequency : float
        MHz.
    beam : float
        FWHM in arcsec; at the zenith where it varies.
    depth : float
        Typical rms in mJy/beam.
    coverage : str
        In words.
    declinations : tuple of float
        Limits of the coverage in degrees.
    reference : str
    catalogue : CatalogueService
    image : ImageService
    """

    name: str
    title: str
    frequency: float
    beam: float
    depth: float
    coverage: str
    declinations: tuple[float, float]
    reference: str
    catalogue: CatalogueService
    image: ImageService

    def beam_at(self, dec: float) -> tuple[float, float]:
        """Return major and minor FWHM in arcsec at a declination in degrees."""
        if self.name == "SUMSS":
            # an east-west array: 45 by 45 cosec |dec| arcsec
            return self.beam / math.sin(math.radians(max(abs(dec), 30.0))), self.beam
        return (6.4, 5.4) if self.name == "FIRST" and dec < 4.55 else (self.beam, self.beam)

    def facts(self) -> dict[str, Any]:
        """Return the survey as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "frequency_mhz": self.frequency,
            "resolution_arcsec": self.beam,
            "rms_mjy": self.depth,
            "coverage": self.coverage,
            "reference": self.reference,
            "catalogue": self.catalogue.source,
            "catalogue_service": SERVICES[self.catalogue.service],
            "image_service": SERVICES[self.image.service],
        }


def _vizier(table: str, condition: str = "") -> CatalogueService:
    source = f"VizieR {table.rpartition('/')[0]}"
    return CatalogueService("vizier", (f'"{table}"',), "RAJ2000", "DEJ2000", condition, source)


_RACS = "AS110.racs_dr1_gaussians_galactic{}_v2021_08_v02"

SURVEYS: Mapping[str, Survey] = {
    survey.name: survey
    for survey in (
        Survey(
            "FIRST", "Faint Images of the Radio Sky at Twenty-cm", 1400.0, 5.4, 0.15,
            "10,575 square degrees of the galactic caps", (-11.5, 64.6),
            "Helfand, White & Becker 2015, ApJ 801, 26",
            _vizier("VIII/92/first14"),
            ImageService("skyview", "VLA FIRST (1.4 GHz)", 1.8),
        ),
        Survey(
            "NVSS", "NRAO VLA Sky Survey", 1400.0, 45.0, 0.45,
            "all sky north of declination -40", (-40.5, 90.0),
            "Condon et al. 1998, AJ 115, 1693",
            _vizier("VIII/65/nvss"),
            ImageService("skyview", "NVSS", 15.0),
        ),
        Survey(
            "VLASS", "VLA Sky Survey, quick-look images", 3000.0, 2.5, 0.12,
            "all sky north of declination -40", (-40.5, 90.0),
            "Gordon et al. 2021, ApJS 255, 30; Lacy et al. 2020, PASP 132, 035001",
            # main sample: no duplicates, none flagged but as possibly faint (their section 3)
            _vizier("J/ApJS/255/30/comp", "DupFlag < 2 AND QualFlag IN (0, 4)"),
            ImageService("cadc", "VLASS", 1.0),
        ),
        Survey(
            "RACS", "Rapid ASKAP Continuum Survey, low band, DR1", 887.5, 25.0, 0.3,
            "declinations -80 to +30 (catalogue), south of +41 (images)", (-90.0, 41.0),
            "Hale et al. 2021, PASA 38, e058; McConnell et al. 2020, PASA 37, e048",
            CatalogueService(
                "casda", (_RACS.format("cut"), _RACS.format("region")), "ra", "dec", "",
                "CASDA, doi:10.25919/8zyw-5w85",
            ),
            ImageService("hips2fits", "CSIRO/P/RACS/low/I", 5.0),
        ),
        Survey(
            "LoTSS", "LOFAR Two-metre Sky Survey, DR2", 144.0, 6.0, 0.083,
            "5,634 square degrees of the northern sky", (0.0, 90.0),
            "Shimwell et al. 2022, A&A 659, A1",
            CatalogueService(
                "astron", ("lotss_dr2.main_sources",), "ra", "dec", "", "ASTRON, LoTSS DR2"
            ),
            ImageService("lofar", "LoTSS DR2", 1.5),
        ),
        Survey(
            "SUMSS", "Sydney University Molonglo Sky Survey", 843.0, 45.0, 1.0,
            "sky south of declination -30, |b| above 10", (-90.0, -30.0),
            "Mauch et al. 2003, MNRAS 342, 1117",
            _vizier("VIII/81B/sumss212"),
            ImageService("skyview", "SUMSS 843 MHz", 11.0),
        ),
    )
}  # fmt: skip
"""All surveys by name."""


def find_survey(name: str) -> Survey:
    """Return a survey by its name in any case.

    Raises
    ------
    ConfigurationError
        For an unknown name.
    """
    for known, survey in SURVEYS.items():
        if known.lower() == name.lower():
            return survey
    raise ConfigurationError(
        f"There is no survey {name!r}{suggestion(name, list(SURVEYS))}; choose one of "
        f"{', '.join(SURVEYS)} ('cyclades fetch --list' tells of each)."
    )
