"""What questions feel of a change of the model: another process asks without a pause while a new generation is built.

Models that need no time encode documents and questions, so the figures are those of the database and our own work. The
two have vectors of different lengths, so a question in the wrong space is an error; and a document's own text, asked,
must find that document at a distance of nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path
from unittest.mock import patch

import numpy as np

from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.database.connection import connect
from llmjobs.embeddings.search import question, search
from llmjobs.lake import Lake
from tests.benchmarks.embeddings import server
from tests.benchmarks.figures import Figure, report
from tests.jobs.embeddings.night import CountingModel, Night

DOCUMENTS = 1_500
QUIET_SECONDS = 5.0
"""How long is asked before the new model comes, and after."""

Asked = tuple[float, float, int, bool]
"""When a question was asked (`time.monotonic`), how long it took in s, which generation answered, whether rightly."""


def figures() -> Iterator[Figure]:
    """Yield errors, and median and p95 while the new generation is built and swapped beside those before."""
    context = multiprocessing.get_context("spawn")
    with server() as url, tempfile.TemporaryDirectory() as folder:
        night = _filled(url, Path(folder))
        stop, (ours, theirs) = context.Event(), context.Pipe(duplex=False)
        asker = context.Process(target=ask, args=(url, stop, theirs))
        asker.start()
        ours.recv()  # it has asked once: its imports are over
        begin = time.monotonic()
        time.sleep(QUIET_SECONDS)
        night.model = night.models["other"] = CountingModel(name="other", dimensions=384)
        started = time.monotonic()
        result = night.refresh()
        ended = time.monotonic()
        time.sleep(QUIET_SECONDS)
        stop.set()
        asked: list[Asked] = ours.recv()
        asker.join()
    quiet = [one[1] for one in asked if begin <= one[0] < started]
    busy = [one[1] for one in asked if started <= one[0] < ended]
    swapped = result.active and {one[2] for one in asked} == {1, result.generation_id}
    wrong = sum(not one[3] for one in asked) + (not swapped)
    name = f"model swap of {DOCUMENTS} documents under {len(asked)} questions"
    yield Figure("embeddings", f"{name}: errors and wrong answers", wrong, "questions", target=0)
    for part, share in (("median", 0.5), ("p95", 0.95)):
        before, during = (float(np.quantile(seconds, share)) for seconds in (quiet, busy))
        yield Figure(
            "embeddings", f"{name}: {part} during it", round(during * 1000, 2), "ms", "before it", during / before
        )


def ask(url: str, stop: Event, told: Pipe) -> None:
    """Ask for one document after another until `stop`, and tell how it went."""
    asked: list[Asked] = []
    with connect(url) as connection, patch.object(question, "_encoder", _encoder):
        while not stop.is_set():
            number = len(asked) * 7919 % DOCUMENTS
            started = time.monotonic()
            try:
                (hit,) = search(connection, "notes", _text(number), 1, tenants=["public"], mode="vector")
                right, generation = hit.document == f"note{number}.md" and hit.score > 0.999, hit.generation_id
            except Exception as error:  # whatever it is, it is counted
                sys.stderr.write(f"a question failed: {error}\n")
                right, generation = False, 0
            asked.append((started, time.monotonic() - started, generation, right))
            if len(asked) == 1:
                told.send(None)
    told.send(asked)


def _encoder(settings: str) -> CountingModel:
    name = json.loads(settings)["name"]
    return CountingModel(name=name, dimensions=384 if name == "other" else 256)


def _filled(url: str, folder: Path) -> Night:
    values = {"name": "notes", "source": {"url": "documents/notes", "language": "en"}, "chunks": {"max_tokens": 64}}
    lake, model = Lake(f"file://{folder}"), CountingModel(dimensions=256)
    night = Night(lake, folder / "documents" / "notes", url, model, RefreshConfig.model_validate(values))
    night.write(**{f"note{number}": _text(number) for number in range(DOCUMENTS)})
    night.refresh()
    return night


def _text(number: int) -> str:
    return f"Note {number} tells of thing{number} and of word{number * 37 % 1009}, at place{number * 53 % 997}."


if __name__ == "__main__":
    raise SystemExit(report(figures))
