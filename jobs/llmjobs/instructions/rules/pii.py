"""Finds and masks personal data and secrets: by form, and by checksum or range where the form has one.

Columns are searched twice: a cheap expression of Rust (`HINTS`) picks the few texts that may hold something, and
Python, which can look around a match and add up a checksum, decides. `HINTS` never misses what Python finds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import polars as pl

from llmjobs.contracts.data_rules import PII_KINDS
from llmjobs.instructions.rules.account_numbers import cards, ibans, ip_addresses, phones
from llmjobs.instructions.rules.credentials import KEY_HINT, PEM_HINT, Span, api_keys, private_keys

_FILE_ENDING = r"(?!(?:png|jpe?g|gif|svg|webp|ico|css|js|mjs|ts|py|json|html?|md|txt|pdf)\b)"
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?"
    rf"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?\.)+{_FILE_ENDING}[A-Za-z]{{2,24}}(?![A-Za-z0-9-]|\.?@)"
)
_GIT_REMOTE = re.compile(r"git@[\w.-]+:[\w~/]")


def _emails(text: str) -> Iterator[Span]:
    """Yield where e-mail addresses stand; ``git@host:path`` and ``logo@2x.png`` are none."""
    for match in _EMAIL.finditer(text):
        if not _GIT_REMOTE.match(text, match.start()):
            yield match.span()


Finder = Callable[[str], list[tuple[int, int, str]]]
"""From a text to begin, end and kind of what is in it."""

_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "private_key": private_keys,
    "api_key": api_keys,
    "email": _emails,
    "iban": ibans,
    "card": cards,
    "ip": ip_addresses,
    "phone": phones,
}
"""In the order in which a stretch of text is claimed: digits of a card are no telephone number."""

_DIGITS = r"(?-u:[0-9][0-9 ().+/\x2D]{4,}[0-9])|[0-9][0-9\x{A0}\x{2010}-\x{2015}().+/ -]{4,}[0-9]"

HINTS: dict[str, str] = {
    "email": r"(?-u:@[A-Za-z0-9])",
    "phone": _DIGITS,
    "iban": r"(?-u:[A-Z]{2}[0-9]{2} ?[A-Z0-9])",
    "card": r"(?-u:[0-9 -]{14})",
    "ip": r"(?-u:[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[0-9A-Fa-f:]:[0-9A-Fa-f]{0,4}:)",
    "api_key": KEY_HINT,
    "private_key": PEM_HINT,
}
"""Kind -> expression in Rust's syntax that matches every text in which the kind may be found."""

_PYTHON_HINTS = {
    "email": re.compile("@"),
    "phone": re.compile(r"[0-9][0-9\u00a0\u2010-\u2015().+/ -]{4}"),
    "iban": re.compile(r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]"),
    "card": re.compile(r"[0-9][0-9 -]{12}"),
    "ip": re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]|[0-9A-Fa-f:]:[0-9A-Fa-f]{0,4}:"),
    "api_key": re.compile(r"[A-Za-z0-9_-]{16}"),
    "private_key": re.compile("PRIVATE KEY"),
}
"""Kind -> the same for one text, in Python's syntax."""

_MAX_PASSES = 4
"""Masking one number can free the digits beside it; more passes than this are never needed in practice."""


def hint(kinds: Collection[str] = PII_KINDS) -> str:
    """Return one expression in Rust's syntax that matches every text in which one of `kinds` may be found."""
    return "|".join(HINTS[kind] for kind in kinds)


def found_in(text: str, kinds: Collection[str] = PII_KINDS, also: Finder | None = None) -> list[tuple[int, int, str]]:
    """Return begin, end and kind of every finding, in the order of the text and without overlaps.

    Args:
        text: What is searched.
        kinds: What is looked for.
        also: Another search, whose findings count where the built-in one found nothing.
    """
    claimed: list[tuple[int, int, str]] = []
    taken = bytearray(len(text))

    def claim(begin: int, end: int, kind: str) -> None:
        if taken.find(1, begin, end) < 0:
            taken[begin:end] = b"\x01" * (end - begin)
            claimed.append((begin, end, kind))

    for kind, finder in _FINDERS.items():
        if kind in kinds and _PYTHON_HINTS[kind].search(text):
            for begin, end in finder(text):
                claim(begin, end, kind)
    for begin, end, kind in also(text) if also is not None else ():
        if kind in kinds:
            claim(begin, end, kind)
    return sorted(claimed)


def masked(text: str, kinds: Collection[str] = PII_KINDS, also: Finder | None = None) -> tuple[str, dict[str, int]]:
    """Return `text` with each finding replaced by its kind in brackets, and how many of each kind there were."""
    counts: dict[str, int] = {}
    for _ in range(_MAX_PASSES):
        spans = found_in(text, kinds, also)
        if not spans:
            break
        pieces, last = [], 0
        for begin, end, kind in spans:
            pieces += [text[last:begin], f"[{kind.upper()}]"]
            last = end
            counts[kind] = counts.get(kind, 0) + 1
        text = "".join([*pieces, text[last:]])
    return text, counts


def mask_text(text: str, kinds: Collection[str] = PII_KINDS) -> str:
    """Return `text` with every finding of `kinds` replaced by its kind in brackets: ``[EMAIL]``, ``[API_KEY]``."""
    return masked(text, kinds)[0]


def mask_json(text: str, kinds: Collection[str] = PII_KINDS, also: Finder | None = None) -> tuple[str, dict[str, int]]:
    """Return JSON whose strings are masked, and so are numbers that are a finding; no JSON is masked as a text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return masked(text, kinds, also)
    counts: dict[str, int] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, bool) or not isinstance(value, str | int):
            return value
        text, found = masked(str(value), kinds, also)
        for kind, count in found.items():
            counts[kind] = counts.get(kind, 0) + count
        return text if found else value

    try:
        safe = walk(value)
    except RecursionError:
        return masked(text, kinds, also)
    return (json.dumps(safe, ensure_ascii=False), counts) if counts else (text, counts)


def mask_texts(texts: pl.Series, kinds: Collection[str] = PII_KINDS) -> pl.Series:
    """Return a column of texts with every finding of `kinds` masked, as `mask_text` does; nulls stay null."""
    if not kinds:
        return texts
    positions = texts.str.contains(hint(kinds)).fill_null(value=False).arg_true()
    if not positions.len():
        return texts
    return texts.clone().scatter(positions, [mask_text(text, kinds) for text in texts.gather(positions)])
