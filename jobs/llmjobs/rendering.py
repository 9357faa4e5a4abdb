"""Chat rows -> the text that a model meets, and which of its tokens the assistant says.

A row is rendered once through a chat template and tokenised once, so the ids are those that the model meets in use.
Which characters an assistant said follows from the template itself: its turn begins where the rendering of everything
before it, with the generation prompt, ends; and it ends with the first special token after its text. This needs no
generation marks in the template, and holds for templates that render earlier turns differently. The preparation counts
with this module and the training trains with it.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

from jinja2 import TemplateError

from llmjobs.contracts.errors import BadConfig, BadData

IGNORED = -100
"""Label of a token without loss (the convention of torch's cross entropy)."""

Messages = Sequence[Mapping[str, str | None]]
Span = tuple[int, int]

_PROBE = "Zqx answer xqZ"


@dataclass(frozen=True)
class ChatRow:
    """One row of a dataset version.

    Attributes:
        messages: ``role`` and ``content`` each, and of an assistant that calls tools ``tool_calls``: JSON text,
            ``[{"name": ..., "arguments": {...}}, ...]``.
        origin: Where it is from, for people.
        tools: JSON text of the tools that the assistant may call, or None.
    """

    row_id: str
    messages: Messages
    origin: str = ""
    tools: str | None = None


class CannotRender(BadData):
    """A row that a template cannot show, or whose answers cannot be told from the rest.

    Attributes:
        why: The reason without the row's name.
    """

    def __init__(self, row: ChatRow, why: str) -> None:
        """Name the row."""
        super().__init__(f"{row.origin or row.row_id}: {why}")
        self.why = why


@dataclass(frozen=True)
class Encoded:
    """A text as tokens.

    Attributes:
        ids: ``(tokens,)``.
        offsets: ``(tokens, 2)``: first character of each token, and the one after its last.
    """

    text: str
    ids: list[int]
    offsets: list[Span]


def load_tokenizer(path: str) -> Any:
    """Return the tokenizer of a model folder, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class ChatRenderer:
    """Renders and masks rows for one tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        template: Another chat template than the tokenizer's own.
        closing: Text that ends an assistant's turn in `template`; it need not be a token of the tokenizer.
        name: What sentences call the template, for example "the chat template of Qwen/Qwen3-8B".

    Raises:
        BadConfig: The tokenizer has no chat template, or cannot say which characters a token stands for.
    """

    def __init__(self, tokenizer: Any, *, template: str | None = None, closing: str = "", name: str = "") -> None:
        """Refuse a tokenizer that cannot do it."""
        if not (template or tokenizer.chat_template):
            raise BadConfig(f"{tokenizer.name_or_path}: no chat template; take the instruct form of the model")
        if not tokenizer.is_fast:
            raise BadConfig(f"{tokenizer.name_or_path}: no fast tokenizer, so tokens cannot be traced to the assistant")
        self.tokenizer = tokenizer
        self._template = template
        self._closing = closing
        self._name = name or f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
        added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = frozenset(tokenizer.all_special_ids) | added

    @property
    def source(self) -> str:
        """The template's own text; several named ones follow each other."""
        known = self._template or self.tokenizer.chat_template
        return "\n".join(known.values()) if isinstance(known, dict) else str(known)

    def knows(self, word: str) -> bool:
        """Return whether the template reads ``tools`` or ``tool_calls``."""
        return word in self.source

    # --- text

    def text(self, row: ChatRow) -> str:
        """Return the text of a conversation.

        Raises:
            CannotRender: The template refuses the row, or does not know the tool calls in it.
        """
        return self._render(row, len(row.messages))

    def _render(self, row: ChatRow, turns: int, *, for_generation: bool = False) -> str:
        """Return the text of a row's first turns."""
        messages = self._messages(row)[:turns]
        if not messages:
            # transformers 5 refuses an empty conversation; what a template puts there cannot be told then.
            raise CannotRender(row, "turn 1: an assistant speaks before anybody else does")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tools=self._tools(row),
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=for_generation,
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise CannotRender(row, f"{self._name} cannot show it: {error}") from None

    def _messages(self, row: ChatRow) -> list[dict[str, Any]]:
        """Return the messages as templates take them: tool calls as values, and none where there are none."""
        identified = self.knows("tool_call_id")
        asked, answered = count(1), count(1)
        found: list[dict[str, Any]] = []
        for turn, message in enumerate(row.messages, start=1):
            one: dict[str, Any] = {"role": message["role"], "content": message["content"] or ""}
            calls = _calls(row, turn)
            if calls and not self.knows("tool_calls"):
                raise CannotRender(row, f"it calls tools, which {self._name} cannot show")
            if calls:
                one["tool_calls"] = [{"type": "function", "function": call} for call in calls]
            # Mistral's templates insist on ids of nine letters or digits; a call and its answer share one.
            if identified:
                for call in one.get("tool_calls", ()):
                    call["id"] = f"call{next(asked):05d}"
                if one["role"] == "tool":
                    one["tool_call_id"] = f"call{next(answered):05d}"
            found.append(one)
        return found

    def _tools(self, row: ChatRow) -> list[dict[str, Any]] | None:
        if not row.tools or not self.knows("tools"):
            return None
        try:
            tools = json.loads(row.tools)
        except ValueError:
            raise CannotRender(row, "its tools are no valid JSON") from None
        listed = tools if isinstance(tools, list) else [tools]
        if not all(isinstance(tool, dict) for tool in listed):
            raise CannotRender(row, "its tools are not a list of objects")
        return [tool if "function" in tool else {"type": "function", "function": tool} for tool in listed] or None

    # --- who speaks

    def spans(self, row: ChatRow, text: str) -> list[Span]:
        """Return ``(start, end)`` in characters of what each assistant turn says, its end-of-turn mark not included.

        Args:
            row: The row.
            text: What `text` returned for it.

        Raises:
            CannotRender: An answer does not stand where it would be generated; or there is none.
        """
        found = [self._span(row, turn, text) for turn, m in enumerate(row.messages) if m["role"] == "assistant"]
        if not found:
            raise CannotRender(row, "no assistant turn, so there is nothing to learn")
        return found

    def _span(self, row: ChatRow, turn: int, text: str) -> Span:
        prompt = self._render(row, turn, for_generation=True)
        if text.startswith(prompt):
            content = (row.messages[turn]["content"] or "").strip()
            calls = _calls(row, turn + 1)
            found = text.find(content, len(prompt))
            if calls:
                end = text.find(self._end_of_turn, found + len(content)) if found >= 0 else -1
                if end >= 0 and all(call["name"] in text[len(prompt) : end] for call in calls):
                    return len(prompt), end
            elif found >= 0 and content:
                return len(prompt), found + len(content)
        raise CannotRender(
            row,
            f"turn {turn + 1}: {self._name} does not render the assistant's words after its prompt, so they "
            "cannot be told from the rest",
        )

    @cached_property
    def _end_of_turn(self) -> str:
        """The token that ends an assistant's turn, as text, seen in a probe.

        Raises:
            BadConfig: The template puts no special token there.
        """
        if self._closing:
            return self._closing
        probe = ChatRow("probe", [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBE}])
        encoded = self.encode([self.text(probe)])[0]
        end = encoded.text.find(_PROBE) + len(_PROBE)
        for index, (left, right) in zip(encoded.ids, encoded.offsets, strict=True):
            if left >= end and index in self._special:
                return encoded.text[left:right]
        raise BadConfig(f"{self._name} ends an assistant's turn with no special token")

    # --- tokens

    def encode(self, texts: list[str]) -> list[Encoded]:
        """Return rendered texts as tokens."""
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        fields = (texts, encoded["input_ids"], encoded["offset_mapping"])
        return [Encoded(text, list(ids), offsets) for text, ids, offsets in zip(*fields, strict=True)]

    def labels(self, row: ChatRow, encoded: Encoded, spans: Sequence[Span]) -> list[int]:
        """Return ``(tokens,)``: the id where the assistant speaks or ends its turn, else `IGNORED`.

        A token that also holds characters of the prompt stays unlabelled: in use the prompt's tokens are fixed.

        Raises:
            CannotRender: No end of turn follows an answer.
        """
        labels = [IGNORED] * len(encoded.ids)
        starts = [left for left, _ in encoded.offsets]
        for start, end in spans:
            first, after = bisect_left(starts, start), bisect_left(starts, end)
            inside = [n for n in range(first, after) if encoded.offsets[n][1] > encoded.offsets[n][0]]
            closing = self._closing_tokens(encoded, starts, after, end) if inside else []
            if not closing:
                raise CannotRender(
                    row,
                    f"{self._name} puts no end-of-turn token right after the assistant's words, so the model would "
                    "never learn to stop",
                )
            for n in (*inside, *closing):
                labels[n] = encoded.ids[n]
        return labels

    def _closing_tokens(self, encoded: Encoded, starts: list[int], after: int, end: int) -> list[int]:
        """Return the tokens that end a turn, white space before the end-of-turn mark included; none if it has none."""
        text, ids, offsets = encoded.text, encoded.ids, encoded.offsets
        if self._closing:
            mark = end + len(text[end:]) - len(text[end:].lstrip())
            written = text.startswith(self._closing, mark)
            return list(range(after, bisect_left(starts, mark + len(self._closing)))) if written else []
        stop = after
        while stop < len(ids) and ids[stop] not in self._special and text[slice(*offsets[stop])].isspace():
            stop += 1
        return list(range(after, stop + 1)) if stop < len(ids) and ids[stop] in self._special else []


def _calls(row: ChatRow, turn: int) -> list[dict[str, Any]]:
    """Return the tool calls of a turn, counted from 1."""
    written = row.messages[turn - 1].get("tool_calls")
    if not written:
        return []
    try:
        calls = json.loads(written)
    except ValueError:
        calls = None
    if not isinstance(calls, list) or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise CannotRender(row, f"turn {turn}: its tool calls are not a JSON list of name and arguments")
    return [{"name": str(call["name"]), "arguments": call.get("arguments") or {}} for call in calls]
