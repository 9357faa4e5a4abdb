"""Requeues the quarantined rows of an audit, and no others, on top of the version that is published now.

After a rule was changed, or rows were put right (`llmjobs.instructions.corrections`), only these rows are examined
again. The published rows are taken as they are; so rows in = published before + requeued. A row that is published by
now, as an earlier replay of the same audit brought it in, is passed over: it is no duplicate of itself.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.contracts.data_contract import Format, Mapping
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.instructions import PrepareConfig, Source
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions import tables
from llmjobs.instructions.identity import identify, key_of
from llmjobs.instructions.intake import CHUNK_ROWS, Instruments, examine_into, weighed
from llmjobs.instructions.json_texts import value_of
from llmjobs.instructions.parts import READ_FLAGS, REFUSED_COLUMNS, Part
from llmjobs.instructions.published import Published
from llmjobs.instructions.quarantine import is_canonical
from llmjobs.instructions.raw.reading import kind_of, read_frames
from llmjobs.instructions.raw.sources import SourceFile, Sources
from llmjobs.instructions.rules.examination import examine
from llmjobs.lake import Lake

LAST = "last"

_LATER = {"tools", "input", "source", "licence", "topic", "label", "language", "characters", "tokens"}
"""Columns that a version of an older release may lack."""

_WHOLE_ROWS = {"json", "parquet"}
"""Kinds of files whose raw rows can be read by themselves; those of a table need its head."""

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
        found = _last(audits)
    else:
        found = [audit for audit in audits if audit.version.startswith(config.replay)]
    if len(found) != 1:
        raise BadConfig(
            f"replay: {config.replay!r} names {len(found)} of the {len(audits)} audits of dataset {config.name}; give "
            f"{LAST!r} or the id of one"
        )
    return found[0]


def _last(audits: list[Manifest]) -> list[Manifest]:
    """Return the last audit of a full night: no dry run, and no replay.

    Its quarantine holds all rows that are still put aside, so a second replay of it finds what the first one left, and
    one that changed nothing asks the same question again, which is answered already.
    """
    full = [audit for audit in audits if not audit.inputs.get("replay") and not audit.inputs.get("dry_run")]
    return full[-1:]


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
        BadData: Nothing is published yet.
    """
    if base is None:
        raise BadData(f"replay: dataset {config.name} has no published version; run it without replay first")
    audit = audit_of(lake, config)
    folder = scratch / "part"
    folder.mkdir()
    whole = Part(folder, [])
    for _, known in base.rows():
        _add_published(whole, known, config, instruments)
    rows = list(_quarantined(lake, config, audit, scratch))
    whole.files[:] = dict.fromkeys([*whole.files, *(row["source_file"] for row in rows)])
    before = whole.rows
    published = base.keys()["row_key"]
    for chunk in _requeued(rows, whole.files, config, sources):
        new = _unpublished(chunk, published, config, instruments)
        if new.height:
            examine_into(whole, new, config, instruments)
    added = whole.rows - before
    logger.info(
        "%s: %d of the %d rows put aside by audit %s are requeued, the others are published by now or not to be had",
        config.name, added, len(rows), audit.version,
    )  # fmt: skip
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
            if row["raw"] is not None:  # else it was taken down
                yield row


def _requeued(
    rows: list[dict[str, Any]], labels: list[str], config: PrepareConfig, sources: Sources
) -> Iterator[pl.DataFrame]:
    """Yield rows of a quarantine file, read again; those whose file would be needed and is gone are left out."""
    files = {label: number for number, label in enumerate(labels)}
    there = {file.label: file for file in sources.files}
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    owners: dict[str, Source] = {}
    tables_of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        label = row["source_file"]
        source = there[label].source if label in there else config.inputs[0]
        owners[source.name] = source
        if not is_canonical(row) and kind_of(label) not in _WHOLE_ROWS:
            tables_of.setdefault(label, []).append(row)
        else:
            groups.setdefault((source.name, is_canonical(row)), []).append(row)
    for (name, canonical), ours in groups.items():
        for frame, batch in _frames(ours, _Way.of(owners[name], config, canonical=canonical)):
            yield _placed(frame, batch, files, owners[name], config)
    missing = 0
    for label, ours in tables_of.items():
        found = 0
        if label in there:
            for frame, batch in _table_frames(ours, sources, there[label], config):
                found += frame.height
                yield _placed(frame, batch, files, there[label].source, config)
        missing += len(ours) - found
    if missing:
        logger.warning(
            "%s: %d rows of tables are left out of the replay, since their files are gone or changed; the next full "
            "run reads what is there now", config.name, missing,
        )  # fmt: skip


def _unpublished(
    chunk: pl.DataFrame, published: pl.Series, config: PrepareConfig, instruments: Instruments
) -> pl.DataFrame:
    """Return the rows of a chunk that the base version does not hold; an earlier replay may have published some."""
    mended, _ = instruments.corrections.applied(chunk, config)
    rows = examine(mended.drop("file", "source_number"), config.contract, count_tokens=instruments.count_tokens).rows
    good = identify(rows.with_row_index("position").filter(~pl.col("quarantined")))
    known = good.filter(pl.col("row_key").is_in(published.implode()))["position"]
    return chunk.with_row_index("position").filter(~pl.col("position").is_in(known.implode())).drop("position")


@dataclass(frozen=True)
class _Way:
    """How rows of one source are read."""

    form: Format
    mapping: Mapping | None

    @classmethod
    def of(cls, source: Source, config: PrepareConfig, *, canonical: bool = False) -> _Way:
        return cls("messages", None) if canonical else cls(*config.reading(source))

    def read(self, text: str, name: str) -> pl.DataFrame:
        frames = read_frames(io.BytesIO(text.encode()), name=name, form=self.form, mapping=self.mapping)
        return pl.concat([tables.no_rows(), *frames])


def _table_frames(
    rows: list[dict[str, Any]], sources: Sources, file: SourceFile, config: PrepareConfig
) -> Iterator[tuple[pl.DataFrame, list[dict[str, Any]]]]:
    """Yield rows of a table, read from its file, as they need its head, and as many lines of the quarantine file."""
    way, wanted = _Way.of(file.source, config), {row["source_line"]: row for row in rows}
    with sources.open(file) as stream:
        for frame in read_frames(stream, name=file.label, form=way.form, mapping=way.mapping):
            found = frame.filter(pl.col("line").is_in(list(wanted)))
            same = pl.Series([wanted[line]["raw"] for line in found["line"]], dtype=pl.String)
            found = found.filter(found["raw"] == same)
            if found.height:
                yield found, [wanted[line] for line in found["line"]]


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
    return isinstance(value_of(text), dict)


def _placed(
    frame: pl.DataFrame, rows: list[dict[str, Any]], files: dict[str, int], source: Source, config: PrepareConfig
) -> pl.DataFrame:
    """Return rows at the places where they stood, with what their source says of them."""
    if frame.height != len(rows):
        raise RuntimeError(f"replay: {len(rows)} rows of {rows[0]['source_file']} are read as {frame.height}")
    return frame.with_columns(
        pl.col("source").fill_null(source.name),
        pl.col("licence").fill_null(pl.lit(source.licence or None, dtype=pl.String)),
        line=pl.Series([row["source_line"] for row in rows], dtype=pl.Int64),
        file=pl.Series([files[row["source_file"]] for row in rows], dtype=pl.UInt32),
        source_number=pl.lit(config.inputs.index(source), dtype=pl.UInt32),
    )
