"""Bring the database to the schema that this code expects: numbered SQL files, applied once, in order.

As a plain command it needs ``LLMJOBS_DATABASE_URL`` only: ``python -m llmjobs.database.migrate``. As a job of
Airflow it reads its (empty) config from ``LLMJOBS_CONFIG`` like every other.

Rules: a file is applied in one transaction together with its row in ``schema_migrations``; a file that was
applied is never edited (its SHA-256 is compared); a session lock lets one migration run at a time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg

from llmjobs.contracts import environment
from llmjobs.contracts.database import MigrateConfig, MigrateResult
from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.results import main

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).with_name("migrations")

LOCK = 0x4E494748  # "NIGH": the key of the session lock, any fixed number would do

PGVECTOR_NEEDED = (0, 8, 0)
"""First version with iterative scans, which filtered search uses."""

PGVECTOR_WANTED = (0, 8, 5)
"""First version with the HNSW repairs of 0.8.2 (overflow), 0.8.3 (vacuum) and 0.8.4 (graph not repaired)."""


@dataclass(frozen=True)
class Migration:
    """One numbered SQL file."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's text, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def run(config: MigrateConfig) -> MigrateResult:  # noqa: ARG001 - a job's shape; there is nothing to configure
    """Migrate the database of ``LLMJOBS_DATABASE_URL``."""
    with connect(vectors=False) as connection:
        return migrate(connection)


def migrate(connection: Connection, folder: Path = MIGRATIONS) -> MigrateResult:
    """Apply the migrations of `folder` that the database does not have yet.

    Args:
        connection: In autocommit mode.
        folder: Holds files named ``0001_what.sql``, ``0002_...``.

    Raises:
        BadConfig: pgvector is absent, too old or not ours to create; a migration was edited after it was
            applied; the database is newer than this code.
    """
    connection.execute("select pg_advisory_lock(%s)", [LOCK])
    try:
        pgvector = _require_pgvector(connection)
        migrations = read_migrations(folder)
        pending = _pending(connection, migrations)
        for migration in pending:
            _apply(connection, migration)
    finally:
        connection.execute("select pg_advisory_unlock(%s)", [LOCK])
    return MigrateResult(
        schema_version=migrations[-1].version if migrations else 0,
        applied=[migration.name for migration in pending],
        pgvector=pgvector,
    )


def read_migrations(folder: Path) -> list[Migration]:
    """Return the migrations of a folder in order.

    Raises:
        BadConfig: A file's name has no number, or the numbers are not 1, 2, 3, ...
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = re.match(r"(\d{4})_\w+\.sql$", path.name)
        if match is None:
            raise BadConfig(f"{path}: a migration is named 0001_what.sql")
        found.append(Migration(int(match[1]), path.name, path.read_text(encoding="utf-8")))
    numbers = [migration.version for migration in found]
    if numbers != list(range(1, len(numbers) + 1)):
        raise BadConfig(f"{folder}: migrations must be numbered 1, 2, 3, ... without gaps, got {numbers}")
    return found


def _pending(connection: Connection, migrations: list[Migration]) -> list[Migration]:
    connection.execute(
        """
        create table if not exists schema_migrations (
            version integer primary key,
            name text not null,
            sha256 text not null,
            applied_at timestamptz not null default now()
        )
        """
    )
    applied: dict[int, str] = dict(connection.execute("select version, sha256 from schema_migrations").fetchall())
    known = {migration.version: migration for migration in migrations}
    for version, sha256 in sorted(applied.items()):
        if version not in known:
            raise BadConfig(
                f"The database is at migration {version}, this code knows {len(known)}: deploy the newer code"
            )
        if known[version].sha256 != sha256:
            raise BadConfig(
                f"{known[version].name} was edited after it was applied: put it back and write a new migration"
            )
    return [migration for migration in migrations if migration.version not in applied]


def _apply(connection: Connection, migration: Migration) -> None:
    with connection.transaction():
        try:
            connection.execute(migration.sql.encode())
        except psycopg.errors.RaiseException as error:  # a migration says itself what an administrator must do
            raise BadConfig(f"{migration.name}: {error.diag.message_primary}") from error
        connection.execute(
            "insert into schema_migrations (version, name, sha256) values (%s, %s, %s)",
            [migration.version, migration.name, migration.sha256],
        )
    logger.info("applied %s", migration.name)


def _require_pgvector(connection: Connection) -> str:
    """Create the extension when it is absent and we may; return its version, as in ``0.8.5``."""
    row = connection.execute("select extversion from pg_extension where extname = 'vector'").fetchone()
    if row is None:
        _create_extension(connection)
        row = connection.execute("select extversion from pg_extension where extname = 'vector'").fetchone()
    version = str(row[0]) if row else "0"
    check_pgvector(version)
    return version


def _create_extension(connection: Connection) -> None:
    try:
        connection.execute("create extension if not exists vector")
    except psycopg.errors.InsufficientPrivilege as error:
        raise BadConfig(
            f"The role may not create the extension: an administrator must run `create extension vector` "
            f"in database {connection.info.dbname!r} once"
        ) from error
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        raise BadConfig(
            f"The PostgreSQL server has no pgvector: install version {_dotted(PGVECTOR_WANTED)} or later on it"
        ) from error


def check_pgvector(version: str) -> None:
    """Refuse a pgvector that lacks what we use; warn about one that lacks later repairs.

    Raises:
        BadConfig: Older than `PGVECTOR_NEEDED`.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version))
    if numbers < PGVECTOR_NEEDED:
        raise BadConfig(
            f"pgvector is {version} and must be {_dotted(PGVECTOR_NEEDED)} or later: install it on the server, "
            "then run `alter extension vector update`"
        )
    if numbers < PGVECTOR_WANTED:
        logger.warning(
            "pgvector is %s; %s repairs HNSW indexes (overflow in parallel builds, vacuum): update when you can",
            version,
            _dotted(PGVECTOR_WANTED),
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)


if __name__ == "__main__":
    os.environ.setdefault(environment.CONFIG, "{}")
    sys.exit(main(MigrateConfig, run))
