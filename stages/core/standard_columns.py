"""The columns of every catalogue, in the order of the files, and what is told about a column.

`cyclades.stages.core.schema` adds the columns that only some measurements give.
"""

from dataclasses import dataclass, replace

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


def with_error(column: ColumnSpec, error: str = "") -> tuple[ColumnSpec, ColumnSpec]:
    """Return a column and that of its error, which `error` describes if given."""
    return column, replace(column.error, description=error) if error else column.error


_C = ColumnSpec
COLUMNS: tuple[ColumnSpec, ...] = (
    _C("name", "", "meta.id;meta.main", "IAU-style name from the position, truncated", dtype="str"),
    _C("component_id", "", "meta.id", "number of the component, in sky order", _COMPONENTS, "i4"),
    _C("source_id", "", "meta.id.assoc", "number of the source", _FITTED, "i4"),
    _C("island_id", "", "meta.id.parent", "number of the island", dtype="i4"),
    *with_error(
        _C("ra", "deg", "pos.eq.ra;meta.main", "right ascension, ICRS", _FITTED, "f8", True),
        "one-sigma error of the right ascension on the sky, sigma(ra) cos(dec)",
    ),
    *with_error(_C("dec", "deg", "pos.eq.dec;meta.main", "declination, ICRS", _FITTED, "f8", True)),
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
    *with_error(
        _C(
            "x",
            "pix",
            "pos.cartesian.x;instr.det",
            "column in the image; (0, 0) is the centre of the first pixel",
            _FITTED,
            "f8",
        )
    ),
    *with_error(
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
    *with_error(
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
    *with_error(
        _C(
            "total_flux",
            FLUX,
            "phot.flux.density",
            "integrated flux; of a source, the sum of its components",
            _FITTED,
        )
    ),
    *with_error(
        _C(
            "major",
            SIZE,
            "phys.angSize.smajAxis",
            "FWHM of the major axis, beam included; of a source, from the second moments of "
            "all its components",
            _FITTED,
        )
    ),
    *with_error(
        _C("minor", SIZE, "phys.angSize.sminAxis", "FWHM of the minor axis, beam included", _FITTED)
    ),
    *with_error(
        _C(
            "position_angle",
            "deg",
            "pos.posAng",
            "position angle of the major axis, east of ICRS north at the source; without sky "
            "coordinates, from +y towards -x",
            _FITTED,
        )
    ),
    *with_error(
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
    *with_error(
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
    *with_error(
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
    *with_error(
        _C(
            "beam_flux",
            FLUX,
            "phot.flux.density;meta.modelled",
            "flux of a fit of the beam's own shape, for unresolved components",
            _COMPONENTS,
        )
    ),
    *with_error(
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
