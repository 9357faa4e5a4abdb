from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.database.connection import connect, database_url
from llmjobs.database.migrate import MIGRATIONS, check_pgvector, migrate, read_migrations
from llmjobs.embeddings.search.reader import reading

ROOT = Path(__file__).parents[2]


def test_the_second_migration_applies_nothing(empty_database_url: str) -> None:
    with connect(empty_database_url, vectors=False) as connection:
        first, second = migrate(connection), migrate(connection)
    assert first.applied == [migration.name for migration in read_migrations(MIGRATIONS)]
    assert second.applied == []
    assert first.schema_version == second.schema_version == len(first.applied) > 0
    assert tuple(map(int, first.pgvector.split("."))) >= (0, 8, 0)


def test_two_migrations_at_once_apply_each_file_once(empty_database_url: str) -> None:
    def one(_: int) -> list[str]:
        with connect(empty_database_url, vectors=False) as connection:
            return migrate(connection).applied

    with ThreadPoolExecutor(4) as pool:
        applied = [name for names in pool.map(one, range(4)) for name in names]
    assert applied == [migration.name for migration in read_migrations(MIGRATIONS)]


def test_the_plain_command_migrates(empty_database_url: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "jobs"), "LLMJOBS_DATABASE_URL": empty_database_url}
    command = [sys.executable, "-m", "llmjobs.database.migrate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with connect(empty_database_url) as connection:
        assert connection.execute("select count(*) from schema_migrations").fetchone() == (
            len(read_migrations(MIGRATIONS)),
        )


def test_an_edited_migration_is_refused(empty_database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "0001_first.sql"
    file.write_text("create table first (n integer)")
    with connect(empty_database_url, vectors=False) as connection:
        migrate(connection, tmp_path)
        file.write_text("create table first (n bigint)")
        with pytest.raises(BadConfig, match=r"0001_first\.sql was edited after it was applied"):
            migrate(connection, tmp_path)


def test_a_failing_migration_leaves_nothing(empty_database_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("create table first (n integer); select 1 / 0;")
    with connect(empty_database_url, vectors=False) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate(connection, tmp_path)
        assert connection.execute("select to_regclass('first')").fetchone() == (None,)
        assert connection.execute("select count(*) from schema_migrations").fetchone() == (0,)


def test_a_newer_database_is_refused(postgres_url: str, tmp_path: Path) -> None:
    with connect(postgres_url) as connection, pytest.raises(BadConfig, match="deploy the newer code"):
        migrate(connection, tmp_path)


def test_a_gap_in_the_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("select 1")
    with pytest.raises(BadConfig, match="without gaps"):
        read_migrations(tmp_path)


@pytest.mark.parametrize("version", ["0.7.4", "0.5.1"])
def test_an_old_pgvector_is_refused_with_the_fix(version: str) -> None:
    with pytest.raises(BadConfig, match=rf"pgvector is {version} and must be 0\.8\.0 or later"):
        check_pgvector(version)


def test_a_pgvector_without_the_repairs_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_pgvector("0.8.1")
        assert "pgvector is 0.8.1" in caplog.text
        caplog.clear()
        check_pgvector("0.8.5")
        assert caplog.text == ""


def test_a_role_that_may_not_create_the_extension_is_told_the_statement(empty_database_url: str) -> None:
    with connect(empty_database_url, vectors=False) as connection:
        connection.execute("set role pg_monitor")
        with pytest.raises(BadConfig, match="must run `create extension vector` in database 'test_"):
            migrate(connection)
        connection.execute("reset role")


def test_a_database_without_the_schema_says_what_to_run(empty_database_url: str) -> None:
    with pytest.raises(BadConfig, match=r"llmjobs\.database\.migrate"):
        connect(empty_database_url)


def test_a_server_that_is_not_there_is_worth_another_try() -> None:
    with pytest.raises(JobError, match="cannot be reached") as caught:
        connect("postgresql://nobody@127.0.0.1:1/none")
    assert not isinstance(caught.value, BadConfig)


def test_urls_of_other_drivers_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", "postgresql+psycopg2://user:pw@127.0.0.1:5432/nightshift")
    assert database_url() == "postgresql://user:pw@127.0.0.1:5432/nightshift"
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", "mysql://x")
    with pytest.raises(BadConfig, match="postgresql://"):
        database_url()
    monkeypatch.delenv("LLMJOBS_DATABASE_URL")
    with pytest.raises(BadConfig, match="is not set"):
        database_url()


def test_an_owner_who_is_no_superuser_needs_the_reader_role_and_is_told_so(
    plain_owner: tuple[str, str], empty_database_url: str
) -> None:
    name, url = plain_owner
    with connect(empty_database_url, vectors=False) as administrator:
        administrator.execute("do $$ begin create role nightshift_reader; exception when others then null; end $$")
    with (
        connect(url, vectors=False) as connection,
        pytest.raises(BadConfig, match=rf"0003_search\.sql: .*grant nightshift_reader to {name};"),
    ):
        migrate(connection)


def test_an_owner_who_has_the_reader_role_migrates_and_may_search(
    plain_owner: tuple[str, str], empty_database_url: str
) -> None:
    name, url = plain_owner
    with connect(empty_database_url, vectors=False) as administrator:
        administrator.execute("do $$ begin create role nightshift_reader; exception when others then null; end $$")
        administrator.execute(f"grant nightshift_reader to {name}".encode())
    with connect(url, vectors=False) as connection:
        assert migrate(connection).applied == [migration.name for migration in read_migrations(MIGRATIONS)]
        with reading(connection, ["public"]):
            assert connection.execute("select current_user::text, (select count(*) from document)").fetchone() == (
                "nightshift_reader", 0,
            )  # fmt: skip
