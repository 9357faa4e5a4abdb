"""Whether the score knows a spoilt answer, what the first quarter of the order covers, and what both cost.

``python -m tests.benchmarks.quality``. Answers of real rows are spoilt in five ways; the area under the ROC curve (AUC)
is the chance that a good answer scores above a spoilt one: 0.5 is chance, 1 is perfect. Coverage is also told by
what the selection does not know: clusters of the prompts' embeddings.
"""

from __future__ import annotations

import json
import random
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from llmjobs.contracts.data_contract import Quality
from llmjobs.instructions.choice import quality, selection
from llmjobs.instructions.choice.embedder import Embed, embedder
from llmjobs.instructions.tables import MESSAGE
from tests.benchmarks.figures import Figure, Skipped, report

ROOM = "instructions"
REAL = Path(__file__).parents[3] / "shared" / "data" / "instructions"
ROWS = 100_000
ORDERED = 1_000_000
ALPACA_WORDS = 45  # an answer of Alpaca's 52,000 has 270 characters
PLAIN = Quality(score=True)
FULL = Quality(score=True, similarity=True)

Texts = list[tuple[str, str]]
Positions = npt.NDArray[np.int64]


def measure() -> Iterator[Figure | Skipped]:
    """Measure the cost first, while this process is small; then what the scores are worth."""
    yield from cost_figures()
    if not (REAL / "alpaca_en_demo.json").is_file():
        yield Skipped(ROOM, "AUC of the score, coverage of a quarter", "the real rows lie beside the repository")
        return
    embed = remembering(embedder(FULL.embedding_model))
    for name in ("alpaca_en_demo", "alpaca_zh_demo"):
        yield from auc_figures(name, long_enough(read(REAL / f"{name}.json")), PLAIN, None)
    yield from auc_figures("alpaca_en_demo", long_enough(read(REAL / "alpaca_en_demo.json"))[:200], FULL, embed)
    yield from coverage_figures(read(REAL / "alpaca_en_demo.json"), embed)


