"""Studies of detection: labels that are few, tests that are apart, and figures from units."""
# ruff: noqa: E402

from pathlib import Path

import numpy as np
import pytest
from requirements import require

require("learned")

import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from cyclades.pipeline.studies.cells import Cell
from cyclades.pipeline.studies.options import StudyOptions
from cyclades.pipeline.studies.running import Study, run_study
from cyclades.pipeline.studies.tasks.build import build_task
from cyclades.pipeline.studies.tasks.detection import _centre, _unit
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.selection import Found
from cyclades.stages.networks.specification import BackboneSpec, NetworkSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

BACKBONE = {"name": "resnet18", "options": {"channels": [8, 16, 24, 32]}, "channels": 16}
TINY = {
    "head": {"name": "faster_rcnn", "options": {"hidden": 16}},
    "input": {"mesh": 32, "beam_pixels": [3.5, 8.0]},
    "training": {"size": 64, "batch": 2, "steps": 2, "warm_up": 1, "precision": "float32"},
}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def options(**tasks):
    return StudyOptions.from_mapping(
        {
            "backbones": {"small": BACKBONE},
            "modes": ["scratch"],
            "fractions": [0.25, 1.0],
            "reference": 0.25,
            "seeds": 1,
            "resamples": 40,
            "tasks": tasks,
        }
    )


def task(name, **content):
    return build_task(name, options(**{name: {"kind": name, **TINY, **content}}).tasks[name])


def unit(scores, real, objects):
    return {"scores": scores, "real": real, "wanted": len(objects), "objects": objects}


def test_figures_at_a_fixed_reliability():
    judge = task("simulated_detection", reliability=0.75)
    units = [
        unit([0.9, 0.4], [True, False], [["compact", 0.9, 0.9], ["multi-component", 0.0, 0.0]]),
        unit([0.8, 0.6, 0.5], [True, False, True],
             [["multi-component", 0.8, 0.0], ["multi-component", 0.5, 0.5]]),
    ]  # fmt: skip
    # in order: hit, hit, false, hit (3 of 4), false (3 of 5)
    found = judge.figures(units)
    assert found["completeness"] == pytest.approx(3 / 4)
    assert found["recall_at_most"] == pytest.approx(3 / 4)
    assert found["completeness_compact"] == 1.0
    assert found["completeness_multi-component"] == pytest.approx(2 / 3)
    assert found["association"] == pytest.approx(1 / 3)
    strict = task("simulated_detection", reliability=0.95).figures(units)
    assert strict["completeness"] == pytest.approx(2 / 4)
    assert strict["association"] == 0.0
    nothing = judge.figures([unit([], [], [["compact", 0.0, 0.0]])])
    assert nothing["completeness"] == nothing["completeness_compact"] == 0.0


def test_labels_are_tiles_that_repeat_and_the_test_is_another_sky():
    mine = task("simulated_detection", labelled=40, tiles=2, data={"preset": "natural"})
    backbone = BackboneSpec.model_validate(BACKBONE)
    seen = set()
    for seed in range(2):
        given = mine.training(Cell("", "", "scratch", 0.25, seed), backbone, 1, 1)
        assert given.data.samples == 10
        seen.add(given.data.seed)
    assert len(seen) == 2
    tiles = mine.test()
    assert len(tiles) == 2
    assert tiles[0][0].shape == (64, 64)
    assert mine.labels(1e-6) == 1


def test_wrong_options_of_a_training_are_refused_when_the_study_is_planned():
    with pytest.raises(ConfigurationError, match="stepz"):
        task("simulated_detection", training={"stepz": 3})


def test_a_cell_is_trained_judged_and_leaves_only_its_result(tmp_path):
    content = {"kind": "simulated_detection", **TINY, "labelled": 8, "tiles": 3,
               "data": {"preset": "natural"}}  # fmt: skip
    study = Study.plan(options(sky=content), tmp_path)
    assert run_study(study) == {}
    found = dict(study.outcomes())
    assert [outcome.labels for outcome in found.values()] == [2, 8]
    for outcome in found.values():
        assert len(outcome.units) == 3
        assert outcome.seconds > 0.0
        figures = study.tasks["sky"].figures(outcome.units)
        assert 0.0 <= figures["completeness"] <= figures["recall_at_most"] <= 1.0
    assert not any((tmp_path / "runs").iterdir())


def test_survey_fields_are_those_of_meerkat():
    mine = task("survey_detection")
    content = mine.fingerprint("frozen")
    assert content["data"]["preset"] == "meerkat"
    assert content["kind"] == "survey_detection"


