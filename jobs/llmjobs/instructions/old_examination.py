"""The examination of the pipeline that is about to go: rows one by one, no masking; `accounts` alone uses it."""

from __future__ import annotations

import polars as pl

from llmjobs.contracts.instructions import PII_KINDS, DataContract
from llmjobs.instructions.examination import Examined, examine
from llmjobs.instructions.json_rows import ReadRow
from llmjobs.instructions.row_frames import frame_of
from llmjobs.instructions.row_layouts import Layouts


def examine_chunk(first: int, chunk: list[tuple[str, ReadRow]], contract: DataContract) -> Examined:
    """Apply `contract` to rows, the first of which is number `first` of the run."""
    off = contract.model_copy(
        update={
            "pii": contract.pii.model_copy(update=dict.fromkeys(PII_KINDS, "off")),
            "rules": contract.rules.model_copy(update={"truncated_answer": "off", "language_mismatch": "off"}),
        }
    )
    found = examine(frame_of([row for _, row in chunk], Layouts(contract.format)), off)
    rows = found.rows.with_columns(
        pl.Series("source_file", [file for file, _ in chunk], dtype=pl.String),
        row=pl.int_range(first, first + len(chunk), dtype=pl.Int64, eager=True),
        source_line=pl.col("line"),
        messages=pl.col("messages").list.eval(
            pl.struct(role=pl.element().struct.field("role"), content=pl.element().struct.field("content"))
        ),
    )
    return Examined(rows, found.fixes.with_columns(row=pl.col("row") + first))
