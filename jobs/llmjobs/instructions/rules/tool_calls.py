"""Checks the tools that a row offers, and the calls that its assistant makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from llmjobs.instructions.json_texts import value_of


def is_broken(tools: str | None, calls: Iterable[str]) -> bool:
    """Return whether a row's tools are no JSON list of named functions, or a call does not fit them.

    Args:
        tools: JSON as it stands in the row, flat (``[{"name": ...}]``) or OpenAI's (``[{"function": {...}}]``); None
            and blank: the row does not say what there is, so no name is unknown.
        calls: ``tool_calls`` of its turns, each canonical JSON.
    """
    names = _names(tools) if tools is not None and tools.strip() else None
    if tools is not None and tools.strip() and names is None:
        return True
    return any(not _fits(call, names) for text in calls for call in _listed(text))


@lru_cache(maxsize=512)  # the rows of a dataset share few lists of tools
def _names(tools: str) -> frozenset[str] | None:
    """Return the names of the functions, None where the text is no list of named functions."""
    listed = value_of(tools)
    if not isinstance(listed, list):
        return None
    names = [_name(tool) for tool in listed]
    return None if None in names else frozenset(name for name in names if name is not None)


def _name(tool: Any) -> str | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


def _listed(text: str) -> list[Any]:
    calls = value_of(text)
    return calls if isinstance(calls, list) and calls else [None]


def _fits(call: Any, names: frozenset[str] | None) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
        return False
    return isinstance(call.get("name"), str) and (names is None or call["name"] in names)
