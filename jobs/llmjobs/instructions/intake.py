"""Reads source files and examines their rows, chunk by chunk, into a part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions.choice.quality import score, with_marks
from llmjobs.instructions.choice.selection import FEATURES, features
from llmjobs.instructions.corrections import Corrections
from llmjobs.instructions.identity import identify
from llmjobs.instructions.parts import READ_FLAGS, REFUSED_COLUMNS, UNANSWERED, Part
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.raw.sources import SourceFile, Sources
from llmjobs.instructions.rules.examination import examine

CHUNK_ROWS = 50_000
CHUNK_BYTES = 32 << 20
"""Rows, and bytes of their text, that are examined at once; a file's last rows wait for the next file's first."""

_WEIGHTS: dict[str, Any] = {"score": pl.Float32, "mark": pl.UInt8, "features": pl.Array(pl.UInt16, FEATURES)}

logger = logging.getLogger(__name__)


@dataclass
class Instruments:
    """What examining needs beside the contract; each is loaded once, and only where the contract asks for it.

    Attributes:
        count_tokens: Rows (``messages``, ``tools``) -> tokens.
        embed: Texts -> unit vectors, (texts, dimensions).
        judge: Rows (``prompt``, ``answer``) -> marks 1 to 5, null or `parts.UNANSWERED`.
        corrections: Rows to read otherwise than they stand in the files.
    """

    count_tokens: Callable[[pl.DataFrame], pl.Series] | None = None
    embed: Callable[[list[str]], np.ndarray] | None = None
    judge: Callable[[pl.DataFrame], pl.Series] | None = None
    corrections: Corrections = field(default_factory=Corrections)


def take_in(
    sources: Sources, files: Sequence[SourceFile], config: PrepareConfig, folder: Path, instruments: Instruments
) -> Part:
    """Examine files into a new part in `folder`.

    Raises:
        JobError: A file changed while it was read.
    """
    part = Part(folder, [file.label for file in files])
    for chunk in _chunks(_frames(sources, files, config)):
        examine_into(part, chunk, config, instruments)
        place = part.files[chunk["file"][-1]]
        logger.info("%s rows read, up to line %s of %s", f"{part.rows:,}", f"{chunk['line'][-1]:,}", place)
    part.finish()
    return part


def examine_into(part: Part, chunk: pl.DataFrame, config: PrepareConfig, instruments: Instruments) -> None:
    """Examine a chunk and add it to a part.

    Args:
        part: Where it goes.
        chunk: `tables.READ`, ``file``, the position of its file in `Part.files`, and ``source_number``, that of its
            source in `PrepareConfig.inputs`.
        config: With the contract.
        instruments: What the contract needs.
    """
    gone = instruments.corrections.taken_down(chunk["raw"])
    chunk, corrected = instruments.corrections.applied(chunk, config)
    gone |= instruments.corrections.taken_down(chunk["raw"])
    examined = examine(chunk.drop("file", "source_number"), config.contract, count_tokens=instruments.count_tokens)
    rows = examined.rows.with_columns(chunk["file"], source_line=pl.col("line").cast(pl.UInt32))
    names = pl.Series(part.files, dtype=pl.String)
    rows = rows.with_columns(source_file=names.gather(chunk["file"]), position=pl.int_range(0, pl.len()))
    rows = without_texts(rows, gone)
    good = weighed(identify(rows.filter(~pl.col("quarantined"))), config, instruments)
    rows = rows.join(_keys_of_refused(rows), on="position", how="left", maintain_order="left")
    read = rows.select("file", "source_line", *READ_FLAGS, "quarantined", *REFUSED_COLUMNS[1:])
    fixes = pl.concat([corrected, examined.fixes])
    fixes = fixes.filter(~pl.col("row").is_in(gone.arg_true().cast(pl.Int64).implode())) if gone.any() else fixes
    part.add(read, good, fixes)


def without_texts(rows: pl.DataFrame, gone: pl.Series) -> pl.DataFrame:
    """Return rows of which those that were taken down by their raw text are refused, with no text and no other flag.

    By the ``raw`` that is null `ends.account_for` knows them.
    """
    if not gone.any():
        return rows
    names = [name for name in (*REFUSED_COLUMNS, "messages") if name in rows.columns]
    cleared = [pl.when(gone).then(pl.lit(None)).otherwise(pl.col(name)).alias(name) for name in names]
    flags = [(pl.col(flag) & ~gone).alias(flag) for flag in READ_FLAGS]
    return rows.with_columns(*cleared, *flags, (pl.col("quarantined") | gone).alias("quarantined"))


def _keys_of_refused(rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``position`` and ``row_key`` of the refused rows that could be read: a takedown finds them too."""
    readable = rows.filter("quarantined", pl.col("messages").is_not_null())
    return identify(readable.with_columns(pl.col("prompt").fill_null(""))).select("position", "row_key")


def weighed(rows: pl.DataFrame, config: PrepareConfig, instruments: Instruments) -> pl.DataFrame:
    """Add what the later steps weigh rows by, in small types; scores, marks and features are null where nobody asks."""
    quality = config.contract.quality
    found = pl.DataFrame(schema=_WEIGHTS).clear(rows.height)
    if quality.score:
        scored = score(rows, quality, embed=instruments.embed)
        marks = found["mark"]
        if instruments.judge is not None:
            marks = instruments.judge(rows).alias("mark")
            scored = with_marks(scored, marks.set(marks == UNANSWERED, None))
        found = scored.select("score").with_columns(marks, features(rows["prompt"]))
    category = pl.Categorical()
    return rows.hstack(found).with_columns(
        pl.col("characters", "tokens").cast(pl.UInt32),
        pl.col("source", "licence", "topic", "label", "language").cast(category),
        input=pl.when(pl.col("input").str.len_bytes() > 0).then("input"),
        answer_characters=pl.col("answer").str.len_chars(),
    )


def _frames(sources: Sources, files: Sequence[SourceFile], config: PrepareConfig) -> Iterator[pl.DataFrame]:
    for position, file in enumerate(files):
        source = file.source
        form, mapping = config.reading(source)
        with sources.open(file) as stream:
            for frame in read_frames(
                stream, name=file.label, form=form, mapping=mapping, chunk_rows=CHUNK_ROWS, chunk_bytes=CHUNK_BYTES
            ):
                yield frame.with_columns(
                    pl.col("source").fill_null(source.name),
                    pl.col("licence").fill_null(pl.lit(source.licence or None, dtype=pl.String)),
                    file=pl.lit(position, dtype=pl.UInt32),
                    source_number=pl.lit(config.inputs.index(source), dtype=pl.UInt32),
                )


def _chunks(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join the small frames of small files: each examination costs some milliseconds, however few rows it has."""
    waiting: list[pl.DataFrame] = []
    rows = size = 0
    for frame in frames:
        waiting.append(frame)
        rows, size = rows + frame.height, size + int(frame["raw"].str.len_bytes().sum())
        if rows >= CHUNK_ROWS // 2 or size >= CHUNK_BYTES // 2:
            yield pl.concat(waiting)
            waiting, rows, size = [], 0, 0
    if rows:
        yield pl.concat(waiting)
