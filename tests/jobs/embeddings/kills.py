"""Kills a refresh with SIGKILL at a chosen point: around statements, the model and cutting."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psycopg

from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings import pages
from llmjobs.embeddings.model import Vectors
from tests.jobs.embeddings.night import CountingModel, Night, check_sound

STEPS = {
    "llmjobs.embeddings.plan": "plan",
    "llmjobs.embeddings.embed": "embed",
    "llmjobs.embeddings.pages": "read and cut",
    "llmjobs.embeddings.cache": "cache commit",
    "llmjobs.embeddings.publish": "publish",
    "llmjobs.embeddings.finalise": "finalise",
    "llmjobs.embeddings.vector_index": "vector index",
    "llmjobs.embeddings.closing": "closing transaction",
}
"""Module -> what it does; the innermost on the stack names a point."""


class Killer:
    """Counts points and kills the process at the chosen one, whose step it tells first.

    Args:
        at: Which point, from 1; 0 kills nobody.
        tell: File descriptor that the step's name is written to.
    """

    def __init__(self, at: int, tell: int | None = None) -> None:
        self.at = at
        self.passed = 0
        self.tell = tell

    def point(self, before: Callable[[], object] | None = None) -> None:
        """Pass a point, or do what is `before` the kill and die."""
        self.passed += 1
        if self.passed == self.at:
            if self.tell is not None:
                os.write(self.tell, step_here().encode())
            if before:
                before()
            os.kill(os.getpid(), signal.SIGKILL)


def step_here() -> str:
    """Return the step of the refresh that calls this."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if step := STEPS.get(frame.f_globals.get("__name__", "")):
            return step
    return "connect"


@contextmanager
def points_at_every_statement(killer: Killer, *, sent: bool = False) -> Iterator[None]:
    """A point before each statement and each COPY of this process, BEGIN and COMMIT included.

    With `sent` the statement is on its way when the process dies: the server may still do it.
    """
    wait = psycopg.Connection.wait

    def counted(self: Any, generator: Any, *args: Any, **kwargs: Any) -> Any:
        killer.point((lambda: next(generator, None)) if sent else None)
        return wait(self, generator, *args, **kwargs)

    with patch.object(psycopg.Connection, "wait", counted):
        yield


@contextmanager
def points_at_every_cut(killer: Killer) -> Iterator[None]:
    """A point after each document was read and one after it was cut."""
    cut = pages.cut

    def counted(*args: Any) -> Any:
        killer.point()
        made = cut(*args)
        killer.point()
        return made

    with patch.object(pages, "cut", counted):
        yield


class MortalModel(CountingModel):
    """Has a point before and after it encodes."""

    killer: Killer

    def encode(self, texts: list[str]) -> Vectors:
        self.killer.point()
        vectors = super().encode(texts)
        self.killer.point()
        return vectors


def killed_refresh(night: Night, at: int, *, sent: bool = False) -> str | None:
    """Run a night in a child that dies at point `at`; return the step in which it died, None if it did not."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            killer = Killer(at, tell)
            model = MortalModel()
            model.killer = killer
            night.model = model
            with points_at_every_statement(killer, sent=sent), points_at_every_cut(killer):
                night.refresh()
            status = 0
        finally:
            os._exit(status)
    os.close(tell)
    _, ended = os.waitpid(child, 0)
    with os.fdopen(told) as said:
        step = said.read()
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return step if os.WIFSIGNALED(ended) else None


def rerun_after_kill(night: Night) -> CountingModel:
    """Run the night again, check everything, and return the model that says what was encoded."""
    model = night.model = CountingModel()
    with connect(night.url) as connection:
        wait_for_the_dead(connection)
        before = cached(connection)
        night.refresh_on(connection)
        check_sound(connection, night)
        # A text whose vector was committed before the kill would add to `encoded` but not to the cache.
        assert cached(connection) - before == len(model.encoded)
    return model


def wait_for_the_dead(connection: Connection) -> None:
    """Wait until the server has ended what a killed process left to it: a retry comes minutes later."""
    others = "select pg_sleep(0.002) from pg_stat_activity where datname = current_database() and pid <> %s limit 1"
    while connection.execute(others, [connection.info.backend_pid]).fetchone():
        pass


def cached(connection: Connection) -> int:
    row = connection.execute("select count(*) from embedding_cache").fetchone()
    assert row is not None
    return int(row[0])


def write_first_documents(night: Night, count: int = 3) -> None:
    """Documents of three chunks each; texts of one index are not those of another."""
    name = night.config.name
    for n in range(count):
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
