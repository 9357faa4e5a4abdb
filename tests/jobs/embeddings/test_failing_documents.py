"""Documents that cannot be read, cut or encoded: the others go on, they are tried again, and at last they rest."""

from __future__ import annotations

import numpy as np
import pytest

from llmjobs.contracts.embeddings import RefreshConfig, RefreshResult
from llmjobs.contracts.errors import JobError
from llmjobs.database.connection import Connection
from llmjobs.embeddings import cache
from llmjobs.embeddings.model import BrokenOff, TextRefused, Vectors
from tests.jobs.embeddings.memory import Shelf, page
from tests.jobs.embeddings.night import CountingModel, Night, check_sound

POISON = "poison"


def retrying(night: Night, attempts: int, hours: float) -> RefreshConfig:
    return RefreshConfig.model_validate(
        night.config.model_dump() | {"retry": {"attempts": attempts, "first_hours": hours}}
    )


def trouble(result: RefreshResult) -> tuple[int, int, int]:
    """Refused in this run, waiting, quarantined."""
    return result.documents_refused, result.documents_waiting, result.documents_quarantined


def hours_left(connection: Connection) -> float:
    row = connection.execute("select extract(epoch from next_try_at - now()) / 3600 from document_failure").fetchone()
    assert row is not None
    return float(row[0])


def later(connection: Connection) -> None:
    """Let the time until the next try go by."""
    connection.execute("update document_failure set next_try_at = now() where next_try_at is not null")


@pytest.fixture
def sixty_one(night: Night) -> Night:
    for number in range(61):
        night.write(**{f"note{number:02}": f"# Note {number}\n\nText {number}."})
    night.model.poison = POISON
    night.config = retrying(night, attempts=2, hours=12)
    return night


def test_one_bad_text_of_sixty_one_keeps_its_old_vectors_and_stops_no_other(
    sixty_one: Night, connection: Connection
) -> None:
    sixty_one.refresh()
    held = "select content from chunk join document using (document_id) where key = 'note07.md'"
    for number in range(61):
        sixty_one.write(**{f"note{number:02}": f"# Note {number}\n\nOther text {number}."})
    sixty_one.write(note07=f"# Note 7\n\nThis is {POISON}.")
    result = sixty_one.refresh()
    assert (result.documents_changed, result.texts_embedded, trouble(result)) == (60, 60, (1, 1, 0))
    assert [(one.document, one.source, one.reason) for one in result.refused] == [
        ("note07.md", "documents", "the provider will not have it")
    ]
    assert connection.execute(held).fetchall() == [("Text 7.",)]
    check_sound(connection, sixty_one)


def test_a_refused_document_waits_longer_each_time_and_then_rests(sixty_one: Night, connection: Connection) -> None:
    sixty_one.config = retrying(sixty_one, attempts=3, hours=12)
    sixty_one.write(note07=f"# Note 7\n\nThis is {POISON}.")
    assert trouble(sixty_one.refresh()) == (1, 1, 0)
    assert hours_left(connection) == pytest.approx(12, abs=0.1)
    # Too early: nothing is tried, and no shard is mapped for it.
    assert sixty_one.plan(connection).shards == []
    assert trouble(sixty_one.refresh()) == (0, 1, 0)
    later(connection)
    assert trouble(sixty_one.refresh()) == (1, 1, 0)
    assert hours_left(connection) == pytest.approx(24, abs=0.1)
    later(connection)
    assert trouble(sixty_one.refresh()) == (1, 0, 1)
    later(connection)
    assert trouble(sixty_one.refresh()) == (0, 0, 1)
    # Another text is another matter.
    sixty_one.write(note07="# Note 7\n\nMended.")
    result = sixty_one.refresh()
    assert (result.documents_added, trouble(result), result.documents) == (1, (0, 0, 0), 61)
    check_sound(connection, sixty_one)


def test_what_is_accepted_at_last_leaves_the_list(sixty_one: Night, connection: Connection) -> None:
    sixty_one.write(note07=f"# Note 7\n\nThis is {POISON}.")
    sixty_one.refresh()
    sixty_one.model.poison = ""
    later(connection)
    result = sixty_one.refresh()
    assert (result.documents_added, trouble(result)) == (1, (0, 0, 0))
    check_sound(connection, sixty_one)


