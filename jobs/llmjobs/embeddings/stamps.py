"""What a run found out about its sources: staged by the plan, moved by the closing transaction.

Stamps, manifest and watermark decide what later runs do not read. So they move only once the documents behind them are
settled: published, or refused and written down as failures.
"""

from __future__ import annotations

from typing import Any

from psycopg import sql

from llmjobs.database.connection import Connection
from llmjobs.embeddings.survey import Survey


def stage(connection: Connection, run_id: int, found: Survey) -> None:
    """Write down what a source said; nothing where nothing differs."""
    if not found.changed:
        return
    connection.execute(
        "insert into refresh_source (run_id, source, settings, manifest, watermark, rehashed)"
        " values (%s, %s, %s, %s, %s, %s)",
        [run_id, found.source, found.settings, found.manifest, found.scan.watermark, found.everything],
    )
    # A container that was read without being listed keeps the stamp that it has, if any.
    rows: list[tuple[Any, ...]] = [(run_id, found.source, *one) for one in found.read.items() if one[1]]
    rows += [(run_id, found.source, container, None) for container in found.gone]
    if rows:
        statement = "copy refresh_container (run_id, source, container, stamp) from stdin with (format binary)"
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["int8", "text", "text", "text"])
            for row in rows:
                copy.write_row(row)


def stage_removal(connection: Connection, run_id: int, source: str) -> None:
    """Write down that the config no longer names a source."""
    connection.execute(
        "insert into refresh_source (run_id, source, settings, watermark, rehashed, removed)"
        " values (%s, %s, '', '', false, true)",
        [run_id, source],
    )


def settle(connection: Connection, index_id: int, run_id: int, sources: list[str]) -> bool:
    """Move what a run staged; return whether it staged anything. Call it in the closing transaction.

    Where a run that was planned later has ended before, its word stands.

    Args:
        connection: In a transaction.
        index_id: The index.
        run_id: The run.
        sources: Those of the config, whose runs are counted until all is read again.
    """
    values: dict[str, Any] = {"index": index_id, "run": run_id, "sources": sources}
    connection.execute(
        """
        delete from refresh_source r using source_state s
        where r.run_id = %(run)s and s.index_id = %(index)s and s.source = r.source and s.run_id > r.run_id
        """,
        values,
    )
    staged = connection.execute("select source, removed from refresh_source where run_id = %(run)s", values).fetchall()
    if staged:
        _move_stamps(connection, values)
        _move_states(connection, values)
    for source in (source for source, removed in staged if removed):
        _forget(connection, index_id, source)
    values["quiet"] = [source for source in sources if source not in dict(staged)]
    connection.execute(
        "update source_state set runs_since_rehash = runs_since_rehash + 1"
        " where index_id = %(index)s and source = any(%(quiet)s)",
        values,
    )
    connection.execute("delete from refresh_container where run_id = %(run)s", values)
    connection.execute("delete from refresh_source where run_id = %(run)s", values)
    return bool(staged)


def _move_stamps(connection: Connection, values: dict[str, Any]) -> None:
    """Move the stamps of containers whose documents are all settled."""
    connection.execute(
        sql.SQL(
            """
        delete from source_container s using ({settled}) c
        where s.index_id = %(index)s and s.source = c.source and s.container = c.container and c.stamp is null
            """
        ).format(settled=_SETTLED),
        values,
    )
    connection.execute(
        sql.SQL(
            """
        insert into source_container (index_id, source, container, stamp)
        select %(index)s, source, container, stamp from ({settled}) c where stamp is not null
        on conflict (index_id, source, container) do update set stamp = excluded.stamp
        where source_container.stamp <> excluded.stamp
            """
        ).format(settled=_SETTLED),
        values,
    )


# A superseded or vanished document must be looked at again. Those are few, and found once, not once a container.
_SETTLED = sql.SQL(
    """
    with unsettled as materialized (
        select distinct source, container from refresh_plan
        where run_id = %(run)s and outcome in ('superseded', 'vanished')
    )
    select source, container, stamp
    from refresh_container join refresh_source using (run_id, source) left join unsettled u using (source, container)
    where run_id = %(run)s and u.source is null
    """
)


def _move_states(connection: Connection, values: dict[str, Any]) -> None:
    """Move manifest and watermark; where a document is unsettled the next run looks closer, from the old watermark."""
    connection.execute(
        """
        insert into source_state as s
            (index_id, source, settings, manifest, watermark, runs_since_rehash, run_id)
        select %(index)s, source, settings, case when settled then manifest end,
            case when settled then watermark else '' end, 0, run_id
        from (
            select *, not exists (
                select from refresh_plan p
                where p.run_id = r.run_id and p.source = r.source and p.outcome in ('superseded', 'vanished')
            ) as settled
            from refresh_source r where run_id = %(run)s and not removed
        ) r
        on conflict (index_id, source) do update set settings = excluded.settings, manifest = excluded.manifest,
            watermark = case when excluded.watermark = '' then s.watermark else excluded.watermark end,
            runs_since_rehash = case when (select rehashed from refresh_source r
                where r.run_id = excluded.run_id and r.source = s.source) then 0 else s.runs_since_rehash + 1 end,
            run_id = excluded.run_id
        """,
        values,
    )


def _forget(connection: Connection, index_id: int, source: str) -> None:
    """Drop what is known of a source that the config no longer names, once all its documents are gone."""
    left = connection.execute(
        "select from document where index_id = %s and source = %s limit 1", [index_id, source]
    ).fetchone()
    if left is None:
        for table in ("source_container", "source_state", "document_failure"):
            delete = sql.SQL("delete from {} where index_id = %s and source = %s")
            connection.execute(delete.format(sql.Identifier(table)), [index_id, source])
