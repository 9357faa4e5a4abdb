"""Compiles a contract to Great Expectations suites, and lets its checkpoint decide.

One suite looks at a table with a row for each row read and a boolean column for each flag; the other at one row of
figures of the run as a whole: rows published, rows lost, drift. Flags are computed once, in polars, for Great
Expectations cuts its lists of rows at 20 on SQL engines and needs ten times the time on text (1.24.1). What a failed
expectation leads to stands in its meta data: ``fail`` refuses the dataset, ``ask`` asks a person, the others are on
record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import FLAGS
from llmjobs.validation import great_expectations, validated

_SEVERITY = {"fail": "critical", "quarantine": "warning", "warn": "warning", "drop_field": "info", "fix": "info"} | {
    "mask": "info"
}
_LEVELS = {"fail": "critical", "ask": "warning"}

FIGURES = ("published", "train_rows", "lost_share", "length", "language", "topic", "source", "label")
"""Columns of the table of figures: rows, rows of train, share of rows lost since the last version, and the statistics
of drift (null where there is nothing to compare with)."""


@dataclass(frozen=True)
class Breach:
    """One broken limit of the contract.

    Attributes:
        limit: ``budgets.max_quarantined_share``, ``drift.length.warn``, ``rules.refusal``, ...
        found: What was found: rows, or a number from 0 to 1.
        allowed: What the contract allows.
        level: ``fail``: nothing is published; ``ask``: a person decides.
    """

    limit: str
    found: float
    allowed: float
    level: Literal["fail", "ask"]


@dataclass(frozen=True)
class Verdict:
    """What Great Expectations says.

    Attributes:
        decision: ``accepted``, ``ask`` or ``refused``.
        breaches: The broken limits that led to it, those that refuse first.
        record: The checkpoint's results as JSON, without run ids and times: the same rows give the same record.
    """

    decision: Literal["accepted", "ask", "refused"]
    breaches: list[Breach]
    record: dict[str, Any]


def judge(table: pl.DataFrame, figures: dict[str, float | None], contract: DataContract, name: str) -> Verdict:
    """Run the contract's suites.

    Args:
        table: Boolean columns: `FLAGS` and ``quarantined``; one row per row read.
        figures: `FIGURES`; null is compared with nothing.
        contract: Where severities and budgets are from.
        name: The dataset's name, which the record shows.
    """
    gx = great_expectations()
    numbers = pl.DataFrame([{key: None if value is None else float(value) for key, value in figures.items()}])
    tables = {"rows": table.select(*FLAGS, "quarantined"), "figures": numbers.cast(pl.Float64)}
    suites = {"rows": _of_rows(gx, contract), "figures": _of_figures(gx, contract)}
    results = [validated(f"{name}.{kind}", tables[kind], suites[kind]) for kind in ("rows", "figures")]
    record = _record(results)
    breaches = [breach for outcome in record["results"] if (breach := _breach(outcome))]
    breaches.sort(key=lambda breach: breach.level != "fail")
    failed, asked = (any(breach.level == level for breach in breaches) for level in ("fail", "ask"))
    return Verdict("refused" if failed else "ask" if asked else "accepted", breaches, record)


def _of_rows(gx: Any, contract: DataContract) -> list[Any]:
    in_set = gx.expectations.ExpectColumnValuesToBeInSet
    flags = [
        in_set(
            column=flag,
            value_set=[False],
            severity=_SEVERITY[severity],
            meta={
                "limit": _flag_limit(flag),
                "severity": severity,
                "level": "fail" if severity == "fail" else "",
                "allowed": 0,
            },
        )
        for flag, severity in contract.severities().items()
        if severity != "off"
    ]
    return flags + [
        # Rounded, or 1 - 0.07 is less strict than 0.93 and 1 - 0.43 stricter than 0.57.
        in_set(
            column="quarantined",
            value_set=[False],
            mostly=round(1 - share, 9),
            severity=_LEVELS[level],
            meta={"limit": f"budgets.{limit}", "level": level, "allowed": share},
        )
        for limit, share, level in _shares(contract)
    ]


def _flag_limit(flag: str) -> str:
    if flag in {"leak", "taken_down"}:
        return {"leak": "leaks.severity", "taken_down": "taken_down"}[flag]
    return f"pii.{flag.removeprefix('pii_')}" if flag.startswith("pii_") else f"rules.{flag}"


def _shares(contract: DataContract) -> Iterable[tuple[str, float, str]]:
    budgets = contract.budgets
    yield "max_quarantined_share", budgets.max_quarantined_share, "fail"
    if budgets.warn_quarantined_share is not None:
        yield "warn_quarantined_share", budgets.warn_quarantined_share, "ask"


def _of_figures(gx: Any, contract: DataContract) -> list[Any]:
    between = gx.expectations.ExpectColumnValuesToBeBetween
    budgets = contract.budgets
    limits: list[tuple[str, str, float | None, str]] = [
        ("lost_share", "budgets.max_lost_share", budgets.max_lost_share, "fail"),
        ("lost_share", "budgets.warn_lost_share", budgets.warn_lost_share, "ask"),
    ]
    for kind, shift in contract.drift:
        limits += [(kind, f"drift.{kind}.fail", shift.fail, "fail"), (kind, f"drift.{kind}.warn", shift.warn, "ask")]
    least = between(
        column="published",
        min_value=budgets.min_rows,
        severity="critical",
        meta={"limit": "budgets.min_rows", "level": "fail", "allowed": budgets.min_rows},
    )
    trained = between(
        column="train_rows",
        min_value=1,
        severity="critical",
        meta={"limit": "split.train_rows", "level": "fail", "allowed": 1},
    )
    return [least, trained] + [
        between(
            column=column,
            max_value=limit,
            severity=_LEVELS[level],
            meta={"limit": name, "level": level, "allowed": limit},
        )
        for column, name, limit, level in limits
        if limit is not None
    ]


def _record(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return validation results as one, without their random ids and times."""
    outcomes = [outcome for result in results for outcome in result["results"]]
    for outcome in outcomes:
        outcome["expectation_config"].pop("id", None)
    met = sum(outcome["success"] for outcome in outcomes)
    return {
        "success": all(result["success"] for result in results),
        "suites": [result["suite_name"] for result in results],
        "statistics": {"evaluated_expectations": len(outcomes), "successful_expectations": met},
        "results": outcomes,
        "great_expectations_version": results[0]["meta"]["great_expectations_version"],
    }


def _breach(outcome: dict[str, Any]) -> Breach | None:
    meta = outcome["expectation_config"]["meta"]
    if outcome["success"] or not meta["level"]:
        return None
    found = outcome["result"]
    if "unexpected_count" not in found:
        raise RuntimeError(f"Great Expectations could not compute {meta['limit']}: {outcome['exception_info']}")
    value = found["unexpected_count"]
    if outcome["expectation_config"]["type"] == "expect_column_values_to_be_between":
        value = found["partial_unexpected_list"][0]
    return Breach(limit=meta["limit"], found=value, allowed=meta["allowed"], level=meta["level"])
