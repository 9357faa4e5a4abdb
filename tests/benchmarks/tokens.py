"""How fast the tokens of rows are counted, rendering included, beside the bare tokenizer on the rendered texts.

    python -m tests.benchmarks.tokens

The rows are 999 real ones in the Alpaca format, twice over; both sides take them in batches of the same size, in turns,
on as many cores as the tokenizer takes. The ratio is the median of the pairs.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.instructions.rendered.frame_rendering import FrameRenderer
from llmjobs.instructions.rendered.tokens import BATCH_ROWS, token_counter
from llmjobs.instructions.tables import MESSAGE
from llmjobs.models import resolve_model
from llmjobs.rendering import ChatRenderer, load_tokenizer
from tests.benchmarks.figures import Figure, Skipped, report

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS = Path(__file__).parents[3] / "shared" / "data" / "instructions" / "alpaca_en_demo.json"
TIMES, TRIES = 2, 7


def measure() -> list[Figure | Skipped]:
    """Measure the rate and compare the counts."""
    if not ROWS.is_file():
        return [Skipped("instructions", "tokens counted", f"the real rows are not beside the repository ({ROWS.name})")]
    return list(figures(alpaca_rows(ROWS, TIMES)))


def figures(frame: pl.DataFrame) -> Iterator[Figure]:
    """Yield the rate against the bare tokenizer's, and the rows whose counts differ."""
    tokenizer = load_tokenizer(resolve_model(MODEL).path)
    texts = FrameRenderer(ChatRenderer(tokenizer)).rendered(frame)["text"].to_list()
    count = token_counter(MODEL)
    counted, expected = count(frame).to_list(), bare(tokenizer, texts)
    pairs = [(cpu_seconds(lambda: count(frame)), cpu_seconds(lambda: bare(tokenizer, texts))) for _ in range(TRIES)]
    yield Figure(
        "instructions",
        f"tokens counted, rendering included, {frame.height} Alpaca rows",
        round(frame.height / statistics.median(ours for ours, _ in pairs)),
        "rows/CPU s",
        f"tokenizers {version('tokenizers')}, encode_batch_fast of {BATCH_ROWS} rendered texts at once",
        round(statistics.median(theirs / ours for ours, theirs in pairs), 3),
        0.9,
        "higher",
    )
    differing = sum(one != other for one, other in zip(counted, expected, strict=True))
    yield Figure("instructions", "rows whose count is not the bare tokenizer's", differing, "rows", target=0)


def alpaca_rows(path: Path, times: int) -> pl.DataFrame:
    """Return the rows of an Alpaca file as messages, several times over."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    chats = [
        [{"role": "user", "content": "\n\n".join(filter(None, (row["instruction"], row["input"])))},
         {"role": "assistant", "content": row["output"]}]
        for row in rows
    ]  # fmt: skip
    return pl.DataFrame({"messages": chats * times}, schema={"messages": pl.List(MESSAGE)})


def bare(tokenizer: Any, texts: list[str]) -> list[int]:
    """Return the tokens of texts, by the tokenizer alone."""
    encode, counts = tokenizer.backend_tokenizer.encode_batch_fast, list[int]()
    for start in range(0, len(texts), BATCH_ROWS):
        counts += map(len, encode(texts[start : start + BATCH_ROWS], add_special_tokens=False))
    return counts


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of this process, all its threads."""
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    raise SystemExit(report(measure))
