"""How other people's catalogues name and scale their columns, as data.

A layout lists, for each of our columns, the names that it may have there (compared without
regard to case, the first present is taken) and the factor to our unit where the file itself
gives no unit.
"""

from collections.abc import Mapping
from typing import NamedTuple

ARCSEC = 3600.0
MILLI = 1e-3

Columns = Mapping[str, tuple[tuple[str, ...], float]]


class TableLayout(NamedTuple):
    """The columns of one kind of catalogue.

    Parameters
    ----------
    name : str
    needs : tuple of str
        Columns that tell it from every other layout.
    columns : mapping
        Our column: (its names there, factor to our unit).
    missing : tuple of float
        Values that stand for "unknown" in errors.
    text : mapping
        Our text column: its name there.
    comparable_fluxes : bool
        False where the listed fluxes are not those of the image (another scale or frequency).
    part : tuple of str, optional
        Text column and its value in rows that model a part of their source only.
    """

    name: str
    needs: tuple[str, ...]
    columns: Columns
    missing: tuple[float, ...] = ()
    text: Mapping[str, str] = {}
    comparable_fluxes: bool = True
    part: tuple[str, str] | None = None


def _columns(**given: str | tuple[str, float]) -> Columns:
    """Names separated by blanks, with a factor where it is not one."""
    made = {}
    for ours, value in given.items():
        names, factor = (value, 1.0) if isinstance(value, str) else value
        made[ours] = (tuple(names.split()), factor)
    return made


_POSITION = {"ra": "ra", "dec": "dec"}
_MILLI_FLUXES: dict[str, tuple[str, float]] = {
    "peak_flux": ("peak_flux", MILLI),
    "peak_flux_err": ("e_peak_flux", MILLI),
    "total_flux": ("total_flux", MILLI),
    "total_flux_err": ("e_total_flux", MILLI),
}
_PYBDSF_ANGLE = {"position_angle": "pa", "position_angle_err": "e_pa"}
_ARCSEC_AXES = {
    "major": "maj",
    "major_err": "e_maj",
    "minor": "min",
    "minor_err": "e_min",
    **_PYBDSF_ANGLE,
}

# VizieR's copies of survey catalogues; _RAJ2000 is its own, in degrees whatever RAJ2000 is in
_VIZIER_POSITION = {"ra": "_raj2000 raj2000", "dec": "_dej2000 dej2000"}
_VIZIER_ERRORS = {"ra_err": ("e_raj2000", ARCSEC), "dec_err": ("e_dej2000", ARCSEC)}
_VIZIER: tuple[TableLayout, ...] = (
    TableLayout(
        # its sizes with the beam are fMaj and fMin; errors follow from the rms and are not listed
        "FIRST (VizieR)",
        ("FIRST", "RAJ2000", "Fpeak", "Fint", "Rms", "fMaj"),
        _columns(
            **_VIZIER_POSITION,
            peak_flux=("fpeak", MILLI),
            total_flux=("fint", MILLI),
            major="fmaj",
            minor="fmin",
            position_angle="fpa",
            local_rms=("rms", MILLI),
        ),
        text={"name": "FIRST"},
    ),
    TableLayout(
        # its sizes are without the beam, and its error of RA in seconds of time: both left out
        "NVSS (VizieR)",
        ("NVSS", "RAJ2000", "S1.4", "MajAxis"),
        _columns(
            **_VIZIER_POSITION,
            dec_err="e_dej2000",
            total_flux=("s1.4", MILLI),
            total_flux_err=("e_s1.4", MILLI),
        ),
        text={"name": "NVSS"},
    ),
    TableLayout(
        "SUMSS (VizieR)",
        ("RAJ2000", "Sp", "St", "MajAxis", "MinAxis", "Mosaic"),
        _columns(
            **_VIZIER_POSITION,
            ra_err="e_raj2000",
            dec_err="e_dej2000",
            peak_flux=("sp", MILLI),
            peak_flux_err=("e_sp", MILLI),
            total_flux=("st", MILLI),
            total_flux_err=("e_st", MILLI),
            major="majaxis",
            minor="minaxis",
            position_angle="pa",
        ),
    ),
    TableLayout(
        "VLASS (VizieR)",
        ("CompName", "RAJ2000", "Ftot", "Fpeak", "Maj", "Islrms"),
        _columns(
            **_VIZIER_POSITION,
            **_VIZIER_ERRORS,
            peak_flux=("fpeak", MILLI),
            peak_flux_err=("e_fpeak", MILLI),
            total_flux=("ftot", MILLI),
            total_flux_err=("e_ftot", MILLI),
            **_ARCSEC_AXES,
            local_rms=("islrms", MILLI),
        ),
        text={"name": "CompName"},
    ),
    TableLayout(
        "LoTSS (VizieR)",
        ("Source", "RAJ2000", "Speak", "SpeakTot", "Islrms"),
        _columns(
            **_VIZIER_POSITION,
            ra_err="e_raj2000",
            dec_err="e_dej2000",
            peak_flux=("speak", MILLI),
            peak_flux_err=("e_speak", MILLI),
            total_flux=("speaktot", MILLI),
            total_flux_err=("e_speaktot", MILLI),
            **_ARCSEC_AXES,
            local_rms=("islrms", MILLI),
        ),
        text={"name": "Source"},
    ),
)

