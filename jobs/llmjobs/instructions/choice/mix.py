"""A mix by weight: which train rows stay out so that the sources' shares are those of their weights.

The source that has least for its weight gives all its rows, and the others as many as fit to it: that keeps most rows
(the largest T with ``T * share <= rows`` for every source). The shares are met to less than a row of each source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import Source

_SLACK = 1e-6
"""A quota of 99.9999999999 is 100: shares are floating-point numbers."""


class Share(NamedTuple):
    """What the mix does with one source.

    Attributes:
        available: Train rows that it has.
        kept: Train rows that stay.
        wanted: Its share of the kept rows of all weighted sources, by its weight; null without a weight.
        got: That share as it came out; null without a weight.
        limits: Whether this source is what limits the others: all its rows stay, and they would suffice for no more.
    """

    source: str
    available: int
    kept: int
    wanted: float | None
    got: float | None
    limits: bool


def left_out(rows: pl.DataFrame, sources: Sequence[Source]) -> pl.Series:
    """Return which train rows stay out.

    Of a source the rows with the smallest ``rank`` stay, or, where there is no such column, those with the smallest
    ``row_key``: what stays is then a prefix of an order that does not depend on the other rows, so a source that grows
    adds rows and takes none away.

    Args:
        rows: The train rows: ``row``, ``row_key``, ``source`` and, if they were ranked, ``rank``. Rows of a source
            that is not in `sources`, or has no weight, all stay and count for nothing.
        sources: The config's sources.

    Returns:
        Boolean, one for each of `rows` in their order.

    Raises:
        BadData: A source with a weight has no row, so no mix can give it its share.
    """
    kept = {share.source: share.kept for share in shares(rows, sources) if share.wanted is not None}
    if not kept:
        return pl.Series("left_out", [False], dtype=pl.Boolean).new_from_index(0, rows.height)
    order = ["rank", "row_key"] if "rank" in rows.columns else ["row_key"]
    quota = pl.col("source").replace_strict(kept, default=None, return_dtype=pl.Int64)
    table = rows.select("source", *order).with_row_index("position").sort(*order, "position")
    table = table.with_columns(out=(pl.int_range(pl.len()).over("source") >= quota).fill_null(value=False))
    return table.sort("position")["out"].alias("left_out")


def interleaved(rows: pl.DataFrame) -> pl.Series:
    """Return the order in which a budget takes the rows of a mix: every beginning of it has the shares of the whole.

    Without this a budget would take the sources whose rows score higher, and the shares would be lost.

    Args:
        rows: The rows that `left_out` leaves in: ``source`` and ``rank``, all different.

    Returns:
        ``rank``: UInt32, 0 is taken first, one for each of `rows` in their order. Each source keeps the order of its
        own rows.
    """
    place = (pl.col("rank").rank("ordinal").over("source") - 0.5) / pl.len().over("source")
    order = rows.select(place.alias("place"), "rank").select(pl.arg_sort_by("place", "rank"))["place"].to_numpy()
    ranks = np.empty(rows.height, dtype=np.uint32)
    ranks[order] = np.arange(rows.height, dtype=np.uint32)
    return pl.Series("rank", ranks)


def shares(rows: pl.DataFrame, sources: Sequence[Source]) -> list[Share]:
    """Return what the mix does with each source, those of the config first, then others that rows name.

    Raises:
        BadData: As `left_out`.
    """
    counts: dict[str, int] = dict(rows.group_by(pl.col("source").fill_null("")).len().sort("source").iter_rows())
    weights = {source.name: source.weight for source in sources if source.weight is not None}
    whole = math.fsum(weights.values())
    wanted = {name: weight / whole for name, weight in weights.items()}
    _refuse_empty(wanted, counts)
    most = min((counts[name] / share for name, share in wanted.items()), default=0.0)
    kept = {name: min(counts[name], math.floor(most * share + _SLACK)) for name, share in wanted.items()}
    total = max(sum(kept.values()), 1)
    names = [source.name for source in sources]
    others = [name for name in counts if name not in names]
    return [
        Share(
            source=name,
            available=counts.get(name, 0),
            kept=kept.get(name, counts.get(name, 0)),
            wanted=wanted.get(name),
            got=kept[name] / total if name in kept else None,
            limits=name in wanted and len(wanted) > 1 and counts[name] / wanted[name] <= most + _SLACK,
        )
        for name in [*names, *others]
    ]


def sentence(mixed: Sequence[Share]) -> str:
    """Return in one sentence which source limits the mix and what that costs; empty where nothing stays out."""
    lost = sum(share.available - share.kept for share in mixed)
    limiting = [share for share in mixed if share.limits]
    if not lost or not limiting:
        return ""
    least = limiting[0]
    return (
        f"The mix leaves out {lost} train rows: {least.source} has only {least.available} rows for its share of "
        f"{least.wanted:.1%}; more of its rows, or a smaller weight, let more of the others in."
    )


def _refuse_empty(wanted: dict[str, float], counts: dict[str, int]) -> None:
    for name, share in wanted.items():
        if not counts.get(name):
            raise BadData(
                f"source {name} has no train row, so no mix can give it its share of {share:.1%}: mend its files, or "
                "take its weight away"
            )
