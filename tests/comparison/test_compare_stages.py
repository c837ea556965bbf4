"""Swapping one stage at a time: the rest is held fixed and not made again."""

import numpy as np
import pytest
from report_cases import make_field

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import main
from cyclades.pipeline.comparison.stages import WHOLE, change, compare_stages
from cyclades.pipeline.config import RouteConfig
from cyclades.stages.characterization.gaussian import GaussianCharacterization
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.detection.islands import IslandsDetection

SECOND = {
    "background": "sep",
    "detection": {"name": "islands", "seed_threshold": 12.0, "flood_threshold": 4.0},
    "characterization": "moments",
    "cataloguing": [{"name": "components", "name_prefix": "ANOTHER"}],
}


@pytest.fixture(scope="module")
def field():
    return make_field()


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def stages(field, steps):
    return compare_stages(
        field[0], ["classical", SECOND], field[1], progress=lambda *step: steps.append(step)
    )


def same_rows(one, other):
    return all(
        np.array_equal(one.components[name], other.components[name], equal_nan=True)
        for name in ("x", "y", "peak_flux", "total_flux", "major")
    )


def test_every_stage_that_runs_is_a_step_and_their_number_is_known(stages, steps):
    # reading and four stages, then 4, 3, 2 and 1 of them anew, and the whole second route
    assert [(done, number) for done, number, _ in steps] == [(k, 19) for k in range(20)]
    assert [words for *_, words in steps[:2]] == ["classical: read", "classical: background"]
    assert steps[-1][2] == ""


def test_every_stage_is_swapped_alone(stages):
    assert list(stages.table["stage"]) == [
        "-", "background", "detection", "characterization", "cataloguing", WHOLE
    ]  # fmt: skip
    first, second = (RouteConfig.from_route(r) for r in ("classical", SECOND))
    for result, stage in zip(stages.results.values(), stages.table["stage"], strict=True):
        for kind in ("background", "detection", "characterization", "cataloguing"):
            chosen = second if stage in (kind, WHOLE) else first
            assert getattr(result.config, kind) == getattr(chosen, kind)


def test_a_swap_gives_what_running_the_whole_chain_gives(field, stages):
    for result in stages.results.values():
        whole = Pipeline(result.config).run(field[0]).catalogue
        assert same_rows(result.catalogue, whole)
        assert list(result.catalogue.components["name"]) == list(whole.components["name"])
        for name in ("detected_by", "measured_by"):
            assert list(result.catalogue.components[name]) == list(whole.components[name])


def test_products_before_the_swap_are_those_of_the_first_run(stages):
    base, background, detection, characterization, cataloguing, _ = stages.results.values()
    assert background.background is not base.background
    assert detection.background is base.background
    assert detection.detections is not base.detections
    assert characterization.detections is base.detections
    assert characterization.components is not base.components
    assert cataloguing.components is base.components
    assert "background" not in characterization.provenance["timings"]


def test_stages_run_no_more_often_than_needed(field, monkeypatch):
    ran = []
    for cls, method in ((IslandsDetection, "detect"), (GaussianCharacterization, "measure")):
        whole = getattr(cls, method)

        def counted(self, *args, whole=whole, cls=cls, **keywords):
            ran.append(cls.__name__)
            return whole(self, *args, **keywords)

        monkeypatch.setattr(cls, method, counted)
    compare_stages(field[0], ["classical", {"cataloguing": SECOND["cataloguing"]}])
    assert ran == ["IslandsDetection", "GaussianCharacterization"]


def test_the_table_counts(stages, field):
    table = stages.table
    total = table["components"][0]
    assert total >= 38
    for row in table:
        assert row["matched"] + row["lost"] == total
        assert row["matched"] + row["new"] == row["components"]
        assert row["matched_share"] == pytest.approx(row["matched"] / total)
    kept = table[table["stage"] == "cataloguing"][0]
    assert (kept["lost"], kept["new"], kept["total_flux_ratio"], kept["offset"]) == (0, 0, 1, 0)
    # a higher threshold loses the sources below it, and measures the others as before
    detection = table[table["stage"] == "detection"][0]
    snr = stages.comparison.catalogues["classical"]["snr"]
    assert detection["new"] == 0
    # the threshold is on the brightest pixel, a little off the fitted peak
    assert 4 < np.sum(snr < 11) <= detection["lost"] <= np.sum(snr < 13)
    assert detection["total_flux_ratio"] == pytest.approx(1, abs=1e-3)
    moments = table[table["stage"] == "characterization"][0]
    assert moments["total_flux_scatter"] > 0.005
    assert 0 < moments["offset"] < 1
    truth = field[1]
    found = np.sum(truth["snr"] > 15)
    assert table["completeness"][0] > 0.95
    assert found / len(truth) < detection["completeness"] < 0.9
    assert detection["f1"] < table["f1"][0]


