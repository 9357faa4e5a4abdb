"""SIGKILL at every statement that a refresh sends, and while the model works; then the next night.

Each case forks, the child is killed at its point, and the parent runs the night again: whatever the point was, the
index must be sound afterwards and no text whose vector was committed may be encoded again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings import cache
from llmjobs.embeddings.model import Vectors
from tests.jobs.embeddings.night import CountingModel, Night, check_sound


class Killer:
    """Counts points and kills the process at the chosen one."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0

    def point(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def points_at_every_statement(killer: Killer) -> Iterator[None]:
    """A point before each statement and each COPY of this process, BEGIN and COMMIT included."""
    wait = psycopg.Connection.wait

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        killer.point()
        return wait(self, *args, **kwargs)

    psycopg.Connection.wait = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        psycopg.Connection.wait = wait  # type: ignore[method-assign]


class MortalModel(CountingModel):
    """Has a point before and after it encodes."""

    killer: Killer

    def encode(self, texts: list[str]) -> Vectors:
        self.killer.point()
        vectors = super().encode(texts)
        self.killer.point()
        return vectors


def killed_refresh(night: Night, at: int) -> bool:
    """Run a night in a child that dies at point `at`; return whether it died."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            killer = Killer(at)
            model = MortalModel()
            model.killer = killer
            night.model = model
            with points_at_every_statement(killer):
                night.refresh()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return os.WIFSIGNALED(ended)


def rerun_after_kill(night: Night) -> CountingModel:
    """Run the night again, check everything, and return the model that says what was encoded."""
    model = night.model = CountingModel()
    with connect(night.url) as connection:
        before = cached(connection)
        night.refresh_on(connection)
        check_sound(connection, night)
        # A text whose vector was committed before the kill would add to `encoded` but not to the cache.
        assert cached(connection) - before == len(model.encoded)
    return model


def cached(connection: Connection) -> int:
    row = connection.execute("select count(*) from embedding_cache").fetchone()
    assert row is not None
    return int(row[0])


def write_first_documents(night: Night) -> None:
    """Three documents, nine chunks; texts of one index are not those of another."""
    name = night.config.name
    for n in range(3):
        night.write(**{f"note{n}": f"# {name} {n}\n\nStart.\n\n## One\n\nText {n}.\n\n## Two\n\nMore {n}."})


def mutate(night: Night, step: int) -> None:
    """One document new, one changed, one grown at its top, one moved, one gone."""
    night.write(
        **{
            f"new{step}": f"# New {step}\n\nFresh text {step}.",
            "note0": f"# notes 0\n\nChanged {step}.\n\n## One\n\nText 0.",
            "note1": f"# notes 1\n\nInserted {step}.\n\n## One\n\nText 1.\n\n## Two\n\nMore 1.",
            f"moved{step}": "# Moved\n\nThe same text every night.",
        }
    )
    for name in (f"moved{step - 1}", f"new{step - 1}"):
        (night.folder / f"{name}.md").unlink(missing_ok=True)


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
