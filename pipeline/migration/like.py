"""Reads the options of another source finder and makes a configuration of them."""

import ast
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyclades.pipeline.config import override
from cyclades.pipeline.migration.finders import AEGEAN, FINDERS, PYBDSF, Finder, Option, side
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.core.registry import suggestion


@dataclass(frozen=True)
class Like:
    """A configuration that does as another source finder does.

    Parameters
    ----------
    finder : str
    mapping : dict
        Sections of the configuration.
    columns : tuple of str
        Column layouts to write.
    workers : int, optional
    autoload : bool
        Whether maps beside the image are to be taken.
    notes : tuple of str
        Sentences on options that have no counterpart.
    """

    finder: str
    mapping: dict[str, Any]
    columns: tuple[str, ...]
    workers: int | None = None
    autoload: bool = False
    notes: tuple[str, ...] = ()

    def for_image(self, image: Path) -> dict[str, Any]:
        """Return the mapping with the maps that Aegean's autoload finds beside an image."""
        stem = str(image).removesuffix(".fits")
        level, rms = Path(f"{stem}_bkg.fits"), Path(f"{stem}_rms.fits")
        if not (self.autoload and level.is_file() and rms.is_file()):
            return self.mapping
        maps = {"name": "maps", "level": str(level), "rms": str(rms)}
        return {**self.mapping, "background": maps}


def read_like(text: str) -> Like:
    """Read ``aegean``, ``pybdsf``, either with options, or a file of parameters.

    Parameters
    ----------
    text : str
        ``aegean --seedclip 6 --floodclip 4``, ``pybdsf thresh_pix=6 rms_box=(60,15)``, a call of
        ``bdsf.process_image``, or the path of a file: options of Aegean (``key=value`` lines), or
        parameters of PyBDSF as JSON or as a dictionary in Python's notation.

    Raises
    ------
    ConfigurationError
        For an unknown finder or option, one that cannot be followed, or a value that makes no
        sense.
    """
    first = text.strip().split(None, 1)
    name = first[0].lower() if first else ""
    rest = first[1] if len(first) > 1 else ""
    if name in ("aegean", "bane"):
        return _make(AEGEAN, _words(rest))
    if name == "pybdsf":
        return _make(PYBDSF, _assignments(rest))
    if "process_image" in text:
        return _make(PYBDSF, _assignments(text))
    if Path(text.strip()).is_file():
        return _from_file(Path(text.strip()))
    raise ConfigurationError(
        f"--like takes aegean or pybdsf{suggestion(name, list(FINDERS))}, with their options if "
        f"there are any, or a file of them; {text!r} is none of these."
    )


def _from_file(path: Path) -> Like:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as text; a .sav file of PyBDSF is a pickle, which is not "
            "opened: write its parameters as JSON, or a dictionary as text."
        ) from error
    given = _dictionary(text) or _lines(text)
    if not given:
        raise ConfigurationError(
            f"{path} holds no parameters; give a dictionary as {{'thresh_pix': 5}} or lines as "
            "seedclip=5."
        )
    finder = max(FINDERS.values(), key=lambda f: len({o.name for o in f.options} & set(given)))
    return _make(finder, given)


def _dictionary(text: str) -> dict[str, Any]:
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, dict):
            return {str(key): value for key, value in found.items()}
    return {}


