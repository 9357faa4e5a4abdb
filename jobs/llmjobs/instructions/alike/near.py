"""Finds rows whose texts are nearly the same, and says which of them go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from llmjobs.instructions.alike.bands import BandIndex
from llmjobs.instructions.alike.crowds import Crowds, compare_crowds
from llmjobs.instructions.alike.links import resolved, standing
from llmjobs.instructions.alike.shingles import Positions
from llmjobs.instructions.alike.similarity import Fetch, Verifier

PAIRS = {"row": pl.Int64, "other": pl.Int64, "similarity": pl.Float64}
"""``row`` < ``other``. Of rows with the very same shingles each is paired with one of them (similarity 1), and that one
alone with rows that are not: what is near it is near all (`llmjobs.instructions.alike.links.resolved`)."""


def near_pairs(
    batches: Iterable[tuple[npt.NDArray[Any], Sequence[str]]],
    fetch: Fetch,
    *,
    threshold: float,
    preference: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the pairs of rows whose similarity is at least the threshold, as `PAIRS`, sorted.

    MinHash signatures in bands give candidates, and each candidate is verified: the similarity is the exact Jaccard
    similarity of the sets of shingles. A pair at the threshold is missed with a probability of 1.5%, a more similar one
    less often. Where more than 32 different texts share a band (rows made from one template), each is compared with the
    2 most preferred, what is near none of these with the next 6, and so on, with 32 at most (`crowds.compare_crowds`):
    there are no n**2 pairs, and `drop_near` can do its work when it has the same preference.

    Args:
        batches: Row numbers and their texts, normalised (NFC, lower case, single spaces); rows of evaluation sets have
            negative numbers, and are not compared with each other. A text without a token is near nothing.
        fetch: Returns the texts of rows again; the rows come sorted, with about 32 million characters a call.
        threshold: Least similarity, above 0, at most 1.
        preference: ``row`` and ``rank``, 0 best, as for `drop_near`; without it the smaller row is preferred.
    """
    index = BandIndex.of(batches, threshold)
    firsts, equal = index.equal(_order(index.rows, preference))
    verifier = Verifier(index, fetch, threshold)
    likely, crowded = [np.zeros(0, dtype=np.int64)], []
    for pairs, crowds in index.buckets(firsts):
        likely.append(verifier.likely(pairs))
        crowded.append(crowds)
    verifier.verify(np.concatenate(likely))
    compare_crowds(Crowds.joined(crowded), index.rows, verifier)
    found = np.concatenate((index.rows[verifier.pairs()], index.rows[equal]), axis=1)
    similarity = np.append(verifier.similarities, np.ones(equal.shape[1]))
    columns = {"row": found.min(axis=0), "other": found.max(axis=0), "similarity": similarity}
    return pl.DataFrame(columns, schema=PAIRS).sort("row", "other")


def drop_near(pairs: pl.DataFrame, preference: pl.DataFrame) -> pl.DataFrame:
    """Return ``row`` and ``kept_row`` of the rows that go, sorted.

    Rows are visited in the order of their rank. One that is near a row kept before goes, and points at the first of
    those: so each row that goes is itself near one that stays, never over a third.

    Args:
        pairs: As `near_pairs` returns them, perhaps only those of a higher similarity.
        preference: ``row`` and ``rank`` (0 best, each once) of the rows that stay or go; other rows of the pairs, such
            as those of evaluation sets, take no part.
    """
    rows = preference.select(pl.col("row").cast(pl.Int64), "rank").join(standing(pairs), on="row", how="left")
    rows = rows.with_columns(pl.col("same").fill_null(pl.col("row"))).sort("rank")
    firsts = rows.unique("same", keep="first", maintain_order=True)
    gone = _visited(_ranked(pairs, firsts))
    kept = pl.DataFrame({"same": gone.keys(), "kept": gone.values()}, schema={"same": pl.Int64, "kept": pl.Int64})
    best = firsts.select("same", first="row")
    rows = rows.join(kept, on="same", how="left").with_columns(pl.col("kept").fill_null(pl.col("same")))
    rows = rows.join(best, left_on="kept", right_on="same").rename({"first": "kept_row"})
    return rows.filter(pl.col("row") != pl.col("kept_row")).select("row", "kept_row").sort("row")


def _order(rows: Positions, preference: pl.DataFrame | None) -> Positions:
    """Return the places of the rows, the most preferred first and those of evaluation sets last."""
    if preference is None:
        return np.lexsort((rows, rows < 0))
    ranks = preference.select(pl.col("row").cast(pl.Int64), "rank")
    known = pl.DataFrame({"row": rows}).join(ranks, on="row", how="left", maintain_order="left")["rank"]
    return np.lexsort((rows, known.fill_null(0).to_numpy(), known.is_null().to_numpy(), rows < 0))


def _ranked(pairs: pl.DataFrame, firsts: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs of rows that are not equal as ``better`` and ``worse``, those of the best row first."""
    ends = resolved(pairs)
    for end in ("row", "other"):
        ends = ends.join(firsts.select("same", pl.col("rank").alias(f"{end}_rank")), left_on=end, right_on="same")
    forward = pl.col("row_rank") < pl.col("other_rank")
    return ends.select(
        rank=pl.min_horizontal("row_rank", "other_rank"),
        better=pl.when(forward).then("row").otherwise("other"),
        worse=pl.when(forward).then("other").otherwise("row"),
    ).sort("rank")


def _visited(ranked: pl.DataFrame) -> dict[int, int]:
    """Return what goes -> what stays. When the pairs of a row come, those of all better rows have been seen."""
    gone: dict[int, int] = {}
    for better, worse in zip(ranked["better"].to_list(), ranked["worse"].to_list(), strict=True):
        if better not in gone and worse not in gone:
            gone[worse] = better
    return gone
