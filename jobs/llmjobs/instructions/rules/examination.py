"""Applies a contract to a frame of rows: repairs, masking, flags and verdicts, all as columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import PII_FLAGS, RULES
from llmjobs.instructions.rules.json_answers import problems_and_labels
from llmjobs.instructions.rules.languages import answers_in_another_language
from llmjobs.instructions.rules.library import flagged, marked
from llmjobs.instructions.rules.metadata import masked_metadata
from llmjobs.instructions.rules.texts import Texts, chat_texts, plain_texts
from llmjobs.instructions.rules.tool_calls import is_broken
from llmjobs.instructions.tables import EXAMINED, FIXES
from llmjobs.languages import languages_of

TokenCounter = Callable[[pl.DataFrame], pl.Series]
"""From a frame with ``messages`` and ``tools`` to the tokens of each row (Int64, null where it cannot be rendered)."""

_OF_THE_READING = {
    "unreadable": "read_problem",
    "wrong_shape": "shape_problem",
    "duplicate_keys": "repeated_keys",
}
"""Rule -> the column of the reading that says what was wrong; null where nothing was."""

_COLUMNS: dict[str, Any] = EXAMINED


@dataclass(frozen=True)
class Examined:
    """What the contract says about a frame of rows.

    Attributes:
        rows: Schema `tables.EXAMINED` and a boolean column for each of `RULES` and `PII_FLAGS`, in the frame's order.
        fixes: Schema `tables.FIXES`.
    """

    rows: pl.DataFrame
    fixes: pl.DataFrame


def examine(frame: pl.DataFrame, contract: DataContract, *, count_tokens: TokenCounter | None = None) -> Examined:
    """Apply `contract` to rows.

    Args:
        frame: Schema `tables.READ`.
        contract: What a row must look like, and what happens to one that does not.
        count_tokens: None leaves ``tokens`` null and ``too_many_tokens`` False.
    """
    frame = frame.with_row_index("row")
    readable = pl.col("read_problem").is_null() & pl.col("shape_problem").is_null()
    is_plain = pl.col("instruction").is_not_null() & (pl.col("turns").list.len().fill_null(0) == 0)
    parts = [
        _examined(make(rows, contract), contract, count_tokens)
        for make, rows in (
            (plain_texts, frame.filter(readable & is_plain)),
            (chat_texts, frame.filter(readable & ~is_plain)),
        )
        if rows.height
    ]
    whole, maskings = masked_metadata(_whole(frame, [rows for rows, _ in parts]), contract)
    fixes = pl.concat([maskings, *(fixes for _, fixes in parts)]).sort("row", maintain_order=True)
    flags = [_in_force(rule, whole, contract) for rule in (*RULES, *PII_FLAGS)]
    whole = whole.with_columns(flags)
    severities = contract.severities()
    refusing = [flag for flag in (*RULES, *PII_FLAGS) if severities[flag] in {"quarantine", "fail"}]
    whole = whole.with_columns(quarantined=pl.any_horizontal(refusing))
    return Examined(
        whole.select(*(pl.col(name).cast(kind) for name, kind in _COLUMNS.items()), *RULES, *PII_FLAGS),
        fixes,
    )


def _whole(frame: pl.DataFrame, examined: list[pl.DataFrame]) -> pl.DataFrame:
    """Return all rows with what was found in those that could be read; columns of both are taken from the latter."""
    names = {name for rows in examined for name in rows.columns} | {"messages", "json_label"}
    ours = frame.select("row", *(name for name in frame.columns if name in EXAMINED and name not in names - {"row"}))
    if len(examined) == 1 and examined[0].height == frame.height:
        whole = pl.concat([ours, examined[0].drop("row")], how="horizontal")
    elif examined:
        together = pl.concat(examined, how="diagonal")
        whole = ours.join(together, on="row", how="left", maintain_order="left")
    else:
        whole = ours
    absent = {name: kind for name, kind in _COLUMNS.items() if name not in whole.columns and name != "quarantined"}
    whole = whole.with_columns(pl.lit(None, dtype=kind).alias(name) for name, kind in absent.items())
    if "json_label" not in whole.columns:
        return whole
    return whole.with_columns(label=pl.coalesce("label", "json_label"))


def _in_force(flag: str, whole: pl.DataFrame, contract: DataContract) -> pl.Expr:
    """Return a flag's column, False where it is off or could not look."""
    if contract.severities()[flag] == "off":
        return pl.lit(value=False).alias(flag)
    if flag in _OF_THE_READING:
        return pl.col(_OF_THE_READING[flag]).is_not_null().alias(flag)
    return (pl.col(flag) if flag in whole.columns else pl.lit(value=False)).fill_null(value=False).alias(flag)


