"""The matrix of stages: rows from the registry, figures of compare, runs that are used again."""

import weakref

import numpy as np
import pytest
from astropy.table import Table

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import main
from cyclades.pipeline.comparison.compare import compare_fields
from cyclades.pipeline.comparison.field import load_field
from cyclades.pipeline.comparison.matrix import stage_matrix
from cyclades.pipeline.comparison.matrix_fields import (
    TrueField,
    read_true_fields,
    simulated_fields,
)
from cyclades.pipeline.comparison.matrix_figures import QUANTITIES
from cyclades.pipeline.comparison.swaps import (
    find_stage,
    learned_stages,
    matrix_rows,
    sharing,
    swapped,
    trial_image,
)
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.simulation.field import FieldOptions
from cyclades.stages.core import registry
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.stage import Capabilities
from cyclades.stages.detection.islands import IslandsDetection

OPTIONS = FieldOptions.from_mapping(
    {"size": 256, "sky": {"counts": {"model": "power_law", "density": 1500}, "doubles": 0.2}}
)
SEEDS = (1, 2)
STAGES = [find_stage("detection:sep"), find_stage("moments")]
CLASSICAL = RouteConfig.from_route("classical")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def fields(folder):
    return simulated_fields(OPTIONS, SEEDS, folder / "fields")


@pytest.fixture(scope="module")
def matrix(fields, folder):
    return stage_matrix(
        fields, "classical", STAGES, ["associate", "detr"], workers=1, kept=folder / "kept"
    )


def test_rows_are_the_base_each_stage_alone_and_all_together(matrix):
    assert list(matrix.table["route"]) == [
        "classical",
        "sep",
        "moments",
        "sep+moments",
        "associate",
    ]
    assert list(matrix.table["stages"]) == [
        "-", "detection", "characterization", "detection, characterization", "cataloguing"
    ]  # fmt: skip
    assert list(matrix.left_out) == ["detr"]
    assert "no such file of weights" in matrix.left_out["detr"]
    assert "left out: detr" in matrix.format()


def test_figures_are_those_of_compare(matrix, fields):
    loaded = []
    for field in fields:
        image, truth = field.load()
        made = {row.label: Pipeline(row.config).run(image).catalogue for row in matrix.rows}
        loaded.append(load_field(made, truth, image, name=field.name))
    comparison = compare_fields(loaded)
    summary = {row["catalogue"]: row for row in comparison.summary}
    association = {
        row["catalogue"]: row
        for row in comparison.further["association"]
        if row["rule"] == "own sources"
    }
    for row in matrix.table:
        expected = summary[row["route"]]
        for name in ("completeness", "reliability", "f1"):
            assert row[name] == pytest.approx(expected[name])
        assert row["completeness_at_reliability"] == expected["completeness_at_0.95"]
        for name in ("pair_f1", "whole", "merged"):
            assert row[name] == association[row["route"]][name]
        pulls = comparison.pulls
        pulls = pulls[(pulls["catalogue"] == row["route"]) & (pulls["kind"] == "point")]
        for name in ("peak_flux", "total_flux"):
            wanted = pulls[(pulls["quantity"] == name) & (pulls["snr_low"] == 7.0)
                           & np.isinf(pulls["snr_high"])]  # fmt: skip
            if len(wanted):
                assert row[f"{name}_pull"] == pytest.approx(wanted["sigma"][0])
    assert 0.97 < matrix.table["total_flux_ratio"][0] < 1.03
    assert (matrix.table["cpu_seconds"] > 0).all()


def test_gains_are_differences_to_the_base_with_intervals(matrix):
    table = matrix.table
    for name in QUANTITIES:
        known = np.isfinite(table[name])
        gain = table[name] - table[name][0]
        np.testing.assert_allclose(table[f"{name}_gain"][known], gain[known], atol=1e-12)
        assert table[f"{name}_gain_low"][0] in (0.0, table[f"{name}_gain"][0])
        assert (table[f"{name}_low"] <= table[f"{name}_high"])[known].all()
    # the association leaves components as they are
    assert list(table["route"])[4] == "associate"
    assert table["f1_gain"][4] == table["f1_gain_low"][4] == table["f1_gain_high"][4] == 0.0
    # fields differ more than two routes on the same fields do
    width, paired = (
        (table[f"{name}_high"] - table[f"{name}_low"])[2] for name in ("f1", "f1_gain")
    )
    assert paired < width


def test_what_differs_from_the_base_has_a_star(matrix):
    for row, line in zip(matrix.table, matrix.lines(), strict=True):
        for name, quantity in QUANTITIES.items():
            if "seconds" in name:
                continue
            apart = row[f"{name}_gain_low"] > 0 or row[f"{name}_gain_high"] < 0
            assert line[quantity.title].endswith("*") == apart
    assert not any("*" in text for text in matrix.lines()[0].values())
    assert "*" in matrix.lines()[2]["scatter"]


