"""A score from 0 to 1 for each row, out of signals that can be computed.

Fewer, better rows train better models: 9,000 of Alpaca's 52,000 (AlpaGasus, Chen et al. 2023, arXiv 2307.08701), 1,000
careful ones (LIMA, Zhou et al. 2023, arXiv 2305.11206), a budget filled by complexity, quality and diversity (DEITA,
Liu et al. 2023, arXiv 2312.15685). They let a model judge; what is computed here are the plain marks of a bad answer:

* ``length``: ``(1 - exp(-n / ENOUGH_WORDS)) * min(1, sqrt(MANY_WORDS / n))`` of n words. Long answers are the better
  ones by far (Zhao et al. 2024, arXiv 2402.04833), until they ramble.
* ``lexical``: ``min(1, distinct / n ** HEAPS) * min(1, new / USUAL_NEW)``. The first part is the vocabulary against
  what a text of n words has at least (Heaps' law); ``new`` is the share of three-word runs that the answer has not
  had before (distinct-n, Li et al. 2016, arXiv 1510.03055; repetition, Rae et al. 2021, arXiv 2112.11446, A1).
* ``overlap``: ``1 - copied ** 3``, where ``copied`` is the share of the answer's three-word runs that its question has,
  or of the question's that its answer has, whichever is more. The cube spares answers that must quote, like a corrected
  sentence.
* ``relevance``: ``(shared + 0.5) / (shared + 1)`` for the long words (of text without spaces: pairs of characters)
  that question and answer share. Never below a half: a right answer need not repeat a word.
* ``similarity``: ``min(1, max(0, cosine) / CLOSE)`` of the embeddings of question and answer; only if asked for.
* ``mark``: ``(mark - 1) / 4`` of a judge, of the rows that have one; `with_marks` adds it.

The score is their geometric mean with `WEIGHTS`, so it rises with each of them and one signal near 0 is not made up for
by the others. A signal that a row does not have takes no part. It is rounded to 1/10,000: the last bit of a processor's
arithmetic decides no order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from llmjobs.contracts.data_contract import Quality
from llmjobs.instructions.choice.embedder import Embed
from llmjobs.instructions.choice.words import Counts, Hashes, Words, blocks, content, ngrams

QUALITY_VERSION = 1
"""Counted up with every change of a score: it decides which rows a budget takes."""

Values = npt.NDArray[np.float64]

WEIGHTS = {"length": 0.2, "lexical": 0.2, "overlap": 0.2, "relevance": 0.4, "similarity": 0.4, "mark": 1.0}
"""Relative to those of the row's other signals. A judge has read the row, so it counts as the others do together."""

SIGNALS = ("length", "lexical", "overlap", "relevance")
"""What every row has; ``similarity`` and ``mark`` may come on top."""

ENOUGH_WORDS = 20.0
MANY_WORDS = 1_000.0
HEAPS = 0.85
"""An exponent that 90% of good answers in English and Chinese reach; the vocabulary beyond it earns nothing more."""
USUAL_NEW = 0.85
CLOSE = 0.6
LONG_WORD_BYTES = 6
"""A word and what parts it from the next: five letters. Shorter words are mostly those that every text has."""
LEAST = 1e-3
"""What a signal of 0 counts as, so that rows which fail one are still told apart by the others."""

_BUCKETS = 1024
_SHIFT = np.uint64(54)  # the upper 10 bits of a hash: one of 1024 buckets


def score(rows: pl.DataFrame, quality: Quality, *, embed: Embed | None = None) -> pl.DataFrame:
    """Return the score of each row, and the signals that it is made of.

    Args:
        rows: A chunk with ``prompt``, ``answer`` and ``messages``, masked.
        quality: Whether to compare embeddings.
        embed: The loaded model; needed when `quality.similarity` is on.

    Returns:
        ``score``, `SIGNALS` and, where asked for, ``similarity``: Float32 from 0 to 1, never null nor NaN, one row for
        each of `rows` in their order.
    """
    texts = rows.select(_question().alias("question"), _answer().alias("answer"))
    signals = _lexical_signals(texts["question"], texts["answer"])
    if quality.similarity:
        assert embed is not None, "quality.similarity needs the embedding model"
        signals["similarity"] = _similarity(texts["question"], texts["answer"], embed)
    table = {"score": combined(signals), **signals}
    return pl.DataFrame({name: values.astype(np.float32) for name, values in table.items()})


def with_marks(scored: pl.DataFrame, marks: pl.Series) -> pl.DataFrame:
    """Return what `score` gave with the marks of a judge as the signal ``mark`` (null where there is none)."""
    given = marks.cast(pl.Float64).to_numpy()
    signals = {name: scored[name].to_numpy().astype(np.float64) for name in scored.columns if name in WEIGHTS}
    both = combined({**signals, "mark": (given - 1) / 4})
    mark = ((marks.cast(pl.Float32) - 1) / 4).fill_nan(None).alias("mark")
    return scored.with_columns(pl.Series("score", both.astype(np.float32)), mark)