def test_lost_and_new_rows_by_signal_to_noise(stages):
    for label in list(stages.results)[1:]:
        rows = stages.changes[stages.changes["run"] == label]
        total = stages.table[stages.table["run"] == label][0]
        assert sum(rows["lost"]) == total["lost"]
        assert sum(rows["new"]) == total["new"]
    detection = stages.changes[stages.changes["run"] == "detection: islands"]
    assert sum(detection["lost"][detection["snr_low"] >= 20]) == 0


def test_changes_are_said_in_words():
    first, second = (RouteConfig.from_route(r) for r in ("classical", SECOND))
    assert change(first.background, second.background) == "grid → sep"
    said = change(first.detection, second.detection)
    assert "seed_threshold None → 12.0" in said
    assert "name_prefix" in change(first.cataloguing, second.cataloguing)


def test_routes_that_cannot_be_compared(field):
    with pytest.raises(ConfigurationError, match="give two, as"):
        compare_stages(field[0], ["classical"])
    with pytest.raises(ConfigurationError, match="give two that differ"):
        compare_stages(field[0], ["classical", "classical"])
    with pytest.raises(InputError, match="no sky coordinates"):
        compare_stages(field[0].replace(wcs=None), ["classical", SECOND])


def test_continuing_needs_the_same_stages_before(field):
    pipeline = Pipeline.from_route()
    base = pipeline.run(field[0])
    with pytest.raises(ConfigurationError, match="another background"):
        pipeline.replace(background="sep").run_from("detection", base)
    with pytest.raises(ConfigurationError, match="no stage 'detect'"):
        pipeline.run_from("detect", base)
    with pytest.raises(InputError, match="does not hold its image"):
        pipeline.run_from("detection", pipeline.run(field[0], keep=False))


@pytest.mark.parametrize("with_truth", [True, False])
def test_the_command_writes_tables_a_figure_and_a_page(field, tmp_path, capsys, with_truth):
    from astropy.io import fits
    from astropy.table import Table

    from cyclades.stages.core.headers import product_header

    image, truth = field
    fits.PrimaryHDU(image.data, product_header(image)).writeto(tmp_path / "field.fits")
    truth.table["ra", "dec", "peak_flux", "total_flux", "major", "minor", "position_angle",
                "local_rms", "snr"].write(tmp_path / "truth.ecsv", format="ascii.ecsv")  # fmt: skip
    (tmp_path / "mine.yaml").write_text("detection: sep\n")
    routes = f"classical,{tmp_path / 'mine.yaml'}"
    arguments = ["compare-stages", str(tmp_path / "field.fits"), "--routes", routes]
    arguments += ["--output", str(tmp_path / "out")]
    if with_truth:
        arguments += ["--truth", str(tmp_path / "truth.ecsv")]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "detection: sep" in printed
    assert ("completeness" in printed) == with_truth
    heading, first, second = printed.splitlines()[:3]
    assert heading.split()[:3] == ["run", "change", "components"]
    assert len(first) == len(second) == len(heading)  # aligned
    table = Table.read(tmp_path / "out" / "stages.ecsv")
    assert list(table["run"]) == ["classical", "detection: sep"]
    assert len(Table.read(tmp_path / "out" / "stages_by_snr.ecsv"))
    assert (tmp_path / "out" / "stages.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Stage by stage" in page


def test_the_beam_of_an_image_that_does_not_tell_it_is_given(tmp_path, capsys):
    from astropy.io import fits

    image = make_field(n=4, size=96)[0]
    header = image.wcs.to_header()
    header["BUNIT"] = "Jy/beam"
    fits.PrimaryHDU(image.data, header).writeto(tmp_path / "field.fits")
    (tmp_path / "mine.yaml").write_text("detection: sep\n")
    arguments = ["compare-stages", str(tmp_path / "field.fits"), "--routes"]
    arguments += [f"classical,{tmp_path / 'mine.yaml'}"]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "--beam" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--beam", "9arcsec"])
    assert exit_.value.code == 0
    assert "detection: sep" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["compare-stages", str(tmp_path / "absent.fits"), "--routes", "classical"])
    assert exit_.value.code == 2
    assert "give two" in capsys.readouterr().err


def test_options_of_a_matrix_are_refused_with_an_image(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare-stages", str(tmp_path / "x.fits"), "--routes", "classical,sep",
              "--stages", "yolo"])  # fmt: skip
    assert stop.value.code == 2
    assert "--stages is of a matrix" in capsys.readouterr().err