def _examined(
    texts: Texts, contract: DataContract, count_tokens: TokenCounter | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the flags and the published columns of rows that could be read, and their fixes."""
    table = texts.table
    table = table.with_columns(problems_and_labels(table["answer"], contract.answer).get_columns())
    table = table.with_columns(_language(table, contract))
    table, dropped = _without_broken_tools(table, contract)
    table = table.with_columns(_tokens(table, count_tokens))
    flags = flagged(table, contract).with_columns(
        _wrong_language(table, contract),
        too_many_tokens=_too_many(table["tokens"], contract.limits.max_tokens),
    )
    by_flag = texts.found.group_by("flag").agg("row")
    for flag, found in by_flag.iter_rows():
        here = table["row"].is_in(pl.Series(found, dtype=pl.UInt32).implode())
        flags = flags.with_columns((flags[flag] | here if flag in flags.columns else here).alias(flag))
    columns = ["messages", "tools", "input", "prompt", "answer", "language", "characters", "tokens"]
    rows = table.select("row", *columns, "broken_tools", "json_problem", "json_label")
    return pl.concat([rows, flags], how="horizontal"), pl.concat([texts.fixes, dropped])


def _language(table: pl.DataFrame, contract: DataContract) -> pl.Series:
    """Return the language of each answer, null where nobody asks for it."""
    asked = contract.rules.language_mismatch != "off"
    asked |= contract.drift.language.warn is not None or contract.drift.language.fail is not None
    if asked:
        return languages_of(table["answer"]).alias("language")
    return pl.Series("language", [None], dtype=pl.String).new_from_index(0, table.height)


def _wrong_language(table: pl.DataFrame, contract: DataContract) -> pl.Series:
    name = "language_mismatch"
    if contract.rules.language_mismatch == "off":
        return pl.Series(name, [False]).new_from_index(0, table.height)
    return answers_in_another_language(table, contract.limits.languages).alias(name)


def _tokens(table: pl.DataFrame, count_tokens: TokenCounter | None) -> pl.Series:
    if count_tokens is None:
        return pl.Series("tokens", [None], dtype=pl.Int64).new_from_index(0, table.height)
    return count_tokens(table.select("messages", "tools")).cast(pl.Int64).alias("tokens")


def _too_many(tokens: pl.Series, most: int | None) -> pl.Series:
    return tokens.is_not_null() & (tokens > most) if most is not None else tokens.is_not_null() & pl.Series([False])


def _without_broken_tools(table: pl.DataFrame, contract: DataContract) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Flag broken tools and calls; drop the tools where the contract says so, and record that."""
    with_tools = (pl.col("tools").is_not_null() | (pl.col("tool_calls").list.len() > 0)).fill_null(value=False)
    rows = table.with_row_index("position").filter(with_tools)
    broken = [is_broken(tools, calls or []) for tools, calls in rows.select("tools", "tool_calls").iter_rows()]
    if contract.rules.broken_tools == "off":
        broken = []
    positions = rows["position"].filter(pl.Series(broken, dtype=pl.Boolean)) if broken else rows["position"].clear()
    table = table.with_columns(marked(table.height, positions, "broken_tools"))
    dropped = table.filter(pl.col("broken_tools") & pl.col("tools").is_not_null())
    if contract.rules.broken_tools != "drop_field" or not dropped.height:
        return table, pl.DataFrame(schema=FIXES)
    fixes = dropped.select(
        pl.col("row").cast(pl.Int64),
        rule=pl.lit("broken_tools"),
        part=pl.lit("tools"),
        before=pl.col("tools"),
        after=pl.lit(""),
    )
    return table.with_columns(tools=pl.when(~pl.col("broken_tools")).then(pl.col("tools"))), fixes