def test_a_bad_edit_that_is_taken_back_leaves_the_list(sixty_one: Night, connection: Connection) -> None:
    sixty_one.refresh()
    sixty_one.write(note07=f"# Note 7\n\nThis is {POISON}.")
    assert trouble(sixty_one.refresh()) == (1, 1, 0)
    sixty_one.write(note07="# Note 7\n\nText 7.")
    result = sixty_one.refresh()
    assert (trouble(result), result.documents_unchanged) == ((0, 0, 0), 61)
    check_sound(connection, sixty_one)


def test_a_provider_that_refuses_everything_charges_nobody(
    sixty_one: Night, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ALL_REFUSED", 3)
    sixty_one.model.poison = "Text"
    with pytest.raises(TextRefused):
        sixty_one.refresh()
    assert connection.execute("select count(*) from document_failure").fetchone() == (0,)


def test_a_failed_try_of_a_task_is_no_attempt_of_the_document(sixty_one: Night, connection: Connection) -> None:
    sixty_one.write(note07=f"# Note 7\n\nThis is {POISON}.")
    planned = sixty_one.plan(connection)
    for work in [*planned.shards, *planned.shards]:
        sixty_one.embed(connection, planned.run_id, work.shard)
    first = sixty_one.finalise(connection, planned.run_id)
    assert first == sixty_one.finalise(connection, planned.run_id)
    assert connection.execute("select attempts from document_failure").fetchall() == [(1,)]


def test_a_container_that_cannot_be_read_keeps_all_that_the_index_holds_of_it(
    night: Night, connection: Connection
) -> None:
    shelf = Shelf()
    shelf.put(*(page("many", f"many#{number}", f"# Number {number}\n\nText {number}.") for number in range(3)))
    night.shelves = [shelf]
    night.refresh()
    shelf.stamps["many"], shelf.broken["many"] = "2", "its end is missing"
    result = night.refresh()
    assert (result.documents, result.documents_deleted, trouble(result)) == (3, 0, (1, 1, 0))
    assert [one.reason for one in result.refused] == ["its end is missing"]
    # Its stamp says nothing new, so only the time of the next try lets it be read again.
    shelf.hashed.clear()
    night.refresh()
    assert shelf.hashed == []
    later(connection)
    del shelf.broken["many"]
    assert trouble(night.refresh()) == (0, 0, 0)
    assert shelf.hashed == ["many"]


def test_a_failed_document_that_goes_leaves_the_list(sixty_one: Night) -> None:
    sixty_one.write(note07=f"# Note 7\n\nThis is {POISON}.")
    assert trouble(sixty_one.refresh()) == (1, 1, 0)
    (sixty_one.folder / "note07.md").unlink()
    assert trouble(sixty_one.refresh()) == (0, 0, 0)


class BreaksOff(CountingModel):
    """A provider that goes away in the middle of its first call."""

    gone: bool = False

    def encode(self, texts: list[str]) -> Vectors:
        if self.gone:
            return super().encode(texts)
        self.gone = True
        done = list(range(len(texts) // 2))
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        vectors[done] = super().encode([texts[at] for at in done])
        raise BrokenOff(JobError("the provider is down"), done, vectors)


def test_what_a_provider_gave_before_it_went_away_is_not_paid_for_twice(night: Night, connection: Connection) -> None:
    night.write(**{f"note{number}": f"Text {number}." for number in range(8)})
    night.model = BreaksOff()
    planned = night.plan(connection)
    with pytest.raises(BrokenOff, match="the provider is down"):
        night.embed(connection, planned.run_id, planned.shards[0].shard)
    for work in planned.shards:
        night.embed(connection, planned.run_id, work.shard)
    result = night.finalise(connection, planned.run_id)
    assert (result.documents, result.texts_embedded, trouble(result)) == (8, 8, (0, 0, 0))
    assert sorted(night.model.encoded) == sorted({*night.model.encoded})
    check_sound(connection, night)
