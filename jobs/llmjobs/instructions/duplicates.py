"""Gives rows their identity, and finds the exact duplicates among them."""

from __future__ import annotations

import hashlib

import polars as pl

from llmjobs.contracts.base import digest
from llmjobs.instructions.rules import normalised


def identify(rows: pl.DataFrame) -> pl.DataFrame:
    """Add ``row_id`` and ``group_id`` to rows that have ``messages``.

    ``row_id`` is the SHA-256 of the messages as canonical JSON. ``group_id`` is that of the normalised first user turn:
    rows that open with the same prompt belong together, whatever system text or answer they have.
    """
    opened = rows.select(normalised(_first_user_turn()).alias("prompt"))["prompt"]
    return rows.with_columns(
        pl.Series("row_id", [digest(messages) for messages in rows["messages"].to_list()], dtype=pl.String),
        pl.Series("group_id", [hashlib.sha256(text.encode()).hexdigest() for text in opened], dtype=pl.String),
    )


def point_to_kept(rows: pl.DataFrame, *, exact: bool) -> pl.DataFrame:
    """Add ``kept_row``, the ``row`` that stays of those that say the same; its own where it is the one.

    Rows say the same when they are equal but for white space and letter case. Of these the smallest ``row_id`` stays,
    and of identical rows the first: what stays follows from the content, never from a file's name.
    """
    if not exact:
        return rows.with_columns(kept_row=pl.col("row"))
    turn = pl.element().struct.field("role") + "\x1f" + pl.element().struct.field("content")
    said = normalised(pl.col("messages").list.eval(turn).list.join("\x1e"))
    kept = pl.col("row").sort_by("row_id", "row").first().over("said")
    return rows.with_columns(said=said).with_columns(kept_row=kept).drop("said")


def _first_user_turn() -> pl.Expr:
    users = pl.col("messages").list.filter(pl.element().struct.field("role") == "user")
    return users.list.first().struct.field("content").fill_null("")
