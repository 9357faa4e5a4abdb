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
            where operation <> 'change'
        ), paired as (
            -- Grouped, not joined: nothing is known of these rows, and a first load of 100,000 would meet itself.
            select min(source) filter (where operation = 'add') as source,
                min(key) filter (where operation = 'add') as key,
                min(source) filter (where operation = 'delete') as old_source,
                min(key) filter (where operation = 'delete') as old_key,
                sum(chunks_added) as chunks_added, sum(chunks_changed) as chunks_changed,
                sum(chunks_deleted) as chunks_deleted
            from placed group by content, place
        ), told as (
            select operation, source, key, '' as old_source, '' as old_key, chunks_added, chunks_changed, chunks_deleted
            from done where operation = 'change'
            union all
            select case when old_key is null then 'add' when key is null then 'delete' else 'move' end,
                coalesce(source, old_source), coalesce(key, old_key),
                case when key is null then '' else coalesce(old_source, '') end,
                case when key is null then '' else coalesce(old_key, '') end,
                chunks_added, chunks_changed, chunks_deleted
            from paired
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
