"""What one night costs: counts of documents, chunks and encoded texts, on a real PostgreSQL."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest

from llmjobs.contracts.embeddings import RefreshResult
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.database.connection import Connection, connect
from tests.jobs.embeddings.night import CountingModel, Night, check_sound


def section(*words: str) -> str:
    return "".join(f"## About {word}\n\nEverything about {word} stands here.\n\n" for word in words)


@pytest.fixture
def loaded(night: Night) -> Night:
    """Twelve documents of three chunks each, indexed."""
    for n in range(12):
        night.write(**{f"note{n:02}": f"# Note {n}\n\n" + section(f"a{n}", f"b{n}", f"c{n}")})
    night.refresh()
    night.model.encoded.clear()
    return night


def documents(result: RefreshResult) -> tuple[int, int, int, int]:
    """Added, changed, deleted, unchanged."""
    r = result
    return r.documents_added, r.documents_changed, r.documents_deleted, r.documents_unchanged


def chunks(result: RefreshResult) -> tuple[int, int, int, int]:
    """Added, changed, deleted, unchanged."""
    return result.chunks_added, result.chunks_changed, result.chunks_deleted, result.chunks_unchanged


def test_the_first_run_indexes_everything(night: Night, connection: Connection) -> None:
    night.write(one="# One\n\n" + section("apples", "pears"), two="# Two\n\n" + section("plums"))
    result = night.refresh()
    assert documents(result) == (2, 0, 0, 0)
    assert chunks(result) == (3, 0, 0, 0)
    assert (result.documents, result.chunks, result.texts_embedded, result.texts_cached) == (2, 3, 3, 0)
    assert (result.changed, result.active, result.vector_index) == (True, True, "built")
    assert len(night.model.encoded) == 3
    check_sound(connection, night)


def test_an_unchanged_night_maps_no_shard_and_loads_no_model(loaded: Night, connection: Connection) -> None:
    before = loaded.refresh()
    loads = loaded.model.loads
    planned = loaded.plan(connection)
    assert planned.shards == []
    result = loaded.finalise(connection, planned.run_id)
    assert documents(result) == (0, 0, 0, 12)
    assert chunks(result) == (0, 0, 0, 36)
    assert (result.texts_embedded, result.changed, result.vector_index) == (0, False, "kept")
    assert (result.version, loaded.model.encoded, loaded.model.loads) == (before.version, [], loads)


def test_an_unchanged_night_writes_one_row(loaded: Night, connection: Connection) -> None:
    loaded.refresh()
    counters = "select sum(n_tup_ins + n_tup_upd + n_tup_del), sum(n_tup_ins) from pg_stat_user_tables"

    def writes() -> tuple[int, int]:
        with connect(loaded.url) as fresh:
            fresh.execute("select pg_stat_force_next_flush()")
            row = fresh.execute(counters).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    with connect(loaded.url) as own:
        own.execute("select pg_stat_force_next_flush()")
        before = writes()
        loaded.refresh_on(own)
        own.execute("select pg_stat_force_next_flush()")
        own.execute("select 1")
        after = writes()
    # The run's own record: inserted, then updated with its result; and one more run since all was read.
    assert (after[0] - before[0], after[1] - before[1]) == (3, 1)


def test_a_changed_section_costs_one_text(loaded: Night, connection: Connection) -> None:
    loaded.write(note03="# Note 3\n\n" + section("a3", "bananas", "c3"))
    result = loaded.refresh()
    assert documents(result) == (0, 1, 0, 11)
    assert chunks(result) == (0, 1, 0, 35)
    assert [text.splitlines()[0] for text in loaded.model.encoded] == ["Note 3 > About bananas"]
    check_sound(connection, loaded)


def test_an_insertion_above_costs_only_itself(loaded: Night, connection: Connection) -> None:
    loaded.write(note03="# Note 3\n\n" + section("novelties", "a3", "b3", "c3"))
    result = loaded.refresh()
    assert chunks(result) == (1, 0, 0, 36)
    assert (result.texts_embedded, len(loaded.model.encoded)) == (1, 1)
    check_sound(connection, loaded)


def test_a_deleted_document_goes(loaded: Night, connection: Connection) -> None:
    (loaded.folder / "note05.md").unlink()
    result = loaded.refresh()
    assert documents(result) == (0, 0, 1, 11)
    assert chunks(result) == (0, 0, 3, 33)
    assert (result.texts_embedded, loaded.model.encoded) == (0, [])
    check_sound(connection, loaded)


def test_a_moved_document_costs_nothing(loaded: Night, connection: Connection) -> None:
    (loaded.folder / "below").mkdir()
    (loaded.folder / "note05.md").rename(loaded.folder / "below" / "note05.md")
    result = loaded.refresh()
    assert documents(result) == (1, 0, 1, 11)
    assert (result.texts_embedded, result.texts_cached, loaded.model.encoded) == (0, 3, [])
    check_sound(connection, loaded)


def test_a_reverted_document_costs_nothing(loaded: Night, connection: Connection) -> None:
    first = loaded.refresh()
    original = (loaded.folder / "note05.md").read_text()
    loaded.write(note05="# Note 5\n\nAll was replaced.")
    changed = loaded.refresh()
    assert (chunks(changed), len(loaded.model.encoded)) == ((0, 1, 2, 33), 1)
    loaded.write(note05=original)
    reverted = loaded.refresh()
    assert (reverted.texts_embedded, reverted.texts_cached, len(loaded.model.encoded)) == (0, 3, 1)
    assert reverted.version == first.version != changed.version
    check_sound(connection, loaded)


def test_a_text_that_stands_twice_is_encoded_once(night: Night, connection: Connection) -> None:
    twice = "# Same\n\n" + section("x") + section("x")
    night.write(one=twice, two=twice)
    result = night.refresh()
    assert (result.chunks, result.texts_embedded, result.texts_cached) == (4, 1, 3)
    check_sound(connection, night)


def test_a_document_without_text_is_no_work_the_second_time(night: Night, connection: Connection) -> None:
    night.write(one="# One\n\nText.", empty=" \n")
    assert night.refresh().documents == 2
    assert night.plan(connection).shards == []


def test_a_broken_document_is_refused_alone_and_its_old_text_stays(loaded: Night, connection: Connection) -> None:
    (loaded.folder / "note01.md").write_bytes(b"# Note 1\n\ncaf\xe9")
    loaded.write(note02="# Note 2\n\n" + section("new"))
    result = loaded.refresh()
    assert documents(result) == (0, 1, 0, 10)
    assert result.documents_refused == 1
    assert [(one.document, one.reason[:21]) for one in result.refused] == [("note01.md", "byte 13 is no UTF-8: ")]
    held = "select count(*) from chunk join document using (document_id) where key = 'note01.md'"
    assert connection.execute(held).fetchone() == (3,)
    # It is tried again, and is fine once it is repaired.
    loaded.write(note01="# Note 1\n\ncafé")
    assert loaded.refresh().documents_refused == 0
    assert connection.execute(held).fetchone() == (1,)


@pytest.mark.parametrize("left", [0, 5])
def test_a_mass_delete_is_refused_and_can_be_allowed(loaded: Night, connection: Connection, left: int) -> None:
    for path in sorted(loaded.folder.glob("*.md"))[left:]:
        path.unlink()
    with pytest.raises(
        BadData, match=rf"{12 - left} of 12 indexed documents are no longer in source documents.*allow_mass_delete"
    ):
        loaded.refresh()
    assert connection.execute("select count(*) from document_state").fetchone() == (12,)
    result = loaded.refresh(loaded.config.model_copy(update={"allow_mass_delete": True}))
    assert (result.documents, result.documents_deleted) == (left, 12 - left)


def test_an_index_that_never_had_documents_says_where_to_put_them(night: Night) -> None:
    night.folder.mkdir(parents=True)
    with pytest.raises(BadData, match="source documents holds no document that can be read"):
        night.refresh()


def test_another_model_fills_a_generation_beside_the_active_one(loaded: Night, connection: Connection) -> None:
    first = loaded.refresh()
    loaded.model = CountingModel(name="other", dimensions=24)
    planned = loaded.plan(connection)
    assert (planned.rebuilding, planned.documents_added) == (True, 12)
    states = "select generation_id, state from generation order by 1"
    assert connection.execute(states).fetchall() == [
        (first.generation_id, "active"),
        (planned.generation_id, "building"),
    ]
    for work in planned.shards:
        loaded.embed(connection, planned.run_id, work.shard)
    result = loaded.finalise(connection, planned.run_id)
    assert (result.active, result.dimensions, result.texts_embedded) == (True, 24, 36)
    assert result.version != first.version
    check_sound(connection, loaded)
    # It is kept for a rollback until its days are over; going back then costs no encoding.
    assert connection.execute(states).fetchall()[0] == (first.generation_id, "former")
    connection.execute("update generation set replaced_at = now() - interval '8 days' where state = 'former'")
    loaded.refresh()
    assert connection.execute(states).fetchall() == [(planned.generation_id, "active")]
    loaded.model = CountingModel()
    back = loaded.refresh()
    assert (back.texts_embedded, back.texts_cached, loaded.model.encoded) == (0, 36, [])
    assert back.version == first.version
    check_sound(connection, loaded)


def test_a_missing_mount_is_refused_while_the_model_changes_too(loaded: Night) -> None:
    loaded.model = CountingModel(name="other")
    for path in sorted(loaded.folder.glob("*.md"))[3:]:
        path.unlink()
    with pytest.raises(BadData, match="9 of 12 indexed documents"):
        loaded.refresh()


def test_finishing_twice_gives_the_same_result(loaded: Night, connection: Connection) -> None:
    loaded.write(note03="# Note 3\n\nShort.")
    planned = loaded.plan(connection)
    for work in planned.shards:
        loaded.embed(connection, planned.run_id, work.shard)
    assert loaded.finalise(connection, planned.run_id) == loaded.finalise(connection, planned.run_id)


def test_finishing_before_the_shards_is_refused(loaded: Night, connection: Connection) -> None:
    loaded.write(note03="# Note 3\n\nShort.")
    planned = loaded.plan(connection)
    with pytest.raises(JobError, match=r"1 documents of run \d+ are still open"):
        loaded.finalise(connection, planned.run_id)


def test_a_shard_of_another_model_than_the_plan_is_refused(loaded: Night, connection: Connection) -> None:
    loaded.write(note03="# Note 3\n\nShort.")
    planned = loaded.plan(connection)
    loaded.model = CountingModel(name="other")
    with pytest.raises(BadConfig, match="model or chunks differ"):
        loaded.embed(connection, planned.run_id, planned.shards[0].shard)


def test_a_document_that_vanishes_after_the_plan_is_left_to_the_next_run(loaded: Night, connection: Connection) -> None:
    loaded.write(note03="# Note 3\n\nShort.")
    planned = loaded.plan(connection)
    (loaded.folder / "note03.md").unlink()
    loaded.embed(connection, planned.run_id, planned.shards[0].shard)
    result = loaded.finalise(connection, planned.run_id)
    assert (documents(result), result.documents_deferred) == ((0, 0, 0, 11), 1)
    assert documents(loaded.refresh()) == (0, 0, 1, 11)
    check_sound(connection, loaded)


def test_two_whole_runs_at_once_are_harmless(night: Night, connection: Connection) -> None:
    for n in range(12):
        night.write(**{f"note{n:02}": f"# Note {n}\n\n" + section(f"a{n}", f"b{n}")})
    night.refresh()
    for round_number in range(3):
        for n in range(6):
            night.write(**{f"note{n:02}": f"# Note {n}\n\n" + section(f"round{round_number}", f"b{n}")})
        (night.folder / f"note{6 + round_number:02}.md").unlink()
        night.write(**{f"extra{round_number}": "# Extra\n\n" + section("more")})
        _at_once(night)
        check_sound(connection, night)


def _at_once(night: Night) -> None:
    """Plan twice, then run both plans side by side."""
    barrier = Barrier(2, timeout=30)
    failures: list[BaseException] = []

    def one() -> None:
        try:
            with connect(night.url) as own:
                planned = night.plan(own)
                barrier.wait()
                for work in planned.shards:
                    night.embed(own, planned.run_id, work.shard)
                night.finalise(own, planned.run_id)
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_a_late_shard_does_not_undo_a_newer_run(loaded: Night, connection: Connection) -> None:
    loaded.write(note03="# Note 3\n\nOlder.")
    late = loaded.plan(connection)
    loaded.write(note03="# Note 3\n\nNewer.")
    loaded.refresh()
    encoded = len(loaded.model.encoded)
    assert loaded.embed(connection, late.run_id, late.shards[0].shard).superseded == 1
    assert len(loaded.model.encoded) == encoded
    check_sound(connection, loaded)
