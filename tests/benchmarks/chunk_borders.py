"""How many chunks are new after one random edit: of this repository's guide, at 200 tokens a chunk.

An edit inserts, deletes or replaces up to 200 characters anywhere, code and its fences included. Those that touch the
line of a heading are told apart: the path of headings is part of what is embedded, so the chunks below are new texts.
"""

from __future__ import annotations

import random
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from llmjobs.embeddings.chunker import Chunker
from tests.benchmarks.figures import Figure, report
from tests.jobs.embeddings.night import CountingModel

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
EDITS = 2_000
MAX_TOKENS = 200
LONGEST = 200
"""Characters of an edit."""

_HEADING = re.compile(r"^#{1,6} [^\n]*\n?", re.MULTILINE)
_WORDS = ("new", "words", "are", "put", "here", "alpha.", "Beta")


def figures() -> Iterator[Figure]:
    """Yield the median and the worst of edits of text, and the worst of edits of headings."""
    texts, headings = new_chunks(EDITS)
    median = statistics.median(texts)
    yield Figure("embeddings", f"new chunks of one edit, median of {len(texts)}", median, "chunks", target=2)
    yield Figure("embeddings", f"new chunks of one edit, worst of {len(texts)}", max(texts), "chunks", target=5)
    worst = max(headings, default=0)
    yield Figure("embeddings", f"new chunks of one edit of a heading, worst of {len(headings)}", worst, "chunks")


def new_chunks(edits: int, seed: int = 1) -> tuple[list[int], list[int]]:
    """Return how many chunks each edit made: of those that touch no heading, and of those that do."""
    draw = random.Random(seed)
    chunker = Chunker(CountingModel().tokens, max_tokens=MAX_TOKENS)
    documents = [path.read_text(encoding="utf-8") for path in sorted(GUIDE.glob("*.md"))]
    before = [{chunk.text_hash for chunk in chunker.chunks(text)} for text in documents]
    of_text: list[int] = []
    of_headings: list[int] = []
    for _ in range(edits):
        chosen = draw.randrange(len(documents))
        text = documents[chosen]
        start, end, put = _edit(draw, len(text))
        new = {chunk.text_hash for chunk in chunker.chunks(text[:start] + put + text[end:])} - before[chosen]
        touched = any(found.start() <= end and start <= found.end() for found in _HEADING.finditer(text))
        (of_headings if touched else of_text).append(len(new))
    return of_text, of_headings


def _edit(draw: random.Random, length: int) -> tuple[int, int, str]:
    """Return where an edit begins and ends, and what stands there then."""
    start, size = draw.randrange(length), draw.randrange(1, LONGEST)
    kind = draw.choice(("insert", "delete", "replace"))
    put = "" if kind == "delete" else " ".join(draw.choices(_WORDS, k=size // 5 + 1))
    return start, start if kind == "insert" else start + size, put


if __name__ == "__main__":
    raise SystemExit(report(figures))
