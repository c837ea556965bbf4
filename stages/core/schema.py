"""The one table of catalogue columns: name, unit, UCD, description, in the order of the files.

Documentation (`markdown`), dtypes, units, UCDs and the reading of files all derive from it. The
version is semantic: a column added raises the minor number, a column renamed, removed or given
another meaning raises the major one.
"""

from collections.abc import Iterator

from cyclades.stages.core.standard_columns import (
    BRIGHTNESS,
    COLUMNS,
    FLUX,
    SIZE,
    TABLES,
    ColumnSpec,
    with_error,
)

__all__ = [
    "BRIGHTNESS",
    "COLUMNS",
    "EXTRA_COLUMNS",
    "FLUX",
    "SCHEMA_VERSION",
    "SIZE",
    "TABLES",
    "ColumnSpec",
    "column",
    "columns",
    "markdown",
]

SCHEMA_VERSION = "1.4.0"

_C = ColumnSpec
_FITTED = ("components", "sources")

EXTRA_COLUMNS: tuple[ColumnSpec, ...] = (
    *with_error(
        _C("isophotal_flux", FLUX, "phot.flux.density;arith.sum", "sum of the segment's pixels")
    ),
    *with_error(_C("kron_flux", FLUX, "phot.flux.density", "flux in the Kron ellipse")),
    *with_error(
        _C("aperture_flux", FLUX, "phot.flux.density", "flux in a circle of fixed diameter")
    ),
    *with_error(
        _C(
            "psf_flux",
            FLUX,
            "phot.flux.density;meta.modelled",
            "flux of a fit of the profile of the image's stars; misses light of galaxies",
        )
    ),
    *with_error(
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
    *with_error(
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
    *with_error(
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
    *with_error(
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
    *with_error(
        _C(
            "polarisation_angle",
            "deg",
            "pos.posAng;phys.polarization.linear",
            "angle of the electric vector, in the frame and sense of Stokes Q and U",
            _FITTED,
        )
    ),
    *with_error(
        _C(
            "polarised_fraction",
            "",
            "phys.polarization.linear;arith.ratio",
            "polarised_flux over Stokes I; NaN where Stokes I is no detection",
            _FITTED,
        )
    ),
    *with_error(
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
