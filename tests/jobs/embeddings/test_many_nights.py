"""What nights leave behind: nothing where nothing changed; and what a night does that the database leaves alone."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.model import Vectors
from tests.jobs.embeddings.night import CountingModel, Night, check_sound

SERVING = ("document", "document_state", "chunk", "embedding_cache")


@pytest.fixture
def loaded(night: Night) -> Night:
    for number in range(12):
        night.write(**{f"note{number:02}": f"# Note {number}\n\nText {number}.\n\n## More\n\nMore {number}."})
    night.refresh()
    return night


def footprint(connection: Connection) -> dict[str, Any]:
    """Return sizes and row versions of the serving tables and their indexes, and the size of the catalogue."""
    row = connection.execute("select max(generation_id) from generation").fetchone()
    assert row is not None
    found: dict[str, Any] = {}
    for table in (*SERVING, f"chunk_vector_{row[0]}"):
        found[table] = connection.execute(f"select ctid::text, xmin::text from {table} order by 1".encode()).fetchall()
        found[f"{table} bytes"] = connection.execute(
            "select relname, pg_relation_size(oid) from pg_class where oid = %s::regclass"
            " or oid in (select indexrelid from pg_index where indrelid = %s::regclass) order by 1",
            [table, table],
        ).fetchall()
    found["catalogue"] = connection.execute(
        "select sum(pg_relation_size(oid)) from pg_class where relnamespace = 'pg_catalog'::regnamespace"
    ).fetchone()
    return found


def test_identical_nights_leave_tables_and_indexes_as_they_are(loaded: Night, connection: Connection) -> None:
    loaded.refresh()
    before = footprint(connection)
    for _ in range(8):  # with one that reads all again
        assert loaded.refresh().changed is False
    assert footprint(connection) == before


def test_a_record_is_small_and_old_ones_go(loaded: Night, connection: Connection) -> None:
    quiet = loaded.refresh()
    size = "select max(pg_column_size(r.*)) from refresh_run r"
    row = connection.execute(size).fetchone()
    assert row is not None
    assert row[0] <= 1024
    connection.execute("update refresh_run set finished_at = now() - interval '40 days'")
    loaded.refresh()
    kept = [run_id for (run_id,) in connection.execute("select run_id from refresh_run order by 1").fetchall()]
    # The run that changed the index stays longer than the quiet one.
    assert quiet.run_id not in kept
    assert len(kept) == 2


def test_one_percent_changed_costs_the_new_distinct_texts(loaded: Night, connection: Connection) -> None:
    loaded.model.encoded.clear()
    loaded.write(note01="# Note 1\n\nText 1.\n\n## More\n\nSame.", note02="# Note 1\n\nText 1.\n\n## More\n\nSame.")
    result = loaded.refresh()
    assert (result.chunks_changed, result.texts_embedded, len(loaded.model.encoded)) == (3, 1, 1)
    assert result.tokens_embedded > 0
    check_sound(connection, loaded)


class DatabaseEnds(CountingModel):
    """The database ends all connections while the model works."""

    url: str = ""

    def encode(self, texts: list[str]) -> Vectors:
        if not self.encoded:
            with connect(self.url) as other:
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
        return super().encode(texts)


def test_a_database_that_restarts_meanwhile_costs_at_most_what_was_in_flight(night: Night) -> None:
    for number in range(6):
        night.write(**{f"note{number}": f"# Note {number}\n\nText {number}."})
    model = DatabaseEnds()
    model.url = night.url
    night.model = model
    with connect(night.url) as connection:
        planned = night.plan(connection)
        with pytest.raises(psycopg.OperationalError):
            night.embed(connection, planned.run_id, planned.shards[0].shard)
    with connect(night.url) as connection:
        for work in planned.shards:
            night.embed(connection, planned.run_id, work.shard)
        result = night.finalise(connection, planned.run_id)
        assert (result.documents, result.documents_added, result.texts_embedded) == (6, 6, 6)
        check_sound(connection, night)


def beside(night: Night, **more: Any) -> None:
    """Let the config ask for another model from now on."""
    night.model = CountingModel(name="other", dimensions=24)
    night.models["other"] = night.model
    night.config = RefreshConfig.model_validate(night.config.model_dump() | more)


def test_a_new_generation_is_filled_over_several_nights_while_both_follow(
    loaded: Night, connection: Connection
) -> None:
    first = loaded.model
    first.encoded.clear()
    beside(loaded, rollout={"documents_per_run": 5})
    shown = [loaded.refresh()]
    assert (shown[0].dimensions, shown[0].changed, shown[0].next_documents) == (16, False, 5)
    loaded.write(note00="# Note 0\n\nEdited.\n\n## More\n\nMore 0.")
    shown.append(loaded.refresh())
    assert (shown[1].documents_changed, shown[1].dimensions, len(first.encoded)) == (1, 16, 1)
    while shown[-1].dimensions != 24:
        shown.append(loaded.refresh())
        assert len(shown) < 6
    assert (shown[-1].documents, shown[-1].changed, shown[-1].next_generation_id) == (12, True, 0)
    check_sound(connection, loaded)


def test_a_model_that_is_gone_does_not_keep_the_new_one_from_being_filled(
    loaded: Night, connection: Connection
) -> None:
    beside(loaded)
    del loaded.models["counting"]
    loaded.write(note00="# Note 0\n\nEdited.")
    result = loaded.refresh()
    assert (result.dimensions, result.documents, result.documents_added) == (24, 12, 12)
    check_sound(connection, loaded)
