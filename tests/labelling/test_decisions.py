"""Decisions of a person become labels that a training reads, and a catalogue."""

import json

import numpy as np
import pytest
from labelling_case import candidates, decisions, field, two_far_apart

from cyclades.pipeline.cli import main
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.labelling.candidates import edges_of, find_candidates, objects_of
from cyclades.pipeline.labelling.decisions import (
    IGNORED,
    apply_decisions,
    measured_catalogue,
    read_decisions,
    write_labels,
)
from cyclades.pipeline.simulation.coco import read_coco
from cyclades.pipeline.training.folder import FolderOptions, FolderSource
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import ConfigurationError, InputError


def every(state, kind=""):
    """The same decision about all candidates."""
    return [
        {"candidates": (number,), "state": state, "kind": kind}
        for number in range(len(candidates()))
    ]


def test_candidates_are_the_sources_of_the_route():
    held = candidates()
    catalogue = held.result.catalogue
    assert len(held) == len(catalogue.sources) > 15
    assert set(held.suggestion) <= set(held.classes)
    # every pixel of the detections belongs to one of them
    leaves = held.detections.segments.take(held.detections.leaves)
    assert np.array_equal(np.unique(held.segments.indices), np.unique(leaves.indices))


def test_objects_told_apart_in_an_island_are_candidates_of_their_own():
    found = candidates().detections
    parent = next(row for row in found.islands if (found.parent == row).sum() > 1)
    children = np.flatnonzero(found.parent == parent)
    source = np.arange(len(found))
    rows = objects_of(found.replace(source=source))
    assert len(rows) == len(found.leaves)
    for child in children:
        assert any(one.tolist() == [child] for one in rows)


def test_edges_close_around_a_mask():
    pixels = np.array([23, 24, 33])  # of a plane of ten columns: an L
    edges = edges_of(pixels, 10)
    assert len(edges) == 8
    ends = []
    for x, y, along in edges.tolist():
        ends += [(x, y), (x, y + 1) if along else (x + 1, y)]
    # every corner is met by an even number of edges
    assert all(ends.count(one) % 2 == 0 for one in set(ends))
    assert {(3, 2), (5, 2), (5, 3), (4, 3), (4, 4), (3, 4)} <= set(ends)


def test_all_accepted_is_the_catalogue_of_the_route():
    labels = apply_decisions(candidates(), decisions(*every("accepted", "compact")))
    made, route = measured_catalogue(candidates(), labels), candidates().result.catalogue
    assert len(made.sources) == len(route.sources)
    for name in ("total_flux", "x", "peak_flux_err"):
        assert np.allclose(made.components[name], route.components[name], rtol=1e-6, equal_nan=True)
    assert set(made.sources["morphology"]) == {"compact"}
    assert np.all(made.sources["morphology_probability"] == 1.0)
    assert set(made.components["detected_by"]) == {"label"}


def test_merged_islands_are_one_source_with_the_flux_of_both():
    one, other = two_far_apart()
    whole = {"candidates": (one, other), "state": "accepted", "kind": "multi-component"}
    labels = apply_decisions(candidates(), decisions(whole))
    assert labels.counts["merged"] == 1
    assert labels.counts["open"] == len(candidates()) - 2
    made = measured_catalogue(candidates(), labels)
    assert len(made.sources) == 1
    assert made.sources["morphology"][0] == "multi-component"
    route = candidates().result.catalogue
    rows = [
        np.flatnonzero(np.isin(candidates().result.components.detection, candidates().rows[k]))
        for k in (one, other)
    ]
    expected = sum(candidates().result.components.total[row].sum() for row in rows)
    assert made.sources["total_flux"].value[0] == pytest.approx(expected, rel=1e-6)
    assert len(route.sources) > 1


def test_rejected_is_sky_and_open_is_ignored_by_a_training(tmp_path):
    one, other = two_far_apart()
    labels = apply_decisions(
        candidates(),
        decisions(
            {"candidates": (one,), "state": "accepted", "kind": "extended"},
            {"candidates": (other,), "state": "rejected"},
        ),
    )
    paths = write_labels(candidates(), labels, tmp_path)
    assert [path.exists() for path in paths] == [True, True]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    segments, _, kinds, shape, names = read_coco(paths[0])
    assert shape == candidates().image.shape
    assert names == candidates().classes
    assert labels.kinds.count(IGNORED) == len(kinds) - 1 == len(candidates()) - 2
    crowds = [row["iscrowd"] for row in json.loads(paths[0].read_text())["annotations"]]
    assert crowds == [int(kind == IGNORED) for kind in labels.kinds]
    assert np.array_equal(segments[0], candidates().segments[one])
    assert not np.isin(candidates().segments[other], segments.indices).any()
    assert len(read_catalogue(paths[1]).sources) == 1

    name = candidates().image.name
    field().write(tmp_path / name)
    options = FolderOptions(images=str(tmp_path / f"{name}.fits"), labels=str(paths[0]))
    read = FolderSource(options, 64, candidates().classes).load(tmp_path / f"{name}.fits")
    assert read.ignore.sum() == len(candidates()) - 2
    judged = np.flatnonzero(~read.ignore)
    assert [candidates().classes[k] for k in read.classes[judged]] == ["extended"]