def test_runs_are_used_again_where_route_and_image_are_the_same(
    matrix, fields, folder, monkeypatch
):
    ran = []
    whole = Pipeline.run_until

    def counted(self, stage, image, **options):
        ran.append(self.config.detection.name)
        return whole(self, stage, image, **options)

    monkeypatch.setattr(Pipeline, "run_until", counted)
    again = stage_matrix(fields, "classical", STAGES, workers=1, kept=folder / "kept")
    assert not ran
    for name in again.table.colnames:
        assert (
            list(again.table[name][:4]) == list(matrix.table[name][:4])
            or np.isnan(matrix.table[name]).any()
        )
    other = swapped(CLASSICAL, [IslandsDetection(seed_threshold=7.0)])
    steps = []
    made = stage_matrix(
        fields[:1], other, STAGES[1:], workers=1, kept=folder / "kept",
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    number = len(made.rows)
    assert [step[:2] for step in steps] == [(done, number) for done in range(number + 1)]
    words = {step[2] for step in steps[:-1]}
    assert words == {f"{fields[0].name}: {row.label}" for row in made.rows}
    assert ran == ["islands", "islands"]


def test_one_image_is_held_at_a_time(fields):
    held = []

    def watched(field):
        def load():
            assert all(one() is None for one in held)
            image, truth = field.load()
            held.append(weakref.ref(image))
            return image, truth

        return TrueField(field.name, load)

    stage_matrix([watched(f) for f in fields[:2]], "classical", STAGES[:1], workers=1)
    assert len(held) == 2


class Toy(IslandsDetection):
    """Islands that a network is said to find."""

    name = "toy"
    capabilities = Capabilities(needs_weights=True)


def test_new_learned_stages_come_in_by_themselves(monkeypatch):
    table = {kind: dict(names) for kind, names in registry._table().items()}
    table["detection"] = {"toy": f"{__name__}:Toy", "islands": table["detection"]["islands"]}
    table["cataloguing"].pop("classifier", None)
    monkeypatch.setattr(registry, "_table", lambda: table)
    stages, refused = learned_stages(CLASSICAL)
    names = [stage.name for stage in stages]
    assert "toy" in names
    assert "associate" in names
    assert "islands" not in names
    labels = [row.label for row in matrix_rows(CLASSICAL, "classical", stages)]
    assert labels[0] == "classical"
    assert labels[1 : 1 + len(names)] == names
    assert labels[-1] == "+".join(names)
    assert not {"detection toy", "cataloguing associate"} & refused.keys()


def test_stages_of_one_row_share_the_network_of_the_detection():
    masked, yolo = find_stage("masked"), find_stage("yolo")
    assert masked.weights != yolo.weights
    with Context() as context:
        route = swapped(CLASSICAL, [masked, yolo])
        together = sharing(route, context)
        assert (together.background.weights, together.background.tile) == ("yolo", yolo.tile)
        assert together.detection == yolo
        Pipeline(together).run(trial_image().replace(), context=context)
        assert context.notes["detection.shared"] is True
        # a network that the background cannot ask leaves it as it was
        strange = route.replace(detection={"name": "yolo", "weights": "nowhere.safetensors"})
        assert sharing(strange, context) == strange


def test_refinements_follow_those_that_are_there():
    associate = find_stage("associate")
    once = swapped(CLASSICAL, [associate])
    assert [stage.name for stage in once.cataloguing] == ["components", "associate"]
    assert swapped(once, [associate]) == once
    with pytest.raises(ConfigurationError, match="background:sep"):
        find_stage("sep")
    with pytest.raises(ConfigurationError, match="did you mean 'associate'"):
        find_stage("asociate")
    assert find_stage("masked@yolo").weights == "yolo"
    with pytest.raises(ConfigurationError, match="cannot be swapped in as 'associate@yolo'"):
        find_stage("associate@yolo")
    rows = matrix_rows(CLASSICAL, "classical", [], ["masked@yolo+background:sep", "yolo"])
    assert [row.label for row in rows] == ["classical", "masked@yolo+background:sep", "yolo"]


def test_fields_are_a_folder_or_a_list(folder, fields, tmp_path):
    fields[0].load()
    found = read_true_fields(folder / "fields")
    assert found[0].name == "seed1"
    image, truth = found[0].load()
    assert image.shape == (256, 256)
    assert len(truth)
    (tmp_path / "fields.yaml").write_text(
        f"fields:\n- image: {folder}/fields/seed1.fits\n  truth: {folder}/fields/seed1.truth.fits\n"
    )
    assert len(read_true_fields(tmp_path / "fields.yaml")) == 1
    (tmp_path / "untrue.yaml").write_text(f"fields:\n- image: {folder}/fields/seed1.fits\n")
    with pytest.raises(InputError, match="has no truth"):
        read_true_fields(tmp_path / "untrue.yaml")
    with pytest.raises(InputError, match=r"cyclades simulate"):
        read_true_fields(tmp_path)
    other = simulated_fields(FieldOptions(size=64), SEEDS[:1], folder / "fields")
    with pytest.raises(InputError, match="other options"):
        other[0].load()


def test_the_command_writes_a_table_a_figure_and_a_page(folder, matrix, tmp_path, capsys):
    arguments = ["compare-stages", "--matrix", str(folder / "fields"), "--workers", "1"]
    arguments += ["--stages", "detection:sep", "--row", "associate", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[:2] == ["route", "learned"]
    assert "sep+associate" not in printed
    table = Table.read(tmp_path / "matrix.ecsv")
    assert list(table["route"]) == ["classical", "sep", "associate"]
    np.testing.assert_allclose(table["f1"][0], matrix.table["f1"][0])
    assert (tmp_path / "matrix.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "matrix.html").read_text("utf-8")
    assert "data:image/png;base64," in page
    assert "detection" in page
    assert 'src="http' not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "1-"], "Seeds are whole numbers"),
        (["--seeds", "1", "--matrix", "x"], "not both"),
        (["x.fits", "--seeds", "1"], "takes no IMAGE"),
        (["--matrix", "x", "--set", "size=64"], "give --seeds"),
        (["--seeds", "1", "--stages", "nothing"], "no stage named 'nothing'"),
        ([], "Give an IMAGE"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["compare-stages", *arguments])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
