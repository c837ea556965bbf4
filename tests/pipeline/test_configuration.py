"""Configurations: what is read, what is refused and where, what is dumped."""

import re
import textwrap

import pytest
import yaml
from click.testing import CliRunner

from cyclades.pipeline.cli import cli
from cyclades.pipeline.config import RouteConfig, check_file, load, override, parse, routes
from cyclades.pipeline.document import Document
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.stage import RefinementStage

BROKEN = """\
image:
  beem: 5arcsec
background:
  name: sepp
detection:
  name: islands
  seed_threshold: -1
  seed_treshold: 6
characterization: 3
cataloguing:
  - components:
      name_prefixx: X
  - nonsense
seed: many
detecton: sep
"""


def write(tmp_path, text):
    path = tmp_path / "route.yaml"
    path.write_text(textwrap.dedent(text), "utf-8")
    return path


def test_every_route_of_the_package_is_valid():
    assert "classical" in routes()
    for name in routes():
        RouteConfig.from_route(name)


def test_effective_configuration_lists_every_parameter_and_reads_back():
    config = RouteConfig.from_route("classical")
    mapping = yaml.safe_load(config.to_yaml())
    for section, stage in zip(("background", "detection", "characterization"), config.stages,
                              strict=False):  # fmt: skip
        assert set(mapping[section]) == {"name", *type(stage).model_fields}
    assert set(mapping["image"]) == set(type(config.image).model_fields)
    assert RouteConfig.from_mapping(mapping) == config


def test_sections_left_out_are_those_of_the_classical_route():
    config = RouteConfig.from_mapping({"detection": {"name": "islands", "seed_threshold": 7}})
    classical = RouteConfig.from_route("classical")
    assert config.detection.seed_threshold == 7
    assert config.background == classical.background
    assert config.cataloguing == classical.cataloguing