def combined(signals: dict[str, Values]) -> Values:
    """Return the weighted geometric mean of signals from 0 to 1, each (rows,); NaN means that a row has none."""
    names = list(signals)
    values = np.stack([signals[name] for name in names])
    weights = np.array([WEIGHTS[name] for name in names])[:, None] * ~np.isnan(values)
    logs = np.log(np.clip(np.nan_to_num(values), LEAST, 1))
    mean = np.exp((weights * logs).sum(axis=0) / np.maximum(weights.sum(axis=0), LEAST))
    return np.asarray(np.round(mean, 4))


def _question() -> pl.Expr:
    """The turn that the answer answers: of a chat the last one of the user."""
    last = pl.col("messages").list.filter(pl.element().struct.field("role") == "user").list.last()
    chat = pl.col("messages").list.len() > 3  # system, user, assistant: there the first prompt is the only one
    return pl.when(chat).then(last.struct.field("content")).otherwise(pl.col("prompt")).fill_null("")


def _answer() -> pl.Expr:
    """The answer, or the tool calls of one that has no other text."""
    called = pl.col("messages").list.last().struct.field("tool_calls")
    empty = pl.col("answer").is_null() | (pl.col("answer") == "")
    return pl.when(empty).then(called).otherwise(pl.col("answer")).fill_null("")


def _lexical_signals(questions: pl.Series, answers: pl.Series) -> dict[str, Values]:
    signals = {name: np.zeros(len(questions)) for name in SIGNALS}
    for rows, (question, answer) in blocks(questions, answers):
        words = answer.counts
        signals["length"][rows] = _length(words)
        runs, at = ngrams(answer, 3)
        signals["lexical"][rows] = _lexical(answer, runs, at)
        signals["overlap"][rows] = _overlap(question, runs, at)
        signals["relevance"][rows] = _relevance(question, answer)
    return signals


def _length(words: Counts) -> Values:
    return np.asarray((1 - np.exp(-words / ENOUGH_WORDS)) * np.minimum(1, np.sqrt(MANY_WORDS / np.maximum(words, 1))))


def _lexical(answer: Words, runs: Hashes, at: Counts) -> Values:
    count = len(answer.counts)
    vocabulary = _distinct(_marked(answer.hashes, answer.rows, count)) / np.maximum(answer.counts, 1) ** HEAPS
    had = np.bincount(at, minlength=count)
    new = np.where(had > 0, _distinct(_marked(runs, at, count)) / np.maximum(had, 1), 1.0)
    return np.asarray(np.minimum(1, vocabulary) * np.minimum(1, new / USUAL_NEW))


def _overlap(question: Words, runs: Hashes, at: Counts) -> Values:
    asked, asked_at = ngrams(question, 3)
    one = _share_found(runs, at, asked, asked_at, len(question.counts))
    other = _share_found(asked, asked_at, runs, at, len(question.counts))
    return np.asarray(1 - np.maximum(one, other) ** 3)


def _share_found(runs: Hashes, at: Counts, among: Hashes, among_at: Counts, count: int) -> Values:
    """Return the share of each row's runs that are among its others, less what would be by chance; (count,)."""
    marked = _marked(among, among_at, count)
    found = np.bincount(at, weights=marked[at, (runs >> _SHIFT).astype(np.int64)], minlength=count)
    share = found / np.maximum(np.bincount(at, minlength=count), 1)
    by_chance = np.minimum(_used(marked) / _BUCKETS, 0.99)
    return np.asarray(np.clip((share - by_chance) / (1 - by_chance), 0, 1))


def _relevance(question: Words, answer: Words) -> Values:
    count = len(question.counts)
    asked, answered = (_marked(*content(words, LONG_WORD_BYTES), count) for words in (question, answer))
    by_chance = _used(asked) * _used(answered) / _BUCKETS
    shared = np.maximum(_used(asked & answered) - by_chance, 0)
    return np.asarray((shared + 0.5) / (shared + 1))


def _marked(hashes: Hashes, rows: Counts, count: int) -> npt.NDArray[np.bool_]:
    """Return which buckets the hashes of each row fall into, (count, buckets)."""
    marked = np.zeros(count * _BUCKETS, dtype=np.bool_)
    marked[rows * _BUCKETS + (hashes >> _SHIFT).astype(np.int64)] = True
    return marked.reshape(count, _BUCKETS)


def _used(marked: npt.NDArray[np.bool_]) -> Values:
    return np.asarray(np.bitwise_count(marked.view(np.uint64)).sum(axis=1), dtype=np.float64)


def _distinct(marked: npt.NDArray[np.bool_]) -> Values:
    """Return how many distinct hashes marked the buckets: linear counting (Whang et al. 1990).

    A sort would be exact and took 7.6 us a row of 115 words, this 0.5; it is off by 2% at 1,000 words.
    """
    free = np.maximum(_BUCKETS - _used(marked), 1) / _BUCKETS
    return np.asarray(-_BUCKETS * np.log(free))


def _similarity(questions: pl.Series, answers: pl.Series, embed: Embed) -> Values:
    one, other = embed(questions.to_list()), embed(answers.to_list())
    cosine = np.einsum("rd,rd->r", one, other, dtype=np.float64)
    return np.asarray(np.clip(np.nan_to_num(np.round(cosine, 3)) / CLOSE, 0, 1))
