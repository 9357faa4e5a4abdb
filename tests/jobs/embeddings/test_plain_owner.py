"""As in production: the role that owns the database is no superuser, so nothing is allowed that it was not given."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmjobs.contracts.embeddings import MeasureConfig
from llmjobs.database.connection import connect
from llmjobs.database.migrate import migrate
from llmjobs.embeddings.generations import roll_back
from llmjobs.embeddings.measure import measure
from llmjobs.embeddings.search import collections, search
from llmjobs.embeddings.search.exchange import export_index, import_index
from llmjobs.lake import Lake
from tests.jobs.embeddings.conftest import CONFIG
from tests.jobs.embeddings.night import CountingModel, Night, check_sound


@pytest.fixture
def owned(plain_owner: tuple[str, str], empty_database_url: str, tmp_path: Path) -> Night:
    name, url = plain_owner
    with connect(empty_database_url, vectors=False) as administrator:
        administrator.execute("do $$ begin create role nightshift_reader; exception when others then null; end $$")
        administrator.execute(f"grant nightshift_reader to {name}".encode())
    with connect(url, vectors=False) as connection:
        migrate(connection)
    return Night(Lake(f"file://{tmp_path}"), tmp_path / "documents" / "notes", url, CountingModel(), CONFIG)


def test_nights_searches_and_a_rollback_need_no_superuser(owned: Night, tmp_path: Path) -> None:
    owned.write(one="alpha beta gamma", two="delta epsilon zeta", three="eta theta iota")
    owned.refresh()
    owned.write(two="delta changed", four="kappa lambda")
    owned.model = CountingModel(name="other", dimensions=24)
    result = owned.refresh()
    with connect(owned.url) as connection:
        check_sound(connection, owned)
        values = owned.config.model_dump() | {"run_id": result.run_id}
        assert measure(connection, MeasureConfig.model_validate(values)).broken == []
        for tenants, most in ((["public"], 4), (["nobody"], 0), ([], 0)):
            hits = search(connection, "notes", "delta changed", 4, tenants=tenants, encoder=owned.model)
            assert len(hits) == most
            assert all(hit.document == "two.md" for hit in hits[:1])
        assert collections.count(connection, "notes", tenants=["public"]) == 4
        assert export_index(connection, "notes", tmp_path / "notes.jsonl") == 4
        import_index(connection, tmp_path / "notes.jsonl", "again")
        with connection.transaction():
            now, _ = roll_back(connection, "notes")
        assert now.generation_id == 1
