"""Finds rows of train that match what models are measured with, and proves that none is left."""

from __future__ import annotations

import polars as pl

from llmjobs.instructions.alike.links import resolved, standing

SETS = {"row": pl.Int64, "name": pl.String, "prompt_key": pl.Int128}
"""Rows of evaluation sets: negative row numbers, the set's name, and the key of the first prompt, whatever follows."""

_KEYS = ("first_key", "prompt_key")


def leaking(
    rows: pl.DataFrame, pairs: pl.DataFrame | None, *, sets: pl.DataFrame | None, near_threshold: float | None
) -> pl.DataFrame:
    """Return ``row`` and ``matches`` of the rows that must not be published where they are, sorted by row.

    A validation row leaks when it matches a row of test or of an evaluation set: models are selected with it, and the
    other rows then measure the selection. A train row leaks when it matches one of these, or a validation row that
    stays. Test rows never leak: nothing is trained or selected with them. Rows match when they are a near pair, or by
    their prompts: a row of an evaluation set matches every row with the same first prompt. Two rows of the dataset
    match when all their user turns are the same, or when the only one of one row is the first of the other: chats that
    share no more than a greeting do not match.

    Args:
        rows: ``row``, ``side``, ``first_key`` and ``prompt_key`` (Int128) of all rows that would be published.
        pairs: As `near_pairs` returns them, with the rows of the evaluation sets; None: only prompts are compared.
        sets: Rows of the evaluation sets, as `SETS`; None: there are none.
        near_threshold: Least similarity of a pair that matches; None: only prompts are compared.

    Returns:
        ``matches`` lists what each row matches, sorted: ``test``, ``validation``, names of sets.
    """
    rows = rows.select(pl.col("row").cast(pl.Int64), pl.col("side").cast(pl.String), *_KEYS)
    near = _near(pairs, near_threshold)
    held = rows.filter(pl.col("side") == "test").select("row", *_KEYS, name="side")
    if sets is not None:
        held = pl.concat([held, _with_first(sets).select(pl.col("row").cast(pl.Int64), *_KEYS, "name")])
    validation = rows.filter(pl.col("side") == "validation")
    selected = _matching(validation, held, near)
    staying = validation.join(selected, on="row", how="anti").select("row", *_KEYS, name="side")
    trained = _matching(rows.filter(pl.col("side") == "train"), pl.concat([held, staying]), near)
    return pl.concat([selected, trained]).sort("row")


def refuse_leaks(
    rows: pl.DataFrame, pairs: pl.DataFrame | None, *, sets: pl.DataFrame | None, near_threshold: float | None
) -> None:
    """Return when no row of what is about to be published leaks: looked up anew, from the keys and the pairs.

    Args:
        rows: As for `leaking`, without the rows that it named; with ``group_key``, groups are looked at too.
        pairs: As for `leaking`.
        sets: As for `leaking`.
        near_threshold: As for `leaking`.

    Raises:
        RuntimeError: A prompt or group is on two sides, a prompt of train or validation in an evaluation set, or a near
            pair straddles. It is an error of this program; nothing may be published.
    """
    side = pl.col("side").cast(pl.String)
    held = [(name, rows.filter(side == name)) for name in ("test", "validation")]
    if sets is not None:  # a set may be named as a side is
        held += [
            (str(name), place)
            for (name,), place in _with_first(sets).sort("name").group_by("name", maintain_order=True)
        ]
    near = _near(pairs, near_threshold)
    checked = [("train", *place) for place in held] + [("validation", *place) for place in (held[0], *held[2:])]
    for one, name, place in checked:
        ours, theirs = rows.filter(side == one), place.with_columns(name=pl.lit(name))
        asked = ours.filter(pl.col("row").is_in(_asked(ours, theirs)["row"].implode()))
        found = {"prompts": asked["prompt_key"].n_unique(), "groups": _shared_groups(ours, theirs)}
        found["near rows"] = _met(ours, theirs, near)["row"].n_unique()
        for what, number in found.items():
            if number:
                raise RuntimeError(f"{number} {what} of {name} are in {one} too; nothing is published")


def _with_first(sets: pl.DataFrame) -> pl.DataFrame:
    """Return rows of evaluation sets with both keys, which are one: only the first prompt is compared."""
    return sets.with_columns(first_key="prompt_key")


def _shared_groups(ours: pl.DataFrame, theirs: pl.DataFrame) -> int:
    key = "group_key"
    if key not in ours.columns or key not in theirs.columns:
        return 0
    return ours.select(key).join(theirs.select(key), on=key, how="semi")[key].n_unique()


def _asked(rows: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """Return ``row`` and ``name`` where a row's prompts match those of a held one.

    One key of both may be that of all user turns; the first prompts of two longer chats are not compared.
    """
    ways = (("prompt_key", "prompt_key"), ("first_key", "prompt_key"), ("prompt_key", "first_key"))
    found = [
        rows.select("row", key=ours).join(held.select("name", key=theirs).unique(), on="key").select("row", "name")
        for ours, theirs in ways
    ]
    return pl.concat(found).unique()


def _near(pairs: pl.DataFrame | None, near_threshold: float | None) -> pl.DataFrame:
    if pairs is None or near_threshold is None:
        return pl.DataFrame(schema={"row": pl.Int64, "other": pl.Int64, "similarity": pl.Float64})
    return pairs.filter(pl.col("similarity") >= near_threshold)


def _matching(rows: pl.DataFrame, held: pl.DataFrame, near: pl.DataFrame) -> pl.DataFrame:
    """Return ``row`` and ``matches`` of the rows that match held rows, whose ``name`` says where they are."""
    asked = _asked(rows, held)
    met = pl.concat([asked, _met(rows, held, near)]).unique()
    return met.group_by("row").agg(matches=pl.col("name").sort())


def _met(rows: pl.DataFrame, held: pl.DataFrame, near: pl.DataFrame) -> pl.DataFrame:
    """Return ``row`` and ``name`` where a row is near a held one: rows that are equal share their neighbours."""
    classes = standing(near)
    ends = resolved(near)
    itself = classes.select(row="same", other="same").unique()
    neighbours = pl.concat([ends, ends.select(row="other", other="row"), itself])
    names = held.select(pl.col("row").cast(pl.Int64), "name").join(classes, on="row").select(other="same", name="name")
    named = neighbours.join(names.unique(), on="other").select(same="row", name="name").unique()
    asked = rows.select(pl.col("row").cast(pl.Int64)).join(classes, on="row")
    return asked.join(named, on="same").select("row", "name").unique()