LAYOUTS: tuple[TableLayout, ...] = (
    TableLayout(
        "cyclades",
        ("ra", "dec", "peak_flux", "total_flux", "major", "position_angle"),
        _columns(
            **{
                name: name
                for name in (
                    "ra",
                    "dec",
                    "x",
                    "y",
                    "peak_flux",
                    "peak_flux_err",
                    "total_flux",
                    "total_flux_err",
                    "position_angle",
                    "position_angle_err",
                    "local_rms",
                    "snr",
                    "major",
                    "major_err",
                    "minor",
                    "minor_err",
                    "psf_major",
                    "psf_minor",
                )
            },
            ra_err=("ra_err", ARCSEC),
            dec_err=("dec_err", ARCSEC),
            score="reliability detection_score",
            source="source_id",
            island="island_id",
        ),
        text={"morphology": "morphology", "name": "name"},
        part=("fit_type", "wavelet"),
    ),
    TableLayout(
        "truth of the peers' simulator",
        ("ra", "dec", "peak", "int_flux", "maj", "min", "pa", "type", "local_rms", "snr"),
        _columns(
            **_POSITION,
            x="x",
            y="y",
            peak_flux="peak",
            total_flux="int_flux",
            major="maj",
            minor="min",
            position_angle="pa",
            local_rms="local_rms",
            snr="snr",
            source="group",
        ),
        text={"morphology": "type"},
    ),
    TableLayout(
        "common columns of the peers",
        ("ra", "dec", "e_ra", "e_dec", "peak_flux", "e_peak", "int_flux", "e_int", "maj"),
        _columns(
            **_POSITION,
            ra_err=("e_ra", ARCSEC),
            dec_err=("e_dec", ARCSEC),
            peak_flux="peak_flux",
            peak_flux_err="e_peak",
            total_flux="int_flux",
            total_flux_err="e_int",
            major="maj",
            minor="min",
            position_angle="pa",
            local_rms="local_rms",
        ),
        missing=(-1.0, -ARCSEC),
    ),
    TableLayout(
        "Aegean",
        ("ra", "dec", "err_ra", "peak_flux", "err_peak_flux", "int_flux", "a", "b"),
        _columns(
            **_POSITION,
            ra_err=("err_ra", ARCSEC),
            dec_err=("err_dec", ARCSEC),
            peak_flux="peak_flux",
            peak_flux_err="err_peak_flux",
            total_flux="int_flux",
            total_flux_err="err_int_flux",
            major="a",
            major_err="err_a",
            minor="b",
            minor_err="err_b",
            position_angle="pa",
            position_angle_err="err_pa",
            local_rms="local_rms",
            island="island",
            psf_major="psf_a",
            psf_minor="psf_b",
        ),
        missing=(-1.0, -ARCSEC),
        text={"name": "uuid"},
    ),
    TableLayout(
        "Selavy components",
        ("ra_deg_cont", "dec_deg_cont", "flux_peak", "flux_int", "maj_axis", "rms_image"),
        _columns(
            ra="ra_deg_cont",
            dec="dec_deg_cont",
            ra_err="ra_err",
            dec_err="dec_err",
            peak_flux=("flux_peak", MILLI),
            peak_flux_err=("flux_peak_err", MILLI),
            total_flux=("flux_int", MILLI),
            total_flux_err=("flux_int_err", MILLI),
            major="maj_axis",
            major_err="maj_axis_err",
            minor="min_axis",
            minor_err="min_axis_err",
            position_angle="pos_ang",
            position_angle_err="pos_ang_err",
            local_rms=("rms_image", MILLI),
        ),
        text={"name": "component_name"},
    ),
    TableLayout(
        "Selavy islands",
        ("ra_deg_cont", "dec_deg_cont", "flux_peak", "flux_int", "background_noise", "n_pix"),
        _columns(
            ra="ra_deg_cont",
            dec="dec_deg_cont",
            peak_flux=("flux_peak", MILLI),
            total_flux=("flux_int", MILLI),
            total_flux_err=("flux_int_err", MILLI),
            major="maj_axis",
            minor="min_axis",
            position_angle="pos_ang",
            local_rms=("background_noise", MILLI),
        ),
        text={"name": "island_name"},
    ),
    TableLayout(
        "VLASS (CIRADA)",
        ("Component_name", "RA", "DEC", "Total_flux", "Peak_flux", "Maj", "Isl_rms"),
        _columns(
            **_POSITION,
            ra_err=("e_ra", ARCSEC),
            dec_err=("e_dec", ARCSEC),
            **_MILLI_FLUXES,
            **_ARCSEC_AXES,
            local_rms=("isl_rms", MILLI),
            island="isl_id",
        ),
        text={"name": "Component_name"},
    ),
    TableLayout(
        "LoTSS",
        ("Source_Name", "RA", "DEC", "Total_flux", "Peak_flux", "Maj", "Isl_rms"),
        _columns(
            **_POSITION,
            ra_err="e_ra",
            dec_err="e_dec",
            **_MILLI_FLUXES,
            **_ARCSEC_AXES,
            local_rms=("isl_rms", MILLI),
        ),
        text={"name": "Source_Name"},
    ),
    TableLayout(
        "RACS",
        ("Source_ID", "RA", "Dec", "E_RA", "Peak_flux", "Noise"),
        _columns(
            **_POSITION,
            ra_err="e_ra",
            dec_err="e_dec",
            peak_flux=("peak_flux", MILLI),
            peak_flux_err=("e_peak_flux", MILLI),
            total_flux=("total_flux_gaussian total_flux_source total_flux", MILLI),
            total_flux_err=(
                "e_total_flux_gaussian e_total_flux_source e_total_flux",
                MILLI,
            ),
            major="maj_axis maj",
            major_err="e_maj_axis e_maj",
            minor="min_axis min",
            minor_err="e_min_axis e_min",
            **_PYBDSF_ANGLE,
            local_rms=("noise", MILLI),
        ),
        text={"name": "Source_Name"},
    ),
    *_VIZIER,
    TableLayout(
        "PyBDSF",
        ("RA", "DEC", "E_RA", "Total_flux", "Peak_flux", "Maj", "Min", "PA"),
        _columns(
            **_POSITION,
            ra_err=("e_ra", ARCSEC),
            dec_err=("e_dec", ARCSEC),
            peak_flux="peak_flux",
            peak_flux_err="e_peak_flux",
            total_flux="total_flux",
            total_flux_err="e_total_flux",
            major=("maj", ARCSEC),
            major_err=("e_maj", ARCSEC),
            minor=("min", ARCSEC),
            minor_err=("e_min", ARCSEC),
            **_PYBDSF_ANGLE,
            local_rms="isl_rms",
            source="source_id",
            island="isl_id",
        ),
    ),
    TableLayout(
        "deepsource truth",
        ("ra_d", "dec_d", "i", "emaj_s", "emin_s"),
        _columns(ra="ra_d", dec="dec_d", total_flux="i"),
        text={"name": "name"},
        comparable_fluxes=False,
    ),
    TableLayout(
        # its sizes are those of the sky, before the beam
        "SKA Data Challenge 1",
        ("ra_core", "dec_core", "ra_cent", "dec_cent", "flux", "core_frac", "b_maj", "b_min"),
        _columns(ra="ra_cent", dec="dec_cent", total_flux="flux"),
    ),
)
"""Layouts in the order in which they are tried: the first whose columns are all there is taken."""
