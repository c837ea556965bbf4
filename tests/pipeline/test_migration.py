"""Options of other source finders: what they become, and that runs follow them."""

import json

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table

from cyclades.pipeline.cli import main
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.migration.finders import FINDERS
from cyclades.pipeline.migration.like import read_like
from cyclades.pipeline.reference import documents
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.exports import COLUMNS, LAYOUTS


def cyclades(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def config_of(text):
    return RouteConfig.from_mapping(read_like(text).mapping)


@pytest.mark.parametrize(
    ("text", "seed", "flood", "columns"),
    [
        ("aegean", 5.0, 4.0, ("aegean",)),
        ("pybdsf", 5.0, 3.0, ("pybdsf",)),
        ("aegean --seedclip 6 --floodclip=4.5 X.fits", 6.0, 4.5, ("aegean",)),
        ("Aegean --cores 2 --seedclip 7 --table out.csv,out.reg --island", 7.0, 4.0, ("aegean",)),
        ("pybdsf thresh_pix=6 thresh_isl=4.0", 6.0, 4.0, ("pybdsf",)),
        ("pybdsf thresh_pix = 6, thresh_isl = 4.0, quiet=True", 6.0, 4.0, ("pybdsf",)),
        ("bdsf.process_image('X.fits', thresh_pix=6, rms_box=(60, 15))", 6.0, 3.0, ("pybdsf",)),
        ("pybdsf catalog_type='gaul' thresh_isl=2.5", 5.0, 2.5, ("pybdsf_gaul",)),
    ],
)
def test_thresholds_and_columns(text, seed, flood, columns):
    detection = config_of(text).detection
    assert (detection.name, detection.seed_threshold, detection.flood_threshold) == (
        "islands", seed, flood,
    )  # fmt: skip
    assert read_like(text).columns == columns


@pytest.mark.parametrize(
    ("text", "section", "parameter", "expected"),
    [
        ("aegean", "background", "box_beams", 20.0),
        ("aegean --box 100 64", "background", "box_size", 80),
        ("aegean --grid 20 20", "background", "box_size", 100),
        ("aegean --grid 20 20 --box 50 50", "background", "box_size", 50),
        ("aegean --box 50 50 --grid 20 20", "background", "box_size", 50),
        ("aegean --beam 0.002 0.001 30", "image", "beam", "0.002x0.001deg@30deg"),
        ("aegean --slice 3", "image", "plane", (3,)),
        ("aegean --negative", "detection", "negative", True),
        ("aegean", "characterization", "added_components", 0),
        ("pybdsf rms_box=(60, 15)", "background", "box_size", 60),
        ("pybdsf rms_box=None", "background", "box_size", None),
        ("pybdsf kappa_clip=2.5", "background", "clip", 2.5),
        ("pybdsf mean_map='zero'", "background", "name", "none"),
        ("pybdsf minpix_isl=8", "detection", "minimum_pixels", 8),
        ("pybdsf thresh='fdr' fdr_alpha=0.02", "detection", "false_discovery_rate", 0.02),
        ("pybdsf thresh='fdr'", "detection", "seed_threshold", None),
        ("pybdsf thresh='hard'", "detection", "seed_threshold", 5.0),
        ("pybdsf atrous_do=True", "characterization", "wavelet_components", 8),
        ("pybdsf atrous_do=False", "characterization", "wavelet_components", 0),
        ("pybdsf frequency=1.4e9", "image", "frequency", 1.4e9),
    ],
)
def test_what_options_become(text, section, parameter, expected):
    assert getattr(getattr(config_of(text), section), parameter) == expected


def test_maps_of_ones_own():
    for text in ("aegean --noise r.fits --background b.fits",
                 "pybdsf rmsmean_map_filename=['b.fits', 'r.fits']"):  # fmt: skip
        background = read_like(text).mapping["background"]
        assert background == {"name": "maps", "level": "b.fits", "rms": "r.fits"}
    with pytest.raises(ConfigurationError, match="needed together"):
        read_like("aegean --noise r.fits")


@pytest.mark.parametrize(
    ("name", "content", "seed"),
    [
        ("p.json", json.dumps({"thresh_pix": 7.0, "rms_box": [50, 10]}), 7.0),
        ("p.txt", "{'thresh_pix': 7.0, 'rms_box': (50, 10), 'beam': None}", 7.0),
        ("p.par", "thresh_pix = 7.0  # sigma\nrms_box = (50, 10)\nrms_map = True\n", 7.0),
        ("aegean.conf", "seedclip=7\nfloodclip=3.5\nautoload=true\n", 7.0),
    ],
)
def test_files_of_parameters(name, content, seed, tmp_path):
    (tmp_path / name).write_text(content)
    read = read_like(str(tmp_path / name))
    assert read.finder == ("aegean" if "seedclip" in content else "pybdsf")
    assert read.mapping["detection"]["seed_threshold"] == seed
    assert read.autoload == ("autoload" in content)
    if read.finder == "pybdsf":
        assert read.mapping["background"]["box_size"] == 50


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agean", "did you mean 'aegean'"),
        ("", "--like takes aegean or pybdsf"),
        ("aegean --sedclip 5", "did you mean 'seedclip'"),
        ("pybdsf thresh_pixel=5", "did you mean 'thresh_pix'"),
        ("pybdsf 5 thresh_pix=5", "write name=value"),
        ("pybdsf thresh_pix='high'", "makes no sense"),
        ("aegean --priorized 1 --input x.fits", "cyclades measure"),
        ("aegean --region x.mim", "MIMAS --mim2reg"),
        ("aegean --beam 1 2", "needs 3 values"),
        ("pybdsf trim_box=(1,2,3,4)", "--include"),
    ],
)
def test_what_cannot_be_followed_is_one_sentence(text, words):
    with pytest.raises(ConfigurationError, match=r"^[^\n]*$") as told:
        read_like(text)
    assert words in str(told.value)


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "p.sav").write_bytes(b"\x80\x04\x95\xff\xfe")
    with pytest.raises(ConfigurationError, match="is a pickle, which is not opened"):
        read_like(str(tmp_path / "p.sav"))


