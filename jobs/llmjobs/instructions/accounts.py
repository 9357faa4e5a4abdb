"""Takes every row of the sources to one of three ends: published, quarantined or a duplicate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import polars as pl

from llmjobs.contracts.instructions import DataContract
from llmjobs.instructions.duplicates import identify, point_to_kept
from llmjobs.instructions.examination import RULES
from llmjobs.instructions.formats import is_row
from llmjobs.instructions.old_examination import examine_chunk
from llmjobs.instructions.reading import ReadRow, read_rows
from llmjobs.instructions.sources import Sources
from llmjobs.instructions.splits import SIDES, divide

CHUNK_ROWS = 50_000
"""Rows that are examined at once; texts of rows that stay are not held twice."""


@dataclass(frozen=True)
class Accounts:
    """Where every row went.

    Attributes:
        table: One row for each row read, in reading order: where it is from, one boolean for each rule and for each
            end (``quarantined``, ``duplicate``, ``published``), and of quarantined rows ``raw`` and what was wrong.
        sides: The published rows of each side.
        duplicates: Dropped rows with ``kept_row``, the row that stays.
        fixes: Repaired parts, before and after.
    """

    table: pl.DataFrame
    sides: dict[str, pl.DataFrame]
    duplicates: pl.DataFrame
    fixes: pl.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """Rows in, rows by where they went, and rows by side."""
        table = self.table
        found = {"rows_in": table.height}
        found |= {end: int(table[end].sum()) for end in ("published", "quarantined")}
        found["duplicates"] = int(table["duplicate"].sum())
        found |= {f"{side}_rows": self.sides[side].height for side in SIDES}
        return found


def account_for(sources: Sources, contract: DataContract) -> Accounts:
    """Read, examine, deduplicate and divide the rows of `sources`.

    Raises:
        RuntimeError: A row has no end, or two: an error of this program, so nothing may be published.
    """
    rows, fixes = _examine_all(_read_all(sources), contract)
    good = point_to_kept(identify(rows.filter(~pl.col("quarantined"))), exact=contract.dedupe.exact)
    stays = pl.col("row") == pl.col("kept_row")
    published, duplicates = good.filter(stays), good.filter(~stays)
    table = rows.drop("messages").with_columns(
        published=pl.col("row").is_in(published["row"].implode()),
        duplicate=pl.col("row").is_in(duplicates["row"].implode()),
    )
    columns = ["row_id", "group_id", "messages", "source_file", "source_line"]
    accounts = Accounts(table, divide(published.select(columns), contract.split), duplicates, fixes)
    refuse_lost_rows(accounts)
    return accounts


def refuse_lost_rows(accounts: Accounts) -> None:
    """Return when rows in = published + quarantined + duplicates, row by row and in the files to be written.

    Raises:
        RuntimeError: They are not.
    """
    ends = pl.sum_horizontal(pl.col(end).cast(pl.Int64) for end in ("published", "quarantined", "duplicate"))
    wrong = accounts.table.filter(ends != 1).height
    counts = accounts.counts
    written = sum(counts[f"{side}_rows"] for side in SIDES)
    if wrong or written != counts["published"]:
        raise RuntimeError(
            f"{wrong} of {counts['rows_in']} rows do not have exactly one end, and {written} rows for "
            f"{counts['published']} published ones would be written; nothing is published"
        )


def _read_all(sources: Sources) -> Iterator[tuple[str, ReadRow]]:
    for file in sources.files:
        for row in read_rows(sources.read(file), is_row=is_row):
            yield file.label, row


def _examine_all(rows: Iterator[tuple[str, ReadRow]], contract: DataContract) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return all examined rows, with the raw text of quarantined ones only, and all fixes."""
    examined = [examine_chunk(0, [], contract)]
    first = 0
    while chunk := list(islice(rows, CHUNK_ROWS)):
        examined.append(examine_chunk(first, chunk, contract))
        first += len(chunk)
    kept_text = pl.when(pl.col("quarantined")).then(pl.col("raw")).alias("raw")
    columns = ["row", "source_file", "source_line", "raw", "messages", *RULES, "quarantined"]
    columns += ["read_problem", "shape_problem", "repeated_keys", "json_problem"]
    table = pl.concat(part.rows.select(columns).with_columns(kept_text) for part in examined)
    return table, pl.concat(part.fixes for part in examined)
