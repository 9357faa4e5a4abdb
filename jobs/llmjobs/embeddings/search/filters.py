"""Filters on metadata, as users of Chroma and Pinecone write them, as SQL with parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from psycopg import sql
from psycopg.types.json import Jsonb

from llmjobs.contracts.embeddings import Scalar
from llmjobs.contracts.errors import BadConfig

MOST_VALUES = 1000
MOST_DEPTH = 20

_COMPARED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", "$in", "$nin", *_COMPARED, "$exists")
COMBINED = ("$and", "$or", "$not")


@dataclass(frozen=True)
class Condition:
    """A condition on a row ``d`` of ``document``.

    Attributes:
        clause: SQL with a named placeholder for each value.
        values: The placeholders' values.
        contains: Metadata that every row must hold that fulfils it: what the GIN index can look up; empty: nothing.
    """

    clause: sql.Composable
    values: Mapping[str, Any]
    contains: Mapping[str, Scalar]


def compiled(given: Mapping[str, Any] | None) -> Condition | None:
    """Return a filter as SQL; None where it asks for nothing.

    ``{"year": {"$gte": 2020}, "kind": "note"}``: conditions side by side must all hold, and a value alone stands for
    ``$eq``. A field that a document lacks equals nothing and differs from everything (``$ne`` and ``$nin`` hold).
    Numbers compare with numbers, texts with texts, and no value with one of another kind.

    Raises:
        BadConfig: It is no such filter; the sentence names the place and what is known there.
    """
    if given is None or given == {}:
        return None
    values = _Values()
    return Condition(_all_of(given, "filter", 0, values), values.held, _looked_up(given))


class _Values:
    """The values of a filter, which travel beside the SQL."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def placed(self, value: Any) -> sql.Placeholder:
        """Keep a value and return its placeholder."""
        if len(self.held) >= MOST_VALUES:
            raise BadConfig(f"filter: it names more than {MOST_VALUES} fields and values: narrow it")
        name = f"filter_{len(self.held)}"
        self.held[name] = value
        return sql.Placeholder(name)


def _all_of(given: Any, where: str, depth: int, values: _Values) -> sql.Composable:
    if not isinstance(given, Mapping) or not given:
        raise BadConfig(f"{where}: {{field: condition}} is needed, got {given!r}")
    if depth > MOST_DEPTH:
        raise BadConfig(f"filter: conditions lie more than {MOST_DEPTH} deep in one another")
    parts = [_part(name, value, f"{where}.{name}", depth, values) for name, value in given.items()]
    return _joined(" and ", parts)


def _part(name: Any, value: Any, where: str, depth: int, values: _Values) -> sql.Composable:
    if not isinstance(name, str):
        raise BadConfig(f"{where}: names of fields are texts, got {name!r}")
    if name == "$not":
        return sql.SQL("(not {})").format(_all_of(value, where, depth + 1, values))
    if name in ("$and", "$or"):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise BadConfig(f"{where}: a list of conditions is needed, got {value!r}")
        parts = [_all_of(one, f"{where}[{number}]", depth + 1, values) for number, one in enumerate(value)]
        return _joined(" and " if name == "$and" else " or ", parts)
    if name.startswith("$"):
        _unknown(name, where, COMBINED)
    conditions = value if isinstance(value, Mapping) else {"$eq": value}
    if not conditions:
        raise BadConfig(f"{where}: a condition is needed, got {{}}")
    _checked_text(name, where)
    return _joined(" and ", [_compared(name, *one, where, values) for one in conditions.items()])


