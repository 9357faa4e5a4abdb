"""Compares a diff with the limits of the contract: what has drifted too far, and how many rows are lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmjobs.contracts.instructions import Budgets, Drift
from llmjobs.instructions.report.diff import Diff

Level = Literal["warn", "fail"]

_MOST_DIGITS = 12


@dataclass(frozen=True)
class DriftBreach:
    """One broken limit on the way from the last version to the new one.

    Attributes:
        kind: Of the shift (``length``, ``language``, ...), or ``lost_share``.
        value: What was found, 0 to 1.
        limit: What the contract allows.
        level: ``warn``: a person is asked; ``fail``: nothing is published.
        sentence: What broke and by how much, as part of a sentence.
    """

    kind: str
    value: float
    limit: float
    level: Level
    sentence: str


def breaches(diff: Diff, drift: Drift) -> list[DriftBreach]:
    """Return the broken limits of `drift`, in the order of the diff's shifts; of one kind only the sterner."""
    found = []
    for shift in diff.shifts:
        limits = getattr(drift, shift.kind)
        if (broken := _broken(shift.value, limits.warn, limits.fail)) is not None:
            level, limit = broken
            value, allowed = _apart(shift.value, limit, "f")
            sentence = f"{shift.kind} moved by {value} ({shift.statistic}), drift.{shift.kind}.{level} allows {allowed}"
            found.append(DriftBreach(shift.kind, shift.value, limit, level, sentence))
    return found


def lost_rows(diff: Diff, budgets: Budgets) -> DriftBreach | None:
    """Return the broken limit on lost rows, if one is: the new version holds too few of the last one's rows."""
    share = lost_share(diff)
    broken = _broken(share, budgets.warn_lost_share, budgets.max_lost_share)
    if broken is None:
        return None
    level, limit = broken
    value, allowed = _apart(share, limit, "%")
    name = "max_lost_share" if level == "fail" else "warn_lost_share"
    sentence = (
        f"{diff.base_rows - diff.new_rows} of {diff.base_rows} rows ({value}) are lost since the last version, "
        f"budgets.{name} allows {allowed}"
    )
    return DriftBreach("lost_share", share, limit, level, sentence)


def lost_share(diff: Diff) -> float:
    """Return by how many rows the new version is smaller, as a share of the last version's rows; 0 without one."""
    return max(0.0, (diff.base_rows - diff.new_rows) / diff.base_rows) if diff.base_rows else 0.0


def _broken(value: float, warn: float | None, fail: float | None) -> tuple[Level, float] | None:
    """Return the sternest limit that `value` is beyond; a limit itself is allowed."""
    if fail is not None and value > fail:
        return "fail", fail
    if warn is not None and value > warn:
        return "warn", warn
    return None


def _apart(value: float, limit: float, form: str) -> tuple[str, str]:
    """Return both numbers with as few digits as tell them apart, at least two."""
    digits = 2
    while f"{value:.{digits}{form}}" == f"{limit:.{digits}{form}}" and digits < _MOST_DIGITS:
        digits += 1
    return f"{value:.{digits}{form}}", f"{limit:.{digits}{form}}"
