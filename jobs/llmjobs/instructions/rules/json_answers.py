"""Compares answers with the JSON that a contract's `answer` describes."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from llmjobs.contracts.data_contract import Answer, JsonField
from llmjobs.instructions.rules.pii import mask_text

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def problems_and_labels(answers: pl.Series, answer: Answer) -> pl.DataFrame:
    """Return ``json_problem`` and ``json_label`` of each answer; both null where the contract describes no JSON.

    Personal data in a problem is masked. An empty answer is the concern of another rule.
    """
    schema = {"json_problem": pl.String, "json_label": pl.String}
    if answer.format != "json":
        nothing = pl.Series([None], dtype=pl.String).new_from_index(0, answers.len())
        return pl.DataFrame(dict.fromkeys(schema, nothing))
    return pl.DataFrame([_problem_and_label(text, answer) for text in answers], schema=schema, orient="row")


def _problem_and_label(text: str | None, answer: Answer) -> tuple[str | None, str | None]:
    if text is None or not text.strip():
        return None, None
    try:
        value = json.loads(text, parse_constant=_refused)
        problem = _object_problem(value, answer)
        label = value.get(answer.label) if isinstance(value, dict) and answer.label is not None else None
        label = label if isinstance(label, str) or label is None else json.dumps(label, ensure_ascii=False)
    except ValueError as error:
        return f"not valid JSON: {error}", None
    except RecursionError:  # of writing a field too, which takes a little more than reading it
        return "not valid JSON: nested too deeply", None
    return mask_text(problem) if problem else None, label


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _object_problem(value: Any, answer: Answer) -> str | None:
    if not isinstance(value, dict):
        return f"{type(value).__name__}, not an object"
    if not answer.fields:
        return None
    problems = [_problem(name, field, value) for name, field in answer.fields.items()]
    if not answer.additional_fields:
        problems += [f"unknown field {name!r}" for name in value if name not in answer.fields]
    return "; ".join(problem for problem in problems if problem) or None


def _problem(name: str, field: JsonField, value: dict[str, Any]) -> str:
    """Return what is wrong with one field, the empty text when nothing is."""
    if name not in value:
        return f"field {name!r} is missing" if field.required else ""
    found = value[name]
    if found is None:
        return "" if field.nullable else f"field {name!r} is null"
    # A truth value is an integer to Python, not to JSON.
    if not isinstance(found, _TYPES[field.type]) or (isinstance(found, bool) and field.type != "boolean"):
        return f"field {name!r} is {json.dumps(found)[:40]}, not of type {field.type}"
    if field.enum and found not in field.enum:
        return f"field {name!r} is {json.dumps(found, ensure_ascii=False)[:40]}, none of the allowed values"
    return ""
