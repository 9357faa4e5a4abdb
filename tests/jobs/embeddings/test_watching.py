from __future__ import annotations

import uuid

import numpy as np
import pytest

from llmjobs.contracts.embeddings import MeasureConfig, MeasureResult
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings import generations
from llmjobs.embeddings.generations import Generation, active_generation
from llmjobs.embeddings.measure import measure, mirrored, run
from llmjobs.embeddings.recall import measured_recall
from llmjobs.embeddings.table_checks import CHECKS, check_tables, wrong_counts
from tests.jobs.embeddings.night import DIMENSIONS, Night

ANY = "(select chunk_id from chunk order by 1 limit 1)"
ONE = "(select chunk_id from chunk where ordinal = 1 order by 1 limit 1)"

# One change that breaks each check, on a sound generation {id} of two-chunk documents.
BREAKS = {
    "vectors_without_chunk": f"delete from chunk where chunk_id = {ONE}",
    "chunks_without_vector": "delete from chunk_vector_{id} where chunk_id = " + ANY,
    "empty_chunks": f"update chunk set content = '' where chunk_id = {ANY}",
    "repeated_places": f"update chunk set ordinal = 0 where chunk_id = {ONE}",
    "gaps": f"update chunk set ordinal = 7 where chunk_id = {ONE}",
    "wrong_norms": "update chunk_vector_{id} set embedding = embedding + embedding",
    "wrong_tenants": f"update chunk set tenant = 'other' where chunk_id = {ANY}",
}


@pytest.fixture
def generation(night: Night, connection: Connection) -> Generation:
    words = [f"word{number}" for number in range(16)]
    for number in range(12):
        one, two = (" ".join(words[(number + shift) % 16] for shift in range(start, start + 12)) for start in (0, 5))
        night.write(**{f"note{number}": f"# First {number}\n\n{one}\n\n# Second {number}\n\n{two}\n"})
    night.refresh_on(connection)
    found = active_generation(connection, "notes")
    assert found is not None
    return found


def test_a_sound_index_finds_what_an_exact_scan_finds(generation: Generation, connection: Connection) -> None:
    recall = measured_recall(connection, generation, 20)
    assert recall is not None
    assert recall.value >= 0.99
    assert 1 < recall.queries <= 20
    assert measured_recall(connection, generation, 20) == recall


def test_a_careless_index_is_seen_in_the_recall(generation: Generation, connection: Connection) -> None:
    table, index = (f"chunk_vector_{generation.generation_id}{suffix}" for suffix in ("", "_hnsw"))
    with connection.transaction(), connection.cursor() as cursor:
        statement = f"copy {table} (chunk_id, document_id, embedding) from stdin with (format binary)".encode()
        with cursor.copy(statement) as copy:
            copy.set_types(["uuid", "int8", "vector"])
            for vector in np.random.default_rng(1).standard_normal((3_000, DIMENSIONS)).astype(np.float32):
                copy.write_row((uuid.uuid4(), 1, vector))
    recalls = {}
    for m, ef_construction in ((16, 64), (2, 4)):
        connection.execute(f"drop index {index}".encode())
        options = f"with (m = {m}, ef_construction = {ef_construction})"
        connection.execute(
            f"create index {index} on {table} using hnsw (embedding vector_cosine_ops) {options}".encode()
        )
        recall = measured_recall(connection, generation, 30)
        assert recall is not None
        recalls[m] = recall.value
    assert recalls[16] > 0.95
    assert recalls[2] < 0.8


def test_an_empty_generation_has_no_recall(night: Night, connection: Connection) -> None:
    night.write(a="word " * 5)
    planned = night.plan(connection)
    found = connection.execute("select 1 from generation where generation_id = %s", [planned.generation_id]).fetchone()
    assert found == (1,)
    empty = generations.generation(connection, planned.generation_id)
    assert empty is not None
    assert measured_recall(connection, empty, 5) is None


def test_sound_tables_pass_and_great_expectations_says_so(generation: Generation, connection: Connection) -> None:
    verdict = check_tables(connection, generation)
    assert verdict.passed
    assert verdict.broken == []
    assert [result["check"] for result in verdict.record["results"]] == list(CHECKS)


@pytest.mark.parametrize("check", BREAKS)
def test_each_defect_is_counted(check: str, generation: Generation, connection: Connection) -> None:
    assert set(wrong_counts(connection, generation).values()) == {0}
    connection.execute(BREAKS[check].format(id=generation.generation_id).encode())
    assert wrong_counts(connection, generation)[check] > 0


def test_a_defect_is_told_in_a_sentence(generation: Generation, connection: Connection) -> None:
    connection.execute(BREAKS["chunks_without_vector"].format(id=generation.generation_id).encode())
    verdict = check_tables(connection, generation)
    assert not verdict.passed
    assert verdict.broken == ["1 chunks that no vector search can find"]


def active_version(connection: Connection) -> str:
    active = active_generation(connection, "notes")
    assert active is not None
    return generations.index_version(connection, active)


def measured(night: Night, connection: Connection, run_id: int, **watch: float) -> MeasureResult:
    values = night.config.model_dump() | {"run_id": run_id, "watch": {"min_recall": 0.9, "queries": 10, **watch}}
    return measure(connection, MeasureConfig.model_validate(values))


def test_a_changed_night_is_measured(generation: Generation, night: Night, connection: Connection) -> None:
    found = measured(night, connection, run_id=1)
    assert (found.broken, found.lag_hours, found.cache_hit_share) == ([], 0.0, 0.0)
    assert found.recall is not None
    assert found.recall >= 0.99
    assert min(found.vector_bytes, found.index_bytes, found.chunk_bytes, found.cache_bytes) > 0
    assert found.version == active_version(connection)


def test_an_unchanged_night_measures_sizes_only(generation: Generation, night: Night, connection: Connection) -> None:
    before = measured(night, connection, run_id=1)
    again = night.refresh_on(connection)
    found = measured(night, connection, run_id=again.run_id)
    assert (found.recall, found.recall_queries, found.broken, found.cache_hit_share) == (None, 0, [], None)
    assert (found.vector_bytes, found.index_bytes) == (before.vector_bytes, before.index_bytes)


def test_broken_tables_fail_the_task_with_what_is_wrong(
    generation: Generation, night: Night, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.execute(BREAKS["wrong_norms"].format(id=generation.generation_id).encode())
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", night.url)
    monkeypatch.setenv("LLMJOBS_LAKE_URL", night.lake.url)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadData, match="notes: 24 vectors that are no unit vectors"):
        run(MeasureConfig.model_validate(night.config.model_dump() | {"run_id": 1}))


def test_figures_are_kept_without_mlflow(
    generation: Generation, night: Night, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    found = mirrored(measured(night, connection, run_id=1))
    assert found.mlflow_run_url == ""
    assert "127.0.0.1:9 was not reached" in found.mlflow_note


def test_a_run_that_is_not_finished_cannot_be_measured(night: Night, connection: Connection) -> None:
    night.write(a="word " * 5)
    planned = night.plan(connection)
    with pytest.raises(BadConfig, match="was not finished"):
        measured(night, connection, run_id=planned.run_id)
