"""A JSONL file: one document a line, each by itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from llmjobs.embeddings.documents.making import LARGEST_DOCUMENT
from llmjobs.embeddings.documents.parsers.parsed import Parsed

_LONGEST_KEY = 500
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        key: Names its document in the file: its key field, or, where it has none, a digest of the line.
        content: Its bytes.
        parsed: Its document; None where it cannot be read.
        problem: Why not.
    """

    key: str
    content: bytes
    parsed: Parsed | None
    problem: str = ""


def lines(file: IO[bytes], *, text_field: str, key_field: str) -> Iterator[Line]:
    """Yield the lines of a file that are not blank. A broken one is a line with a problem, and harms no other."""
    seen: dict[str, int] = {}
    number = 0
    while raw := file.readline(LARGEST_DOCUMENT + 1):
        number += 1
        content = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
        if not content:
            continue
        if len(raw) > LARGEST_DOCUMENT and not raw.endswith(b"\n"):
            _skip_rest(file)
            yield _broken(content, number, f"it is longer than {LARGEST_DOCUMENT:,} bytes: divide its text")
            continue
        line = _read(content, number, text_field, key_field)
        if line.key in seen:
            problem = f"line {number}: it has the key of line {seen[line.key]}: give it another `{key_field}`"
            line = Line(f"{line.key} (line {number})", content, None, problem)
        seen.setdefault(line.key, number)
        yield line


def _read(content: bytes, number: int, text_field: str, key_field: str) -> Line:
    try:
        record = json.loads(content.decode())
    except UnicodeDecodeError as error:
        return _broken(content, number, f"its byte {error.start} is no UTF-8: save the file as UTF-8", key_field)
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        return _broken(content, number, f"it is no JSON{where}: correct it", key_field)
    if not isinstance(record, dict):
        return _broken(content, number, f"it is no object but {type(record).__name__}: write {{...}}")
    key = _key_of(record.get(key_field)) or _digest(content)
    text = record.get(text_field)
    if not isinstance(text, str):
        problem = f"line {number}: its field {text_field!r} is {'no text' if text_field in record else 'missing'}"
        return Line(key, content, None, f"{problem}: write it, or name another field as `text_field`")
    title = record.get("title")
    known = {text_field, key_field} | ({"title"} if isinstance(title, str) else set())
    metadata = {name: value for name, value in record.items() if name not in known}
    return Line(key, content, Parsed(text, "text", title if isinstance(title, str) else "", metadata))


def _broken(content: bytes, number: int, problem: str, key_field: str = "") -> Line:
    """Return a line that cannot be read, under the key that it had before it broke, where that can still be seen."""
    field = re.escape(json.dumps(key_field))
    key = re.search(rf'{field}\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)', content[:10_000].decode(errors="replace"))
    named = _key_of(json.loads(key[1], strict=False)) if key_field and key else None
    return Line(named or _digest(content), content, None, f"line {number}: {problem}")


def _key_of(value: Any) -> str | None:
    """Return what a key field says, None where it is no name."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    key = str(value)
    fit = 0 < len(key) <= _LONGEST_KEY and "\0" not in key and not any("\ud800" <= one <= "\udfff" for one in key)
    return key if fit else None


def _digest(content: bytes) -> str:
    """Return a name that a line keeps when others come before it."""
    return f"sha256-{hashlib.sha256(content).hexdigest()[:16]}"


def _skip_rest(file: IO[bytes]) -> None:
    while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass
