"""A YAML file that knows the line of each of its values."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cyclades.stages.core.errors import ConfigurationError, InputError

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A YAML file with the line of every value, to say where an error is.

    Parameters
    ----------
    content : object
        The plain values.
    node : yaml.Node, optional
        The composed tree; None for an empty or broken file.
    problems : tuple of (int, str)
        Lines and sentences about the YAML itself: syntax, keys given twice.
    """

    content: Any
    node: Any
    problems: tuple[tuple[int, str], ...]

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Read a file; a file that cannot be read raises ConfigurationError."""
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigurationError(
                f"The configuration {path} cannot be read ({reason}); give a YAML file."
            ) from error
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> "Document":
        """Parse YAML text."""
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            line, problem = _broken(error)
            return cls(None, None, ((line, f"This is not valid YAML: {problem}."),))
        twice = tuple(
            (line, f"The key {key!r} is given twice; keep one.") for line, key in _repeated(node)
        )
        return cls({} if content is None else content, node, twice)

    def line(self, location: Location) -> int:
        """Return the line of a location, or of its nearest parent that exists."""
        node, line = self.node, 1
        for part in location:
            found = None
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == str(part)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                item = node.value[part] if part < len(node.value) else None
                found = item and (item, item)
            if not found:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        return line


def read_values(path: Path, what: str) -> Any:
    """Return the plain values of a YAML file.

    Parameters
    ----------
    path : Path
    what : str
        What the file should be, as "a list of fields".

    Raises
    ------
    InputError
        Where it cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        line, problem = _broken(error)
        reason = f"line {line} is not valid YAML: {problem}"
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    raise InputError(f"{path} cannot be read as {what} ({reason}).")


def _broken(error: yaml.YAMLError) -> tuple[int, str]:
    """Line of a mistake in YAML, and what it is."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not valid YAML"
    return 1 if mark is None else mark.line + 1, problem


def _repeated(node: Any) -> Iterator[tuple[int, str]]:
    """Yield the lines and names of keys that occur twice in one mapping."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, str(key.value)
            seen.add(key.value)
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item)
