"""The documents that a run changed, by name: a few of each kind are kept for its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from psycopg.rows import class_row

from llmjobs.database.connection import Connection

MOST_NAMED = 50
"""Documents of each kind of change that are kept by name."""

Operation = Literal["add", "change", "move", "delete"]


@dataclass(frozen=True)
class Change:
    """One document that a run changed.

    Attributes:
        operation: ``move``: the same content under another key.
        old_source: Where a moved document was; so is `old_key`.
        chunks_added: Chunks of it; so are the others.
    """

    operation: Operation
    source: str
    key: str
    old_source: str
    old_key: str
    chunks_added: int
    chunks_changed: int
    chunks_deleted: int


def keep_changes(connection: Connection, run_id: int, generation_id: int) -> int:
    """Keep the first documents of each kind of change by name, and return how many were moved.

    Call it in the closing transaction, before the plan is cleared. A document that was added has moved where one of
    the same content was deleted in the same run; of several such they are paired in the order of their names.
    """
    row = connection.execute(
        """
        with done as (
            select *, case operation when 'add' then content_hash when 'delete' then previous_hash end as content
            from refresh_plan where run_id = %(run)s and generation_id = %(generation)s and outcome = 'published'
        ), placed as (
            select *, row_number() over (partition by operation, content order by source, key) as place from done
        ), told as (
            select case when o.key is null then n.operation else 'move' end as operation, n.source, n.key,
                coalesce(o.source, '') as old_source, coalesce(o.key, '') as old_key,
                n.chunks_added, n.chunks_changed, n.chunks_deleted
            from placed n left join placed o
                on o.content = n.content and o.operation <> n.operation and o.place = n.place
            where n.operation <> 'delete' or o.key is null
        ), kept as (
            insert into refresh_change
            select %(run)s, operation, source, key, old_source, old_key, chunks_added, chunks_changed, chunks_deleted
            from (select *, row_number() over (partition by operation order by source, key) as nth from told) numbered
            where nth <= %(most)s
        )
        select count(*) from told where operation = 'move'
        """,
        {"run": run_id, "generation": generation_id, "most": MOST_NAMED},
    ).fetchone()
    assert row is not None
    return int(row[0])


def changes_of(connection: Connection, run_id: int) -> list[Change]:
    """Return what was kept of a run, in the order of the names."""
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(
            """
            select operation, source, key, old_source, old_key, chunks_added, chunks_changed, chunks_deleted
            from refresh_change where run_id = %s order by source, key
            """,
            [run_id],
        ).fetchall()
