"""What a refresh costs beside cocoindex, LangChain and LlamaIndex: same files, instant model, server and run.

Nobody builds a vector index. Each peer runs in an environment of its own (``.cache/benchmarks``); one that cannot be
installed is skipped with the reason. We take part with everything that a night does, the statistics of full-text search
included, over a connection that is made before; the peers' imports and the making of their tables are not counted.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from llmjobs.database.connection import connect
from llmjobs.database.migrate import migrate
from tests.benchmarks.embedding_programs import COCOINDEX, LANGCHAIN, LLAMAINDEX
from tests.benchmarks.embeddings import DOCUMENTS, PARAGRAPHS, TRIES, document, new_night, timed
from tests.benchmarks.figures import Figure, Skipped, report
from tests.benchmarks.peers import PeerMissingError, environment, output_of
from tests.fixtures.postgres import new_database, new_server
from tests.jobs.embeddings.night import Night

ROUNDS = 1
CHANGED = DOCUMENTS // 100
SIZES = (1_000, 10_000)
OURS = "nightshift"
PEERS = {
    "cocoindex 1.0.26": (COCOINDEX, ("cocoindex[postgres]==1.0.26", "pgvector>=0.4.2", "numpy")),
    "langchain-postgres 0.0.19": (
        LANGCHAIN,
        ("langchain-postgres==0.0.19", "langchain-classic==1.0.8", "psycopg[binary]"),
    ),
    "llama-index-core 0.14.25": (
        LLAMAINDEX,
        (
            "llama-index-core==0.14.25",
            "llama-index-vector-stores-postgres==0.9.0",
            "llama-index-storage-docstore-postgres==0.6.0",
            "psycopg2-binary",
            "asyncpg",
        ),
    ),
}
"""Name -> program and what its environment holds."""

Cost = tuple[float, float, int]
"""Wall seconds, CPU seconds of the client, texts embedded."""

Refresh = Callable[[], Cost]


@dataclass
class Costs:
    """What one side's refreshes cost.

    Attributes:
        initial: One first load a round.
        unchanged: Refreshes in which nothing changed.
        changed: One refresh a round in which 1% of the documents got an edit.
        sized: Number of files -> CPU seconds of an unchanged refresh.
    """

    initial: list[Cost] = field(default_factory=list)
    unchanged: list[Cost] = field(default_factory=list)
    changed: list[Cost] = field(default_factory=list)
    sized: dict[int, float] = field(default_factory=dict)

    @property
    def slope(self) -> float:
        """CPU microseconds that one more document costs an unchanged refresh."""
        few, many = SIZES
        return (self.sized[many] - self.sized[few]) / (many - few) * 1e6


def measure() -> Iterator[Figure | Skipped]:
    """Measure all sides in turn, round by round."""
    sides: dict[str, Costs] = {OURS: Costs()}
    for name in PEERS:
        try:
            environment_of(name)
            sides[name] = Costs()
        except PeerMissingError as error:
            yield Skipped("embeddings", "overhead of a refresh", str(error), name)
    with (
        tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder,
        new_server(Path(folder), durable=True) as url,
    ):
        for number in range(ROUNDS):
            for name, costs in sides.items():
                run_round(name, costs, url, Path(folder) / f"round{number}")
        for size in SIZES:
            for name, costs in sides.items():
                costs.sized[size] = unchanged_cpu(name, url, Path(folder) / f"size{size}", size)
    ours = sides.pop(OURS)
    for name, theirs in sides.items():
        yield from figures(name, ours, theirs)


def environment_of(name: str) -> Path:
    """Return the Python of a peer's environment."""
    return environment(name.split(maxsplit=1)[0], *PEERS[name][1])


