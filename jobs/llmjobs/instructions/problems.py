"""Says in words what keeps rows from being read, and which files they are missing from."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from llmjobs.instructions.json_texts import value_of
from llmjobs.instructions.rules.pii import mask_text

_NAMES_SHOWN = 10
_NAME_CHARACTERS = 40
_FILES_SHOWN = 3
_PLACE = r"^line \d+(?:, column \d+)?: "
"""What a problem of reading begins with; other rows have the same problem elsewhere."""


def most_frequent(refused: pl.DataFrame, read: pl.DataFrame, files: Sequence[str]) -> str:
    """Return the problem that most unreadable rows have: how many, file and line of the first, why; or nothing.

    Problems that differ in numbers only, as places do, are the same.

    Args:
        refused: Table ``refused`` of a part.
        read: `ends.Accounts.read`.
        files: Labels of the files, by the numbers in `read`.
    """
    gone = read.with_row_index("row").filter("taken_down")["row"]
    problem = pl.coalesce("read_problem", "shape_problem").str.replace(_PLACE, "")
    broken = refused.select("row", "raw", problem=problem)
    broken = broken.filter(pl.col("problem").is_not_null(), ~pl.col("row").is_in(gone.implode()))
    if broken.is_empty():
        return ""
    alike = broken.group_by(pl.col("problem").str.replace_all(r"\d+", "0")).agg(pl.col("row").min(), rows=pl.len())
    rows, first = alike.sort("rows", "row", descending=[True, False]).select("rows", "row").row(0)
    _, raw, why = broken.row(by_predicate=pl.col("row") == first)
    file, line = read.select("file", "source_line").row(first)
    count = "1 row" if rows == 1 else f"{rows} rows, the first"
    return f"{count} at {files[file]}, line {line}: {with_columns(why, raw)}"


def with_columns(why: str, raw: str | None) -> str:
    """Return a problem and, where the row is an object and the problem does not name them, its columns; masked."""
    value = value_of(raw or "")
    if not isinstance(value, dict) or not value or "its keys" in why:
        return mask_text(why)
    shown = ", ".join(name[:_NAME_CHARACTERS] for name in list(value)[:_NAMES_SHOWN])
    more = f" and {len(value) - _NAMES_SHOWN} more" if len(value) > _NAMES_SHOWN else ""
    return mask_text(f"{why}; its columns: {shown}{more}")


def without_rows(labels: Sequence[str]) -> str:
    """Return a sentence about files that hold no row: the first few by name."""
    shown, more = ", ".join(labels[:_FILES_SHOWN]), len(labels) - _FILES_SHOWN
    named = f"{shown} and {more} more" if more > 0 else shown
    return f"{named} {'holds' if len(labels) == 1 else 'hold'} no row: an empty file, or only the head of a table"
