"""Documents that could not be read, cut or embedded: when they are tried again, and when no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.embeddings import Refused, RetryConfig
from llmjobs.database.connection import Connection

SHOWN = 20
"""Most that a result names; the table ``document_failure`` has all."""

Name = tuple[str, str]
"""Source and key."""


@dataclass(frozen=True)
class Failure:
    """A document that failed.

    Attributes:
        container: Where it is read; of a container that fails as a whole the key is the same.
        content_hash: What it held when it failed; None where not even that could be read.
        due: Whether it is to be tried again now.
    """

    source: str
    key: str
    container: str
    content_hash: bytes | None
    due: bool


def known_failures(connection: Connection, index_id: int | None) -> dict[Name, Failure]:
    """Return the failures of an index."""
    rows = connection.execute(
        """
        select source, key, container, content_hash, coalesce(next_try_at <= now(), false) from document_failure
        where index_id = %s
        """,
        [index_id],
    ).fetchall()
    return {(row[0], row[1]): Failure(*row) for row in rows}


def forget_failures(connection: Connection, index_id: int, names: Iterable[Name]) -> None:
    """Delete failures of documents that are gone or mended."""
    found = list(names)
    if found:
        connection.execute(
            """
            delete from document_failure f using unnest(%s::text[], %s::text[]) as n (source, key)
            where f.index_id = %s and f.source = n.source and f.key = n.key
            """,
            [[source for source, _ in found], [key for _, key in found], index_id],
        )


def retry_all(connection: Connection, index_id: int) -> None:
    """Let every failed document be tried again by the next run: another model or chunker may take it."""
    connection.execute("update document_failure set attempts = 0, next_try_at = now() where index_id = %s", [index_id])


def settle_failures(connection: Connection, index_id: int, run_id: int, retry: RetryConfig) -> None:
    """Move a run's refusals to the table of failures, and drop those of what it published.

    Call it in the closing transaction: a run that is killed and finished later counts as one attempt.
    """
    values: dict[str, Any] = {"index": index_id, "run": run_id, "most": retry.attempts, "hours": retry.first_hours}
    connection.execute(
        """
        delete from document_failure f using refresh_plan p
        where p.run_id = %(run)s and p.outcome = 'published'
            and f.index_id = %(index)s and f.source = p.source and f.key = p.key
            and not exists (select from refresh_plan r where r.run_id = p.run_id and r.source = p.source
                and r.key = p.key and r.outcome = 'refused')
        """,
        values,
    )
    # Twice as long a wait after each attempt; none after the last.
    connection.execute(
        """
        with refused as (
            select distinct on (source, key) * from refresh_plan where run_id = %(run)s and outcome = 'refused'
        ), tried as (
            select r.*, 1 + coalesce(f.attempts, 0) as attempts from refused r left join document_failure f
                on f.index_id = %(index)s and f.source = r.source and f.key = r.key
                and f.content_hash is not distinct from r.content_hash
        )
        insert into document_failure as f
            (index_id, source, key, container, content_hash, attempts, next_try_at, error_class, error, run_id)
        select %(index)s, source, key, container, content_hash, attempts,
            case when attempts < %(most)s then now() + %(hours)s * 2 ^ least(attempts - 1, 16) * interval '1 hour' end,
            error_class, reason, %(run)s
        from tried
        on conflict (index_id, source, key) do update set container = excluded.container,
            content_hash = excluded.content_hash, attempts = excluded.attempts, next_try_at = excluded.next_try_at,
            error_class = excluded.error_class, error = excluded.error, run_id = excluded.run_id
        """,
        values,
    )


def refused_of(connection: Connection, run_id: int) -> list[Refused]:
    """Return the first documents that a finished run refused."""
    rows = connection.execute(
        "select key, error, source from document_failure where run_id = %s order by source, key limit %s",
        [run_id, SHOWN],
    ).fetchall()
    return [Refused(document=key, reason=reason, source=source) for key, reason, source in rows]


def failure_counts(connection: Connection, index_id: int) -> dict[str, int]:
    """Return how many documents wait for another try, and how many are quarantined."""
    row = connection.execute(
        "select count(next_try_at), count(*) - count(next_try_at) from document_failure where index_id = %s",
        [index_id],
    ).fetchone()
    assert row is not None
    return {"documents_waiting": int(row[0]), "documents_quarantined": int(row[1])}
