"""Options of Aegean and PyBDSF and what they are here, as tables that documentation is made from.

An option's place is a parameter of a configuration (``detection.seed_threshold``), an option of
``cyclades run`` (``--workers``), or empty where there is nothing to set; its note says what to do
instead. ``refused`` options would change the catalogue in a way that cannot be followed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Convert = Callable[[Any], Any]


class Option(NamedTuple):
    """An option of another source finder.

    Parameters
    ----------
    name : str
    place : str
        What it is here; empty for nothing.
    values : int
        How many values it has on a command line; 0 for a switch.
    convert : callable, optional
        From the values (one, or a sequence of several) to ours.
    note : str
        What differs, or what to use instead.
    refused : bool
        Whether it cannot be ignored.
    """

    name: str
    place: str = ""
    values: int = 1
    convert: Convert | None = None
    note: str = ""
    refused: bool = False


class Finder(NamedTuple):
    """A source finder: what its defaults are here, its columns, and its options."""

    name: str
    title: str
    defaults: Mapping[str, Any]
    columns: tuple[str, ...]
    options: tuple[Option, ...]


def beam_text(values: Sequence[Any]) -> str:
    """Return a beam given as major, minor and angle in degrees, as our options spell it."""
    major, minor, angle = map(float, values)
    return f"{major:.10g}x{minor:.10g}deg@{angle:g}deg"


def side(values: Sequence[Any]) -> int:
    """Return the side of the square with the area of a box of two sides."""
    first, second = map(float, values)
    return max(3, round(math.sqrt(first * second)))


def _one_side(values: Any) -> int:
    """Return the box of PyBDSF's pair of box and step."""
    return max(3, int(values[0] if isinstance(values, (tuple, list)) else values))


def _false(value: Any) -> bool:
    return str(value).lower() in ("false", "0", "no", "none", "")


_NO_MASK = 1e6
"""Neither leaves sources out of its maps but by clipping: where there is much extended emission,
that raises the rms and decides how much of it is found."""
_STEP = "our maps have a step of their own, a fraction of the box"
_MEASURE = "use 'cyclades measure --catalogue CATALOGUE'"

AEGEAN = Finder(
    "aegean",
    "Aegean and BANE",
    {
        # BANE's box is five steps of four beams
        "background": {"name": "grid", "box_beams": 20.0, "mask_seed_threshold": _NO_MASK},
        "detection": {"name": "islands", "seed_threshold": 5.0, "flood_threshold": 4.0},
        "characterization": {
            "name": "gaussian", "added_components": 0, "wavelet_components": 0, "artefacts": "flag",
        },
        "cataloguing": ["components"],
    },
    ("aegean",),
    (
        Option("seedclip", "detection.seed_threshold", convert=float),
        Option("floodclip", "detection.flood_threshold", convert=float),
        Option("box", "background.box_size", 2, side, "BANE's, in pixels; one side here"),
        Option("grid", "background.box_size", 2, lambda v: 5 * side(v),
               f"BANE's, where --box is not given: its box is 5 steps; {_STEP}"),
        Option("noise", "background.rms", convert=str, note="with --background"),
        Option("background", "background.level", convert=str, note="with --noise"),
        Option("autoload", "background", 0,
               note="X_bkg.fits and X_rms.fits beside the image, where both are there"),
        Option("beam", "image.beam", 3, beam_text),
        Option("psf", "image.psf", convert=str),
        Option("slice", "image.plane", convert=int),
        Option("hdu", "image.extension", convert=int),
        Option("negative", "detection.negative", 0, lambda _: True),
        Option("cores", "--workers", convert=int),
        Option("region", note="convert it with 'MIMAS --mim2reg X.mim X.reg' and give --include "
               "X.reg", refused=True),
        Option("forcerms", note="write a FITS map and give --rms and --background", refused=True),
        Option("forcebkg", note="write a FITS map and give --rms and --background", refused=True),
        Option("nopositive", values=0, note="positive sources are always detected", refused=True),
        Option("priorized", note=_MEASURE, refused=True),
        Option("input", note=_MEASURE, refused=True),
        Option("ratio", note=_MEASURE, refused=True),
        Option("catpsf", note=_MEASURE, refused=True),
        Option("noregroup", values=0, note=_MEASURE, refused=True),
        Option("regroup-eps", note=_MEASURE, refused=True),
        Option("table", "--output", note="X.catalogue.aegean.fits in the directory --output; CSV "
               "with --formats csv"),
        Option("out", "--output", note="as --table"),
        Option("island", values=0, note="the table islands is always written"),
        Option("maxsummits", note="large islands are fitted component by component"),
        Option("nocov", values=0, note="the fit's weights are ours; errors are for correlated "
               "noise"),
        Option("find", values=0, note="that is what run does"),
        Option("save", values=0, note="maps are written with --products background,rms"),
        Option("outbase", note="maps are written with --products background,rms"),
        Option("colprefix", note="columns have their plain names"),
        Option("blankout", values=0, note="see --products islands"),
        Option("progress", values=0), Option("debug", values=0), Option("versions", values=0),
        Option("tformats", values=0), Option("cite", values=0), Option("config"),
        Option("stripes"), Option("nomask", values=0), Option("noclobber", values=0),
        Option("compress", values=0),
    ),
)  # fmt: skip
"""Aegean 2.3 and its BANE, with what they do unless told otherwise."""

