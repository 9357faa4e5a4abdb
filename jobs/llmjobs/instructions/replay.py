"""Requeues the quarantined rows of an audit, and no others, on top of the version that is published now.

After a rule was changed, or rows were put right (`llmjobs.instructions.corrections`), only these rows are examined
again. The published rows are taken as they are; so rows in = published before + requeued.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.instructions import Format, Mapping, PrepareConfig, Source
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions import tables
from llmjobs.instructions.identity import identify, key_of
from llmjobs.instructions.intake import CHUNK_ROWS, Instruments, examine_into, weighed
from llmjobs.instructions.parts import READ_FLAGS, REFUSED_COLUMNS, Part
from llmjobs.instructions.published import Published
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.raw.sources import Sources
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
    if config.replay == LAST:
        found = _last(lake, config.name, audits)
    else:
        found = [audit for audit in audits if audit.version.startswith(config.replay)]
    if len(found) != 1:
        raise BadConfig(
            f"replay: {config.replay!r} names {len(found)} of the {len(audits)} audits of dataset {config.name}; give "
            f"{LAST!r} or the id of one"
        )
    return found[0]


def _last(lake: Lake, name: str, audits: list[Manifest]) -> list[Manifest]:
    """Return the last audit, but for dry runs, and for replays whose version is not current.

    Such a replay was killed before its end, or waits for a person: asked again, it is to requeue the same rows.
    """
    pointer = lake.pointer("datasets", name, "current")
    current = pointer.version if pointer else ""
    for audit in reversed(audits):
        unfinished = audit.inputs.get("replay") and audit.metrics.get("dataset_version") != current
        if not unfinished and not audit.inputs.get("dry_run"):
            return [audit]
    return []


def part(
    lake: Lake,
    config: PrepareConfig,
    base: Published | None,
    instruments: Instruments,
    *,
    sources: Sources,
    scratch: Path,
) -> Part:
    """Return the published rows and the requeued ones as one part; `sources` says what source a requeued row is of.

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
    _add_requeued(whole, requeued, config, instruments, sources)
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
                raise BadData(f"replay: {row['source_file']} is a table, whose rows need its head; run without replay")
            yield row


def _add_requeued(
    whole: Part, rows: list[dict[str, Any]], config: PrepareConfig, instruments: Instruments, sources: Sources
) -> None:
    files = {label: number for number, label in enumerate(whole.files)}
    for row in rows:
        files.setdefault(row["source_file"], len(files))
    whole.files[:] = files
    owners = {file.label: file.source for file in sources.files}
    groups: dict[tuple[Source, bool], list[dict[str, Any]]] = {}
    for row in rows:
        source = owners.get(row["source_file"], config.inputs[0])
        groups.setdefault((source, any(reason["rule"] == "leak" for reason in row["reasons"])), []).append(row)
    for (source, leaked), ours in groups.items():
        contract = config.contract
        form = source.format or contract.format
        mapping = source.mapping or (contract.mapping if source.format is None else None)
        # Of a leak the audit holds the messages, whatever form the file has.
        way = _Way(source, "messages" if leaked else form, None if leaked else mapping)
        frames = _frames(ours, way)
        for frame, batch in frames:
            examine_into(whole, _placed(frame, batch, files, source), config, instruments)


@dataclass(frozen=True)
class _Way:
    """How rows of one source are read."""

    source: Source
    form: Format
    mapping: Mapping | None

    def read(self, text: str, name: str) -> pl.DataFrame:
        frames = read_frames(io.BytesIO(text.encode()), name=name, form=self.form, mapping=self.mapping)
        return pl.concat([tables.no_rows(), *frames])


def _frames(rows: list[dict[str, Any]], way: _Way) -> Iterator[tuple[pl.DataFrame, list[dict[str, Any]]]]:
    """Yield rows of one source, read again, and as many lines of the quarantine file."""
    sound = [row for row in rows if _is_json(row["raw"])]
    for start in range(0, len(sound), CHUNK_ROWS):
        batch = sound[start : start + CHUNK_ROWS]
        yield way.read("\n".join(row["raw"] for row in batch), "rows.json"), batch
    broken = [row for row in rows if not _is_json(row["raw"])]
    if broken:
        # One by one, or a broken row would swallow its neighbour.
        yield pl.concat([_broken(row, way) for row in broken]), broken


def _broken(row: dict[str, Any], way: _Way) -> pl.DataFrame:
    """Return a broken row as one row with its exact text, by which a correction finds it."""
    frame = way.read(row["raw"], "row.jsonl")
    if frame.height == 1 and frame["raw"][0] == row["raw"]:
        return frame
    details = [reason["detail"] for reason in row["reasons"] if reason["rule"] == "unreadable" and "detail" in reason]
    problem = details[0] if details else "is no JSON object"
    return pl.DataFrame([{"line": 1, "raw": row["raw"], "read_problem": problem}], schema=tables.READ)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _placed(frame: pl.DataFrame, rows: list[dict[str, Any]], files: dict[str, int], source: Source) -> pl.DataFrame:
    """Return rows at the places where they stood, with what their source says of them."""
    if frame.height != len(rows):
        raise RuntimeError(f"replay: {len(rows)} rows of {rows[0]['source_file']} are read as {frame.height}")
    return frame.with_columns(
        pl.col("source").fill_null(source.name),
        pl.col("licence").fill_null(pl.lit(source.licence or None, dtype=pl.String)),
        line=pl.Series([row["source_line"] for row in rows], dtype=pl.Int64),
        file=pl.Series([files[row["source_file"]] for row in rows], dtype=pl.UInt32),
    )
