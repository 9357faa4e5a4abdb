"""Requeues the quarantined rows of an audit, and no others, on top of the version that is published now.

After a rule was changed, or rows were put right (`llmjobs.instructions.corrections`), only these rows are examined
again. The published rows are taken as they are; so rows in = published before + requeued.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions import tables
from llmjobs.instructions.identity import identify, key_of
from llmjobs.instructions.intake import CHUNK_ROWS, Instruments, examine_into, weighed
from llmjobs.instructions.parts import READ_FLAGS, REFUSED_COLUMNS, Part
from llmjobs.instructions.published import Published
from llmjobs.instructions.reading import read_frames
from llmjobs.lake import Lake

LAST = "last"

_LATER = {"tools", "input", "source", "licence", "topic", "label", "language", "characters", "tokens"}
"""Columns that a version of an older release may lack."""

_TABULAR = {".csv", ".tsv"}

logger = logging.getLogger(__name__)


def asked(lake: Lake, config: PrepareConfig) -> str:
    """Return the audit whose rows a run requeues; empty where it does not.

    Raises:
        BadConfig: There is no such audit.
    """
    return audit_of(lake, config).version if config.replay else ""


def audit_of(lake: Lake, config: PrepareConfig) -> Manifest:
    """Return the audit that `config.replay` names.

    Raises:
        BadConfig: There is none.
    """
    audits = lake.versions("audits", config.name)
    if config.replay == LAST and audits:
        return audits[-1]
    found = [audit for audit in audits if audit.version.startswith(config.replay)]
    if len(found) != 1:
        raise BadConfig(
            f"replay: {config.replay!r} names {len(found)} of the {len(audits)} audits of dataset {config.name}; give "
            f"{LAST!r} or the id of one"
        )
    return found[0]


def part(lake: Lake, config: PrepareConfig, base: Published | None, instruments: Instruments, scratch: Path) -> Part:
    """Return the published rows and the requeued ones as one part.

    Raises:
        BadConfig: There is no such audit.
        BadData: Nothing is published yet, or a row of a CSV file would have to be read again without its head.
    """
    if base is None:
        raise BadData(f"replay: dataset {config.name} has no published version; run it without replay first")
    audit = audit_of(lake, config)
    folder = scratch / "part"
    folder.mkdir()
    whole = Part(folder, [])
    for _, rows in base.rows():
        _add_published(whole, rows, config, instruments)
    requeued = list(_quarantined(lake, config, audit, scratch))
    _add_requeued(whole, requeued, config, instruments)
    logger.info("%s: %d rows of audit %s are requeued", config.name, len(requeued), audit.version)
    return whole


def _add_published(whole: Part, rows: pl.DataFrame, config: PrepareConfig, instruments: Instruments) -> None:
    """Add rows that an earlier run examined; their groups stay what they were."""
    turn = pl.element().struct
    users = pl.col("messages").list.filter(turn.field("role") == "user").list
    answers = pl.col("messages").list.filter(turn.field("role") == "assistant").list
    lacking = _LATER - set(rows.columns)
    rows = rows.with_columns(pl.lit(None).alias(name) for name in sorted(lacking)).with_columns(
        _messages(rows.schema["messages"]),
        prompt=users.first().struct.field("content"),
        answer=answers.last().struct.field("content"),
        conversation=pl.lit(None, dtype=pl.String),
        group=pl.col("group_id"),
    )
    known = identify(rows.drop("row_id", "group_id", "score", "rank", strict=False))
    known = known.with_columns(group_key=key_of(known["group"]))
    files = {label: number for number, label in enumerate(whole.files)}
    for label in rows["source_file"].unique(maintain_order=True):
        files.setdefault(label, len(files))
    whole.files[:] = files
    numbers = pl.col("source_file").replace_strict(files, return_dtype=pl.UInt32)
    known = known.with_columns(pl.col("source_line").cast(pl.UInt32), file=numbers, position=pl.int_range(0, pl.len()))
    nothing = [pl.lit(value=False).alias(flag) for flag in (*READ_FLAGS, "quarantined")]
    unread = [pl.lit(None, dtype=pl.String).alias(name) for name in REFUSED_COLUMNS[1:]]
    read = known.select("file", "source_line", *nothing, *unread)
    whole.add(read, weighed(known, config, instruments), pl.DataFrame(schema=tables.FIXES))


def _messages(kind: Any) -> pl.Expr:
    """Return the messages with every field; a version of an older release has no tool calls."""
    turn = pl.element().struct
    names = {field.name for field in kind.inner.fields}
    called = turn.field("tool_calls") if "tool_calls" in names else pl.lit(None, dtype=pl.String)
    fields = [turn.field("role"), turn.field("content"), called.alias("tool_calls")]
    return pl.col("messages").list.eval(pl.struct(fields)).cast(pl.List(tables.MESSAGE))


def _quarantined(lake: Lake, config: PrepareConfig, audit: Manifest, scratch: Path) -> Iterator[dict[str, Any]]:
    folder = lake.fetch("audits", config.name, audit.version, scratch / "audit-before")
    with (folder / "quarantine.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["raw"] is None:
                continue  # it was taken down
            suffix = PurePosixPath(row["source_file"].removesuffix(".gz").removesuffix(".zst")).suffix
            if suffix in _TABULAR:
                raise BadData(
                    f"replay: {row['source_file']} is a table, whose rows need its head; run without replay"
                )
            yield row


def _add_requeued(whole: Part, rows: list[dict[str, Any]], config: PrepareConfig, instruments: Instruments) -> None:
    files = {label: number for number, label in enumerate(whole.files)}
    for row in rows:
        files.setdefault(row["source_file"], len(files))
    whole.files[:] = files
    whole_rows = [row for row in rows if _is_json(row["raw"])]
    broken = [row for row in rows if not _is_json(row["raw"])]
    for start in range(0, len(whole_rows), CHUNK_ROWS):
        batch = whole_rows[start : start + CHUNK_ROWS]
        text = "\n".join(row["raw"] for row in batch)
        examine_into(whole, _placed(_read(text, "rows.json", config), batch, files, config), config, instruments)
    if broken:
        # One by one, or a broken row would swallow its neighbour.
        frames = [_placed(_read(row["raw"], "row.jsonl", config), [row], files, config) for row in broken]
        examine_into(whole, pl.concat(frames), config, instruments)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read(text: str, name: str, config: PrepareConfig) -> pl.DataFrame:
    contract = config.contract
    frames = read_frames(io.BytesIO(text.encode()), name=name, form=contract.format, mapping=contract.mapping)
    return pl.concat([tables.no_rows(), *frames])


def _placed(
    frame: pl.DataFrame, rows: list[dict[str, Any]], files: dict[str, int], config: PrepareConfig
) -> pl.DataFrame:
    """Return rows at the places where they stood; a broken one that now reads as several is all of them."""
    if frame.height != len(rows):
        rows = [rows[0]] * frame.height
    return frame.with_columns(
        pl.col("source").fill_null(config.inputs[0].name),
        line=pl.Series([row["source_line"] for row in rows], dtype=pl.Int64),
        file=pl.Series([files[row["source_file"]] for row in rows], dtype=pl.UInt32),
    )