def test_parameters_of_a_section_that_a_file_leaves_out_can_be_set(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("background: sep\n")
    mapping = override(load(path)[0], ["detection.seed_threshold=6"])
    config = RouteConfig.from_mapping(mapping)
    assert (config.background.name, config.detection.name) == ("sep", "islands")
    assert config.detection.seed_threshold == 6.0


def test_check_reports_every_error_on_its_line(tmp_path):
    problems = check_file(write(tmp_path, BROKEN))
    assert [line for line, _ in problems] == [2, 4, 7, 8, 9, 12, 13, 14, 15]
    messages = dict(problems)
    assert "did you mean 'beam'" in messages[2]
    assert "did you mean 'sep'" in messages[4]
    assert "greater than 0" in messages[7]
    assert "-1" in messages[7]
    assert "did you mean 'seed_threshold'" in messages[8]
    assert "did you mean 'name_prefix'" in messages[12]
    assert "did you mean 'detection'" in messages[15]


def test_a_run_with_several_errors_says_all_of_them():
    with pytest.raises(ConfigurationError, match=r"seed_treshold.*detecton|detecton.*seed_tresh"):
        RouteConfig.from_mapping(
            {"detection": {"name": "islands", "seed_treshold": 1}, "detecton": "sep"}
        )


def test_columns_that_a_refinement_needs_are_checked_when_the_route_is_read(tmp_path):
    path = write(tmp_path, "characterization: moments\ncataloguing:\n- components\n- star_galaxy\n")
    ((line, message),) = check_file(path)
    assert line == 4
    assert re.fullmatch(
        r"The refinement 'star_galaxy' needs the column 'spread_model', which no stage before it "
        r"gives; choose the characterization 'psf', or leave the refinement out\.",
        message,
    )
    psf = RouteConfig.from_mapping(
        {"characterization": "psf", "cataloguing": ["components", "star_galaxy"]}
    )
    with pytest.raises(ConfigurationError, match="'star_galaxy' needs the column 'spread_model'"):
        psf.replace(characterization="gaussian")


def test_a_refinement_may_need_what_one_before_it_adds():
    class Later(RefinementStage):
        name = "later"
        needs = ("reliability", "snr")

        def refine(self, catalogue, source, *, context):
            return catalogue

    RouteConfig.from_mapping({"cataloguing": ["components", "reliability", Later()]})
    with pytest.raises(ConfigurationError, match=r"column 'reliability'.*put 'reliability' before"):
        RouteConfig.from_mapping({"cataloguing": ["components", Later(), "reliability"]})


@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("batch",)])
def test_absent_columns_are_told_before_an_image_is_opened(command, tmp_path):
    given = ["--set", "cataloguing=[components,star_galaxy]", "--output", str(tmp_path / "out")]
    images = [str(tmp_path / name) for name in ("absent.fits", "missing.fits")]
    with pytest.raises(ConfigurationError, match="needs the column 'spread_model'"):
        CliRunner().invoke(cli, [*command, *images, *given], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_keys_given_twice_are_an_error(tmp_path):
    path = write(tmp_path, "seed: 1\ndetection:\n  name: sep\n  name: islands\n")
    assert check_file(path) == [(4, "The key 'name' is given twice; keep one.")]
    with pytest.raises(ConfigurationError, match="line 4"):
        RouteConfig.from_route(path)


def test_broken_yaml_has_a_line(tmp_path):
    ((line, message),) = check_file(write(tmp_path, "seed: 1\ndetection: [sep\nbackground: sep\n"))
    assert line == 3
    assert "not valid YAML" in message


@pytest.mark.parametrize("text", ["- sep\n", "sep\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    ((line, message),) = check_file(write(tmp_path, text))
    assert line == 1
    assert "is a mapping" in message


def test_an_empty_file_is_the_classical_route(tmp_path):
    assert check_file(write(tmp_path, "")) == []
    assert RouteConfig.from_route(write(tmp_path, "")) == RouteConfig.from_route("classical")


def test_missing_and_binary_files_are_one_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        RouteConfig.from_route(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        RouteConfig.from_route(tmp_path / "binary.yaml")


def test_unknown_route_suggests():
    with pytest.raises(ConfigurationError, match="did you mean 'classical'"):
        RouteConfig.from_route("clasical")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("detection.seed_threshold=6", {"name": "islands", "seed_threshold": 6}),
        ("detection.seed_threshold=6.5", {"name": "islands", "seed_threshold": 6.5}),
        ("detection.negative=true", {"name": "islands", "negative": True}),
        ("detection=sep", "sep"),
        ("detection={name: sep}", {"name": "sep"}),
    ],
)
def test_assignments_parse_values_as_yaml(assignment, expected):
    assert override({"detection": "islands"}, [assignment])["detection"] == expected


@pytest.mark.parametrize(
    "entries", ["components", ["components"], [{"components": {}}], [{"name": "components"}], None]
)
def test_assignments_reach_into_the_cataloguing_list(entries):
    mapping = {} if entries is None else {"cataloguing": entries}
    changed = override(mapping, ["cataloguing.components.name_prefix=X"])
    assert changed["cataloguing"] == [{"name": "components", "name_prefix": "X"}]
    assert RouteConfig.from_mapping(changed).cataloguing[0].name_prefix == "X"


def test_assignments_apply_in_order_and_leave_the_given_mapping_alone():
    mapping = {"detection": {"name": "islands", "seed_threshold": 5}}
    changed = override(mapping, ["detection=islands", "detection.flood_threshold=3", "seed=4"])
    assert changed == {"detection": {"name": "islands", "flood_threshold": 3}, "seed": 4}
    assert mapping == {"detection": {"name": "islands", "seed_threshold": 5}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("detection.seed_threshold", "not of the form"),
        ("=3", "not of the form"),
        ("detection..x=3", "not of the form"),
        ("detection.x=[1", "not valid YAML"),
        ("cataloguing.componets.name_prefix=X", "did you mean 'components'"),
        ("cataloguing.components=X", "write cataloguing.NAME.parameter=value"),
    ],
)
def test_bad_assignments_are_one_sentence(assignment, message):
    with pytest.raises(ConfigurationError, match=message):
        override({}, [assignment])


@pytest.mark.parametrize("seed", [-1, True, "1", 1.5, None])
def test_seed_is_a_whole_number(seed):
    assert [p.location for p in parse({"seed": seed})[1]] == [("seed",)]


def test_lines_of_places_that_are_not_there_are_those_of_their_parents():
    document = Document.parse("seed: 1\ndetection:\n  name: sep\n")
    assert document.line(("detection", "seed_threshold")) == 2
    assert document.line(("background",)) == 1


def test_a_broken_file_is_refused_with_the_line_and_the_way_to_all_its_errors(tmp_path):
    path = write(tmp_path, BROKEN)
    with pytest.raises(ConfigurationError, match=rf"^{re.escape(str(path))}, line 2: .*'beem'"):
        RouteConfig.from_route(path)
    with pytest.raises(ConfigurationError, match=f"'cyclades config check {re.escape(str(path))}'"):
        RouteConfig.from_route(path)
    path = write(tmp_path, "detection: {name: islands, seed_threshold: -1}")
    with pytest.raises(ConfigurationError, match=r"line 1: [^(]*greater than 0, not -1\.$"):
        RouteConfig.from_route(path)


def test_paths_mean_the_same_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RouteConfig.from_mapping(
        {
            "image": {"mask": "m.fits", "weight": "w.fits"},
            "background": {"name": "maps", "level": "l.fits", "rms": "/r.fits"},
        }
    )
    dumped = config.to_mapping()
    assert dumped["image"]["mask"] == str(tmp_path / "m.fits")
    assert dumped["image"]["weight"] == str(tmp_path / "w.fits")
    assert dumped["background"]["level"] == str(tmp_path / "l.fits")
    assert dumped["background"]["rms"] == "/r.fits"
