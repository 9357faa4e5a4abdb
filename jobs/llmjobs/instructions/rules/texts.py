"""Makes the table of texts that rules look at, from rows as they were read; parts are repaired on the way.

Rows with one question and one answer (Alpaca, Dolly, prompt/completion) keep their columns: nothing is exploded or
grouped. Chats, and rows with a history, become one row for each turn and then one row again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from llmjobs.contracts.data_contract import DataContract
from llmjobs.instructions.rules.repairs import CELL, Repaired, repaired, suspicious
from llmjobs.instructions.tables import MESSAGE

PARTS = ("system", "instruction", "input", "output")

TEXTS: dict[str, Any] = {
    "row": pl.UInt32,
    "messages": pl.List(MESSAGE),
    "tools": pl.String,
    "tool_calls": pl.List(pl.String),
    "roles": pl.String,
    "system": pl.String,
    "instruction": pl.String,
    "input": pl.String,
    "prompt": pl.String,
    "question": pl.String,
    "asked": pl.String,
    "answered": pl.String,
    "answer": pl.String,
    "empty_turns": pl.UInt32,
    "calls": pl.Boolean,
    "characters": pl.Int64,
    "hinted": pl.Boolean,
}
"""What `llmjobs.instructions.rules.library` describes, and ``row``: position in the chunk."""


@dataclass(frozen=True)
class Texts:
    """Rows that could be read, and what their parts were found to be.

    Attributes:
        table: Schema `TEXTS`, repaired and masked.
        found: ``row`` and ``flag``, as in `Repaired`.
        fixes: Schema `tables.FIXES`.
    """

    table: pl.DataFrame
    found: pl.DataFrame
    fixes: pl.DataFrame


def plain_texts(rows: pl.DataFrame, contract: DataContract) -> Texts:
    """Return the texts of Alpaca-like rows without a history.

    Args:
        rows: Schema `tables.READ`, and ``row``.
        contract: Says what is repaired.
    """
    parts = rows.select("row", "tools", *(pl.col(part).fill_null("") for part in PARTS))
    cells = [_cells(parts, part, suspicious(pl.col(part), contract, is_input=part == "input")) for part in PARTS]
    cells.append(_cells(parts, "tools", pl.col("tools").is_not_null()))
    outcome = repaired(pl.concat(cells), contract)
    parts = parts.with_columns(_put_back(parts[part], outcome, part) for part in (*PARTS, "tools"))
    given = pl.col("input").str.contains(r"\S")
    question = pl.when(given).then(pl.concat_str("instruction", "input", separator="\n\n")).otherwise("instruction")
    has_system = pl.col("system").str.contains(r"\S")
    table = parts.with_columns(question=question, has_system=has_system).with_columns(
        prompt="question",
        asked="question",
        answer="output",
        answered="output",
        roles=pl.when("has_system").then(pl.lit("system user assistant ")).otherwise(pl.lit("user assistant ")),
        empty_turns=pl.lit(0, dtype=pl.UInt32),
        calls=pl.lit(value=False),
        tool_calls=pl.lit(None, dtype=pl.List(pl.String)),
        characters=pl.col("question").str.len_chars().cast(pl.Int64)
        + pl.col("output").str.len_chars()
        + pl.when("has_system").then(pl.col("system").str.len_chars()).otherwise(0),
        hinted=pl.col("row").is_in(outcome.cells["row"].unique().implode()),
    )
    return Texts(_with_messages(table).select(*TEXTS), outcome.found, outcome.fixes)


def _cells(table: pl.DataFrame, part: str, chosen: pl.Expr) -> pl.DataFrame:
    """Return the chosen cells of one column of texts."""
    indexed = table.with_row_index("cell").filter(chosen)
    return indexed.select("cell", "row", pl.lit(part).alias("part"), pl.col(part).alias("text")).cast(CELL)


def _put_back(column: pl.Series, outcome: Repaired, part: str) -> pl.Series:
    cells = outcome.cells.filter(pl.col("part") == part)
    return column.clone().scatter(cells["cell"], cells["text"]) if cells.height else column


def _with_messages(table: pl.DataFrame) -> pl.DataFrame:
    """Add ``messages``: two turns a row, or three with a system text."""
    groups = []
    for has_system, names in ((False, ("question", "answer")), (True, ("system", "question", "answer"))):
        rows = table.filter(pl.col("has_system") == has_system)
        if rows.height:
            groups.append(rows.with_columns(messages=_interleaved([rows[name] for name in names])))
    empty = table.clear().with_columns(messages=pl.lit(None, dtype=pl.List(MESSAGE)))
    return pl.concat([empty, *groups]).sort("row") if len(groups) != 1 else groups[0]


def _interleaved(columns: list[pl.Series]) -> pl.Series:
    """Return lists of turns from a column for each turn: ten times as fast as `polars.concat_list` of structs."""
    height, width = columns[0].len(), len(columns)
    place = pl.int_range(height * width, eager=True)
    contents = pl.concat(columns, rechunk=True).gather(place // width + (place % width) * height)
    roles = pl.Series(["system", "user", "assistant"][3 - width :] * height, dtype=pl.String)
    turns = pl.DataFrame({"role": roles, "content": contents}).with_columns(tool_calls=pl.lit(None, dtype=pl.String))
    return turns.to_struct("messages").reshape((height, width)).arr.to_list()


def chat_texts(rows: pl.DataFrame, contract: DataContract) -> Texts:
    """Return the texts of chats, and of Alpaca-like rows with a history; arguments as of `plain_texts`."""
    parts = _parts(rows)
    is_input = pl.col("part") == "input"
    chosen = suspicious(pl.col("text"), contract) | (is_input & suspicious(pl.col("text"), contract, is_input=True))
    numbered = parts.with_row_index("cell")
    texts = numbered.filter(chosen).select(*CELL)
    calls = numbered.filter(pl.col("tool_calls").is_not_null()).select(
        "cell", "row", pl.col("part") + ".tool_calls", pl.col("tool_calls").alias("text")
    )
    tools = rows.with_row_index("cell").filter(pl.col("tools").is_not_null())
    tools = tools.select("cell", "row", pl.lit("tools").alias("part"), pl.col("tools").alias("text"))
    outcome = repaired(pl.concat([texts.cast(CELL), calls.cast(CELL), tools.cast(CELL)]), contract)
    is_call, is_tools = pl.col("part").str.ends_with(".tool_calls"), pl.col("part") == "tools"
    done = outcome.cells.filter(~is_call & ~is_tools)
    called = outcome.cells.filter(is_call)
    parts = parts.with_columns(
        text=parts["text"].clone().scatter(done["cell"], done["text"]),
        tool_calls=parts["tool_calls"].clone().scatter(called["cell"], called["text"]),
    )
    table = _by_row(_turns(parts), parts).join(
        rows.select("row", tools=_put_back(rows["tools"], outcome, "tools")), on="row", how="left"
    )
    hinted = pl.col("row").is_in(outcome.cells["row"].unique().implode())
    missing = rows.select("row").join(table, on="row", how="left").with_columns(hinted=hinted)
    filled = missing.with_columns(
        pl.col(pl.String).exclude("tools").fill_null(""),
        pl.col("empty_turns").fill_null(0),
        pl.col("calls").fill_null(value=False),
        pl.col("characters").fill_null(0),
        pl.col("messages").fill_null(pl.lit([], dtype=pl.List(MESSAGE))),
    )
    return Texts(filled.select(*TEXTS), outcome.found, outcome.fixes)


def _parts(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each part of each turn, in order: ``row``, ``turn``, ``role``, ``part``, text, calls."""
    turns = rows.select("row", "turns", first=(pl.col("system").fill_null("").str.contains(r"\S")).cast(pl.Int64))
    turns = turns.filter(pl.col("turns").list.len() > 0).explode("turns")
    chats = turns.select(
        "row",
        turn=pl.int_range(pl.len()).over("row") + pl.col("first"),
        role=pl.col("turns").struct.field("role").fill_null(""),
        text=pl.col("turns").struct.field("content").fill_null(""),
        tool_calls=pl.col("turns").struct.field("tool_calls"),
    ).with_columns(part=pl.format("messages[{}]", "turn"))
    last = pl.col("turns").list.len().fill_null(0).cast(pl.Int64) + 1
    alpaca = rows.filter(pl.col("instruction").is_not_null())
    named = [
        alpaca.select("row", turn=turn, role=pl.lit(role), part=pl.lit(part), text=pl.col(part).fill_null(""))
        for part, role, turn in (
            ("system", "system", pl.lit(0, dtype=pl.Int64)),
            ("instruction", "user", last),
            ("input", "user", last),
            ("output", "assistant", last + 1),
        )
    ]
    blank = pl.col("part").is_in(["system", "input"]) & ~pl.col("text").str.contains(r"\S")
    together = pl.concat([chats, *(part.filter(~blank) for part in named)], how="diagonal")
    return together.sort("row", "turn", maintain_order=True)


