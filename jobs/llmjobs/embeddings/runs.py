"""The records of refreshes: opened by the plan, closed with the result, thinned out with time."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from llmjobs.contracts.embeddings import RefreshResult
from llmjobs.contracts.environment import Identity
from llmjobs.database.connection import Connection
from llmjobs.embeddings.failures import refused_of
from llmjobs.embeddings.generations import Generation

ABANDONED = "14 days"
"""A run that was not finished by then never will be: it goes, with its plan."""

QUIET_KEPT = "30 days"
"""How long the record of a run that changed nothing stays; the newest stays in any case."""

CHANGED_KEPT = "400 days"


def open_run(connection: Connection, target: Generation) -> int:
    """Record that a run begins, and return its id."""
    identity = Identity.from_environment()
    connection.execute(
        "delete from refresh_run where index_id = %s and state = 'planned' and started_at < now() - %s::interval",
        [target.index_id, ABANDONED],
    )
    row = connection.execute(
        """
        insert into refresh_run (index_id, generation_id, dag_id, dag_run_id, code_version)
        values (%s, %s, %s, %s, %s) returning run_id
        """,
        [target.index_id, target.generation_id, identity.dag_id, identity.run_id, identity.code_version],
    ).fetchone()
    assert row is not None
    return int(row[0])


def close_run(connection: Connection, run_id: int, result: RefreshResult) -> None:
    """Keep the result, clear the plan, and thin out old records; call it in the closing transaction."""
    connection.execute(
        "update refresh_run set state = 'done', finished_at = now(), result = %s where run_id = %s",
        [Jsonb(_told(result)), run_id],
    )
    connection.execute("delete from refresh_plan where run_id = %s", [run_id])
    connection.execute(
        """
        delete from refresh_run r using refresh_run this
        where this.run_id = %(run)s and r.index_id = this.index_id and r.run_id < this.run_id and r.state = 'done'
            and r.finished_at < now()
                - case when r.result ? 'changed' then %(changed)s else %(quiet)s end::interval
        """,
        {"run": run_id, "changed": CHANGED_KEPT, "quiet": QUIET_KEPT},
    )


def finished_result(connection: Connection, name: str, run_id: int) -> RefreshResult | None:
    """Return the result of a run of the index `name`; None where there is no such run or it is not finished."""
    row = connection.execute(
        "select result from refresh_run join search_index using (index_id) where run_id = %s and name = %s",
        [run_id, name],
    ).fetchone()
    if row is None or row[0] is None:
        return None
    elsewhere = {"name": name, "run_id": run_id, "refused": refused_of(connection, run_id)}
    return RefreshResult.model_validate({**_NOTHING, **row[0], **elsewhere})


def last_result(connection: Connection, index_id: int) -> dict[str, Any] | None:
    """Return what was kept of the run that was closed last."""
    row = connection.execute(
        "select result from refresh_run where index_id = %s and state = 'done' order by run_id desc limit 1",
        [index_id],
    ).fetchone()
    return row[0] if row else None


def note_measured(connection: Connection, run_id: int, figures: dict[str, Any]) -> None:
    """Keep what was measured after a run that changed the index."""
    connection.execute("update refresh_run set measured = %s where run_id = %s", [Jsonb(figures), run_id])


def last_measured(connection: Connection, index_id: int, before: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return what was kept of the last measured run before the run `before`: its result, and what was measured."""
    row = connection.execute(
        """
        select result, measured from refresh_run
        where index_id = %s and run_id < %s and measured is not null order by run_id desc limit 1
        """,
        [index_id, before],
    ).fetchone()
    return (row[0], row[1]) if row else None


_ELSEWHERE = {"name", "run_id", "refused"}

_NOTHING: dict[str, Any] = {
    name: False if field.annotation is bool else 0
    for name, field in RefreshResult.model_fields.items()
    if field.annotation in (int, bool)
}


def _told(result: RefreshResult) -> dict[str, Any]:
    """Return what is kept: under 1 KB, so without zeros and what is in columns or tables of its own."""
    values = result.model_dump(mode="json", exclude=_ELSEWHERE)
    return {name: value for name, value in values.items() if value not in (0, None)}
