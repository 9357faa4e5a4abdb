r"""Takes rows of the known formats apart into the columns of `READ`, one row at a time.

What a format looks like is in `row_layouts`. A function call becomes a turn of the assistant with ``tool_calls``; a
call that is no JSON stays there as it stands, for the rule ``broken_tools`` to find.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from typing import Any

from llmjobs.instructions.raw.row_layouts import Layout, Layouts, WrongShape
from llmjobs.instructions.tables import READ

__all__ = ["COLUMNS", "SPACE", "Turn", "WrongShape", "storable", "take"]

COLUMNS = tuple(READ)[5:]
"""The columns of `READ` that `take` fills: ``turns`` to ``conversation``."""

Turn = tuple[str, str, str | None]
"""Role, content, tool calls."""

SPACE = " \t\r\n"
_META = ("source", "licence", "topic", "label", "conversation")
_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ABSENT = object()


def take(value: Any, raw: str, layouts: Layouts, repeated: list[str] | None = None) -> list[Any]:
    """Return what a row has for each of `COLUMNS`; its turns as a list of `Turn`.

    Args:
        value: The row: an object.
        raw: Its text, which tells whether lone surrogates are possible.
        layouts: Where its texts are.
        repeated: Gets the keys that JSON text within a cell holds twice.

    Raises:
        WrongShape: It is no row of its format; the text says which field is wrong.
    """
    if not isinstance(value, dict):
        raise WrongShape(f"{_kind(value)}, not an object")
    layout = layouts.of(tuple(value))
    for name in layout.needed:
        if _at(value, name, layout) is _ABSENT:
            raise WrongShape(f"field `{name}` is missing")
    repeated = [] if repeated is None else repeated
    texts: list[Any]
    if layout.messages is not None:
        texts = [_chat(value, layout, repeated), None, None, None, None]
    else:
        texts = [
            _history(value, layout, repeated),
            _optional(value, layout.system, layout),
            _text(value, layout.instruction, layout),
            _text(value, layout.input, layout),
            _text(value, layout.output, layout),
        ]
    columns = [*texts, _tools(value, layout), *(_meta(value, getattr(layout, name), layout) for name in _META)]
    return [_storable(column) for column in columns] if _MAYBE_SURROGATE.search(raw) else columns


def storable(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 cannot hold, as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def canonical(value: Any) -> str:
    """Return a value as JSON text: no spaces, keys in their order, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loads(text: str, repeated: list[str]) -> Any:
    """Return what JSON text says, and add keys that an object holds twice to `repeated`.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            repeated.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return value

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _storable(column: Any) -> Any:
    if isinstance(column, str):
        return storable(column)
    if isinstance(column, list):
        return [tuple(_storable(text) for text in turn) for turn in column]
    return column


def _at(value: Any, name: str, layout: Layout) -> Any:
    """Return a column, `_ABSENT` where there is none; a dot in a mapping's name reaches into objects and lists."""
    if name in value or not layout.mapped:
        return value.get(name, _ABSENT)
    for step in name.split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return _ABSENT
    return value


def _text(value: Any, name: str | None, layout: Layout) -> str | None:
    """Return a text column, None where the format has none; absent and null are the empty text."""
    if name is None:
        return None
    text = _at(value, name, layout)
    if text is None or text is _ABSENT:
        return ""
    if not isinstance(text, str):
        raise WrongShape(f"field `{name}` is {_kind(text)}, not a text")
    return text


def _optional(value: Any, name: str | None, layout: Layout) -> str | None:
    """Return a text column, None where the row does not have it."""
    if name is None or _at(value, name, layout) in (None, _ABSENT):
        return None
    return _text(value, name, layout)


def _meta(value: Any, name: str | None, layout: Layout) -> str | None:
    """Return a column that says something about the row, None where it says nothing.

    Columns with a usual name count when they hold a text: they may well mean something else. A column that a mapping
    names may hold a number or a truth value too, and nothing else.
    """
    if name is None:
        return None
    said = _at(value, name, layout)
    if isinstance(said, str):
        return said or None
    if not layout.mapped or said is None:
        return None
    if isinstance(said, (dict, list)):
        raise WrongShape(f"field `{name}` is {_kind(said)}, not a text")
    return canonical(said)