def test_survey_images_with_a_catalogue_take_the_place_of_simulated_ones(tmp_path):
    side, pixel = 96, 1.8 / 3600.0
    y, x = np.indices((side, side))
    plane = np.exp(-4 * np.log(2) * ((x - 40.0) ** 2 + (y - 50.0) ** 2) / 4.4**2)
    plane = plane + np.random.default_rng(2).normal(0, 0.01, plane.shape)
    header = fits.Header()
    header.update(
        CTYPE1="RA---SIN", CTYPE2="DEC--SIN", CUNIT1="deg", CUNIT2="deg", CRVAL1=23.0,
        CRVAL2=-13.6, CRPIX1=48.0, CRPIX2=48.0, CDELT1=-pixel, CDELT2=pixel, CRPIX3=1.0,
        CRVAL3=1.28e9, CDELT3=1e8, CTYPE3="FREQ", CUNIT3="Hz", BUNIT="Jy/beam",
        BMAJ=4.4 * pixel, BMIN=4.4 * pixel, BPA=0.0,
    )  # fmt: skip
    fits.writeto(tmp_path / "cluster.fits", np.stack([plane, 0 * plane]).astype("f4"), header)
    sky = WCS(header).celestial.pixel_to_world(40.0, 50.0)
    # of the whole survey: another cluster's source too
    rows = {"RA_deg": [sky.ra.deg, 200.0], "Dec_deg": [sky.dec.deg, -50.0], "Peak": [1.0, 1.0]}
    Table(rows).write(tmp_path / "survey.fits")
    (tmp_path / "columns.yaml").write_text("{ra: RA_deg, dec: Dec_deg, peak_flux: Peak}")
    test = {
        "kind": "catalogue",
        "images": str(tmp_path / "cluster.fits"),
        "image": {"plane": [0]},
        "catalogue": str(tmp_path / "survey.fits"),
        "columns": str(tmp_path / "columns.yaml"),
    }
    mine = task("survey_detection", test=test, tiles=4)
    objects = [tile for (tile,) in mine.test() if len(tile)]
    assert objects
    for tile in objects:
        x0, y0, x1, y1 = tile.boxes[0].astype(int)
        assert len(tile) == 1
        assert tile.image[y0:y1, x0:x1].max() > 0.9
    before = mine.fingerprint("frozen")
    assert before["test"]["content"] != task("survey_detection").fingerprint("frozen")["test"]
    Table({k: v[:1] for k, v in rows.items()}).write(tmp_path / "survey.fits", overwrite=True)
    assert task("survey_detection", test=test, tiles=4).fingerprint("frozen") != before


def test_fields_of_first_are_apart_on_the_sky(shared_data):
    folder = shared_data / "first-rgz-fields-dev"
    mine = task(
        "first_detection",
        images=str(folder / "*.fits.gz"),
        labels=str(folder / "labels.csv"),
        crops=2,
    )
    train, test = mine.sides
    assert len(train) + len(test) == 155
    assert 0.25 * 155 < len(test) <= 0.4 * 155
    places = [
        SkyCoord([_centre(Path(one), {"beam": "5.4arcsec"}) for one in side], unit="deg")
        for side in (train, test)
    ]
    nearest = places[0].match_to_catalog_sky(places[1])[1].arcsec
    # the diagonal of a field is 764 arcsec
    assert nearest.min() > 764.0
    assert mine.labels(0.1) == round(0.1 * len(train))
    given = mine.data(Cell("", "", "scratch", 0.1, 0))
    assert len(given.images) == mine.labels(0.1)
    assert set(given.images) <= set(train)
    more = mine.data(Cell("", "", "scratch", 0.5, 0))
    assert set(given.images) < set(more.images)


def test_a_cell_on_real_fields_is_judged_field_by_field(shared_data, tmp_path):
    folder = shared_data / "first-rgz-fields-dev"
    content = {
        "kind": "first_detection",
        **TINY,
        "images": str(folder / "10[02]_1[1-3]*.fits.gz"),
        "labels": str(folder / "labels.csv"),
        "crops": 1,
        "training": TINY["training"] | {"size": 128},
    }
    study = Study.plan(options(first=content), tmp_path)
    assert run_study(study) == {}
    fields = len(study.tasks["first"].sides[1])
    assert fields >= 2
    for _, outcome in study.outcomes():
        assert len(outcome.units) == fields
        assert all(len(unit["scores"]) == len(unit["real"]) for unit in outcome.units)


def test_fields_without_a_place_are_asked_for():
    with pytest.raises(ConfigurationError, match=r"tasks\.first_detection\.images"):
        task("first_detection").fingerprint("scratch")


def test_a_task_without_its_data_leaves_its_cells_out(tmp_path):
    study = Study.plan(options(first={"kind": "first_detection", **TINY}), tmp_path)
    assert not study.keys
    assert list(study.problems.values()) == [2]


def test_judged_units_know_what_became_of_each_object():
    training = TINY["training"] | {"size": 128}
    mine = task("simulated_detection", tiles=3, data={"preset": "natural"}, training=training)
    spec = NetworkSpec()
    units = []
    for (tile,) in mine.test():
        scores = np.full((len(tile), len(spec.classes)), 0.01, np.float32)
        scores[np.arange(len(tile)), tile.classes] = 0.9
        perfect = [Found(np.asarray(tile.boxes, np.float32), scores, None)]
        made = _unit(lambda channels, perfect=perfect: perfect, [tile], spec)
        genuine = np.count_nonzero(~tile.ignore & (tile.classes != spec.classes.index("spurious")))
        assert made["wanted"] == len(made["objects"]) == genuine
        assert all(seen > 0.5 and joined > 0.5 for _, seen, joined in made["objects"])
        units.append(made)
    assert sum(made["wanted"] for made in units) > 3
    assert mine.figures(units)["completeness"] == 1.0


def test_keys_do_not_know_the_machine_nor_what_other_modes_use():
    def of(mode, **content):
        return task("simulated_detection", **content).fingerprint(mode)

    plain = of("frozen")
    other = TINY["training"] | {"workers": 3}
    assert of("frozen", training=other, rank=3, reliability=0.8) == plain
    assert of("adapters", rank=3) != of("adapters")
    assert of("frozen", training=TINY["training"] | {"steps": 3}) != plain
    assert of("frozen", data={"preset": "vla"}) != plain