def _compared(name: str, operator: Any, value: Any, where: str, values: _Values) -> sql.Composable:
    """Return one comparison of one field."""
    if operator not in OPERATORS:
        _unknown(operator, where, OPERATORS)
    where = f"{where}.{operator}"
    field = sql.SQL("d.metadata -> {}::text").format(values.placed(name))
    if operator == "$exists":
        if not isinstance(value, bool):
            raise BadConfig(f"{where}: true or false is needed, got {value!r}")
        return sql.SQL("({} is {})").format(field, sql.SQL("not null" if value else "null"))
    if operator in ("$in", "$nin"):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise BadConfig(f"{where}: a list of values is needed, got {value!r}")
        wanted = [values.placed(Jsonb(_checked(one, f"{where}[{number}]"))) for number, one in enumerate(value)]
        held = sql.SQL("coalesce({} = any (array[{}]::jsonb[]), false)").format(field, sql.SQL(", ").join(wanted))
        return held if operator == "$in" else sql.SQL("(not {})").format(held)
    value = _checked(value, where)
    if operator in ("$eq", "$ne"):
        held = sql.SQL("coalesce({} = {}::jsonb, false)").format(field, values.placed(Jsonb(value)))
        return held if operator == "$eq" else sql.SQL("(not {})").format(held)
    if isinstance(value, bool):
        raise BadConfig(f"{where}: a number or a text is needed, got {value!r}: use $eq")
    return sql.SQL("coalesce(jsonb_typeof({0}) = {1} and {0} {2} {3}::jsonb, false)").format(
        field,
        sql.Literal("string" if isinstance(value, str) else "number"),
        sql.SQL(_COMPARED[operator]),
        values.placed(Jsonb(value)),
    )


def _checked(value: Any, where: str) -> Scalar:
    """Return a value that metadata can hold."""
    if isinstance(value, str):
        return _checked_text(value, where)
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise BadConfig(f"{where}: a text, a number or true or false is needed, got {value!r}")


def _checked_text(text: str, where: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadConfig(f"{where}: NUL characters and lone surrogates cannot be stored, got {text!r}")
    return text


def _looked_up(given: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the equalities that must hold whatever else does."""
    found: dict[str, Scalar] = {}
    for name, value in given.items():
        if name == "$and":
            for one in value:
                found |= _looked_up(one)
        elif not name.startswith("$"):
            wanted = value.get("$eq") if isinstance(value, Mapping) else value
            if wanted is not None:
                found[name] = wanted
    return found


def condition_of(
    given: Mapping[str, Any] | None,
    *,
    within: str = "",
    source: str = "",
    language: str = "",
    keys: Sequence[str] | None = None,
) -> Condition | None:
    """Return a filter and what is asked of a document's own columns as one condition; None where nothing is asked.

    Raises:
        BadConfig: See `compiled`; or keys are no list.
    """
    if isinstance(keys, str):
        raise BadConfig(f"keys: a list of keys is needed, got the text {keys!r}")
    metadata = compiled(given)
    asked = [
        ("d.source = %(source)s::text", source),
        ("d.language = %(language)s::text", language),
        ("starts_with(d.key, %(within)s::text)", within),
        ("d.key = any (%(keys)s::text[])", keys is not None),
    ]
    parts: list[sql.Composable] = [sql.SQL(clause) for clause, wanted in asked if wanted]
    parts += [metadata.clause] if metadata else []
    if not parts:
        return None
    values: dict[str, Any] = {
        name: _checked_text(text, name)
        for name, text in (("source", source), ("language", language), ("within", within))
    }
    values["keys"] = [_checked_text(str(key), "keys") for key in keys or ()]
    return Condition(
        sql.SQL("({})").format(sql.SQL(" and ").join(parts)),
        values | dict(metadata.values if metadata else {}),
        metadata.contains if metadata else {},
    )


def parsed(text: str) -> dict[str, Any] | None:
    """Read a filter from the command line; None where there is none.

    Raises:
        BadConfig: It is no JSON object.
    """
    try:
        found = json.loads(text) if text else None
    except ValueError as error:
        raise BadConfig(f"filter: it is no JSON: {error}") from error
    if found is not None and not isinstance(found, dict):
        raise BadConfig(f"filter: a JSON object is needed, got {text}")
    return found


def _joined(word: str, parts: list[sql.Composable]) -> sql.Composable:
    return parts[0] if len(parts) == 1 else sql.SQL("({})").format(sql.SQL(word).join(parts))


def _unknown(name: Any, where: str, known: Sequence[str]) -> NoReturn:
    raise BadConfig(f"{where}: there is no operator {name!r}; there are {', '.join(known)}")
