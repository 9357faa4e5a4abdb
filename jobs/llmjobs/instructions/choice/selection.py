"""Which train rows a budget takes: an order in which every beginning is good and diverse.

What a beginning S of the order is worth is ``(1 - diversity) * sum of scores + diversity * sum over clusters of
sqrt(rows of S in the cluster)``. The root is the diversity reward of Lin and Bilmes (2011, "A Class of Submodular
Functions for Document Summarization"): the second row of a cluster adds less than the first. The best row of a cluster
is always that with the highest remaining score, and what each next one adds only falls; so the greedy order is one sort
by what each row adds, and for every number of rows no other choice is worth more.

Clusters come from the words of the prompt: some rows, drawn by their key, are the anchors, and each row belongs to the
anchor whose words are most like its own (cosine of TF-IDF). Anchors are drawn and never moved, unlike the means of
k-means: one more row changes at most one anchor, so it moves few rows to other clusters, and the order of the others
stays but for their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from llmjobs.contracts.data_contract import TrainBudget
from llmjobs.instructions.choice.words import Counts, Hashes, Words, blocks, content

SELECTION_VERSION = 1
"""Counted up with every change of an order: it decides which rows a budget takes."""

FEATURES = 12
"""Words of a prompt that are kept for `clusters`: 24 bytes a row."""
MOST_CLUSTERS = 4096
ROWS_PER_CLUSTER = 3
"""Fewest rows an anchor. Of 999 real rows the first quarter met 93% of 100 clusters of the prompts' embeddings, a
random quarter 86%, and with 8 rows an anchor 82%."""
COMMON = 0.1
"""Words in more than this share of the prompts say nothing about the topic."""
CHARACTERS_PER_TOKEN = 4.0
"""Of English with a usual tokenizer."""
DENSE_LANGUAGES = {"zh": 1.5, "ja": 1.5, "ko": 2.0}
"""Characters a token of languages whose characters say more."""

Values = npt.NDArray[np.float64]

_LEAST_BYTES = 4  # a word of three letters and what parts it from the next
_NONE = 0
_BLOCK = 8_192


def features(prompts: pl.Series) -> pl.Series:
    """Return the first words of each prompt as numbers, for `clusters`. They depend on the prompt alone.

    Returns:
        ``features``: Array(UInt16, FEATURES), filled up with 0.
    """
    table = np.full((len(prompts), FEATURES), _NONE, dtype=np.uint16)
    for rows, (words,) in blocks(prompts):
        hashes, at = _content(words)
        begins = np.searchsorted(at, np.arange(len(words.counts)))
        ordinals = np.arange(len(at)) - begins[at]
        early = ordinals < FEATURES
        numbers = np.maximum(hashes[early] >> np.uint64(48), np.uint64(1)).astype(np.uint16)
        table[rows][at[early], ordinals[early]] = numbers
    return pl.Series("features", table, dtype=pl.Array(pl.UInt16, FEATURES))


def clusters(rows: pl.DataFrame) -> pl.Series:
    """Return the cluster of each row, by the words of its prompt.

    Args:
        rows: All train rows: ``row_key`` (a hash, so that the smallest are a random draw) and ``features``.

    Returns:
        ``cluster``: UInt16, one for each of `rows` in their order. Rows that share no telling word with any anchor are
        in clusters of their own, by their rarest word.
    """
    words = rows["features"].to_numpy().reshape(rows.height, FEATURES)
    weights = _rarity(words)
    count = cluster_count(rows.height)
    drawn = rows.select("row_key").with_row_index("position").bottom_k(count, by="row_key").sort("row_key")
    anchors = _vectors(words[drawn["position"].to_numpy()], weights).T.tocsr()
    found = np.zeros(rows.height, dtype=np.uint16)
    for start in range(0, rows.height, _BLOCK):
        block = slice(start, start + _BLOCK)
        found[block] = _nearest(words[block], weights, anchors)
    return pl.Series("cluster", found)


def cluster_count(rows: int) -> int:
    """Return how many anchors so many rows have: a power of two, so that a few rows more seldom change it."""
    wanted = min(max(rows // ROWS_PER_CLUSTER, 1), MOST_CLUSTERS)
    return 1 << int(math.log2(wanted))


def rank(rows: pl.DataFrame, *, diversity: float) -> pl.Series:
    """Return the order in which rows are taken; every beginning of it is the best choice of so many rows.

    It follows from `rows` as a set: not from their order, and not from chance. A row more delays those of its cluster
    that score lower by one place within the cluster; all other rows keep their order.

    Args:
        rows: ``row_key``, ``cluster`` and ``score``; a score that is null or NaN counts as 0.
        diversity: 0: by score alone; 1: the clusters in turn.

    Returns:
        ``rank``: UInt32, 0 is taken first, one for each of `rows` in their order.
    """
    score = pl.col("score").cast(pl.Float64).fill_nan(None).fill_null(0.0)
    table = rows.select("row_key", "cluster", score).with_row_index("position")
    table = table.sort("score", "row_key", descending=[True, False])
    before = pl.int_range(pl.len()).over("cluster").cast(pl.Float64)
    variety = (before + 1).sqrt() - before.sqrt()
    table = table.with_columns(gain=(1 - diversity) * pl.col("score") + diversity * variety)
    # Stable, so that of equal gains the better row comes first, and of equal rows that with the smaller key.
    order = table.sort("gain", descending=True, maintain_order=True)["position"].to_numpy()
    ranks = np.empty(rows.height, dtype=np.uint32)
    ranks[order] = np.arange(rows.height, dtype=np.uint32)
    return pl.Series("rank", ranks)


def within_budget(ranked: pl.DataFrame, budget: TrainBudget) -> pl.Series:
    """Return which rows a budget takes: those of the smallest ranks.

    Of tokens it takes rows until one does not fit, and none after it, even if it were short: so a larger budget always
    holds what a smaller one has, and no rank is passed over for its length.

    Args:
        ranked: ``rank``, and for a budget of tokens ``tokens`` or ``characters`` (see `tokens`).
        budget: Rows or tokens.

    Returns:
        Boolean, one for each of `ranked` in their order.
    """
    if budget.rows is not None:
        return ranked.select(taken=pl.col("rank").rank("ordinal") <= budget.rows)["taken"]
    spent = tokens(ranked).sort_by("rank").cum_sum().alias("spent")
    spending = ranked.select(spent, position=pl.int_range(pl.len()).sort_by("rank")).sort("position")
    return spending.select(taken=pl.col("spent") <= budget.tokens)["taken"]


def tokens(rows: pl.DataFrame) -> pl.Expr:
    """Return the tokens of each row: ``tokens`` where they were counted, else estimated from ``characters``.

    The estimate takes `CHARACTERS_PER_TOKEN`, and fewer characters for a ``language`` of `DENSE_LANGUAGES`; a row of
    unknown language counts as English.
    """
    counted = pl.col("tokens") if "tokens" in rows.columns else pl.lit(None, dtype=pl.Int64)
    if "characters" not in rows.columns:
        return counted
    each: pl.Expr = pl.lit(CHARACTERS_PER_TOKEN)
    if "language" in rows.columns:
        each = pl.col("language").replace_strict(DENSE_LANGUAGES, default=CHARACTERS_PER_TOKEN)
    return pl.coalesce(counted, (pl.col("characters") / each).ceil().cast(pl.Int64))


def fractions(ranked: pl.DataFrame, fractions: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 1.0)) -> list[dict[str, Any]]:
    """Return what each fraction of the rows keeps, beside what as many random rows would keep.

    The random figures are expected values, so they need no draw: a random row scores the mean, and a cluster of c of N
    rows is met by m of them with probability ``1 - C(N - c, m) / C(N, m)``.

    Args:
        ranked: ``rank``, ``score``, ``cluster``, ``characters``, and if they are there ``tokens``, ``topic``,
            ``language``.
        fractions: Above 0, at most 1.

    Returns:
        One mapping a fraction: ``fraction``, ``rows``, ``tokens``, ``mean_score``, ``lowest_score``,
        ``mean_characters``, ``clusters``, ``topics`` (shares covered, 0 to 1; topics null where no row has one),
        ``languages`` (a number), and ``random``: the same of ``tokens``, ``mean_score``, ``clusters``, ``topics``.
    """
    optional = [name for name in ("topic", "language") if name in ranked.columns]
    table = ranked.select("rank", "score", "cluster", "characters", tokens(ranked).alias("tokens"), *optional)
    table = table.sort("rank")
    rows = [math.ceil(table.height * fraction) for fraction in fractions]
    return [
        {"fraction": fraction, **_kept(table.head(count), table), "random": _by_chance(table, count)}
        for fraction, count in zip(fractions, rows, strict=True)
        if count
    ]


def _kept(taken: pl.DataFrame, whole: pl.DataFrame) -> dict[str, Any]:
    return {
        "rows": taken.height,
        "tokens": taken["tokens"].sum(),
        "mean_score": taken["score"].mean(),
        "lowest_score": taken["score"].min(),
        "mean_characters": taken["characters"].mean(),
        "clusters": _covered(taken, whole, "cluster"),
        "topics": _covered(taken, whole, "topic"),
        "languages": taken["language"].drop_nulls().n_unique() if "language" in taken.columns else None,
    }


def _covered(taken: pl.DataFrame, whole: pl.DataFrame, column: str) -> float | None:
    if column not in whole.columns or not (all_of_it := whole[column].drop_nulls().n_unique()):
        return None
    return taken[column].drop_nulls().n_unique() / all_of_it


def _by_chance(whole: pl.DataFrame, rows: int) -> dict[str, Any]:
    return {
        "tokens": round(whole["tokens"].sum() * rows / whole.height),
        "mean_score": whole["score"].mean(),
        "clusters": _met_by_chance(whole, "cluster", rows),
        "topics": _met_by_chance(whole, "topic", rows),
    }


def _met_by_chance(whole: pl.DataFrame, column: str, rows: int) -> float | None:
    if column not in whole.columns:
        return None
    sizes = whole[column].drop_nulls().value_counts()["count"].to_list()
    if not sizes:
        return None
    total = whole.height
    return math.fsum(1 - _probability_of_none(total, size, rows) for size in sizes) / len(sizes)


def _probability_of_none(total: int, size: int, drawn: int) -> float:
    """Return C(total - size, drawn) / C(total, drawn): that none of `size` rows is drawn."""
    left = total - size - drawn
    if left < 0:
        return 0.0
    parts = (total - size + 1, total - drawn + 1, -(left + 1), -(total + 1))
    return math.exp(math.fsum(math.copysign(math.lgamma(abs(part)), part) for part in parts))


def _content(words: Words) -> tuple[Hashes, Counts]:
    return content(words, _LEAST_BYTES)


def _rarity(words: npt.NDArray[np.uint16]) -> Values:
    """Return the weight of each of the 65,536 words: log(rows / rows with it), 0 where it is too common."""
    rows = max(len(words), 1)
    having = np.zeros(1 << 16, dtype=np.int64)
    for start in range(0, len(words), _BLOCK):
        having += np.bincount(words[start : start + _BLOCK].ravel(), minlength=1 << 16)
    weights = np.log(rows / np.maximum(having, 1))
    weights[having > max(COMMON * rows, 1)] = 0
    weights[_NONE] = 0
    return np.asarray(weights)


def _vectors(words: npt.NDArray[np.uint16], weights: Values) -> Any:
    """Return unit TF-IDF vectors as a sparse matrix, (rows, 65536)."""
    from scipy import sparse

    begins = np.arange(0, words.size + 1, FEATURES)
    values = weights[words]
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    values = values / np.where(lengths > 0, lengths, 1)
    shape = (len(words), 1 << 16)
    vectors = sparse.csr_array((values.ravel(), words.ravel().astype(np.int32), begins), shape=shape)
    vectors.eliminate_zeros()
    return vectors


def _nearest(words: npt.NDArray[np.uint16], weights: Values, anchors: Any) -> npt.NDArray[np.uint16]:
    """Return for each row the anchor with the largest cosine, of equals the first."""
    count = anchors.shape[1]
    like = _vectors(words, weights) @ anchors  # (rows, anchors), sparse
    found = count + words[np.arange(len(words)), weights[words].argmax(axis=1)] % count
    has = np.flatnonzero(np.diff(like.indptr))
    if len(has):
        # Cosine and anchor in one number, so that one pass finds the largest; the cosine to 2^-20.
        keys = np.round(like.data * (1 << 20)).astype(np.int64) * count + (count - 1 - like.indices)
        found[has] = count - 1 - np.maximum.reduceat(keys, like.indptr[has]) % count
    return np.asarray(found, dtype=np.uint16)
