"""No documented command, setting or name is one that does not exist."""

import ast
import importlib
import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest
import yaml
from page_blocks import blocks, commands, documents, simple, text_of

import cyclades
from cyclades.pipeline.cli import cli
from cyclades.pipeline.commands.route import configuration
from cyclades.pipeline.commands.train import read_configuration
from cyclades.pipeline.config import override, routes
from cyclades.pipeline.migration.like import read_like
from cyclades.pipeline.products import file_names
from cyclades.pipeline.simulation.field import FieldOptions
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.stages.core.errors import CycladesError

DATA = Path(cyclades.__file__).parent / "data"
OTHERS = {"docs/migration.md", "docs/migration-options.md", "docs/benchmarks.md"}
"""Pages whose text has options of other source finders and of benchmarks."""
FOREIGN = {"--no-deps", "--nbmake", "--keep", "--parts", "--gain"}
"""Options of pip, pytest and benchmarks that the other pages name by themselves."""
PROGRAMS = re.compile(r"python |pip |hf |mypy |dask |#SBATCH ")
"""How code of other programs begins."""
CHECKED = (click.Choice, click.IntRange, click.FloatRange)
"""Types of values that need no files to be checked."""
ANYTHING = re.compile(r"\$\w+|[A-Z]+")
"""Variables of the shell, and words such as MHZ that stand for any value."""
TRAININGS = ("train", "pretrain", "transfer", "detectors", "train-classifier")
PLACEHOLDERS = {"COMMAND", "a", "b"}
"""Words that stand for any command or route."""


def command_of(words, whole):
    """The command that words call, and its own words; None where none is meant."""
    command, rest = cli, list(words)
    while isinstance(command, click.Group):
        if not rest or rest[0] in PLACEHOLDERS or rest[0] in ("--help", "--version"):
            if whole and not rest:
                raise click.UsageError("no command is named")
            return None, []
        found = command.commands.get(rest[0])
        if found is None:
            raise click.UsageError(f"there is no command {rest[0]!r}")
        command, rest = found, rest[1:]
    return command, rest


def parse(words, whole):
    """The command and what its parameters are given, by name; nothing is run or opened."""
    command, rest = command_of(words, whole)
    if command is None:
        return None, {}
    context = click.Context(command, info_name=command.name)
    try:
        given, _, order = command.make_parser(context).parse_args(rest)
    except click.BadOptionUsage:
        # an option that is named in the text, without its value
        if whole:
            raise
        return None, {}
    given = {parameter.name: given[parameter.name] for parameter in order}
    for parameter in command.get_params(context):
        value = given.get(parameter.name)
        if value is None or value == ():
            given.pop(parameter.name, None)
            if whole and parameter.required and "help" not in given:
                raise click.MissingParameter(ctx=context, param=parameter)
        elif isinstance(parameter.type, CHECKED) and not ANYTHING.fullmatch(str(value)):
            parameter.type.convert(value, parameter, context)
    return command, given


def own_stages(page):
    """Names of stages and heads that a page makes."""
    return set(re.findall(r'^"?(?:\w+\.)?(\w+)"? = "\w[\w.]*:\w+"', text_of(page), re.M))


def shipped(folder, name, otherwise):
    """A configuration that ships, or where a page has one of its own the one it is like."""
    return name if name and (DATA / folder / f"{name}.yaml").is_file() else otherwise


def check_names(names, known):
    """Complain of a name of a route that is not known, is no file and stands for none."""
    for name in names:
        if name not in known and not name.endswith(".yaml") and name not in PLACEHOLDERS:
            raise click.UsageError(f"there is no route {name!r}")


def several(values, option):
    """Names that were given to an option, with commas or one by one."""
    return [name for value in values.get(option) or () for name in value.split(",") if name]


def check_route(values, page):
    """Route, settings and names of outputs of a command that runs one."""
    settings = values.get("assignments", ())
    if any(setting.partition("=")[2].strip("[]") in own_stages(page) for setting in settings):
        return
    if (like := values.get("like")) and not like.endswith(".json"):
        read_like(like)
    route = values.get("route")
    check_names([route] if route else [], routes())
    configuration(route if route in routes() else None, None, settings)
    file_names("x", *(tuple(several(values, o)) for o in ("formats", "products", "columns")))


def check_settings(command, values, page):
    """What a command would do with --set and with names that ship."""
    name, settings = command.name, values.get("assignments", ())
    if name in ("run", "batch", "watch", "label"):
        check_route(values, page)
    elif name == "simulate" or (name == "compare-stages" and settings):
        optical = values.get("kind") == "optical"
        (OpticalOptions if optical else FieldOptions).from_mapping(override({}, settings))
    elif name in TRAININGS and importlib.util.find_spec("torch") is not None:
        check_training(name, values, settings)
    if name in ("compare-stages", "inverted"):
        check_names(several(values, "routes"), routes())


