"""Applies a contract to a chunk of rows: repairs, flags and reasons, all as columns."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from llmjobs.contracts.instructions import DataContract, RowRules
from llmjobs.instructions.formats import WrongShape, parts_of, storable
from llmjobs.instructions.json_answers import json_problem
from llmjobs.instructions.reading import ReadRow
from llmjobs.instructions.rules import REPAIRS, flags

RULES = tuple(RowRules.model_fields)

_MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
_ROW_SCHEMA = {
    "row": pl.Int64,
    "source_file": pl.String,
    "source_line": pl.Int64,
    "raw": pl.String,
    "read_problem": pl.String,
    "shape_problem": pl.String,
    "repeated_keys": pl.String,
}
_PART_SCHEMA = {"row": pl.Int64, "turn": pl.Int64, "role": pl.String, "part": pl.String, "text": pl.String}


@dataclass(frozen=True)
class Examined:
    """What the contract says about a chunk of rows.

    Attributes:
        rows: One row per row read: where it is from, its ``raw`` text, ``messages`` (repaired), one boolean column for
            each rule, ``quarantined``, and the ``..._problem`` columns that say more.
        fixes: One row per repaired part: ``row``, ``rule``, ``part``, ``before``, ``after``.
    """

    rows: pl.DataFrame
    fixes: pl.DataFrame


def examine(first: int, chunk: list[tuple[str, ReadRow]], contract: DataContract) -> Examined:
    """Apply `contract` to rows.

    Args:
        first: Number of the chunk's first row in the whole run, from 0.
        chunk: Source file and row, in reading order.
        contract: What a row must look like.
    """
    rows, parts = _tables(first, chunk, contract)
    parts, fixes, repair_flags = _repair(parts, contract)
    texts = _texts(parts)
    problems = [json_problem(answer, contract.answer) for answer in texts["answer"]]
    texts = texts.with_columns(pl.Series("json_problem", problems, dtype=pl.String))
    flagged = texts.select("row", "messages", "json_problem", *flags(contract)).join(repair_flags, on="row", how="left")
    whole = rows.join(flagged, on="row", how="left", maintain_order="left").with_columns(
        unreadable=pl.col("read_problem").is_not_null(),
        wrong_shape=pl.col("shape_problem").is_not_null(),
        duplicate_keys=pl.col("repeated_keys").is_not_null(),
    )
    whole = whole.with_columns(_in_force(rule, contract) for rule in RULES)
    refusing = [pl.col(rule) for rule in RULES if getattr(contract.rules, rule) in {"quarantine", "fail"}]
    return Examined(whole.with_columns(quarantined=pl.any_horizontal(refusing)), fixes)


def _in_force(rule: str, contract: DataContract) -> pl.Expr:
    """Return a rule's flag, False where the rule is off or could not look."""
    if getattr(contract.rules, rule) == "off":
        return pl.lit(value=False).alias(rule)
    return pl.col(rule).fill_null(value=False)


def _tables(first: int, chunk: list[tuple[str, ReadRow]], contract: DataContract) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the table of rows and the table of their parts."""
    rows: list[tuple[int, str, int, str, str | None, str | None, str | None]] = []
    parts: list[tuple[int, int, str, str, str]] = []
    for number, (file, read) in enumerate(chunk, start=first):
        shape_problem = None
        if not read.problem:
            try:
                parts.extend((number, *part) for part in parts_of(read.value, read.raw, contract.format))
            except WrongShape as error:
                shape_problem = storable(str(error))
        repeated = storable(", ".join(read.repeated)) if read.repeated else None
        rows.append((number, file, read.line, read.raw, read.problem or None, shape_problem, repeated))
    return (
        pl.DataFrame(rows, schema=_ROW_SCHEMA, orient="row"),
        pl.DataFrame(parts, schema=_PART_SCHEMA, orient="row"),
    )


def _repair(parts: pl.DataFrame, contract: DataContract) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the repaired parts, what was repaired, and the repair rules' flags by row."""
    fixes = []
    for rule, repair in REPAIRS.items():
        after = pl.when(repair.concerns).then(repair.repaired(pl.col("text"))).otherwise(pl.col("text"))
        parts = parts.with_columns(after=after).with_columns((pl.col("after") != pl.col("text")).alias(rule))
        if getattr(contract.rules, rule) == "fix":
            changed = parts.filter(rule).select(
                "row", pl.lit(rule).alias("rule"), "part", pl.col("text").alias("before"), "after"
            )
            fixes.append(changed)
            parts = parts.with_columns(text=pl.col("after"))
        parts = parts.drop("after")
    by_row = parts.group_by("row").agg(pl.col(rule).any() for rule in REPAIRS)
    empty = pl.DataFrame(schema=dict.fromkeys(("rule", "part", "before", "after"), pl.String) | {"row": pl.Int64})
    return parts, pl.concat([empty.select("row", "rule", "part", "before", "after"), *fixes]).sort("row"), by_row


def _texts(parts: pl.DataFrame) -> pl.DataFrame:
    """Return one row of texts per row, as the module `rules` describes them, and its ``messages``."""
    written = (pl.col("text").str.strip_chars() != "") | (pl.col("part") != "input")
    turns = (
        parts.filter(written)
        .group_by("row", "turn", "role", maintain_order=True)
        .agg(content=pl.col("text").str.join("\n\n"))
    )
    user, assistant = pl.col("role") == "user", pl.col("role") == "assistant"
    empty, last_pair = pl.col("content").str.strip_chars() == "", pl.col("turn") >= pl.col("turn").max() - 1
    by_row = turns.group_by("row", maintain_order=True).agg(
        messages=pl.struct("role", "content"),
        roles=pl.col("role").str.join(" ") + " ",
        system=pl.col("content").filter(pl.col("role") == "system").str.join("\n\n"),
        asked=pl.col("content").filter(user).str.join("\n\n"),
        answered=pl.col("content").filter(assistant).str.join("\n\n"),
        question=pl.col("content").filter(user).last(),
        answer=pl.col("content").filter(assistant).last(),
        empty_turns=(empty & ~(last_pair & (user | assistant))).sum(),
        characters=pl.col("content").str.len_chars().sum(),
    )
    named = parts.group_by("row").agg(
        instruction=pl.col("text").filter(pl.col("part") == "instruction").first(),
        input=pl.col("text").filter(pl.col("part") == "input").first(),
    )
    return by_row.with_columns(pl.col("messages").cast(pl.List(_MESSAGE))).join(named, on="row", how="left")
