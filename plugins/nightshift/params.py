"""The trigger form: generated from a job's config model, so that one source says what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from airflow.sdk import Param

from llmjobs.contracts.base import JobConfig
from llmjobs.contracts.errors import BadConfig

# What Airflow's form and its JSON-schema validation both understand (Airflow 3.3, "Params").
_KEPT = (
    "type", "enum", "format", "items", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "minItems", "maxItems", "pattern",
)  # fmt: skip


def form_for(config: JobConfig, fields: Iterable[str]) -> dict[str, Param]:
    """Return one `Param` for each dotted path of `fields`, in that order.

    Title, description, allowed values and limits come from the model; the default is the value that the YAML
    gave. Fields are grouped in the form by the first part of their path.

    Args:
        config: The validated config of one DAG.
        fields: Dotted paths, for example ``("train.learning_rate", "train.epochs")``.

    Raises:
        BadConfig: A path leads to no field of the model.
    """
    schema = type(config).model_json_schema()
    values = config.model_dump(mode="json")
    return {path: _param(path, _schema_at(schema, path), _value_at(values, path)) for path in fields}


def form_values(config: JobConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's params belongs into `config`, by dotted path.

    Params of other tasks' configs are left out. So is an empty value of a field that cannot be null: the form has no
    other way to say "as in the YAML" for a text that is empty there.

    Args:
        config: The config of one task.
        params: The run's params; keys are dotted paths.
    """
    schema = type(config).model_json_schema()
    ours = {path: value for path, value in params.items() if path.partition(".")[0] in schema["properties"]}
    return {path: value for path, value in ours.items() if value is not None or _is_nullable(_schema_at(schema, path))}


def choice_for(config: JobConfig, field: str, choices: Mapping[str, JobConfig]) -> dict[str, Param]:
    """Return the `Param` that picks a whole section of a config by name, as a drop-down.

    Args:
        config: The validated config of one DAG; the choice that equals its section is the default.
        field: The section, for example ``contract``.
        choices: Name -> section.

    Raises:
        BadConfig: The config has no such field, or its section is none of the choices.
    """
    schema = _schema_at(type(config).model_json_schema(), field)
    chosen = name_of(config, field, choices)
    if chosen is None:
        raise BadConfig(f"{type(config).__name__}: its {field} is none of: {', '.join(sorted(choices)) or 'none'}")
    said = f"{schema.get('description', '')} Of another one, the fields below count where you change them."
    title = field.replace("_", " ").capitalize()
    names = sorted(choices)
    return {field: Param(chosen, type="string", enum=names, title=title, description=said.strip(), section="Run")}


def name_of(config: JobConfig, field: str, choices: Mapping[str, JobConfig]) -> str | None:
    """Return the name of the choice that equals a config's section, or None."""
    section = getattr(config, field, None)
    return next((name for name, choice in sorted(choices.items()) if choice == section), None)


def chosen_values(
    config: JobConfig, params: Mapping[str, Any], choices: Mapping[str, Mapping[str, JobConfig]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sections that the form picked by name, and the params that are left.

    Where another section than the config's own is picked, a param below it that still has the default of the config's
    own section was not touched, and is left out: the picked section's own value counts.

    Args:
        config: The config of one task.
        params: The run's params.
        choices: Field -> name -> section.

    Raises:
        BadConfig: A name is none of the choices.
    """
    sections: dict[str, Any] = {}
    left = dict(params)
    values = config.model_dump(mode="json")
    for field, known in choices.items():
        name = left.pop(field, None)
        if name is None or name == name_of(config, field, known):
            continue
        if name not in known:
            raise BadConfig(f"{field}: there is no {name!r} (known: {', '.join(sorted(known)) or 'none'})")
        sections[field] = deepcopy(known[name].model_dump(mode="json"))
        below = [path for path in left if path.startswith(f"{field}.")]
        left = {path: value for path, value in left.items() if path not in below or _value_at(values, path) != value}
    return sections, left


def _param(path: str, field: dict[str, Any], default: Any) -> Param:
    section, _, last = path.rpartition(".")
    allowed = _allowed(field)
    if default == "" and allowed["type"] == "string":
        # Airflow's form asks for a text where it finds none, unless null is allowed (UI of 3.3.2); see `form_values`.
        default, allowed["type"] = None, ["string", "null"]
    return Param(
        default,
        description=field.get("description"),
        title=field.get("title", last),
        section=(section.split(".")[0] or "run").replace("_", " ").capitalize(),
        **allowed,
    )


def _allowed(field: dict[str, Any]) -> dict[str, Any]:
    """Return the limits of a field as one flat schema, for pydantic writes ``X | None`` as ``anyOf``."""
    branches = [branch for branch in field.get("anyOf", [field]) if branch.get("type") != "null"]
    merged = {key: value for branch in branches for key, value in branch.items() if key in _KEPT}
    if "const" in field:
        merged["enum"] = [field["const"]]
    types = list(dict.fromkeys(branch["type"] for branch in branches if "type" in branch))
    if _is_nullable(field):
        types.append("null")
        if "enum" in merged:
            merged["enum"] = [*merged["enum"], None]
    merged["type"] = types[0] if len(types) == 1 else types
    return merged


def _is_nullable(field: dict[str, Any]) -> bool:
    return any(branch.get("type") == "null" for branch in field.get("anyOf", [field]))


def _schema_at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    current = schema
    for part in path.split("."):
        properties = _resolve(schema, current).get("properties", {})
        if part not in properties:
            known = ", ".join(sorted(properties)) or "none"
            raise BadConfig(f"{schema['title']}: the form asks for {path!r}, but there is no {part!r} (known: {known})")
        current = properties[part]
    return _resolve(schema, current)


def _resolve(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """Follow ``$ref``, and the one reference inside ``X | None``; what the field itself says wins."""
    own = {key: value for key, value in field.items() if key != "$ref"}
    if "$ref" in field:
        return {**schema["$defs"][field["$ref"].rsplit("/", 1)[-1]], **own}
    if "anyOf" in field:
        own["anyOf"] = [_resolve(schema, branch) for branch in field["anyOf"]]
        models = [branch for branch in own["anyOf"] if "properties" in branch]
        return {**models[0], **own} if len(models) == 1 else own
    return own


def _value_at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = None if values is None else values[part]
    return values