def _turns(parts: pl.DataFrame) -> pl.DataFrame:
    """Return one row a turn: an instruction and its input are one."""
    if not parts["part"].is_in(["instruction"]).any():
        return parts.rename({"text": "content"})
    written = (pl.col("part") != "input") | pl.col("text").str.contains(r"\S")
    together = parts.filter(written).group_by("row", "turn", "role", maintain_order=True)
    return together.agg(content=pl.col("text").str.join("\n\n"), tool_calls=pl.col("tool_calls").first())


def _by_row(turns: pl.DataFrame, parts: pl.DataFrame) -> pl.DataFrame:
    """Return one row of texts a row."""
    role, content, calling = pl.col("role"), pl.col("content"), pl.col("tool_calls").is_not_null()
    user, assistant = role == "user", role == "assistant"
    is_answer = assistant & (pl.col("turn") == pl.col("turn").max())
    speaks = user | assistant | (role == "system")
    kind = pl.when(assistant & calling).then(pl.lit("call")).otherwise(role)
    by_row = turns.group_by("row", maintain_order=True).agg(
        messages=pl.struct("role", "content", "tool_calls"),
        tool_calls=pl.col("tool_calls").drop_nulls(),
        roles=kind.str.join(" ") + " ",
        system=content.filter(role == "system").str.join("\n\n"),
        asked=content.filter(user).str.join("\n\n"),
        answered=content.filter(assistant).str.join("\n\n"),
        prompt=content.filter(user).first(),
        question=content.filter(user).last(),
        answer=content.filter(assistant).last(),
        empty_turns=(~content.str.contains(r"\S") & speaks & ~calling & ~is_answer).sum().cast(pl.UInt32),
        calls=calling.filter(assistant).last(),
        characters=(content.str.len_chars() + pl.col("tool_calls").str.len_chars().fill_null(0)).sum().cast(pl.Int64),
    )
    named = parts.group_by("row").agg(
        instruction=pl.col("text").filter(pl.col("part") == "instruction").first(),
        input=pl.col("text").filter(pl.col("part") == "input").first(),
    )
    return by_row.with_columns(pl.col("messages").cast(pl.List(MESSAGE))).join(named, on="row", how="left")