def cost_figures() -> Iterator[Figure]:
    """Yield CPU seconds and bytes, on generated rows."""
    chance = np.random.default_rng(3)
    rows = pl.DataFrame(
        {
            "row_key": pl.Series(chance.permutation(ORDERED), dtype=pl.Int128),
            "cluster": chance.integers(0, 4096, ORDERED).astype(np.uint16),
            "score": chance.random(ORDERED).astype(np.float32),
        }
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = cpu(lambda: selection.rank(rows, diversity=0.3))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    yield Figure(ROOM, f"ranking of {ORDERED} rows: CPU", round(seconds, 2), "s", target=5.0)
    yield Figure(ROOM, f"ranking of {ORDERED} rows: memory", round(grown / ORDERED), "bytes/row", target=200)
    texts = generated(ROWS)
    seconds = min(cpu(lambda: quality.score(texts, PLAIN)) for _ in range(3))
    metric = f"score of a million rows of {ALPACA_WORDS} words, from {ROWS}: CPU"
    yield Figure(ROOM, metric, round(seconds * 1e6 / ROWS, 2), "s", target=10.0)
    words = cpu(lambda: selection.features(texts["prompt"]))
    keyed = pl.DataFrame({"row_key": rows["row_key"].head(ROWS), "features": selection.features(texts["prompt"])})
    found = cpu(lambda: selection.clusters(keyed))
    metric = f"features and clusters of a million rows, from {ROWS}: CPU"
    yield Figure(ROOM, metric, round((words + found) * 1e6 / ROWS, 2), "s", target=15.0)


def auc_figures(name: str, texts: Texts, config: Quality, embed: Embed | None) -> Iterator[Figure]:
    """Yield for each way to spoil answers the AUC of the score, with that of each signal in its name."""
    good = quality.score(table(texts), config, embed=embed)
    for kind, spoilt in spoil(texts).items():
        bad = quality.score(table(spoilt), config, embed=embed)
        signals = ", ".join(f"{column} {auc(good[column], bad[column]):.2f}" for column in good.columns[1:])
        metric = f"{name}, {len(texts)} rows, {kind}: AUC of the score ({signals})"
        value = round(auc(good["score"], bad["score"]), 3)
        yield Figure(ROOM, metric, value, "", target=FLOORS[config.similarity][kind], better="higher")


FLOORS = {
    False: {"shuffled": 0.75, "truncated": 0.94, "repeated": 0.95, "echoed": 0.97, "question first": 0.95},
    True: {"shuffled": 0.97, "truncated": 0.9, "repeated": 0.94, "echoed": 0.97, "question first": 0.9},
}
"""Least AUC, without and with the embedding model."""


def coverage_figures(texts: Texts, embed: Embed) -> Iterator[Figure]:
    """Yield what the first quarter covers and scores, against 200 random quarters."""
    (kept,) = selection.fractions(ranked_rows(texts, 0.3), (0.25,))
    chance = kept["random"]
    yield against("mean score of the first 25%", kept["mean_score"], chance["mean_score"])
    yield against("clusters that the first 25% meets", kept["clusters"], chance["clusters"])
    vectors = embed([question for question, _ in texts])
    groups = grouped(vectors, 100)
    quarter = kept["rows"]
    draws = [np.random.default_rng(seed).permutation(len(texts))[:quarter] for seed in range(200)]
    chosen, alone = (positions(ranked_rows(texts, diversity), quarter) for diversity in (0.3, 0.0))
    randomly = float(np.mean([met(groups, draw) for draw in draws]))
    yield against(
        "clusters of embeddings, which it does not know, that the first 25% meets", met(groups, chosen), randomly
    )
    value = round(met(groups, alone), 4)
    yield Figure(ROOM, "the same by score alone, diversity 0", value, "", "random 25%", round(value / randomly, 3))
    nearest, by_chance = nearness(vectors, chosen), float(np.mean([nearness(vectors, draw) for draw in draws]))
    metric = "mean cosine of a prompt to the nearest of the first 25%"
    yield Figure(ROOM, metric, round(nearest, 4), "", "random 25%", round(nearest / by_chance, 3))


def against(metric: str, value: float, random_value: float) -> Figure:
    """Return a figure that must not be below what chance gives."""
    ratio = round(value / random_value, 3)
    return Figure(ROOM, metric, round(value, 4), "", "random 25%, expected", ratio, 1.0, "higher")


def spoil(texts: Texts) -> dict[str, Texts]:
    """Return the rows with answers spoilt, five ways."""
    answers = [answer for _, answer in texts]
    order = list(range(len(texts)))
    random.Random(7).shuffle(order)
    next_of = dict(zip(order, [*order[1:], order[0]], strict=True))
    spoilt = {
        "shuffled": [answers[next_of[position]] for position in range(len(texts))],
        "truncated": [first_words(answer) for answer in answers],
        "repeated": [repeated(answer) for answer in answers],
        "echoed": [question for question, _ in texts],
        "question first": [f"{question}\n{answer}" for question, answer in texts],
    }
    questions = [question for question, _ in texts]
    return {kind: list(zip(questions, found, strict=True)) for kind, found in spoilt.items()}


def first_words(text: str) -> str:
    """Return the first five words, or of Chinese the first eight characters."""
    return text[:8] if spaceless(text) else " ".join(text.split()[:5])


def repeated(text: str) -> str:
    """Return the first sentence six times."""
    sentences = [part for part in re.split(r"(?<=[.!?\u3002\uff01\uff1f\n])\s*", text) if part.strip()]
    return " ".join(sentences[:1] * 6)


def spaceless(text: str) -> bool:
    """Return whether a text is Chinese."""
    return len(re.findall(r"[\u4e00-\u9fff]", text)) > len(text) / 4


def long_enough(texts: Texts) -> Texts:
    """Return the rows whose answers are longer than what a truncation leaves of them."""
    return [(question, answer) for question, answer in texts if len(first_words(answer)) < len(answer.strip())]


def read(path: Path) -> Texts:
    """Read an Alpaca file as questions and answers."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [("\n\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"]) for row in rows]


def table(texts: Texts) -> pl.DataFrame:
    """Return rows as `quality.score` takes them."""
    messages = [[turn("user", question), turn("assistant", answer)] for question, answer in texts]
    columns = {"prompt": [row[0] for row in texts], "answer": [row[1] for row in texts], "messages": messages}
    return pl.DataFrame(columns, schema={"prompt": pl.String, "answer": pl.String, "messages": pl.List(MESSAGE)})


def turn(role: str, content: str) -> dict[str, str | None]:
    """Return one turn of `MESSAGE`."""
    return {"role": role, "content": content, "tool_calls": None}


def ranked_rows(texts: Texts, diversity: float) -> pl.DataFrame:
    """Return rows with their rank, and ``position``, where they stand in `texts`."""
    rows = table(texts)
    keys = pl.Series("row_key", np.random.default_rng(5).permutation(len(texts)), dtype=pl.Int128)
    rows = rows.with_columns(
        keys,
        selection.features(rows["prompt"]),
        quality.score(rows, PLAIN)["score"],
        characters=pl.col("prompt").str.len_chars() + pl.col("answer").str.len_chars(),
    ).with_row_index("position")
    rows = rows.with_columns(selection.clusters(rows))
    return rows.with_columns(selection.rank(rows, diversity=diversity))


def positions(ranked: pl.DataFrame, count: int) -> Positions:
    """Return the positions of the first rows."""
    return ranked.filter(pl.col("rank") < count)["position"].to_numpy().astype(np.int64)


def met(groups: Positions, chosen: Positions) -> float:
    """Return the share of the groups of which a row is chosen."""
    return len(np.unique(groups[chosen])) / len(np.unique(groups))


def grouped(vectors: npt.NDArray[np.float32], count: int) -> Positions:
    """Return the group of each vector, by spherical k-means."""
    centres = vectors[np.random.default_rng(0).permutation(len(vectors))[:count]]
    for _ in range(20):
        groups = (vectors @ centres.T).argmax(axis=1)
        sums = np.stack([vectors[groups == group].sum(axis=0) for group in range(count)])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-9), centres)
    return np.asarray((vectors @ centres.T).argmax(axis=1))


def nearness(vectors: npt.NDArray[np.float32], chosen: Positions) -> float:
    """Return the mean cosine of all texts to the nearest chosen one."""
    return float((vectors @ vectors[chosen].T).max(axis=1).mean())


def auc(good: pl.Series, bad: pl.Series) -> float:
    """Return the chance that a value of `good` is above one of `bad`, a tie counting half (Mann-Whitney)."""
    both = pl.concat([good.alias("value"), bad.alias("value")]).rank("average")
    whole = float(both.head(len(good)).sum()) - len(good) * (len(good) + 1) / 2
    return whole / (len(good) * len(bad))


def generated(count: int) -> pl.DataFrame:
    """Return rows of words that follow Zipf's law, as long as Alpaca's."""
    chance = np.random.default_rng(9)
    vocabulary = np.array(["".join(chance.choice(list("etaoinshrdlu"), size)) for size in chance.integers(2, 10, 8192)])
    texts = []
    for words in (20, ALPACA_WORDS):
        drawn = vocabulary[np.minimum(chance.zipf(1.25, (count, words)), len(vocabulary)) - 1]
        texts.append([" ".join(row) for row in drawn])
    return table(list(zip(*texts, strict=True)))


def remembering(embed: Embed) -> Embed:
    """Return the model with a memory: the questions are the same for every way to spoil an answer."""
    known: dict[str, npt.NDArray[np.float32]] = {}

    def remembered(texts: list[str]) -> npt.NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, embed(new), strict=True) if new else ())
        return np.stack([known[text] for text in texts])

    return remembered


def cpu(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    raise SystemExit(report(measure))
