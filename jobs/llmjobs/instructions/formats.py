"""Knows the formats of raw rows, and takes a row apart into the texts that rules look at.

A part is ``(turn, role, part, text)``: an Alpaca row has the parts ``instruction``, ``input`` and ``output``, of which
the first two are one user turn; every message of a chat is one part named ``content``.
"""

from __future__ import annotations

import re
from typing import Any

from llmjobs.contracts.instructions import Format

Part = tuple[int, str, str, str]

_KEYS = ("messages", "instruction", "output")
_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class WrongShape(ValueError):
    """A JSON value that is no row of a known format."""


def is_row(value: Any) -> bool:
    """Return whether a JSON value looks like a row of any known format."""
    return isinstance(value, dict) and any(key in value for key in _KEYS)


def parts_of(value: Any, raw: str, form: Format) -> list[Part]:
    """Return the parts of a row in order.

    Args:
        value: The row's JSON value.
        raw: Its text, which tells whether lone surrogates are possible.
        form: The format that the contract allows.

    Raises:
        WrongShape: It is no row of that format; the text says which field is wrong.
    """
    if not isinstance(value, dict):
        raise WrongShape(f"{_kind(value)}, not an object")
    if form == "messages" or (form == "auto" and "messages" in value):
        parts = _chat(value)
    elif form == "alpaca" or "instruction" in value:
        parts = _alpaca(value)
    else:
        raise WrongShape(f"neither `messages` nor `instruction` among its keys: {', '.join(value) or 'none'}")
    if _MAYBE_SURROGATE.search(raw):
        return [(turn, storable(role), part, storable(text)) for turn, role, part, text in parts]
    return parts


def storable(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 cannot hold, as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _alpaca(value: dict[str, Any]) -> list[Part]:
    """Return the parts of an Alpaca row, with LLaMA-Factory's optional ``system`` and ``history``."""
    for key in ("instruction", "output"):
        if key not in value:
            raise WrongShape(f"field `{key}` is missing")
    parts: list[Part] = []
    system = _text(value, "system")
    if system.strip():
        parts.append((0, "system", "system", system))
    turn = 1
    for question, answer in _history(value):
        parts += [(turn, "user", "content", question), (turn + 1, "assistant", "content", answer)]
        turn += 2
    parts.append((turn, "user", "instruction", _text(value, "instruction")))
    parts.append((turn, "user", "input", _text(value, "input")))
    parts.append((turn + 1, "assistant", "output", _text(value, "output")))
    return parts


def _history(value: dict[str, Any]) -> list[tuple[str, str]]:
    history = value.get("history") or []
    pairs = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not pairs or not all(isinstance(text, str) for pair in history for text in pair):
        raise WrongShape("field `history` is not a list of pairs of texts")
    return [(question, answer) for question, answer in history]


def _chat(value: dict[str, Any]) -> list[Part]:
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WrongShape("field `messages` is not a list of messages")
    return [(turn, *_message(turn, message)) for turn, message in enumerate(messages)]


def _message(turn: int, message: Any) -> tuple[str, str, str]:
    where = f"messages[{turn}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
        raise WrongShape(f"{where} has no `role` and `content`")
    if message.get("tool_calls"):
        raise WrongShape(f"{where} calls tools, which this job cannot publish yet")
    content = message["content"]
    if isinstance(content, list):
        content = _joined(where, content)
    elif content is not None and not isinstance(content, str):
        raise WrongShape(f"{where}.content is {_kind(content)}, not a text")
    return message["role"], "content", content or ""


def _joined(where: str, content: list[Any]) -> str:
    """Return the text of OpenAI content parts, all of which must be texts."""
    for piece in content:
        if not isinstance(piece, dict) or piece.get("type") != "text" or not isinstance(piece.get("text"), str):
            raise WrongShape(f"{where}.content holds a part that is not a text")
    return "\n".join(piece["text"] for piece in content)


def _text(value: dict[str, Any], key: str) -> str:
    """Return a text field; absent and null are the empty text."""
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise WrongShape(f"field `{key}` is {_kind(text)}, not a text")
    return text


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
