"""What a new version of a dataset would change: rows added, removed and changed, and how far their mix has shifted.

Rows are compared by hash, about 500,000 at a time, so neither the rows' texts nor a Python object for each row is ever
in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.report.distributions import (
    Histogram,
    counts,
    histogram,
    jensen_shannon,
    kolmogorov_smirnov,
    quantiles,
)
from llmjobs.instructions.report.shown_texts import Mask, house_mask, shown

Kind = Literal["length", "language", "topic", "source", "label"]
KINDS: tuple[Kind, ...] = ("length", "language", "topic", "source", "label")
"""What can drift, named as in the contract's `drift`."""

SAMPLES = 5
"""Rows of each kind whose keys are kept to be shown."""

_ROWS_AT_ONCE = 500_000
_LARGEST = 8
_MOVERS = 5
_REASONS = 4
_SUMMARY_ROWS = 3
_SUMMARY_TEXT = 160


@dataclass(frozen=True)
class Share:
    """One category of both versions, or one quantile.

    Attributes:
        name: The category, `distributions.NO_VALUE` for rows without one; or ``p5`` to ``p95``.
        base: Its share of the base version's rows, 0 to 1; or the length of the row at this quantile.
        new: The same of the new version.
    """

    name: str
    base: float
    new: float


@dataclass(frozen=True)
class Shift:
    """How far one property of the rows has moved.

    Attributes:
        statistic: ``Kolmogorov-Smirnov`` or ``Jensen-Shannon`` (the distance, base 2).
        value: 0 (same) to 1.
        shares: Of a length its quantiles, else the largest categories of either version, the largest first.
        movers: The categories that moved most, the furthest first; of a length empty.
        others: Categories that `shares` has no room for.
        histogram: Of a length, over the groups ``base`` and ``new``.
    """

    kind: Kind
    statistic: str
    value: float
    shares: tuple[Share, ...]
    movers: tuple[Share, ...] = ()
    others: int = 0
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Changes:
    """Rows by what became of them. ``added + changed + unchanged`` are the new rows, with `removed` for added the old.

    A row is changed where its prompt stays and the row is another; one old and one new row are one changed row.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0


@dataclass(frozen=True)
class Diff:
    """A new version against the last published one.

    Attributes:
        base_rows: Rows of the last version; 0 where there is none.
        moved: Rows of both versions, changed ones too, that are on another side now: 0 unless the split's salt or
            shares were changed.
        sides: The same counts by the side of the new row (of a removed one: of the old).
        first: There is no version to compare with.
        added_keys: ``row_key`` of the added rows with the smallest keys, at most `SAMPLES`; `removed_keys` alike.
        changed_keys: Pairs of them, old and new.
        shifts: In the order of `KINDS`; kinds that cannot be compared are in `not_compared`, with the reason; kinds
            of which both versions have no value are in neither.
    """

    base_rows: int
    new_rows: int
    changes: Changes
    moved: int = 0
    sides: dict[str, Changes] = field(default_factory=dict)
    first: bool = False
    added_keys: tuple[int, ...] = ()
    removed_keys: tuple[int, ...] = ()
    changed_keys: tuple[tuple[int, int], ...] = ()
    shifts: tuple[Shift, ...] = ()
    not_compared: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether both versions hold the same rows on the same sides."""
        changes = self.changes
        return not (self.first or self.moved or changes.added or changes.removed or changes.changed)


def diff(base: pl.DataFrame | None, new: pl.DataFrame) -> Diff:
    """Compare two versions.

    Args:
        base: One line for each row of the last published version, None where there is none: ``row_key`` and
            ``group_key`` (Int128: the row, its prompt), ``side``; and as far as its release wrote them ``characters``
            (Int64), ``source``, ``topic``, ``label``, ``language`` (text or categories, or null).
        new: The same of the new version. Rows of one key have one group key, rows of one group are on one side.
    """
    if base is None:
        base = new.clear()
        return _compared(base, new, first=True)
    return _compared(base, new, first=False)