def _lines(text: str) -> dict[str, Any]:
    """Read ``key = value`` or ``key: value`` lines, of which # begins a comment."""
    found = {}
    for line in text.splitlines():
        key, sign, value = re.sub(r"#.*", "", line).partition("=" if "=" in line else ":")
        if sign and key.strip():
            found[key.strip().strip("'\"").lstrip("-")] = _literal(value.strip().rstrip(","))
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _words(text: str) -> dict[str, Any]:
    """Read the words of Aegean's command line, with or without the image among them."""
    known = {option.name: option for option in AEGEAN.options}
    words, found = shlex.split(text), {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            continue  # the image, which is an argument of run
        name, sign, value = word[2:].partition("=")
        number = known[name].values if name in known else 0
        values = [value] if sign else [words.pop(0) for _ in range(min(number, len(words)))]
        if name in known and number and len(values) < number:
            raise ConfigurationError(f"Aegean's option --{name} needs {number} values.")
        found[name] = True if not values else values[0] if len(values) == 1 else values
    return found


def _assignments(text: str) -> dict[str, Any]:
    """Read ``name=value`` pairs, as in a call of Python or apart by blanks."""
    pieces = re.split(r"(?:^|(?<=[\s,(]))([A-Za-z_]\w*)\s*=(?!=)", text)
    stray = pieces[0].strip().strip(",")
    if stray and "(" not in stray:
        raise ConfigurationError(
            f"{stray!r} is no parameter of PyBDSF; write name=value, as thresh_pix=5."
        )
    found = {}
    for name, value in zip(pieces[1::2], pieces[2::2], strict=True):
        held = value.strip().rstrip(",").strip()
        if held.count(")") > held.count("("):
            held = held.removesuffix(")").rstrip(", ")
        found[name] = _literal(held)
    return found


@dataclass
class _Made:
    """What the options read so far come to."""

    assignments: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    workers: int | None = None
    notes: list[str] = field(default_factory=list)


def _make(finder: Finder, given: Mapping[str, Any]) -> Like:
    known = {option.name: option for option in finder.options}
    made = _Made(columns=finder.columns)
    for name, value in given.items():
        if name not in known:
            raise ConfigurationError(
                f"{finder.title} has no option {name!r}{suggestion(name, list(known))}, or it is "
                "not known here; docs/migration-options.md lists those that are."
            )
        _take(finder, known[name], value, made)
    mapping = dict(finder.defaults)
    special = _aegean if finder is AEGEAN else _pybdsf
    special(mapping, made, given)
    for place, value in made.assignments.items():
        mapping = override(mapping, [f"{place}={json.dumps(value)}"])
    return Like(
        finder.name,
        mapping,
        made.columns,
        made.workers,
        autoload=bool(given.get("autoload")) and finder is AEGEAN,
        notes=tuple(made.notes),
    )


def _take(finder: Finder, option: Option, value: Any, made: _Made) -> None:
    """Take one option into account."""
    # what is not set, or is switched off, is not there
    if value is None or (option.refused and value in (False, [], ())):
        return
    if option.refused:
        raise ConfigurationError(
            f"{finder.title}'s {option.name} cannot be followed: {option.note}."
        )
    if option.convert is None:
        if not option.place and option.note and value is not False:
            made.notes.append(f"{option.name}: {option.note}.")
        return
    try:
        ours = option.convert(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{finder.title}'s {option.name} is {value!r}, which makes no sense ({error})."
        ) from error
    if option.place == "--workers":
        made.workers = ours
    elif option.place == "--columns":
        made.columns = (ours,)
    else:
        made.assignments[option.place] = ours


def _aegean(mapping: dict[str, Any], made: _Made, given: Mapping[str, Any]) -> None:
    """What several options of Aegean mean together."""
    if "box" in given:  # whatever --grid says
        made.assignments["background.box_size"] = side(given["box"])
    maps = [made.assignments.pop(f"background.{name}", None) for name in ("level", "rms")]
    if any(maps):
        if not all(maps):
            raise ConfigurationError(
                "Aegean's --noise and --background are needed together; give both, or neither."
            )
        mapping["background"] = {"name": "maps", "level": maps[0], "rms": maps[1]}


def _pybdsf(mapping: dict[str, Any], made: _Made, given: Mapping[str, Any]) -> None:
    """What several options of PyBDSF mean together."""
    if given.get("thresh") == "fdr":
        made.assignments["detection.seed_threshold"] = None
        made.assignments.setdefault("detection.false_discovery_rate", 0.05)
    else:
        made.assignments.pop("detection.false_discovery_rate", None)
    files = given.get("rmsmean_map_filename")
    if files:
        mean, rms = map(str, files)
        mapping["background"] = {"name": "maps", "level": mean, "rms": rms}
    elif given.get("mean_map") == "zero":
        mapping["background"] = {"name": "none"}
