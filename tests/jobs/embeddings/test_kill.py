"""SIGKILL at every statement that a refresh sends, and while the model works; then the next night.

Each case forks, the child is killed at its point, and the parent runs the night again: whatever the point was, the
index must be sound afterwards and no text whose vector was committed may be encoded again.
"""

from __future__ import annotations

import pytest

from llmjobs.database.connection import connect
from llmjobs.embeddings import cache
from llmjobs.embeddings.model import Vectors
from tests.jobs.embeddings.kills import killed_refresh, mutate, rerun_after_kill, write_first_documents
from tests.jobs.embeddings.night import CountingModel, Night


def test_the_first_night_killed_anywhere(night: Night) -> None:
    died = 0
    for at in range(1, 500):
        new = night.beside(f"notes{at}")
        write_first_documents(new)
        if not killed_refresh(new, at):
            break
        died += 1
        rerun_after_kill(new)
    assert died > 40


def test_a_changed_night_killed_anywhere(night: Night) -> None:
    write_first_documents(night)
    night.refresh()
    died = 0
    for step in range(1, 500):
        mutate(night, step)
        if not killed_refresh(night, step):
            break
        died += 1
        model = rerun_after_kill(night)
        assert len(model.encoded) <= 4  # the moved text only in the first night
    assert died > 40


def test_the_count_of_what_was_paid_survives_a_failed_try(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the failed try encoded and committed is in the result of the run that is finished later."""
    monkeypatch.setattr(cache, "GROUP", 2)
    write_first_documents(night)
    with connect(night.url) as connection:
        planned = night.plan(connection)
        night.model = failing = FailsInTheSecondGroup()
        with pytest.raises(InjectedError):
            night.embed(connection, planned.run_id, planned.shards[0].shard)
        night.model = second = CountingModel()
        for work in planned.shards:
            night.embed(connection, planned.run_id, work.shard)
        result = night.finalise(connection, planned.run_id)
    assert (len(failing.encoded), len(second.encoded)) == (2, 7)
    assert (result.texts_embedded, result.texts_cached) == (9, 0)


class InjectedError(Exception):
    pass


class FailsInTheSecondGroup(CountingModel):
    def encode(self, texts: list[str]) -> Vectors:
        if self.encoded:
            raise InjectedError
        return super().encode(texts)
