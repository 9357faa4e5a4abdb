"""Compares answers with the JSON that a contract's `answer` describes."""

from __future__ import annotations

import json
from typing import Any

from llmjobs.contracts.instructions import Answer, JsonField

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def json_problem(text: str | None, answer: Answer) -> str | None:
    """Return what is wrong with one answer, None when nothing is.

    An empty answer is the concern of another rule.
    """
    if text is None or not text.strip() or answer.format != "json":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
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
