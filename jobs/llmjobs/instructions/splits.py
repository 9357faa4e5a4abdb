"""Deals rows into train, validation and test by the hash of their group, and by nothing else."""

from __future__ import annotations

import hashlib

import polars as pl

from llmjobs.contracts.instructions import Split

SIDES = ("train", "validation", "test")

_DIGITS = 13  # 52 bits: a float holds them exactly


def side_of(group_id: str, split: Split) -> str:
    """Return the side of a group. It depends on the group, the salt and the shares, so no row ever changes sides."""
    digits = hashlib.sha256(f"{split.salt}\x00{group_id}".encode()).hexdigest()[:_DIGITS]
    position = int(digits, 16) / 16**_DIGITS
    if position < split.test:
        return "test"
    return "validation" if position < split.test + split.validation else "train"


def divide(rows: pl.DataFrame, split: Split) -> dict[str, pl.DataFrame]:
    """Return the rows of each side, sorted by ``row_id``.

    Raises:
        RuntimeError: A group is on two sides: an error of this program, so nothing may be published.
    """
    groups = rows["group_id"].unique()
    sides = pl.DataFrame(
        {"group_id": groups, "side": [side_of(group, split) for group in groups]},
        schema={"group_id": pl.String, "side": pl.String},
    )
    dealt = rows.join(sides, on="group_id", how="left")
    divided = {side: dealt.filter(pl.col("side") == side).drop("side").sort("row_id") for side in SIDES}
    refuse_leaks(divided)
    return divided


def refuse_leaks(sides: dict[str, pl.DataFrame]) -> None:
    """Return when no prompt, read from the messages anew, is on two sides.

    Raises:
        RuntimeError: One is; its text names the sides and the number of prompts.
    """
    opening = pl.col("messages").list.filter(pl.element().struct.field("role") == "user").list.first()
    prompts = {side: set(rows.select(opening.struct.field("content"))["content"]) for side, rows in sides.items()}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        shared = prompts[one] & prompts[other]
        if shared:
            raise RuntimeError(f"{len(shared)} prompts of {other} are in {one} too; nothing is published")
