"""Follows links between rows to what they connect."""

from __future__ import annotations

import numpy as np
import polars as pl


def components(links: pl.DataFrame) -> pl.DataFrame:
    """Return ``row`` and ``same`` of every row of the links: the smallest row that links lead to from it.

    Args:
        links: ``row`` and ``other``, of one integer type.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = pl.concat([links["row"], links["other"].alias("row")]).unique().sort().to_frame()
    if nodes.is_empty():
        return nodes.with_columns(same="row")
    numbered = nodes.with_row_index("node")
    ends = [
        links.select(row=end).join(numbered, on="row", how="left", maintain_order="left")["node"].to_numpy()
        for end in ("row", "other")
    ]
    graph = coo_array((np.ones(len(links), dtype=np.bool_), tuple(ends)), shape=(len(nodes), len(nodes)))
    label = connected_components(graph, directed=False)[1]
    return nodes.with_columns(label=pl.Series(label)).select("row", same=pl.col("row").min().over("label"))


def standing(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return ``row`` and ``same`` of every row of the pairs: the row that stands for all that have its shingles.

    Rows with the same shingles (similarity 1) are near the same rows, and `near_pairs` tells the neighbours of one of
    them only: who asks for a row's neighbours must ask for those of the row that stands for it.
    """
    equal = components(pairs.filter(pl.col("similarity") == 1).select("row", "other"))
    ends = pl.concat([pairs["row"], pairs["other"].alias("row")]).unique().sort().to_frame()
    return ends.join(equal, on="row", how="left").with_columns(pl.col("same").fill_null(pl.col("row")))


def resolved(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return ``row`` and ``other`` of pairs, each as the row that stands for it, without those that are then one."""
    classes = standing(pairs)
    ends = pairs.select("row", "other")
    for end in ends.columns:
        ends = ends.rename({end: "end"}).join(classes.rename({"row": "end", "same": end}), on="end").drop("end")
    return ends.filter(pl.col("row") != pl.col("other")).select("row", "other")