def check_training(name, values, settings):
    """The settings of something that is trained."""
    from cyclades.pipeline.studies.detectors.options import DetectorStudyOptions
    from cyclades.pipeline.studies.options import StudyOptions
    from cyclades.pipeline.training.classifier import ClassifierOptions
    from cyclades.pipeline.training.options import TrainingOptions
    from cyclades.pipeline.training.pretraining.options import PretrainingOptions

    if name == "train-classifier":
        ClassifierOptions.from_mapping(override({}, settings))
        return
    model, folder, like = {
        "train": (TrainingOptions, "training", "mask_rcnn"),
        "pretrain": (PretrainingOptions, "pretraining", "vit_small_dinov2"),
        "transfer": (StudyOptions, "studies", "transfer"),
        "detectors": (DetectorStudyOptions, "studies", "detectors"),
    }[name]
    config = shipped(folder, values.get("config"), like)
    read_configuration(model, folder, config, settings)


@pytest.mark.parametrize("page", [page for page in documents() if commands(page)])
def test_the_commands_of_a_page_exist_with_all_they_are_given(page):
    wrong = []
    for words, whole in commands(page):
        try:
            command, given = parse(words, whole)
            if command is not None:
                check_settings(command, given, page)
        except (click.ClickException, CycladesError) as error:
            said = error.format_message() if isinstance(error, click.ClickException) else error
            wrong.append(f"cyclades {' '.join(words)}\n    {said}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("runn X.fits", "there is no command 'runn'"),
        ("run X.fits -o DIR --seed-threshold 5", "No such option"),
        ("run X.fits", "Missing option '--output'"),
        ("run X.fits -o DIR --set detection.sed_threshold=5", "sed_threshold"),
        ("run X.fits -o DIR --set detection=sepp", "sepp"),
        ("run X.fits -o DIR --formats votabel", "votabel"),
        ("run X.fits -o DIR --route clasical", "there is no route 'clasical'"),
        ("run X.fits -o DIR --like 'pybdsf thrsh_pix=6'", "thrsh_pix"),
        ("simulate X --set telescope.array=vla_a", "vla_a"),
        ("compare --challenge 561", "561"),
    ],
)
def test_what_does_not_exist_is_found(line, said):
    (words,) = simple(line)
    with pytest.raises((click.ClickException, CycladesError)) as complaint:
        check_settings(*parse(words, True), "README.md")
    error = complaint.value
    assert said in (
        error.format_message() if isinstance(error, click.ClickException) else str(error)
    )


def test_commands_of_blocks_scripts_and_text_are_found():
    found = commands("docs/how-to/slurm.md")
    assert (["run", "$image", "--output", "catalogues", "--workers", "$SLURM_CPUS_PER_TASK",
             "--quiet"], True) in found  # fmt: skip
    assert (["simulate", "fields/one", "--size", "256", "--seed", "1"], True) in found
    assert sum(len(commands(page)) for page in documents()) > 300


@cache
def options():
    """Every option of every command."""
    found, commands_left = {"--help", "--version"}, [cli]
    while commands_left:
        command = commands_left.pop()
        if isinstance(command, click.Group):
            commands_left += command.commands.values()
        found |= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    return found


@pytest.mark.parametrize("page", sorted(set(documents()) - OTHERS))
def test_options_in_the_text_are_those_of_some_command(page):
    prose = re.sub(r"^```.*?^```$|^    .*$", "", text_of(page), flags=re.M | re.S)
    spans = [code for code in re.findall(r"`([^`]+)`", prose) if not PROGRAMS.match(code)]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(spans)))
    assert named - options() - FOREIGN == set()


def code_of_pages():
    """Every block of Python, with what modules its page makes."""
    for page in documents():
        own = set(re.findall(r"cat > (\w+)\.py", text_of(page)))
        for number, (kind, code) in enumerate(blocks(page)):
            scripts = re.findall(r"cat > \w+\.py <<'(\w+)'\n(.*?)^\1$", code, re.M | re.S)
            found = [code] if kind == "python" else [script for _, script in scripts]
            for text in found:
                yield pytest.param(text, own, id=f"{Path(page).stem}-{number}")


@pytest.mark.parametrize(("code", "own"), list(code_of_pages()))
def test_code_of_pages_names_what_exists(code, own):
    """It compiles, what it imports is there, and so is every attribute of the package."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            places = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            places = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "cyclades":
            places = [("cyclades", node.attr)]
        else:
            continue
        for module, name in places:
            top = module.partition(".")[0]
            if top in own:
                continue
            if top != "cyclades" and importlib.util.find_spec(top) is None:
                pytest.skip(f"{top} is not installed")
            try:
                loaded = importlib.import_module(module)
            except ModuleNotFoundError as error:
                if (error.name or "cyclades").startswith("cyclades"):
                    raise
                pytest.skip(f"{error.name} is not installed")
            if name is not None and not hasattr(loaded, name):
                importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("page", documents())
def test_blocks_of_data_can_be_read(page):
    for kind, content in blocks(page):
        if kind == "yaml":
            assert yaml.safe_load(content)
        elif kind == "toml":
            assert tomllib.loads(content)
