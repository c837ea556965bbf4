"""Showing results and catalogues: in a notebook as a page, or as the widget of Aladin Lite."""

import html
import importlib.util
import json
import re

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from report_cases import make_catalogues, make_comparison, make_field
from requirements import require

import cyclades
from cyclades.pipeline.cli import main
from cyclades.pipeline.viewing.show import PageView, show
from cyclades.pipeline.viewing.sky_widget import image_file, rows_table
from cyclades.stages.core.errors import ConfigurationError, InputError


def cyclades_command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def payload(text):
    (held,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', text)
    return json.loads(held)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A small simulated field: its files and the result of a run."""
    prefix = tmp_path_factory.mktemp("shown") / "field"
    assert cyclades_command("simulate", prefix, "--size", 256, "--seed", 3) == 0
    path = prefix.with_name("field.fits")
    result = cyclades.Pipeline.from_route("classical").run(path)
    result.write(prefix.parent)
    return prefix.parent, result


def test_a_result_is_shown_with_its_image_and_its_rows(ran):
    _, result = ran
    view = cyclades.show(result, viewer="page")
    made = payload(view.text)
    (layer,) = made["layers"]
    components = result.catalogue.components
    assert layer["name"] == "islands"
    assert len(layer["x"]) == len(components) > 3
    # drawn where the chain measured them
    np.testing.assert_allclose(layer["x"], components["x"].to_value("pix"), atol=2e-3)
    assert (made["frame"]["nx"], made["frame"]["ny"]) == result.image.shape[::-1]
    assert made["frame"]["uri"].startswith("data:image/webp")
    # one catalogue alone has no mismatches and no figures
    assert made["mismatches"] == made["figures"] == []
    assert set(layer["status"]) == {0}
    assert "<details" not in view.text


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(ran):
    view = show(ran[1], viewer="page", height=500)
    (page,) = re.findall(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts"', view._repr_html_())
    assert html.unescape(page) == view.text
    assert "height:500px" in view._repr_html_()
    assert len(repr(view)) < 100


def test_results_and_files_are_layers_by_name(ran, tmp_path):
    folder, result = ran
    both = {"ours": result, "again": folder / "field.catalogue.fits"}
    layers = payload(show(both, viewer="page").text)["layers"]
    assert [layer["name"] for layer in layers] == ["ours", "again"]
    assert layers[0]["match"] == layers[1]["match"]
    names = [
        layer["name"]
        for layer in payload(show([result, result, folder / "field.catalogue.fits"],
                                  viewer="page").text)["layers"]
    ]  # fmt: skip
    assert names == ["islands", "islands (2)", "field"]
    alone = payload(show(result.catalogue, viewer="page").text)
    assert alone["frame"]["uri"] is None


def test_a_truth_is_a_layer_and_judges_the_others(ran):
    folder, result = ran
    text = show(result, truth=folder / "field.truth.fits", viewer="page").text
    made = payload(text)
    assert made["layers"][0]["name"] == "truth"
    assert made["layers"][0]["truth"]
    assert made["figures"]
    assert "completeness" in text


def test_a_comparison_is_shown_whole_over_another_image_too():
    comparison = make_comparison()
    view = show(comparison, viewer="page")
    assert payload(view.text)["layers"][0]["name"] == "truth"
    assert "Completeness" in view.text
    bare = comparison.image.replace(data=np.zeros_like(comparison.image.data))
    assert payload(show(comparison, bare, viewer="page").text)["frame"]["brightest"] == 0.0


def test_errors_say_what_to_do(ran):
    with pytest.raises(InputError, match="nothing to show"):
        show([])
    with pytest.raises(InputError, match="int cannot be shown"):
        show([1])
    with pytest.raises(ConfigurationError, match="no viewer 'ds9'"):
        show(ran[1], viewer="ds9")
    short = cyclades.Pipeline.from_route("classical").run_until("detection", ran[1].image)
    with pytest.raises(InputError, match="has no catalogue"):
        show(short)


def test_without_the_extra_the_page_is_shown(ran, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ipyaladin" else found(name)
    )
    assert isinstance(show(ran[1]), PageView)
    with pytest.raises(ConfigurationError, match=r"cyclades\[viewer\]"):
        show(ran[1], viewer="aladin")


def test_the_command_writes_the_page(ran, tmp_path, capsys):
    folder, result = ran
    page = tmp_path / "made" / "field.html"
    words = ("view", folder / "field.fits", f"ours={folder / 'field.catalogue.fits'}")
    assert cyclades_command(*words, "-o", page) == 0
    assert capsys.readouterr().out == f"{page}\n"
    (layer,) = payload(page.read_text("utf-8"))["layers"]
    assert len(layer["x"]) == len(result.catalogue)
    assert cyclades_command(*words, "-o", folder / "field.fits") == 2
    assert "would replace an input" in capsys.readouterr().err
    assert fits.getdata(folder / "field.fits").shape == (256, 256)


@pytest.fixture(scope="module")
def compared():
    return make_comparison()


@pytest.fixture(scope="module")
def widget(compared):
    require("viewer")
    return show(compared, viewer="aladin", height=640)


def sent(widget, event):
    """Messages to Aladin Lite of a kind; a widget that is on no screen keeps them."""
    kept = [given[0] for call, given, _ in widget._call_store.calls if call == widget.send]
    return [message for message in kept if message["event_name"] == event]


def test_aladin_is_the_default_where_it_is_installed(compared, widget):
    from ipyaladin import Aladin

    other = show(compared)
    assert isinstance(other, Aladin)
    # what waits for one widget is sent to no other
    assert len(other._call_store.calls) == len(widget._call_store.calls) == 7
    assert widget.height == 640


def test_aladin_looks_at_the_whole_image(compared, widget):
    centre = compared.image.wcs.pixel_to_world(159.5, 159.5)
    assert widget.target.separation(centre) < 0.5 * u.arcsec
    # 320 pixels of 2 arcsec
    assert 640 < widget.fov.to_value("arcsec") < 720


def test_every_table_is_a_layer_of_aladin_with_its_rows_and_widths(compared, widget):
    names = ["truth", *compared.catalogues]
    tables = sent(widget, "add_table")
    assert [table["options"]["name"] for table in tables] == names
    assert len({table["options"]["color"] for table in tables}) == len(names)
    shapes = sent(widget, "add_overlay")
    assert [len(shape["regions_infos"]) for shape in shapes] == [40, 40, 40]


def test_the_image_goes_to_aladin_with_its_coordinates(compared, widget):
    (options,) = [named for *_, named in widget._call_store.calls if "stretch" in named]
    rms = np.nanstd(compared.image.data)
    assert options["min_cut"] < 0 < options["max_cut"]
    assert options["max_cut"] > rms
    (hdu,) = image_file(compared.image)
    np.testing.assert_array_equal(hdu.data, compared.image.data)
    there = WCS(hdu.header).pixel_to_world(10, 200)
    assert there.separation(compared.image.wcs.pixel_to_world(10, 200)) < 1e-6 * u.arcsec


def test_widths_of_aladin_point_where_the_catalogue_says():
    """The long axis of an ellipse lies at the position angle, east of north."""
    require("viewer")
    from astropy.coordinates import SkyCoord
    from ipyaladin.utils._region_converter import RegionInfos

    from cyclades.stages.core.footprints import table_regions

    _, truth = make_field(n=4)
    (first, *_) = table_regions(truth.table)
    told = RegionInfos(first).to_clean_dict()["infos"]
    assert told["b"] == pytest.approx(0.5 * truth["major"][0] / 3600)
    assert told["a"] == pytest.approx(0.5 * truth["minor"][0] / 3600)
    # Aladin turns the first axis east of north; the second, the long one, is at right angles
    assert (told["theta"] + 90.0) % 180.0 == pytest.approx(truth["position_angle"][0] % 180.0)
    place = SkyCoord(told["ra"], told["dec"], unit="deg")
    assert place.separation(SkyCoord(truth["ra"][0], truth["dec"][0], unit="deg")).arcsec < 1e-3


def test_tables_hold_only_columns_that_say_something():
    made = rows_table(make_catalogues(make_field()[1])["alpha"])
    assert "score" not in made.colnames
    assert made["ra"].unit == u.deg
    assert {"peak_flux", "total_flux", "major"} <= set(made.colnames)