def _tools(value: Any, layout: Layout) -> str | None:
    """Return the tools as JSON text; a text stays as it stands."""
    if layout.tools is None:
        return None
    tools = _at(value, layout.tools, layout)
    if isinstance(tools, str):
        return tools if tools.strip(SPACE) else None
    return None if tools in (None, _ABSENT, []) else canonical(tools)


def _listed(value: Any, name: str, layout: Layout, repeated: list[str]) -> Any:
    """Return a list column, which may stand as JSON text in a cell of a table."""
    found = _at(value, name, layout)
    if not isinstance(found, str) or not found.strip():
        return found
    try:
        return loads(found, repeated)
    except ValueError:
        return found


def _history(value: Any, layout: Layout, repeated: list[str]) -> list[Turn] | None:
    """Return the earlier turns of an Alpaca row, None when there are none."""
    if layout.history is None:
        return None
    history = _listed(value, layout.history, layout, repeated)
    if history in (None, _ABSENT, [], ""):
        return None
    pairs = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not pairs or not all(isinstance(text, str) for pair in history for text in pair):
        raise WrongShape(f"field `{layout.history}` is not a list of pairs of texts")
    roles = ("user", "assistant")
    return [(role, text, None) for pair in history for role, text in zip(roles, pair, strict=True)]


def _chat(value: Any, layout: Layout, repeated: list[str]) -> list[Turn]:
    """Return the turns of a chat; a system text beside them comes first."""
    name = layout.messages or ""
    messages = _listed(value, name, layout, repeated)
    if not isinstance(messages, list) or not messages:
        raise WrongShape(f"field `{name}` is not a list of messages")
    turns = [_turn(f"{name}[{number}]", message, layout, repeated) for number, message in enumerate(messages)]
    system = _optional(value, layout.system, layout)
    return [("system", system, None), *turns] if system and system.strip(SPACE) else turns


def _turn(where: str, message: Any, layout: Layout, repeated: list[str]) -> Turn:
    role = message.get(layout.role) if isinstance(message, dict) else None
    calls = _calls(message, repeated) if isinstance(role, str) else None
    if not isinstance(role, str) or (layout.content not in message and calls is None):
        raise WrongShape(f"{where} has no `{layout.role}` and `{layout.content}`")
    content = message.get(layout.content)
    if isinstance(content, list):
        content = _joined(f"{where}.{layout.content}", content)
    elif content is not None and not isinstance(content, str):
        raise WrongShape(f"{where}.{layout.content} is {_kind(content)}, not a text")
    content = content or ""
    if role == "function_call" and calls is None:
        return layout.roles.get(role, role), "", _calls_of_text(content, repeated)
    return layout.roles.get(role, role), content, calls


def _joined(where: str, content: list[Any]) -> str:
    """Return the text of OpenAI content parts, all of which must be texts."""
    for piece in content:
        if not isinstance(piece, dict) or piece.get("type") != "text" or not isinstance(piece.get("text"), str):
            raise WrongShape(f"{where} holds a part that is not a text")
    return "\n".join(piece["text"] for piece in content)


def _calls(message: dict[str, Any], repeated: list[str]) -> str | None:
    """Return the ``tool_calls`` of an OpenAI message, or its older ``function_call``, as `MESSAGE` has them."""
    calls = message.get("tool_calls") or message.get("function_call")
    if not calls:
        return None
    if isinstance(calls, str):
        return _calls_of_text(calls, repeated)
    listed = calls if isinstance(calls, list) else [calls]
    return canonical([_call(call, repeated) for call in listed])


def _calls_of_text(text: str, repeated: list[str]) -> str:
    """Return calls that stand as JSON text; as it stands where that is no list of calls."""
    try:
        calls = loads(text, repeated)
    except ValueError:
        return text
    listed = calls if isinstance(calls, list) else [calls]
    return canonical([_call(call, repeated) for call in listed]) if listed else text


def _call(call: Any, repeated: list[str]) -> Any:
    """Return one call as ``{"name": ..., "arguments": {...}}``; what is no call as it is."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        return call
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # then the text stays, and the rule `broken_tools` looks at it
            arguments = loads(arguments or "{}", repeated)
    return {"name": function["name"], "arguments": arguments}


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
