"""What is left after faults: SIGKILL at points of every step of a refresh, and the database gone in mid-shard.

After each fault the night is run again and everything is checked: `check_sound` (no duplicate, no orphan, nothing
missing, all as the folder says), the counts of `table_checks`, and that no text is encoded whose vector was committed.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from embedded import postgres
from embedded.environment import database_url
from embedded.home import Home
from embedded.ports import free_ports
from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.contracts.errors import JobError
from llmjobs.database.connection import connect
from llmjobs.database.migrate import migrate
from llmjobs.embeddings.generations import active_generation
from llmjobs.embeddings.model import Vectors
from llmjobs.embeddings.table_checks import wrong_counts
from llmjobs.lake import Lake
from tests.benchmarks.figures import Figure, report
from tests.fixtures.postgres import new_database, start, stop
from tests.jobs.embeddings.kills import cached, killed_refresh, mutate, rerun_after_kill, write_first_documents
from tests.jobs.embeddings.night import CountingModel, Night, check_sound

FEWEST_KILLS = 40
STRIDE = 4
MOST_POINTS = 1_000
DOCUMENTS = 9
CONFIG = {"chunks": {"max_tokens": 32}, "shards": {"documents_per_shard": 4, "most": 3}}


@dataclass
class Outcome:
    """What a campaign found.

    Attributes:
        faults: Step -> faults in it.
        wrong: Duplicates, orphans and missing rows, by the names of `table_checks.CHECKS`.
        broken: Reruns after which the index was not sound, with what was wrong.
        paid_twice: Texts encoded again although their vector was committed.
    """

    faults: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    paid_twice: int = 0


def measure() -> Iterator[Figure]:
    """Run the campaign against a server of its own."""
    with restartable() as (url, restart), tempfile.TemporaryDirectory(prefix="nightshift-faults-") as folder:
        found = kill_campaign(url, Path(folder), range(1, MOST_POINTS, STRIDE))
        yield from figures("SIGKILL", found)
        yield Figure("embeddings", "kills", found.faults.total(), "kills", target=FEWEST_KILLS, better="higher")
        for how, sign in (("fast", signal.SIGINT), ("immediate", signal.SIGQUIT)):
            found = restart_in_mid_shard(url, Path(folder) / how, partial(restart, sign))
            yield from figures(f"{how} restart of the database", found)
            metric = f"{how} restart of the database: cached texts paid again"
            yield Figure("embeddings", metric, found.paid_twice, "texts", target=0)


def kill_campaign(url: str, folder: Path, points: range) -> Outcome:
    """Kill first nights, then nights with changes, at these points; every other kill with its statement sent."""
    found = Outcome()
    with new_database(url) as database:
        prepare(database)
        for at, sent in zip(points, cycle([False, True]), strict=False):
            night = night_in(database, folder, f"first{at}")
            write_first_documents(night, DOCUMENTS)
            if not killed_and_checked(found, night, at, sent=sent):
                break
    with new_database(url) as database:
        prepare(database)
        night = night_in(database, folder, "notes")
        write_first_documents(night, DOCUMENTS)
        night.refresh()
        for at, sent in zip(points, cycle([True, False]), strict=False):
            mutate(night, at)
            if not killed_and_checked(found, night, at, sent=sent):
                break
    return found


def killed_and_checked(found: Outcome, night: Night, at: int, *, sent: bool) -> bool:
    """Kill a night at a point, run it again and note what is wrong; return whether it died at all."""
    step = killed_refresh(night, at, sent=sent)
    if step is None:
        return False
    found.faults[step] += 1
    try:
        rerun_after_kill(night)
    except AssertionError as error:
        found.broken.append(f"{night.config.name}, point {at} ({step}, sent: {sent}): {error}")
    note_wrong(found, night)
    return True


def restart_in_mid_shard(url: str, folder: Path, restart: Callable[[], None]) -> Outcome:
    """Take the database away while a shard's texts are encoded; its next try, and the rest, must finish the run."""
    found = Outcome()
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"create database restarted_{folder.name}".encode())
    database = urlsplit(url)._replace(path=f"/restarted_{folder.name}").geturl()
    prepare(database)
    night = night_in(database, folder, "notes")
    write_first_documents(night, DOCUMENTS)
    with connect(database) as connection:
        planned = night.plan(connection)
        night.embed(connection, planned.run_id, planned.shards[0].shard)
        before = cached(connection)
        night.model = InterruptedModel(restart=restart)
        try:
            night.embed(connection, planned.run_id, planned.shards[1].shard)
        except (psycopg.Error, JobError):
            found.faults["embed"] += 1
    model = night.model = CountingModel()
    with connect(database) as connection:
        for work in planned.shards:
            night.embed(connection, planned.run_id, work.shard)
        night.finalise(connection, planned.run_id)
        found.paid_twice = len(model.encoded) - (cached(connection) - before)
        try:
            check_sound(connection, night)
        except AssertionError as error:
            found.broken.append(str(error))
    note_wrong(found, night)
    return found


@dataclass
class InterruptedModel(CountingModel):
    """The database restarts while it works."""

    restart: Callable[[], None] = field(default=lambda: None)

    def encode(self, texts: list[str]) -> Vectors:
        vectors = super().encode(texts)
        self.restart()
        return vectors


def note_wrong(found: Outcome, night: Night) -> None:
    """Add the counts of what must be 0 in the tables of the generation that answers."""
    with connect(night.url) as connection:
        active = active_generation(connection, night.config.name)
        assert active is not None
        found.wrong.update(wrong_counts(connection, active))


def night_in(url: str, folder: Path, name: str) -> Night:
    """Return an empty index of an empty folder, several shards wide."""
    # The language is stated, for telling it takes threads that a forked child does not have.
    source = {"url": f"documents/{name}", "language": "en"}
    config = RefreshConfig.model_validate(CONFIG | {"name": name, "source": source})
    return Night(Lake(f"file://{folder}"), folder / "documents" / name, url, CountingModel(), config)


def prepare(database: str) -> None:
    with connect(database, vectors=False) as connection:
        migrate(connection)


def figures(fault: str, found: Outcome) -> Iterator[Figure]:
    """Yield what was found as counts that must be 0."""
    told = ", ".join(f"{step} {count}" for step, count in sorted(found.faults.items()))
    metric = f"after {fault} ({told or 'none happened'}) and a rerun: {{}}"
    yield Figure(
        "embeddings",
        metric.format("indexes not sound or cached texts paid again"),
        len(found.broken),
        "reruns",
        target=0,
    )
    yield Figure("embeddings", metric.format("duplicates, orphans, missing"), found.wrong.total(), "rows", target=0)
    for broken in found.broken:
        print(broken)


@contextmanager
def restartable() -> Iterator[tuple[str, Callable[[signal.Signals], None]]]:
    """Run a server; yield its URL and what stops it with a signal and starts it again."""
    with tempfile.TemporaryDirectory(prefix="nightshift-postgres-") as folder:
        home, ports = Home(Path(folder)), free_ports()
        home.create()
        server = postgres.prepare(home)
        running: list[subprocess.Popen[bytes]] = [start(home, ports, server)]

        def restart(how: signal.Signals) -> None:
            running[-1].send_signal(how)
            running.pop().wait()
            running.append(start(home, ports, server))
            postgres.wait_until_ready(home, ports)

        try:
            postgres.wait_until_ready(home, ports)
            url = database_url(ports, user="postgres", password=home.secrets().postgres_password, database="postgres")
            yield url, restart
        finally:
            stop(running[-1])


if __name__ == "__main__":
    raise SystemExit(report(measure))
