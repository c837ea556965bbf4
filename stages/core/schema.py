"""The one table of catalogue columns: name, unit, UCD, description, in the order of the files.

Documentation (`markdown`), dtypes, units, UCDs and the reading of files all derive from it. The
version is semantic: a column added raises the minor number, a column renamed, removed or given
another meaning raises the major one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

SCHEMA_VERSION = "1.3.0"
TABLES = ("components", "sources", "islands")

_ALL = TABLES
_COMPONENTS = ("components",)
_FITTED = ("components", "sources")
_ISLANDS = ("islands",)

SIZE, FLUX, BRIGHTNESS = "size", "flux", "brightness"
"""Units that depend on the image: arcsec or pix; ``Jy``; ``Jy / beam``."""


@dataclass(frozen=True)
class ColumnSpec:
    """One column of the catalogue.

    Parameters
    ----------
    name : str
    unit : str
        A unit, or one of ``size``, ``flux``, ``brightness``, which depend on the image.
    ucd : str
        Unified Content Descriptor (IVOA UCD1+).
    description : str
    tables : tuple of str
        The tables that have the column.
    dtype : str
        numpy dtype; ``str`` for text.
    sky : bool
        The column is absent where the image has no celestial coordinates.
    """

    name: str
    unit: str
    ucd: str
    description: str
    tables: tuple[str, ...] = _ALL
    dtype: str = "f4"
    sky: bool = False

    @property
    def error(self) -> "ColumnSpec":
        """The column of the one-sigma error."""
        return replace(
            self,
            name=f"{self.name}_err",
            ucd=f"stat.error;{self.ucd.removesuffix(';meta.main')}",
            description=f"one-sigma error of {self.name}",
            dtype="f4",
        )


def _with_error(column: ColumnSpec, error: str = "") -> tuple[ColumnSpec, ColumnSpec]:
    return column, replace(column.error, description=error) if error else column.error


_C = ColumnSpec
COLUMNS: tuple[ColumnSpec, ...] = (
    _C("name", "", "meta.id;meta.main", "IAU-style name from the position, truncated", dtype="str"),
    _C("component_id", "", "meta.id", "number of the component, in sky order", _COMPONENTS, "i4"),
    _C("source_id", "", "meta.id.assoc", "number of the source", _FITTED, "i4"),
    _C("island_id", "", "meta.id.parent", "number of the island", dtype="i4"),
    *_with_error(
        _C("ra", "deg", "pos.eq.ra;meta.main", "right ascension, ICRS", _FITTED, "f8", True),
        "one-sigma error of the right ascension on the sky, sigma(ra) cos(dec)",
    ),
    *_with_error(
        _C("dec", "deg", "pos.eq.dec;meta.main", "declination, ICRS", _FITTED, "f8", True)
    ),
    _C(
        "ra",
        "deg",
        "pos.eq.ra;meta.main",
        "right ascension of the brightest pixel, ICRS",
        _ISLANDS,
        "f8",
        True,
    ),
    _C(
        "dec",
        "deg",
        "pos.eq.dec;meta.main",
        "declination of the brightest pixel, ICRS",
        _ISLANDS,
        "f8",
        True,
    ),
    *_with_error(
        _C(
            "x",
            "pix",
            "pos.cartesian.x;instr.det",
            "column in the image; (0, 0) is the centre of the first pixel",
            _FITTED,
            "f8",
        )
    ),
    *_with_error(
        _C(
            "y",
            "pix",
            "pos.cartesian.y;instr.det",
            "row in the image; (0, 0) is the centre of the first pixel",
            _FITTED,
            "f8",
        )
    ),
    _C(
        "x",
        "pix",
        "pos.cartesian.x;instr.det",
        "column of the brightest pixel; (0, 0) is the first pixel",
        _ISLANDS,
        "i4",
    ),
    _C(
        "y",
        "pix",
        "pos.cartesian.y;instr.det",
        "row of the brightest pixel; (0, 0) is the first pixel",
        _ISLANDS,
        "i4",
    ),
    *_with_error(
        _C(
            "peak_flux",
            BRIGHTNESS,
            "phot.flux.density;stat.max",
            "peak above the background; of a source, that of its brightest component",
            _FITTED,
        )
    ),
    _C(
        "peak_flux",
        BRIGHTNESS,
        "phot.flux.density;stat.max",
        "brightest pixel above the background",
        _ISLANDS,
    ),
    *_with_error(
        _C(
            "total_flux",
            FLUX,
            "phot.flux.density",
            "integrated flux; of a source, the sum of its components",
            _FITTED,
        )
    ),
    *_with_error(
        _C(
            "major",
            SIZE,
            "phys.angSize.smajAxis",
            "FWHM of the major axis, beam included; of a source, from the second moments of "
            "all its components",
            _FITTED,
        )
    ),
    *_with_error(
        _C("minor", SIZE, "phys.angSize.sminAxis", "FWHM of the minor axis, beam included", _FITTED)
    ),
    *_with_error(
        _C(
            "position_angle",
            "deg",
            "pos.posAng",
            "position angle of the major axis, east of ICRS north at the source; without sky "
            "coordinates, from +y towards -x",
            _FITTED,
        )
    ),
    *_with_error(
        _C(
            "deconvolved_major",
            SIZE,
            "phys.angSize.smajAxis;meta.modelled",
            "FWHM of the major axis without the beam, or its upper limit",
            _FITTED,
        )
    ),
    _C(
        "deconvolved_major_is_limit",
        "",
        "meta.code;phys.angSize.smajAxis",
        "whether deconvolved_major is an upper limit",
        _FITTED,
        "?",
    ),
    *_with_error(
        _C(
            "deconvolved_minor",
            SIZE,
            "phys.angSize.sminAxis;meta.modelled",
            "FWHM of the minor axis without the beam, or its upper limit",
            _FITTED,
        )
    ),
    _C(
        "deconvolved_minor_is_limit",
        "",
        "meta.code;phys.angSize.sminAxis",
        "whether deconvolved_minor is an upper limit",
        _FITTED,
        "?",
    ),
    *_with_error(
        _C(
            "deconvolved_position_angle",
            "deg",
            "pos.posAng;meta.modelled",
            "position angle without the beam; NaN where deconvolved_major is a limit",
            _FITTED,
        )
    ),
    _C(
        "resolved",
        "",
        "meta.code;phys.angSize",
        "whether it is wider than the beam; a source of several components is",
        _FITTED,
        "?",
    ),
    _C(
        "resolved_probability",
        "",
        "stat.probability;phys.angSize",
        "probability that the profile is wider than the beam",
        _COMPONENTS,
    ),
    *_with_error(
        _C(
            "beam_flux",
            FLUX,
            "phot.flux.density;meta.modelled",
            "flux of a fit of the beam's own shape, for unresolved components",
            _COMPONENTS,
        )
    ),
    *_with_error(
        _C(
            "island_flux",
            FLUX,
            "phot.flux.density;arith.sum",
            "sum of the island's pixels above the background, over the beam area",
        ),
        "one-sigma error of island_flux: local_rms sqrt(n_pixels / beam area)",
    ),
    _C("snr", "", "stat.snr", "peak_flux over local_rms"),
    _C(
        "local_rms",
        BRIGHTNESS,
        "instr.det.noise",
        "noise of the image at the position; of an island, the mean over its pixels",
    ),
    _C(
        "local_background",
        BRIGHTNESS,
        "instr.skyLevel",
        "background level that was subtracted; of an island, the mean over its pixels",
    ),
    _C(
        "psf_major",
        SIZE,
        "phys.angSize.smajAxis;instr.beam",
        "FWHM of the beam's major axis at the position",
        _FITTED,
    ),
    _C(
        "psf_minor",
        SIZE,
        "phys.angSize.sminAxis;instr.beam",
        "FWHM of the beam's minor axis at the position",
        _FITTED,
    ),
    _C(
        "psf_pa",
        "deg",
        "pos.posAng;instr.beam",
        "position angle of the beam at the position, counted as position_angle",
        _FITTED,
    ),
    _C("frequency", "Hz", "em.freq", "frequency of the image", dtype="f8"),
    _C("n_pixels", "", "meta.number;instr.pixel", "pixels used by the measurement", _FITTED, "i4"),
    _C("n_pixels", "", "meta.number;instr.pixel", "pixels of the island", _ISLANDS, "i4"),
    _C("x_min", "pix", "pos.cartesian.x;stat.min", "first column of the island", _ISLANDS, "i4"),
    _C("x_max", "pix", "pos.cartesian.x;stat.max", "last column of the island", _ISLANDS, "i4"),
    _C("y_min", "pix", "pos.cartesian.y;stat.min", "first row of the island", _ISLANDS, "i4"),
    _C("y_max", "pix", "pos.cartesian.y;stat.max", "last row of the island", _ISLANDS, "i4"),
    _C(
        "residual_mean",
        BRIGHTNESS,
        "stat.fit.residual;stat.mean",
        "mean of the residual of the fit over the pixels",
    ),
    _C(
        "residual_rms",
        BRIGHTNESS,
        "stat.fit.residual;stat.stdev",
        "root mean square of the residual of the fit over the pixels",
    ),
    _C("chi2", "", "stat.fit.chi2", "chi squared of the fit of the island"),
    _C(
        "degrees_of_freedom",
        "",
        "stat.fit.dof",
        "degrees of freedom of the fit of the island, in independent resolution elements",
    ),
    _C(
        "fit_type",
        "",
        "meta.code",
        "how it was measured: gaussian, wavelet, beam, moments, ...",
        _COMPONENTS,
        "str",
    ),
    _C(
        "n_components",
        "",
        "meta.number",
        "components of the source or island that it belongs to",
        dtype="i4",
    ),
    _C(
        "source_code",
        "",
        "meta.code.class",
        "of the source: S a single component, M several, C complex or poorly fitted",
        _FITTED,
        "str",
    ),
    _C(
        "morphology",
        "",
        "src.morph.type",
        "morphological class; empty where no classifier ran",
        _FITTED,
        "str",
    ),
    _C(
        "morphology_probability",
        "",
        "stat.probability;src.morph.type",
        "probability of the class in morphology",
        _FITTED,
    ),
    _C(
        "detection_score",
        "",
        "stat.likelihood",
        "score of the detector, 0 to 1; 1 where it gives none",
    ),
    _C(
        "flags",
        "",
        "meta.code.qual",
        "bit mask of warnings; see cyclades.stages.core.flags",
        dtype="i4",
    ),
    _C("detected_by", "", "meta.code", "detection stage that found it", dtype="str"),
    _C("measured_by", "", "meta.code", "characterization stage", _FITTED, "str"),
)

EXTRA_COLUMNS: tuple[ColumnSpec, ...] = (
    *_with_error(
        _C("isophotal_flux", FLUX, "phot.flux.density;arith.sum", "sum of the segment's pixels")
    ),
    *_with_error(_C("kron_flux", FLUX, "phot.flux.density", "flux in the Kron ellipse")),
    *_with_error(
        _C("aperture_flux", FLUX, "phot.flux.density", "flux in a circle of fixed diameter")
    ),
    *_with_error(
        _C(
            "psf_flux",
            FLUX,
            "phot.flux.density;meta.modelled",
            "flux of a fit of the profile of the image's stars; misses light of galaxies",
        )
    ),
    *_with_error(
        _C(
            "spread_model",
            "",
            "stat.fit.param;src.morph",
            "how much better a slightly wider profile fits than that of stars: 0 for stars, "
            "positive for galaxies",
        )
    ),
    _C("kron_radius", "pix", "phys.angSize", "Kron radius, the first moment of the profile"),
    _C("half_light_radius", "pix", "phys.angSize", "radius that holds half of kron_flux"),
    _C(
        "total_flux_limit",
        FLUX,
        "phot.flux.density;stat.max",
        "upper limit of total_flux of a forced measurement: its positive part plus the limit's "
        "number of sigmas (3 by default)",
        _FITTED,
    ),
    _C(
        "total_flux_is_limit",
        "",
        "meta.code;phot.flux.density",
        "whether a forced measurement is no detection, so that total_flux_limit is what is known",
        _FITTED,
        "?",
    ),
    *_with_error(
        _C(
            "spectral_index",
            "",
            "spect.index",
            "power-law index alpha of total_flux proportional to frequency^alpha",
            _FITTED,
        )
    ),
    _C(
        "spectral_index_min",
        "",
        "spect.index;stat.min",
        "lower limit of the spectral index of a source detected at one frequency",
        _FITTED,
    ),
    _C(
        "spectral_index_max",
        "",
        "spect.index;stat.max",
        "upper limit of the spectral index of a source detected at one frequency",
        _FITTED,
    ),
    _C("spectral_chi2", "", "stat.fit.chi2", "chi squared of the power law", _FITTED),
    _C(
        "spectral_planes",
        "",
        "meta.number;obs.image",
        "images that the power law was fitted to",
        _FITTED,
        "i4",
    ),
    *_with_error(
        _C("mean_flux", FLUX, "phot.flux.density;stat.mean", "weighted mean over epochs", _FITTED)
    ),
    _C(
        "variability_v",
        "",
        "src.var.index",
        "coefficient of variation V: standard deviation of the fluxes over their mean",
        _FITTED,
    ),
    _C(
        "variability_eta",
        "",
        "src.var.index",
        "significance of variability eta: reduced chi squared about the weighted mean",
        _FITTED,
    ),
    _C("n_epochs", "", "meta.number;obs", "epochs with a measurement", _FITTED, "i4"),
    *_with_error(
        _C(
            "polarised_flux",
            FLUX,
            "phot.flux.density;phys.polarization.linear",
            "linearly polarised intensity, debiased",
            _FITTED,
        )
    ),
    _C(
        "polarised_flux_limit",
        FLUX,
        "phot.flux.density;phys.polarization.linear;stat.max",
        "upper limit of polarised_flux: the debiased value plus the limit's number of sigmas",
        _FITTED,
    ),
    _C(
        "polarised_flux_is_limit",
        "",
        "meta.code;phys.polarization.linear",
        "whether linear polarisation is not detected, so that polarised_flux_limit is what is "
        "known",
        _FITTED,
        "?",
    ),
    *_with_error(
        _C(
            "polarisation_angle",
            "deg",
            "pos.posAng;phys.polarization.linear",
            "angle of the electric vector, in the frame and sense of Stokes Q and U",
            _FITTED,
        )
    ),
    *_with_error(
        _C(
            "polarised_fraction",
            "",
            "phys.polarization.linear;arith.ratio",
            "polarised_flux over Stokes I; NaN where Stokes I is no detection",
            _FITTED,
        )
    ),
    *_with_error(
        _C(
            "circular_fraction",
            "",
            "phys.polarization.circular;arith.ratio",
            "Stokes V over Stokes I, with its sign; NaN where Stokes I is no detection",
            _FITTED,
        )
    ),
    _C(
        "similarity",
        "",
        "stat.value;src.morph",
        "likeness to the sources that were asked for, -1 to 1: the cosine between features of a "
        "network; NaN without a picture",
        ("sources",),
    ),
    _C(
        "oddness",
        "",
        "stat.value;src.morph",
        "distance of a source's features from those of its nearest neighbours, in deviations of "
        "the catalogue; NaN without a picture",
        ("sources",),
    ),
    _C(
        "n_parts",
        "",
        "meta.number",
        "sources of the catalogue before association that were put together to this one",
        ("sources",),
        "i4",
    ),
    _C(
        "association_probability",
        "",
        "stat.probability",
        "probability that the parts are one source, of the least certain one; NaN of a single part",
        ("sources",),
    ),
    _C(
        "largest_angular_size",
        SIZE,
        "phys.angSize",
        "largest distance between the half-maximum contours of two components without the beam, "
        "or the major axis of a single one",
        ("sources",),
    ),
    _C(
        "host_type",
        "",
        "meta.code",
        "what the host position is: core, a compact component near the middle; centre, the "
        "source's own position",
        ("sources",),
        "str",
    ),
    _C(
        "host_ra",
        "deg",
        "pos.eq.ra",
        "right ascension where the host galaxy may be, ICRS",
        ("sources",),
        "f8",
        True,
    ),
    _C(
        "host_dec",
        "deg",
        "pos.eq.dec",
        "declination where the host galaxy may be, ICRS",
        ("sources",),
        "f8",
        True,
    ),
    _C(
        "host_x",
        "pix",
        "pos.cartesian.x;instr.det",
        "column where the host galaxy may be",
        ("sources",),
        "f8",
    ),
    _C(
        "host_y",
        "pix",
        "pos.cartesian.y;instr.det",
        "row where the host galaxy may be",
        ("sources",),
        "f8",
    ),
    _C(
        "reliability",
        "",
        "stat.probability;src",
        "calibrated probability that the row is a real source or a piece of one; of a source or "
        "island, that of its most reliable component; NaN of negative rows",
    ),
    _C("field", "", "meta.id;obs.field", "field of a survey that the row is from", dtype="str"),
    _C(
        "n_fields",
        "",
        "meta.number;obs.field",
        "fields of a survey in which it was found",
        dtype="i4",
    ),
    _C(
        "n_covering",
        "",
        "meta.number;obs.field",
        "fields of a survey that cover its position",
        dtype="i4",
    ),
)
"""Columns that only some characterizers and measurements give; they follow the others."""


def columns(table: str, *, sky: bool = True) -> list[ColumnSpec]:
    """Return the columns of a table in order; without those that need sky coordinates if asked."""
    return [c for c in COLUMNS if table in c.tables and (sky or not c.sky)]


def column(table: str, name: str) -> ColumnSpec:
    """Return the column `name` of a table; one that nobody declared has no unit and no UCD."""
    for spec in COLUMNS:
        if spec.name == name and table in spec.tables:
            return spec
    for spec in EXTRA_COLUMNS:
        if spec.name == name:
            return spec
    return ColumnSpec(name, "", "", "", (table,), "")


def markdown() -> str:
    """Return the documentation of the three tables as Markdown."""
    return "\n".join(_markdown_lines())


def _markdown_lines() -> Iterator[str]:
    shown = {
        SIZE: "arcsec (pix without sky coordinates)",
        FLUX: "Jy (as the image)",
        BRIGHTNESS: "Jy / beam (as the image)",
    }
    yield f"Schema version {SCHEMA_VERSION}."
    for table in TABLES:
        yield f"\n## {table}\n"
        yield "| column | unit | UCD | description |"
        yield "|---|---|---|---|"
        for c in columns(table):
            yield f"| `{c.name}` | {shown.get(c.unit, c.unit)} | `{c.ucd}` | {c.description} |"
    yield "\n## further columns of some characterizers and measurements\n"
    yield "| column | unit | UCD | description |"
    yield "|---|---|---|---|"
    for c in EXTRA_COLUMNS:
        yield f"| `{c.name}` | {shown.get(c.unit, c.unit)} | `{c.ucd}` | {c.description} |"
