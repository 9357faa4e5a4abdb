"""JobConfig and JobResult: frozen, typed, and an unknown key is an error that says what was meant."""

from __future__ import annotations

import hashlib
import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from llmjobs.contracts import environment
from llmjobs.contracts.errors import BadConfig


class Strict(BaseModel):
    """Base of every section of a config: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobConfig(Strict):
    """Base of every job's config.

    A YAML file, the trigger form and the environment of a job are three ways to write the same model.
    """

    @classmethod
    def from_mapping(cls, values: Any, *, origin: str) -> Self:
        """Validate `values`.

        Args:
            values: What YAML or JSON gave.
            origin: File or variable that the values came from, named in each error.

        Raises:
            BadConfig: One line for each wrong field, with its origin, its path and what is allowed.
        """
        if not isinstance(values, dict):
            raise BadConfig(f"{origin}: must hold a mapping of fields, got {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadConfig("\n".join(explain(cls, error, origin=origin))) from None

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read one YAML file.

        Raises:
            BadConfig: The file is absent, no YAML, or does not fit the model.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadConfig(f"{path}: no such file") from None
        except yaml.YAMLError as error:
            raise BadConfig(f"{path}: not valid YAML: {error}") from None
        return cls.from_mapping(values, origin=str(path))

    @classmethod
    def from_environment(cls) -> Self:
        """Read the config that the operator put into ``LLMJOBS_CONFIG``.

        Raises:
            BadConfig: The variable is absent, no JSON, or does not fit the model.
        """
        text = os.environ.get(environment.CONFIG)
        if text is None:
            raise BadConfig(f"{environment.CONFIG} is not set: a job reads its config from there, as JSON")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadConfig(f"{environment.CONFIG} is not valid JSON: {error}") from None
        return cls.from_mapping(values, origin=environment.CONFIG)

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """Names of the environment variables with secrets that the job needs besides its connections."""
        return ()

    def digest(self, *, exclude: set[str] | None = None) -> str:
        """Return the SHA-256 of the config's canonical JSON, without the fields in `exclude`."""
        return digest(self.model_dump(mode="json", exclude=exclude))


class JobResult(Strict):
    """Base of what a job hands back to Airflow. Small: figures, versions and URLs."""


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of `value` as canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def explain(model: type[BaseModel], error: ValidationError, *, origin: str) -> list[str]:
    """Turn pydantic's error into lines of ``origin: field: what is wrong; the fix``."""
    return [f"{origin}: {_explain_one(model, dict(item))}" for item in error.errors(include_url=False)]


def _explain_one(model: type[BaseModel], item: dict[str, Any]) -> str:
    path = tuple(item["loc"])
    name = ".".join(str(part) for part in path) or "(whole)"
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        close = get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(sorted(known))}"
        return f"{name}: unknown field; {hint}"
    if item["type"] == "missing":
        return f"{name}: is required but absent"
    return f"{name}: {item['msg']}, got {_short(item.get('input'))}"


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the model that `path` leads to, or none when it leads elsewhere."""
    current: Any = model
    for part in path:
        models = _models_in(current)
        found = [m.model_fields[part].annotation for m in models if isinstance(part, str) and part in m.model_fields]
        if found:
            current = found[0]
    return [name for m in _models_in(current) for name in m.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models inside an annotation such as ``list[X]``, ``dict[str, X]`` or ``X | Y | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
