"""The lines of the report about limits: what was found, what is allowed, and where both are on a bar."""

from __future__ import annotations

from typing import Literal

from llmjobs.contracts.data_contract import Budgets, Drift
from llmjobs.instructions.report.data import Limit
from llmjobs.instructions.report.diff import Diff, lost_share

_HEADROOM = 1.25
"""Length of a bar, as a multiple of the largest thing on it."""


def at_most(name: str, value: float, *, warn: float | None, fail: float | None, form: str = ".2%") -> Limit:
    """Return the line of a share that may not be too large; `form` is how numbers are written."""
    largest = max(value, warn or 0, fail or 0) * _HEADROOM or 1.0
    allowed = [f"asks above {_short(warn, form)}"] if warn is not None else []
    allowed += [f"at most {_short(fail, form)}"] if fail is not None else []
    return Limit(
        name,
        _state(value, warn, fail),
        f"{value:{form}}",
        ", ".join(allowed),
        value / largest,
        None if warn is None else warn / largest,
        None if fail is None else fail / largest,
    )


def budget_limits(budgets: Budgets, *, rows_in: int, quarantined: int, published: int, diff: Diff) -> list[Limit]:
    """Return the lines of the contract's budgets; lost rows only where there was a version to lose them from."""
    share = quarantined / rows_in if rows_in else 0.0
    found = [
        at_most(
            "budgets.max_quarantined_share",
            share,
            warn=budgets.warn_quarantined_share,
            fail=budgets.max_quarantined_share,
        ),
        Limit(
            "budgets.min_rows",
            "kept" if published >= budgets.min_rows else "fail",
            f"{published:,} rows",
            f"at least {budgets.min_rows:,}",
            *_at_least(published, budgets.min_rows),
        ),
    ]
    if not diff.first:
        lost = at_most(
            "budgets.max_lost_share", lost_share(diff), warn=budgets.warn_lost_share, fail=budgets.max_lost_share
        )
        found.append(lost)
    return found


def drift_limits(diff: Diff, drift: Drift) -> list[Limit]:
    """Return a line for each shift, limited or not."""
    limits = {shift.kind: getattr(drift, shift.kind) for shift in diff.shifts}
    return [
        at_most(
            f"drift.{shift.kind}", shift.value, warn=limits[shift.kind].warn, fail=limits[shift.kind].fail, form=".3f"
        )
        for shift in diff.shifts
    ]


def rule_limit(rule: str, count: int) -> Limit:
    """Return the line of a rule of severity ``fail``: no row may break it."""
    return Limit(
        f"rules.{rule}", "fail" if count else "kept", f"{count:,} row{'' if count == 1 else 's'}", "no row may break it"
    )


def _at_least(value: int, least: int) -> tuple[float, None, float]:
    largest = max(value, least) * _HEADROOM
    return value / largest, None, least / largest


def _short(limit: float, form: str) -> str:
    """Return a limit as a person writes it: 5%, not 5.00%."""
    return f"{100 * limit:g}%" if form.endswith("%") else f"{limit:g}"


def _state(value: float, warn: float | None, fail: float | None) -> Literal["kept", "warn", "fail", "off"]:
    if fail is not None and value > fail:
        return "fail"
    if warn is not None and value > warn:
        return "warn"
    return "off" if warn is None and fail is None else "kept"