def test_a_drawn_box_finds_what_stands_out_in_it():
    one, _ = two_far_apart()
    y, x = np.divmod(candidates().segments[one], candidates().image.shape[1])
    box = (float(x.min() - 2), float(y.min() - 2), float(x.max() + 2), float(y.max() + 2))
    drawn = {"box": box, "state": "accepted", "kind": "compact"}
    gone = {"candidates": (one,), "state": "rejected"}
    labels = apply_decisions(candidates(), decisions(gone, drawn))
    assert labels.counts["drawn"] == 1
    number = labels.kinds.index("compact")
    inside = np.isin(candidates().segments[one], labels.segments[number])
    assert inside.mean() > 0.7
    made = measured_catalogue(candidates(), labels)
    assert len(made.sources) == 1
    # pixels of an object that is there already stay its own
    taken = apply_decisions(candidates(), decisions(drawn))
    for number in np.flatnonzero(np.array(taken.kinds) == "compact"):
        assert not np.isin(taken.segments[number], candidates().segments.indices).any()


def test_nothing_accepted_is_an_empty_catalogue():
    labels = apply_decisions(candidates(), decisions(*every("rejected")))
    made = measured_catalogue(candidates(), labels)
    assert len(made.sources) == len(made.components) == len(labels.kinds) == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"identity": "0" * 64}, "other objects than those found now"),
        ({"objects": ({"candidates": (0, 0)},)}, "twice"),
        ({"objects": ({"candidates": (99999,)},)}, "twice, or one that there is not"),
        ({"objects": ({"candidates": (0,), "state": "accepted", "kind": "star"},)}, "'star'"),
        ({"objects": ({"candidates": (0,), "state": "perhaps"},)}, "'perhaps'"),
    ],
)
def test_decisions_that_do_not_fit_are_refused_in_a_sentence(changes, text):
    objects = changes.pop("objects", ())
    with pytest.raises(InputError, match=text):
        apply_decisions(candidates(), decisions(*objects, **changes))


def test_a_file_is_read_back_or_refused(tmp_path):
    path = tmp_path / "d.json"
    made = decisions({"candidates": (0,), "state": "accepted", "kind": "compact"})
    path.write_text(made.model_dump_json())
    again = read_decisions(path)
    assert again == made
    assert again.config == candidates().result.config
    content = json.loads(made.model_dump_json())
    for broken, text in (
        ("{", "cannot be read as JSON"),
        (json.dumps(content | {"format": "coco"}), "its format is coco"),
        (json.dumps(content | {"version": 99}), "99"),
        (json.dumps({"objects": []}), "no decisions of a page"),
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match=text):
            read_decisions(path)
    with pytest.raises(InputError, match="no such file"):
        read_decisions(tmp_path / "absent.json")


def test_what_cannot_be_labelled_is_said():
    config = RouteConfig.from_route("classical")
    with pytest.raises(ConfigurationError, match="different names"):
        find_candidates(field().image, config, ("a", "a"))
    deaf = config.replace(detection={"name": "islands", "seed_threshold": 1e9})
    with pytest.raises(InputError, match="nothing to label"):
        find_candidates(field().image, deaf, workers=1)


def test_the_command_makes_a_page_and_labels_of_what_it_saved(tmp_path, capsys):
    prefix = tmp_path / "sky.v2"
    field().write(prefix)
    image, out = f"{prefix}.fits", tmp_path / "out"

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["label", image, "-o", str(out), *arguments])
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    code, text, _ = run("--classes", "point,wide", "--json")
    page = out / "sky.v2.label.html"
    assert (code, json.loads(text)["files"]) == (0, [str(page)])
    data = page.read_text().split('id="report-data">')[1].split("</script>")[0]
    told = json.loads(data)
    assert told["classes"] == ["point", "wide"]
    assert len(told["objects"]) == json.loads(text)["candidates"]
    saved = {k: told[k] for k in ("format", "version", "image", "identity", "configuration")}
    saved |= {"classes": told["classes"], "objects": [
        {"candidates": [0, 1], "state": "accepted", "kind": "wide"},
        {"candidates": [2], "state": "rejected"},
    ]}  # fmt: skip
    file = tmp_path / "d.json"
    file.write_text(json.dumps(saved))
    code, text, _ = run("--decisions", str(file), "--json")
    assert code == 0
    assert {k: json.loads(text)[k] for k in ("accepted", "rejected", "merged")} == {
        "accepted": 1, "rejected": 1, "merged": 1,
    }  # fmt: skip
    made = read_catalogue(out / "sky.v2.labels.catalogue.fits")
    assert made.sources["morphology"].tolist() == ["wide"]
    code, _, error = run("--decisions", str(file), "--route", "yolo")
    assert (code, "leave these options out" in error) == (2, True)
    code, _, error = run("--decisions", str(tmp_path / "none.json"))
    assert (code, "no such file" in error) == (2, True)


def test_a_box_is_the_same_from_any_corner_and_nothing_in_it_is_said():
    one, _ = two_far_apart()
    y, x = np.divmod(candidates().segments[one], candidates().image.shape[1])
    low, high = (float(x.min() - 2), float(y.min() - 2)), (float(x.max() + 2), float(y.max() + 2))
    gone = {"candidates": (one,), "state": "rejected"}
    found = [
        apply_decisions(
            candidates(), decisions(gone, {"box": box, "state": "accepted", "kind": "compact"})
        )
        for box in ((*low, *high), (*high, *low), (-60.0, -60.0, -50.0, -50.0))
    ]
    assert np.array_equal(found[0].segments.indices, found[1].segments.indices)
    assert [labels.counts["accepted"] for labels in found] == [1, 1, 0]
    assert found[2].counts["drawn around nothing"] == 1