def run_round(name: str, costs: Costs, url: str, folder: Path) -> None:
    """Load the documents, refresh without a change, then with 1% changed."""
    chance = random.Random(7)
    with ExitStack() as stack:
        shelf = folder / f"documents-{name.split(maxsplit=1)[0]}"
        shelf.mkdir(parents=True)
        for number in range(DOCUMENTS):
            (shelf / f"doc{number}.md").write_text(document(chance))
        refresh = refresher(stack, name, url, shelf)
        costs.initial.append(refresh())
        costs.unchanged += [refresh() for _ in range(TRIES)]
        for path in sorted(shelf.iterdir())[:CHANGED]:
            path.write_text(path.read_text().replace("## Part 3\n", "## Part 3\n\nEdited."))
        costs.changed.append(refresh())


def unchanged_cpu(name: str, url: str, folder: Path, files: int) -> float:
    """Return the median CPU seconds of an unchanged refresh of so many small files."""
    with ExitStack() as stack:
        shelf = folder / f"documents-{name.split(maxsplit=1)[0]}"
        shelf.mkdir(parents=True)
        for number in range(files):
            (shelf / f"doc{number}.md").write_text(f"Document {number} says {number % 97}.")
        refresh = refresher(stack, name, url, shelf)
        refresh()
        return statistics.median(refresh()[1] for _ in range(TRIES))


def refresher(stack: ExitStack, name: str, url: str, shelf: Path) -> Refresh:
    """Return what refreshes one side's index of a folder, in a database of its own."""
    database = stack.enter_context(new_database(url))
    if name == OURS:
        return our_refresher(stack, database, shelf)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create extension vector")
    python, program = environment_of(name), PEERS[name][0]
    state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nightshift-peer-")))
    task = {"url": database, "folder": str(shelf), "state": str(state), "first": True, "tries": 1}

    def refresh() -> Cost:
        printed = output_of(python, program, json.dumps(task), folder=state)
        task["first"] = False
        wall, cpu, embedded = json.loads(printed.splitlines()[-1])[0]
        return wall, cpu, embedded

    return refresh


def our_refresher(stack: ExitStack, database: str, shelf: Path) -> Refresh:
    """Return what runs our night, all steps of it, without a vector index."""
    with connect(database, vectors=False) as connection:
        migrate(connection)
    night: Night = new_night(database, shelf.parent, shelf.name)
    storage = night.config.storage.model_copy(update={"index": "none"})
    night.config = night.config.model_copy(update={"storage": storage})
    connection = stack.enter_context(connect(database))

    def refresh() -> Cost:
        night.model.encoded.clear()
        wall, cpu = timed(lambda: night.refresh_on(connection))
        return wall, cpu, len(night.model.encoded)

    return refresh


def figures(name: str, ours: Costs, theirs: Costs) -> Iterator[Figure]:
    """Yield ours beside one peer's; rounds count by their median."""
    chunks = DOCUMENTS * PARAGRAPHS
    assert {cost[2] for cost in ours.initial + theirs.initial} == {chunks}
    for part, unit in ((0, "s"), (1, "CPU s")):
        rates = [chunks / statistics.median(cost[part] for cost in one.initial) for one in (ours, theirs)]
        metric, target = f"initial load of {chunks} chunks, no index", 5.0 if part == 0 else None
        yield Figure(
            "embeddings", metric, round(rates[0]), f"rows/{unit}", name, round(rates[0] / rates[1], 2), target, "higher"
        )
        costs = [statistics.median(cost[part] for cost in one.unchanged) for one in (ours, theirs)]
        metric = f"unchanged refresh of {DOCUMENTS} documents"
        yield Figure("embeddings", metric, round(costs[0], 4), unit, name, round(costs[0] / costs[1], 3))
    needed, paid = (statistics.median(cost[2] for cost in one.changed) for one in (ours, theirs))
    metric = f"texts embedded when {CHANGED} of {DOCUMENTS} documents got one edit each"
    yield Figure("embeddings", metric, needed, "texts", name, round(needed / max(paid, 1), 2), 1.0)
    metric = f"unchanged refresh: CPU of one more document, from {SIZES[0]} to {SIZES[1]} files of one folder"
    target = None if name.startswith("langchain") else 1 / 20
    yield Figure("embeddings", metric, round(ours.slope, 2), "us", name, round(ours.slope / theirs.slope, 4), target)


if __name__ == "__main__":
    raise SystemExit(report(measure))