PYBDSF = Finder(
    "pybdsf",
    "PyBDSF",
    {
        "background": {"name": "grid", "mask_seed_threshold": _NO_MASK},
        "detection": {"name": "islands", "seed_threshold": 5.0, "flood_threshold": 3.0},
        "characterization": {
            "name": "gaussian", "wavelet_components": 0, "artefacts": "flag",
        },
        "cataloguing": ["components"],
    },
    ("pybdsf",),
    (
        Option("thresh_pix", "detection.seed_threshold", convert=float),
        Option("thresh_isl", "detection.flood_threshold", convert=float),
        Option("thresh", "detection.seed_threshold",
               note="'fdr' leaves the threshold to fdr_alpha; 'hard' is the default here, where "
               "PyBDSF decides itself"),
        Option("fdr_alpha", "detection.false_discovery_rate", convert=float,
               note="with thresh='fdr'; of sources here, of pixels there"),
        Option("rms_box", "background.box_size", convert=_one_side, note=_STEP),
        Option("kappa_clip", "background.clip", convert=float),
        Option("mean_map", "background",
               note="'zero' is the background none; 'map' and 'default' are maps"),
        Option("rmsmean_map_filename", "background",
               note="[mean, rms] become the background maps"),
        Option("minpix_isl", "detection.minimum_pixels", convert=int,
               note="PyBDSF's default is a third of the beam's area, at least 6"),
        Option("beam", "image.beam", convert=beam_text),
        Option("frequency", "image.frequency", convert=float),
        Option("atrous_do", "characterization.wavelet_components",
               convert=lambda v: 0 if _false(v) else 8,
               note="Gaussians are fitted to the wavelets of residuals, in the same catalogue"),
        Option("ncores", "--workers", convert=int),
        Option("catalog_type", "--columns",
               convert=lambda v: {"srl": "pybdsf_srl", "gaul": "pybdsf_gaul"}.get(str(v), "pybdsf"),
               note="both srl and gaul where it is not given"),
        Option("adaptive_rms_box", note="take the classical route, whose maps leave sources out"),
        Option("rms_box_bright", note="as adaptive_rms_box"),
        Option("adaptive_thresh", note="as adaptive_rms_box"),
        Option("rms_map", note="the rms is always a map"),
        Option("detection_image", note="give the bands as an ImageSet in Python", refused=True),
        Option("trim_box", note="cut the image, or give --include REGIONS", refused=True),
        Option("stop_at", note="use Pipeline.run_until in Python", refused=True),
        Option("src_ra_dec", note=_MEASURE, refused=True),
        Option("rms_value", note="write a FITS map and give --rms and --background",
               refused=True),
        Option("psf_vary_do", note="give the varying beam with --psf"),
        Option("spectralindex_do", note="use 'cyclades measure --planes frequencies'"),
        Option("polarisation_do", note="use 'cyclades measure --planes stokes'"),
        Option("shapelet_do", note="see atrous_do for extended sources"),
        Option("fix_to_beam", note="sizes are always fitted"),
        Option("group_by_isl", note="an island is a source here, unless associate joins several"),
        Option("group_tol", note="as group_by_isl"),
        Option("ini_gausfit", note="components start at summits of the sharpened island"),
        Option("ini_method", note="as ini_gausfit"),
        Option("peak_fit", note="large islands are fitted component by component"),
        Option("peak_maxsize", note="as peak_fit"),
        Option("split_isl", note="as peak_fit"),
        Option("outfile", "--output", note="X.catalogue.pybdsf_srl.fits and _gaul.fits there"),
        Option("format", "--formats", note="FITS, and CSV with --formats csv; regions with ds9"),
        Option("filename", note="images are the arguments of run"),
        *(
            Option(name)
            for name in (
                "advanced_opts", "flagging_opts", "multichan_opts", "output_opts", "interactive",
                "aperture", "aperture_posn", "atrous_jmax", "atrous_lpf", "atrous_bdsm_do",
                "atrous_orig_isl", "atrous_sum", "bbs_patches", "blank_limit", "bmpersrc_th",
                "check_outsideuniv", "clobber", "correct_proj", "debug", "do_cache",
                "do_mc_errors", "fdr_ratio", "fittedimage_clip", "flag_smallsrc", "flag_minsnr",
                "flag_maxsnr", "flag_maxsize_isl", "flag_maxsize_fwhm", "flag_bordersize",
                "flag_maxsize_bm", "flag_minsize_bm", "group_method", "incl_empty", "indir",
                "maxpix_isl", "opdir_overwrite", "outdir", "output_all", "plot_allgaus",
                "plot_islands", "print_timing", "quiet", "savefits_meanim", "savefits_modelim",
                "savefits_normim", "savefits_rankim", "savefits_residim", "savefits_rmsim",
                "solnname", "spline_rank", "splitisl_frac_bigisl3", "splitisl_maxsize",
                "splitisl_size_extra5", "src_radius_pix", "srcroot", "use_scipy_fft",
                "verbose_fitting",
            )
        ),
    ),
)  # fmt: skip
"""PyBDSF 1.14, with what it does unless told otherwise."""

FINDERS: Mapping[str, Finder] = {finder.name: finder for finder in (AEGEAN, PYBDSF)}
