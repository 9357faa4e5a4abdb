"""One way to connect to Nightshift's own PostgreSQL."""

from __future__ import annotations

import os
import re
from typing import Any

import psycopg
from pgvector.psycopg import register_vector

from llmjobs.contracts.environment import DATABASE_URL, Identity
from llmjobs.contracts.errors import BadConfig, JobError

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_SECONDS = 15


def database_url() -> str:
    """Return the URL that ``LLMJOBS_DATABASE_URL`` holds, without SQLAlchemy's driver suffix.

    Raises:
        BadConfig: The variable is not set, or is not a PostgreSQL URL.
    """
    url = os.environ.get(DATABASE_URL, "")
    if not url:
        raise BadConfig(
            f"{DATABASE_URL} is not set: it names Nightshift's own database, "
            "for example postgresql://nightshift:...@127.0.0.1:5432/nightshift"
        )
    plain = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    if not plain.startswith("postgresql://"):
        raise BadConfig(f"{DATABASE_URL} must be a postgresql:// URL, it begins with {url.split(':', 1)[0]!r}")
    return plain


def connect(url: str | None = None, *, vectors: bool = True) -> Connection:
    """Open a connection in autocommit mode: every transaction is a visible ``with connection.transaction()``.

    Args:
        url: PostgreSQL URL (TCP or socket); by default ``LLMJOBS_DATABASE_URL``.
        vectors: Register pgvector's types. False only before the extension exists.

    Raises:
        BadConfig: No URL, or the database has no ``vector`` type yet (migrations have not run).
        JobError: The server cannot be reached or refuses us; worth another try.
    """
    try:
        connection: Connection = psycopg.connect(
            url or database_url(),
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name=_application_name(),
        )
    except psycopg.OperationalError as error:
        raise JobError(f"The database cannot be reached: {str(error).strip()}; is the stack up (make up)?") from error
    if vectors:
        _register(connection)
    return connection


def _register(connection: Connection) -> None:
    try:
        register_vector(connection)
    except psycopg.ProgrammingError as error:
        connection.close()
        raise BadConfig(
            "The database has no vector type: run `python -m llmjobs.database.migrate` against it first"
        ) from error


def _application_name() -> str:
    """Name the task in ``pg_stat_activity``; PostgreSQL keeps 63 bytes."""
    identity = Identity.from_environment()
    return "/".join(part for part in ("nightshift", identity.dag_id, identity.task_id) if part)[:63]
