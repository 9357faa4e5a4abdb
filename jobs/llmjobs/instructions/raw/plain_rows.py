r"""Reads rows that are certainly plain, many at once: vectorised, and proven equal to the exact reader by a test.

A row is plain when its whole text matches an expression made from an earlier row: the same keys in the same order, each
once, and their values texts, numbers or a list of plain turns. Such a text is valid JSON, repeats no key and has the
layout of the earlier row, so whatever decodes JSON gives the same, and polars does so ten times as fast as Python.
Every other row, broken or merely unusual, goes to the exact reader.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from llmjobs.instructions.raw.formats import COLUMNS, SPACE
from llmjobs.instructions.raw.row_layouts import Layout, Layouts, WrongShape
from llmjobs.instructions.tables import READ

MOST_BYTES = 1 << 20
"""Of a plain row; longer ones are few."""

_SCHEMA: Any = READ
_PLANS = 3
_PLANS_OF_A_FILE = 20
_KEYS = 40
"""Of a row that a plan is made for: an expression for many more would be too large."""

_SPACE = r"[ \t\r\n]*"
# Without a lone surrogate, which polars would refuse: a high one must be followed by a low one.
_ESCAPE = (
    r'\\(?:["\\/bfnrt]|u(?:[0-9a-cefA-CEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
_TEXT = rf'(?:"(?:[^"\\\x00-\x1f]|{_ESCAPE})*"|null)'
_ROLE = r'"[^"\\\x00-\x1f]*"'
_SCALAR = rf"(?:{_TEXT}|true|false|-?(?:0|[1-9][0-9]{{0,17}})(?:\.[0-9]{{1,17}})?(?:[eE][+-]?[0-9]{{1,2}})?)"
_NOTHING = rf"(?:null|\[{_SPACE}\])"
_PLAIN_KEY = re.compile(r"\w+")

Signature = tuple[tuple[str, Any], ...]
"""Keys in their order, each with ``scalar``, ``empty``, or the keys of its turns."""


@dataclass(frozen=True)
class _Plan:
    """How rows of one signature are read."""

    pattern: str
    chat: bool
    schema: dict[str, Any]
    columns: list[pl.Expr]


class PlainRows:
    """Plans for the signatures that rows of a file have, learnt from some of them.

    Args:
        layouts: The layout of each row.
    """

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self._plans: dict[Signature, _Plan | None] = {}

    @property
    def has_plans(self) -> bool:
        """Whether anything was learnt."""
        return bool(self._plans)

    def learn(self, values: Iterable[Any]) -> None:
        """Make plans for the most frequent signatures among some rows."""
        seen = Counter(_signature(value) for value in values if isinstance(value, dict))
        for signature, _ in seen.most_common(_PLANS):
            if signature not in self._plans and len(self._plans) < _PLANS_OF_A_FILE:
                self._plans[signature] = self._plan(signature)

    def read(self, rows: pl.DataFrame, joined: Callable[[pl.Series], bytes]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Read the plain ones of some rows.

        Args:
            rows: ``line`` and ``raw``, stripped of space; null where it is no text.
            joined: Returns the bytes of the rows with some values of ``line``, one row a line.

        Returns:
            The plain rows, as `READ`, and those of `rows` that are not.
        """
        found, rest = [pl.DataFrame(schema=_SCHEMA)], rows
        for plan in self._plans.values():
            if plan is None or not rest.height:
                continue
            plain = rest["raw"].str.contains(plan.pattern) & (rest["raw"].str.len_bytes() <= MOST_BYTES)
            if plan.chat:  # a call of a function is another kind of turn
                plain &= ~rest["raw"].str.contains('"function_call"', literal=True)
            plain = plain.fill_null(value=False)
            found.append(_read(rest.filter(plain), joined, plan))
            rest = rest.filter(~plain)
        found = [frame for frame in found if frame.height] or found[:1]
        return found[0] if len(found) == 1 else pl.concat(found).sort("line"), rest

    def _plan(self, signature: Signature) -> _Plan | None:
        """Return how rows of a signature are read, None where that cannot be certain."""
        keys = tuple(key for key, _ in signature)
        try:
            layout = self._layouts.of(keys)
        except WrongShape:
            return None
        used = set(layout.columns)
        ambiguous = layout.columns.count(layout.listed or "") > 1
        if len(keys) > _KEYS or ambiguous or not set(layout.needed) <= set(keys):
            return None
        fields = [_field(key, kind, layout, used) for key, kind in signature]
        if None in fields:
            return None
        body = rf"{_SPACE},{_SPACE}".join(str(field) for field in fields)
        texts = {key: pl.String for key in keys if key in used and key not in {layout.messages, layout.history}}
        turn = pl.List(pl.Struct({layout.role: pl.String, layout.content: pl.String}))
        schema = {**texts, layout.messages: turn} if layout.messages is not None else texts
        # It can be too large for the engine: then such rows are read exactly.
        pattern = rf"\A\{{{_SPACE}{body}{_SPACE}\}}\z"
        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.ComputeError:
            return None
        return _Plan(pattern, layout.messages is not None, schema, columns_of(layout, set(keys)))


