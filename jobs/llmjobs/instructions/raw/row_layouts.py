"""Says where the texts of a row are, for each format that we know and for the mapping of a contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from llmjobs.contracts.data_contract import Format, Mapping

_NAMES_SHOWN = 10
_NAME_CHARACTERS = 40

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "developer": "system",
}
"""Names of roles in ShareGPT's and OpenAI's files that differ from ours; any other name stays as it is."""


class WrongShape(ValueError):
    """A value that is no row of a known format; the text says which field is wrong, and what it is."""


@dataclass(frozen=True)
class Layout:
    """Columns of a row, by what they say; None where the format has no such column.

    Attributes:
        history: Earlier turns of an Alpaca row, as pairs of question and answer.
        messages: All turns of a chat; then `instruction` to `history` are None.
        role: Within a turn.
        content: Within a turn.
        roles: Name in the file -> role.
        needed: Columns that a row must have.
        mapped: From a contract's mapping: names may reach into objects, and meta columns may hold numbers.
    """

    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    system: str | None = None
    history: str | None = None
    messages: str | None = None
    role: str = "role"
    content: str = "content"
    roles: dict[str, str] = field(default_factory=lambda: ROLES)
    tools: str | None = None
    source: str | None = None
    licence: str | None = None
    topic: str | None = None
    label: str | None = None
    conversation: str | None = None
    needed: tuple[str, ...] = ()
    mapped: bool = False

    @property
    def columns(self) -> list[str]:
        """The names of all columns that it uses."""
        named = (getattr(self, name.name) for name in fields(self) if name.name not in {"role", "content"})
        return [name for name in named if isinstance(name, str)]

    @property
    def listed(self) -> str | None:
        """The column that is a list: the chat or the history."""
        return self.messages or self.history


_ALPACA = Layout(
    instruction="instruction",
    input="input",
    output="output",
    system="system",
    history="history",
    needed=("instruction", "output"),
)
_DOLLY = Layout(
    instruction="instruction", input="context", output="response", system="system", needed=("instruction", "response")
)
_PROMPT = Layout(instruction="prompt", output="completion", system="system", needed=("prompt", "completion"))
_RESPONSE = replace(_PROMPT, output="response", needed=("prompt", "response"))
_MESSAGES = Layout(messages="messages", tools="tools", needed=("messages",))
_SHAREGPT = Layout(
    messages="conversations", role="from", content="value", system="system", tools="tools", needed=("conversations",)
)
_MARKS = ("messages", "conversations", "instruction", "output")
_META = {
    "source": ("source",),
    "licence": ("licence", "license"),
    "topic": ("topic", "category"),
    "label": ("label",),
    "conversation": ("conversation_id", "conversation", "thread_id"),
}


class Layouts:
    """Chooses the layout of each row.

    Args:
        form: The format that the contract allows.
        mapping: Instead of it.

    Attributes:
        of: Returns the layout of a row that has these keys; raises `WrongShape` where it has none.
    """

    def __init__(self, form: Format = "auto", mapping: Mapping | None = None) -> None:
        self._mapped = None if mapping is None else _of_mapping(mapping)
        self.of: Callable[[tuple[str, ...]], Layout] = lru_cache(maxsize=256)(self._choice(form))

    def is_row(self, value: Any) -> bool:
        """Return whether a JSON value looks like a row."""
        if not isinstance(value, dict):
            return False
        if self._mapped is not None:
            return all(name in value or name.partition(".")[0] in value for name in self._mapped.needed)
        asked = "prompt" in value and ("completion" in value or "response" in value)
        return asked or any(key in value for key in _MARKS)

    def _choice(self, form: Format) -> Callable[[tuple[str, ...]], Layout]:
        mapped = self._mapped
        if mapped is not None:
            return lambda _: mapped
        return lambda keys: _with_meta(_format(keys, form), keys)


def _format(keys: tuple[str, ...], form: Format) -> Layout:
    """Return the layout of a format, or with ``auto`` of the format that the keys belong to."""
    prompt = _PROMPT if "completion" in keys or "response" not in keys else _RESPONSE
    known = {
        "messages": _MESSAGES,
        "sharegpt": _SHAREGPT,
        "alpaca": _ALPACA,
        "dolly": _DOLLY,
        "prompt_completion": prompt,
    }
    if form != "auto":
        return known[form]
    if "messages" in keys or "conversations" in keys:
        return _MESSAGES if "messages" in keys else _SHAREGPT
    if "instruction" in keys:
        return _DOLLY if "response" in keys and "output" not in keys else _ALPACA
    if "prompt" in keys:
        return prompt
    shown = ", ".join(key[:_NAME_CHARACTERS] for key in keys[:_NAMES_SHOWN]) or "none"
    more = f" and {len(keys) - _NAMES_SHOWN} more" if len(keys) > _NAMES_SHOWN else ""
    raise WrongShape(
        f"no format has its keys ({shown}{more}): a mapping in the contract says which of them is the instruction"
    )


def _with_meta(layout: Layout, keys: tuple[str, ...]) -> Layout:
    """Return a layout with the columns that say where a row is from, as far as the row has them.

    A bare ``id`` says what the row is, not what conversation it is of: a contract's mapping may say otherwise.
    """
    meta: dict[str, Any] = {name: next((key for key in names if key in keys), None) for name, names in _META.items()}
    return replace(layout, **meta)


def _of_mapping(mapping: Mapping) -> Layout:
    """Return a contract's mapping as a layout; a row must have every column that it names."""
    named = mapping.model_dump(exclude={"roles", "role", "content"}, exclude_none=True)
    roles = {**ROLES, **mapping.roles}
    return Layout(
        **named, role=mapping.role, content=mapping.content, roles=roles, needed=tuple(named.values()), mapped=True
    )
