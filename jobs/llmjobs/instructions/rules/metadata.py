"""Masks personal data in what a row says beside its text: source, licence, topic and label, which are published too."""

from __future__ import annotations

import polars as pl

from llmjobs.contracts.data_contract import DataContract
from llmjobs.instructions.rules.repairs import CELL, without_personal_data
from llmjobs.instructions.tables import FIXES

METADATA = ("source", "licence", "topic", "label")
"""The columns; ``conversation`` is none of them, as only its hash is kept."""


def masked_metadata(rows: pl.DataFrame, contract: DataContract) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return rows masked in `METADATA`, with the flags of what was found, and `tables.FIXES` of what was masked.

    Each distinct value is looked at once: there are few of them.

    Args:
        rows: ``row``, `METADATA`, and a boolean column for each of `PII_FLAGS` that was found in the texts.
        contract: What happens to each kind of personal data.
    """
    fixes = [pl.DataFrame(schema=FIXES)]
    for name in METADATA:
        values = rows[name].drop_nulls().unique(maintain_order=True)
        numbers = pl.int_range(values.len(), dtype=pl.UInt32, eager=True)
        cells = pl.DataFrame({"cell": numbers, "row": numbers, "part": name, "text": values}, schema=CELL)
        safe, found, maskings = without_personal_data(cells, contract)
        if found.is_empty():
            continue
        places = rows.select(pl.col("row").alias("place"), text=name).join(
            cells.select("text", number="row"), on="text", maintain_order="left"
        )
        for (flag,), some in found.group_by("flag", maintain_order=True):
            where = places.filter(pl.col("number").is_in(some["row"].implode()))["place"]
            here = pl.col("row").is_in(where.implode())
            seen = pl.col(str(flag)).fill_null(value=False) if flag in rows.columns else pl.lit(value=False)
            rows = rows.with_columns((seen | here).alias(str(flag)))
        rows = rows.with_columns(pl.col(name).replace(cells["text"], safe["text"]))
        numbered = places.join(maskings.rename({"row": "number"}).cast({"number": pl.UInt32}), on="number")
        fixes.append(numbered.rename({"place": "row"}).select(*FIXES).cast(FIXES))  # type: ignore[arg-type]
    return rows, pl.concat(fixes)