def _compared(base: pl.DataFrame, new: pl.DataFrame, *, first: bool) -> Diff:
    parts = max(1, -(-max(base.height, new.height) // _ROWS_AT_ONCE))
    found = [_paired(_part(base, part, parts), _part(new, part, parts)) for part in range(parts)]
    counted = pl.concat([part.counted for part in found])
    shifts, not_compared = ((), {}) if first else _shifts(base, new)
    return Diff(
        base_rows=base.height,
        new_rows=new.height,
        changes=_changes(counted),
        moved=sum(part.moved for part in found),
        sides={side: _changes(counted.filter(pl.col("side") == side)) for side in SIDES},
        first=first,
        added_keys=tuple(new for _, new in _samples(found, "added")),
        removed_keys=tuple(old for old, _ in _samples(found, "removed")),
        changed_keys=_samples(found, "changed"),
        shifts=shifts,
        not_compared=not_compared,
    )


def _part(rows: pl.DataFrame, part: int, parts: int) -> pl.DataFrame:
    """Return keys and sides of one of `parts`: a row and all that it can be paired with, for they share a group."""
    keys = rows.select("row_key", "group_key", "side")
    if parts > 1:
        keys = keys.filter((pl.col("group_key") % parts + parts) % parts == part)  # a key may be negative
    return keys.with_columns(pl.col("side").cast(pl.String).cast(pl.Enum(SIDES)))


@dataclass(frozen=True)
class _Paired:
    """What became of the rows of one part: rows by side and end, rows moved, and end -> sample keys (old, new)."""

    counted: pl.DataFrame
    moved: int
    samples: dict[str, list[tuple[int, int]]]


def _paired(old: pl.DataFrame, new: pl.DataFrame) -> _Paired:
    """Match rows of one key, and then what is left of one group, in the order of the keys."""
    if old.is_empty():  # a first version: nothing is sorted or joined
        added = _smallest(new.with_columns(row_key_old=pl.lit(None, dtype=pl.Int128)))
        counted = new.group_by("side").len("rows").with_columns(end=pl.lit("added"))
        return _Paired(counted.select("end", "side", "rows"), 0, {"added": added, "removed": [], "changed": []})
    old, new = _numbered(old, "row_key"), _numbered(new, "row_key")
    same = new.join(old, on=["row_key", "number"], suffix="_old")
    left_new = _numbered(new.join(old, on=["row_key", "number"], how="anti"), "group_key")
    left_old = _numbered(old.join(new, on=["row_key", "number"], how="anti"), "group_key")
    rest = left_new.join(left_old, on=["group_key", "number"], how="full", coalesce=True, suffix="_old")
    ends = (
        pl.when(pl.col("row_key_old").is_null())
        .then(pl.lit("added"))
        .when(pl.col("row_key").is_null())
        .then(pl.lit("removed"))
        .otherwise(pl.lit("changed"))
    )
    rest = rest.with_columns(end=ends, at=pl.coalesce("side", "side_old"))
    counted = rest.group_by("end", side="at").len("rows")
    unchanged = same.group_by("side").len("rows").with_columns(end=pl.lit("unchanged"))
    moved = [part.filter(pl.col("side") != pl.col("side_old")).height for part in (same, rest)]
    return _Paired(
        pl.concat([counted, unchanged.select(counted.columns)]),
        sum(moved),
        {end: _smallest(rest.filter(pl.col("end") == end)) for end in ("added", "removed", "changed")},
    )


def _numbered(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return `rows` sorted, with ``number`` counting those of one key from 0: equal rows are matched one by one."""
    place = pl.int_range(pl.len(), dtype=pl.UInt32)
    begins = pl.when(pl.col(key) != pl.col(key).shift(1)).then(place).forward_fill().fill_null(0)
    return rows.sort(key, "row_key").with_columns(number=place - begins)


def _smallest(rows: pl.DataFrame) -> list[tuple[int, int]]:
    return rows.select("row_key_old", "row_key").sort("row_key", "row_key_old").head(SAMPLES).rows()


def _samples(found: list[_Paired], end: str) -> tuple[tuple[int, int], ...]:
    """Return the pairs with the smallest keys: of the new row, where there is one."""
    pairs = [pair for part in found for pair in part.samples[end]]
    return tuple(sorted(pairs, key=lambda pair: pair[0] if pair[1] is None else pair[1])[:SAMPLES])


def _changes(counted: pl.DataFrame) -> Changes:
    return Changes(**dict(counted.group_by("end").agg(pl.col("rows").sum()).iter_rows()))


def _shifts(base: pl.DataFrame, new: pl.DataFrame) -> tuple[tuple[Shift, ...], dict[str, str]]:
    """Return the shifts, and kind -> why there is none."""
    columns: dict[Kind, str] = {kind: "characters" if kind == "length" else kind for kind in KINDS}
    shifts: list[Shift] = []
    not_compared: dict[str, str] = {}
    for kind, column in columns.items():
        if not base.height or not new.height:
            not_compared[kind] = f"the {'new' if base.height else 'last'} version has no rows"
        elif column not in base.columns or column not in new.columns:
            not_compared[kind] = f"the {'new' if column in base.columns else 'last'} version does not say it"
        elif (why := _unknown(kind, base[column], new[column])) is not None:
            not_compared |= {kind: why} if why else {}
        else:
            shifts.append(_shift(kind, base[column], new[column]))
    return tuple(shifts), not_compared


def _unknown(kind: Kind, base: pl.Series, new: pl.Series) -> str | None:
    """Return why two columns cannot be compared, nothing said where neither has a value; None where they can."""
    without = [name for name, values in (("last", base), ("new", new)) if values.null_count() == len(values)]
    if len(without) == 2:
        return ""
    # A language is looked for only where the contract asks, so without any nobody has asked; nothing has drifted.
    if without and kind in {"language", "length"}:
        return f"no row of the {without[0]} version has one, so nobody looked for it"
    return None


def _shift(kind: Kind, base: pl.Series, new: pl.Series) -> Shift:
    if kind == "length":
        before, after = quantiles(base), quantiles(new)
        lengths = tuple(Share(name, before[name], after[name]) for name in before)
        both = histogram({"base": base, "new": new})
        return Shift(kind, "Kolmogorov-Smirnov", kolmogorov_smirnov(base, new), lengths, histogram=both)
    old, now = counts(base), counts(new)
    shares = _shares(old, now)
    moved = sorted(shares, key=lambda share: (-abs(share.new - share.base), share.name))
    movers = tuple(share for share in moved[:_MOVERS] if share.new != share.base)
    others = max(0, len(shares) - _LARGEST)
    return Shift(kind, "Jensen-Shannon", jensen_shannon(old, now), tuple(shares[:_LARGEST]), movers, others)


def _shares(old: Mapping[str, int], now: Mapping[str, int]) -> list[Share]:
    """Return the categories of both, the largest of either side first."""
    old_rows, new_rows = sum(old.values()), sum(now.values())
    shares = [Share(name, old.get(name, 0) / old_rows, now.get(name, 0) / new_rows) for name in {**old, **now}]
    return sorted(shares, key=lambda share: (-max(share.base, share.new), share.name))


def lost_share(diff: Diff) -> float:
    """Return by how many rows the new version is smaller, as a share of the last version's rows; 0 without one."""
    return max(0.0, (diff.base_rows - diff.new_rows) / diff.base_rows) if diff.base_rows else 0.0


def summary(
    found: Diff,
    figures: Mapping[str, int],
    reasons: Sequence[str],
    *,
    added: Sequence[str] = (),
    removed: Sequence[str] = (),
    report_url: str = "",
    mask: Mask | None = None,
) -> str:
    """Return the diff in at most 25 lines of Markdown, for the person who is asked whether to publish.

    Args:
        found: The diff.
        figures: ``rows_in``, ``published``, ``quarantined``, ``duplicates``, ``left_out``.
        reasons: Which limits are broken, each a part of a sentence (`audit.breach_sentence`).
        added: Texts of added rows, as they are; the first three are shown, masked and shortened.
        removed: The same of removed rows.
        report_url: Where the report is; empty: no link.
        mask: Masks personal data; the house's own where it is not given.
    """
    hide = mask or house_mask()
    broken = "1 limit of the contract is" if len(reasons) == 1 else f"{len(reasons)} limits of the contract are"
    lines = [f"A person is asked because {broken} broken:"]
    lines += [f"- {reason}" for reason in reasons[:_REASONS]]
    lines += [f"- and {len(reasons) - _REASONS} more"] if len(reasons) > _REASONS else []
    ends = ("rows_in", "published", "quarantined", "duplicates", "left_out")
    lines += ["", *_table({end.replace("_", " "): figures.get(end, 0) for end in ends})]
    if not found.first:
        lines += ["", *_table(_against_the_last(found))]
        shifts = ", ".join(f"{shift.kind} {shift.value:.3f}" for shift in found.shifts) or "none"
        lines += ["", f"Shifts (0: the same, 1: nothing in common): {shifts}"]
    samples = [f"- added: {_code(text, hide)}" for text in added[:_SUMMARY_ROWS]]
    samples += [f"- removed: {_code(text, hide)}" for text in removed[:_SUMMARY_ROWS]]
    lines += ["", *samples] if samples else []
    return "\n".join(lines + ([f"\n[The whole report](<{report_url}>)"] if report_url else []))


def _against_the_last(found: Diff) -> dict[str, int]:
    changes = found.changes
    moved = {"on another side": found.moved} if found.moved else {}
    return {
        "rows before": found.base_rows,
        "added": changes.added,
        "removed": changes.removed,
        "changed": changes.changed,
        "unchanged": changes.unchanged,
        **moved,
    }


def _table(row: Mapping[str, int]) -> list[str]:
    cells = [row.keys(), ["---:"] * len(row), [f"{count:,}" for count in row.values()]]
    return [f"| {' | '.join(line)} |" for line in cells]


def _code(text: str, mask: Mask) -> str:
    """Return a row's text as a code span in one line: nothing in it is Markdown (CommonMark 6.1)."""
    line = re.sub(r"\s+", " ", shown(text, mask, _SUMMARY_TEXT)).strip()
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}"
