"""Deals groups of rows to train, validation and test: by their key, for ever, and near groups together."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from llmjobs.contracts.data_contract import Split
from llmjobs.instructions.alike.links import components, resolved, standing
from llmjobs.instructions.alike.mixing import mixed

SIDES = ("train", "validation", "test")
SIDE = pl.Enum(SIDES)

_LOW = pl.lit((1 << 64) - 1, dtype=pl.Int128)
_BITS = 52  # a float holds them exactly


def assign_sides(
    rows: pl.DataFrame, split: Split, *, known: pl.DataFrame | None, pairs: pl.DataFrame | None
) -> pl.Series:
    """Return ``side`` of each row, in the order of the rows, all rows of a group on one side.

    * A group that is known keeps its side, always: whatever rows come, go, or turn out to be near it.
    * Groups with rows that are near each other, or that match by their prompts (`leaks.leaking`), form a component. Its
      new groups take the side of its known ones; if these are on several sides they go to train, and `leaks.leaking`
      finds what then matches held-out rows. Without known groups all take the side of the smallest key: rows that were
      never published have no leak among themselves.
    * Any other group has the side of its own key (`side_of_keys`).

    Args:
        rows: ``row``, ``group_key``, ``prompt_key`` and ``first_key`` (Int128). With the rows that `drop_near` drops, a
            row that replaces a near one of the last version inherits its side.
        split: Shares and salt.
        known: ``group_key`` and ``side`` of earlier versions under the same salt; groups without rows do no harm.
        pairs: As `near_pairs` returns them, of at least the similarity that must not straddle sides. Rows that are not
            in `rows` (dropped, or of evaluation sets) join nothing, but for telling which rows are equal.
    """
    dealt = rows.select("group_key", side=side_of_keys(rows["group_key"], split))
    if known is None:
        known = dealt.clear()
    known = known.select("group_key", known=pl.col("side").cast(SIDE)).unique("group_key")
    links = _asking_the_same(rows)
    if pairs is not None and len(pairs):
        links = pl.concat([links, _near(rows, pairs)])
    for table in (_of_components(links, known, split), known.select("group_key", together="known")):
        if len(table):
            dealt = dealt.join(table, on="group_key", how="left", maintain_order="left")
            dealt = dealt.select("group_key", side=pl.coalesce("together", "side"))
    return dealt["side"]


def remembered(rows: pl.DataFrame, published: pl.DataFrame) -> pl.DataFrame:
    """Return ``group_key`` and ``side`` of what was published: the ``known`` of `assign_sides`.

    A row may be of another group than it was: an earlier release grouped chats by their first prompt, and a contract
    may name the conversation now. A group that is new has the side of its published rows; of several, test before
    validation before train, so that nothing is trained on that was measured with.

    Args:
        rows: ``row_key`` and ``group_key`` of the rows of now.
        published: ``row_key``, ``group_key`` and ``side`` of those of the last version.
    """
    published = published.with_columns(pl.col("side").cast(SIDE))
    groups = published.select("group_key", "side").unique("group_key")
    others = rows.select("row_key", "group_key").join(groups, on="group_key", how="anti")
    regrouped = others.join(published.select("row_key", "side"), on="row_key").group_by("group_key")
    return pl.concat([groups, regrouped.agg(pl.col("side").sort().last())])


def side_of_keys(keys: pl.Series, split: Split) -> pl.Series:
    """Return the side of each group by its key (Int128), the salt and the shares, and by nothing else.

    A key is a hash: its low 64 bits, with those of the salt's SHA-256 and mixed, are its position from 0 to 1; test
    comes first, then validation, then train. A million keys cost a few hundredths of a second.
    """
    salt = np.uint64(int.from_bytes(hashlib.sha256(split.salt.encode()).digest()[:8], "big"))
    low = keys.to_frame("key").select((pl.col("key") & _LOW).cast(pl.UInt64))["key"].to_numpy()
    position = (mixed(low ^ salt) >> np.uint64(64 - _BITS)).astype(np.float64) / (1 << _BITS)
    number = np.select([position < split.test, position < split.test + split.validation], [2, 1], 0)
    return pl.Series("side", SIDES, dtype=SIDE).gather(number)


def _of_components(links: pl.DataFrame, known: pl.DataFrame, split: Split) -> pl.DataFrame:
    """Return ``group_key`` and ``together`` of the groups that are joined with others."""
    joined = components(links).rename({"row": "group_key"})
    smallest = joined.select("group_key", side=side_of_keys(joined["same"], split))
    held = joined.join(known, on="group_key").group_by("same").agg(pl.col("known").unique())
    one = pl.col("known").list.first()
    held = held.select(
        "same", agreed=pl.when(pl.col("known").list.len() == 1).then(one).otherwise(pl.lit("train", SIDE))
    )
    return (
        joined.join(smallest, on="group_key")
        .join(held, on="same", how="left")
        .select("group_key", together=pl.coalesce("agreed", "side"))
    )


def _asking_the_same(rows: pl.DataFrame) -> pl.DataFrame:
    """Return pairs of keys of groups whose prompts match, as ``row`` and ``other``."""
    # A prompt that only rows of its own group ask, and ask first, joins nothing: most rows are so.
    odd = pl.any_horizontal(pl.col("group_key", "first_key") != pl.col("prompt_key"))
    prompts = rows.filter(odd).select("prompt_key", "first_key").unpivot()["value"].unique()
    rows = rows.filter(pl.col("prompt_key").is_in(prompts.implode()))
    firsts = rows.group_by("prompt_key").agg(row=pl.col("group_key").min())
    # Of a chat of several questions the first may be all that another row asks.
    longer = rows.filter(pl.col("first_key") != pl.col("prompt_key")).select("group_key", prompt_key="first_key")
    asked = pl.concat([rows.select("group_key", "prompt_key"), longer]).unique()
    links = asked.join(firsts, on="prompt_key").select("row", other="group_key")
    return links.filter(pl.col("row") != pl.col("other")).unique()


def _near(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return pairs of keys of groups that are near each other, as ``row`` and ``other``."""
    groups = rows.select(pl.col("row").cast(pl.Int64), "group_key").join(standing(pairs), on="row")
    firsts = groups.group_by("same").agg(first=pl.col("group_key").min())
    within = groups.join(firsts, on="same").select(row="first", other="group_key")
    across = resolved(pairs)
    for end in ("row", "other"):
        across = across.join(firsts.rename({"same": end, "first": f"{end}_key"}), on=end)
    across = across.select(row="row_key", other="other_key")
    return pl.concat([within, across]).filter(pl.col("row") != pl.col("other")).unique()