def test_every_place_is_a_parameter_and_every_layout_exists():
    for finder in FINDERS.values():
        config = RouteConfig.from_mapping(dict(finder.defaults))
        assert {*finder.columns} <= {*LAYOUTS, *COLUMNS}
        names = [option.name for option in finder.options]
        assert len(names) == len(set(names))
        for option in finder.options:
            section, dot, parameter = option.place.partition(".")
            if dot and parameter not in ("level", "rms"):
                assert parameter in type(getattr(config, section)).model_fields, option
            assert not option.refused or option.note
            assert option.refused or option.place or not option.convert
            assert f"`{option.name}`" in documents()["migration-options.md"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("like")
    assert cyclades("sample", "simulated", folder) == 0
    return folder / "simulated.fits"


@pytest.mark.parametrize(
    ("like", "layouts"),
    [("aegean --seedclip 8", ["aegean"]), ("pybdsf thresh_pix=8", ["pybdsf_srl", "pybdsf_gaul"])],
)
def test_a_run_follows_thresholds_and_writes_the_columns(like, layouts, simulated, tmp_path):
    assert cyclades("run", simulated, "-o", tmp_path, "--like", like, "-q") == 0
    islands = Table.read(tmp_path / "simulated.catalogue.fits", hdu="islands")
    assert islands["snr"].min() >= 8.0
    written = yaml.safe_load((tmp_path / "simulated.config.yaml").read_text())
    assert written["detection"]["seed_threshold"] == 8
    for layout in layouts:
        table = Table.read(tmp_path / f"simulated.catalogue.{layout}.fits")
        assert table.colnames == [column.name for column in LAYOUTS[layout].columns]
        assert len(table) >= 10


def test_autoload_takes_the_maps_beside_the_image(simulated, tmp_path, capsys):
    image = tmp_path / "field.fits"
    image.write_bytes(simulated.read_bytes())
    header, ones = fits.getheader(image), np.ones(fits.getdata(image).shape, np.float32)
    fits.writeto(tmp_path / "field_bkg.fits", 0.0 * ones, header)
    fits.writeto(tmp_path / "field_rms.fits", 1e-4 * ones, header)
    assert cyclades("run", image, "-o", tmp_path, "--like", "aegean --autoload --nocov") == 0
    assert "nocov" in capsys.readouterr().err
    components = Table.read(tmp_path / "field.catalogue.fits", hdu="components")
    np.testing.assert_allclose(components["local_rms"], 1e-4, rtol=1e-5)
    assert cyclades("label", image, "-o", tmp_path, "--like", "aegean --autoload --nocov") == 0
    said = capsys.readouterr()
    assert "nocov" in said.err
    assert f"{len(np.unique(components['source_id']))} candidates" in said.out
    assert cyclades("run", image, simulated, "-o", tmp_path / "two", "--like", "aegean --autoload",
                    "--dry-run") == 0  # fmt: skip
    assert "give one image" in capsys.readouterr().err


def test_like_stands_alone_but_takes_changes(simulated, tmp_path, capsys):
    code = cyclades("run", simulated, "-o", tmp_path, "--like", "aegean", "--route", "yolo")
    assert code == 2
    assert "not two of them" in capsys.readouterr().err
    assert cyclades("config", "show", "--like", "pybdsf", "--set", "detection=sep") == 0
    assert yaml.safe_load(capsys.readouterr().out)["detection"]["name"] == "sep"