def _signature(value: dict[str, Any]) -> Signature:
    return tuple((key, _kind(column)) for key, column in value.items())


def _kind(column: Any) -> Any:
    """Return what a column of a row holds: ``scalar``, ``empty``, the keys of its turns, or None for all else."""
    if not column and isinstance(column, list):
        return "empty"
    if isinstance(column, list) and isinstance(column[0], dict):
        return tuple(column[0])
    return None if isinstance(column, (list, dict)) else "scalar"


def _field(key: str, kind: Any, layout: Layout, used: set[str]) -> str | None:
    """Return the expression of one key with its value, None where no plan can hold it."""
    if not _PLAIN_KEY.fullmatch(key):
        return None
    if key == layout.messages:
        turns = _turns_field(kind, layout)
        return None if turns is None else _pair(key, turns)
    if key == layout.history or (kind == "empty" and key not in used):
        return _pair(key, _NOTHING)
    return _pair(key, _TEXT if key in used else _SCALAR) if kind == "scalar" else None


def _turns_field(kind: Any, layout: Layout) -> str | None:
    """Return the expression of a list of turns, all with the same two keys in the same order."""
    names = sorted((layout.role, layout.content))
    if not isinstance(kind, tuple) or sorted(kind) != names or not all(map(_PLAIN_KEY.fullmatch, names)):
        return None
    pairs = (_pair(name, _ROLE if name == layout.role else _TEXT) for name in kind)
    turn = rf"\{{{_SPACE}{rf'{_SPACE},{_SPACE}'.join(pairs)}{_SPACE}\}}"
    return rf"\[{_SPACE}{turn}(?:{_SPACE},{_SPACE}{turn})*{_SPACE}\]"


def _pair(key: str, value: str) -> str:
    return rf'"{key}"{_SPACE}:{_SPACE}{value}'


def columns_of(layout: Layout, keys: set[str]) -> list[pl.Expr]:
    """Return what `formats.take` does, for plain rows: expressions of the columns of `READ`."""
    null = pl.lit(None, dtype=pl.String)
    optional = {name: getattr(layout, name) for name in COLUMNS[1:] if getattr(layout, name, None) in keys}
    columns = {name: pl.col(optional[name]) if name in optional else null for name in COLUMNS[1:]}
    for name in ("tools", "source", "licence", "topic", "label", "conversation"):
        stripped = columns[name].str.strip_chars(SPACE) if name == "tools" else columns[name]
        columns[name] = pl.when(stripped != "").then(columns[name])
    if layout.messages is None:
        turns = pl.lit(None, dtype=_SCHEMA["turns"])
        for name in ("instruction", "input", "output"):
            columns[name] = columns[name].fill_null("") if getattr(layout, name) else null
    else:
        turns = _turns(layout, columns["system"])
        columns.update(dict.fromkeys(("system", "instruction", "input", "output"), null))
    return [turns.alias("turns"), *(column.alias(name) for name, column in columns.items())]


def _turns(layout: Layout, system: pl.Expr) -> pl.Expr:
    """Return the turns of a chat, with a system text that stands beside them."""
    null = pl.lit(None, dtype=pl.String)
    role, content = (pl.element().struct.field(name) for name in (layout.role, layout.content))
    named = role.replace_strict(list(layout.roles), list(layout.roles.values()), default=role)
    turn = pl.struct(role=named, content=content.fill_null(""), tool_calls=null)
    turns = pl.col(str(layout.messages)).list.eval(turn)
    first = pl.struct(role=pl.lit("system"), content=system, tool_calls=null)
    return pl.when(system.str.strip_chars(SPACE) != "").then(pl.concat_list(first, turns)).otherwise(turns)


def _read(rows: pl.DataFrame, joined: Callable[[pl.Series], bytes], plan: _Plan) -> pl.DataFrame:
    """Return rows that match a plan as `READ`."""
    if not rows.height:
        return pl.DataFrame(schema=_SCHEMA)
    decoded = pl.read_ndjson(joined(rows["line"]), schema=plan.schema)
    if decoded.height != rows.height:
        raise AssertionError(f"{rows.height} plain rows were decoded as {decoded.height}")
    columns = decoded.select(plan.columns)
    nothing = (pl.lit(None, dtype=pl.String).alias(name) for name in ("read_problem", "shape_problem", "repeated_keys"))
    return rows.select("line", "raw").with_columns(*nothing).hstack(columns).select(*READ).cast(_SCHEMA)
