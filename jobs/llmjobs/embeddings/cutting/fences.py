"""Code fences, and those that lack their other half: these must not hide the headings of all that follows."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"^ {0,3}(?P<mark>`{3,}(?=[^`\n]*$)|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_HEADING = re.compile(r" {0,3}#{2,6}[ \t]+\S")
"""Below level 1: a single ``#`` begins a comment in most programs."""
_COMMENT = re.compile(r" {0,3}#[ \t]")


def mended(text: str) -> str:
    """Return Markdown with as many lines, in which a fence that was not closed ends before the next heading or fence.

    CommonMark lets such a fence run to the next mark, which then was the begin of another one, and so on: code is taken
    for text and text for code to the end of the document. Deleting one line would change all chunks below it. Where
    every fence has its other half, the text is returned as it is.

    A fence without a language that is not closed is the end of one whose begin was lost: a ``#`` above it is a
    comment of that program, where the document has had its heading of level 1.

    Args:
        text: Of the document. Where a fence is closed a line of what it holds is replaced, so offsets of characters
            are not those of `text`.
    """
    if not _is_broken(text):
        return text
    lines = text.split("\n")
    opened, mark = 0, ""
    for number, line in enumerate(lines):
        found = _FENCE.match(line)
        if mark and (_opens_again(found, mark) or (_HEADING.match(line) and not lines[number - 1].strip())):
            _hide_comments(lines, opened)
            lines[number - 1] = mark if number - 1 > opened else ""
            mark = ""
        if found and not mark:
            opened, mark = number, found["mark"]
        elif _closes(found, mark):
            mark = ""
    if mark:
        _hide_comments(lines, opened)
    return "\n".join(lines)


def spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the fences of a stretch begin and end in characters; one without its other half is none.

    What follows it would else be cut as code, or code as text, to the end of the stretch.
    """
    opened: re.Match[str] | None = None
    for found in _FENCE.finditer(text, start, end):
        if opened is None or _opens_again(found, opened["mark"]):
            opened = found
        elif _closes(found, opened["mark"]):
            yield opened.start(), found.end()
            opened = None


def _hide_comments(lines: list[str], opened: int) -> None:
    """Put a backslash before each ``#`` line between a fence that was not closed and the heading or fence above it."""
    if lines[opened].strip().strip("`~"):
        return  # it names a language: its end was lost
    above = [number for number in range(opened) if _FENCE.match(lines[number]) or _HEADING.match(lines[number])]
    first = above[-1] if above else 0
    if not any(_COMMENT.match(line) for line in lines[:first]):
        return
    for number in range(first, opened):
        if _COMMENT.match(lines[number]):
            lines[number] = "\\" + lines[number].lstrip()


def _is_broken(text: str) -> bool:
    """Return whether a fence is open at the end, or another one begins inside one."""
    mark = ""
    for found in _fences(text):
        if not mark:
            mark = found["mark"]
        elif _closes(found, mark):
            mark = ""
        elif _opens_again(found, mark):
            return True
    return bool(mark)


def _fences(text: str) -> Iterator[re.Match[str]]:
    return _FENCE.finditer(text) if "```" in text or "~~~" in text else iter(())


def _closes(found: re.Match[str] | None, mark: str) -> bool:
    return bool(found and mark and found["mark"].startswith(mark) and not found["info"].strip())


def _opens_again(found: re.Match[str] | None, mark: str) -> bool:
    """Return whether a line names a language, as the begin of a fence does and its end cannot."""
    return bool(found and found["mark"].startswith(mark) and found["info"].strip())
