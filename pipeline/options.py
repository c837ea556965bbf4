"""Options read from mappings and YAML files, checked as a whole and written back in full."""

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cyclades.pipeline.document import Document
from cyclades.stages.core.errors import ConfigurationError


class Options(BaseModel):
    """Base of options: frozen, with nothing unknown in them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def from_mapping(cls, mapping: Any, *, name: str = "configuration") -> Self:
        """Check a mapping and make the options.

        Raises
        ------
        ConfigurationError
            With every problem found, each with the parameter's name.
        """
        try:
            return cls.model_validate(mapping)
        except ValidationError as error:
            # that it is not of another kind altogether is no news beside what is wrong with it
            errors = [e for e in error.errors() if not _other_kind(e)] or error.errors()
            # what concerns several options together has no place
            places = [".".join(str(part) for part in e["loc"] if not _alternative(part))
                      for e in errors]  # fmt: skip
            problems = [
                f"{place}: {_sentence(e)}" if place else _sentence(e)
                for place, e in zip(places, errors, strict=True)
            ]
            raise ConfigurationError(f"{name}: {'; '.join(problems).rstrip('.')}.") from None

    @classmethod
    def read_mapping(cls, path: Path) -> dict[str, Any]:
        """Read the mapping of a YAML file; `from_mapping` checks what is in it.

        Raises
        ------
        ConfigurationError
            Where it cannot be read or is no mapping.
        """
        document = Document.read(path)
        if document.problems:
            line, message = document.problems[0]
            raise ConfigurationError(f"{path}, line {line}: {message}")
        if not isinstance(document.content, dict):
            known = ", ".join(cls.model_fields)
            raise ConfigurationError(f"{path}: options are a mapping of {known}.")
        return document.content

    def to_yaml(self) -> str:
        """Return every parameter as YAML; `from_mapping` reads it."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def _alternative(part: str | int) -> bool:
    """Whether a part of a place is pydantic's name of one of several types, as ``tuple[...]``."""
    return isinstance(part, str) and "[" in part


def _other_kind(error: Any) -> bool:
    """Whether an error is that a value is not of one of several types."""
    return str(error["type"]).endswith("_type") and _alternative(error["loc"][-1])


def _sentence(error: Any) -> str:
    """One error of a validation, for people."""
    if error["type"] == "extra_forbidden":
        return "there is no such option"
    if error["type"].startswith("union_tag"):
        return "name a model, as in model=power_law"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
