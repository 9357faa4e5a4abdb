"""Great Expectations decides: each limit of a contract can be broken, at both levels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import FLAGS
from llmjobs.instructions.expectations import FIGURES, Breach, Verdict, judge

ROWS = 100


def judged(
    figures: Mapping[str, float | None] | None = None, quarantined: int = 0, flags: Any = (), **contract: Any
) -> Verdict:
    columns: dict[str, Any] = dict.fromkeys(FLAGS, [False] * ROWS)
    columns |= {flag: [True] * 3 + [False] * (ROWS - 3) for flag in flags}
    columns["quarantined"] = [row < quarantined for row in range(ROWS)]
    numbers: dict[str, float | None] = {**dict.fromkeys(FIGURES), "published": ROWS - quarantined, **(figures or {})}
    model = DataContract.model_validate({"owner": "tests", **contract})
    return judge(pl.DataFrame(columns), numbers, model, "rows")


def test_within_every_limit() -> None:
    budgets = {
        "max_quarantined_share": 0.1,
        "warn_quarantined_share": 0.05,
        "max_lost_share": 0.2,
        "warn_lost_share": 0.1,
    }
    drift = {kind: {"warn": 0.1, "fail": 0.2} for kind in ("length", "language", "topic", "source", "label")}
    figures = {"lost_share": 0.1, **dict.fromkeys(drift, 0.1)}
    verdict = judged(figures, 5, ["refusal"], budgets={**budgets, "min_rows": 95}, drift=drift)
    assert (verdict.decision, verdict.breaches) == ("accepted", [])
    # What only puts rows aside is on record all the same.
    failed = [one["expectation_config"]["meta"]["limit"] for one in verdict.record["results"] if not one["success"]]
    assert failed == ["rules.refusal"]
    assert not verdict.record["success"]


@pytest.mark.parametrize(
    ("given", "contract", "breach"),
    [
        (
            {"quarantined": 8},
            {"budgets": {"max_quarantined_share": 0.07}},
            Breach("budgets.max_quarantined_share", 8, 0.07, "fail"),
        ),
        (
            {"quarantined": 8},
            {"budgets": {"warn_quarantined_share": 0.07}},
            Breach("budgets.warn_quarantined_share", 8, 0.07, "ask"),
        ),
        ({"figures": {"published": 4}}, {"budgets": {"min_rows": 5}}, Breach("budgets.min_rows", 4, 5, "fail")),
        ({"figures": {"train_rows": 0}}, {}, Breach("split.train_rows", 0, 1, "fail")),
        (
            {"figures": {"lost_share": 0.3}},
            {"budgets": {"max_lost_share": 0.2}},
            Breach("budgets.max_lost_share", 0.3, 0.2, "fail"),
        ),
        (
            {"figures": {"lost_share": 0.3}},
            {"budgets": {"warn_lost_share": 0.2}},
            Breach("budgets.warn_lost_share", 0.3, 0.2, "ask"),
        ),
        (
            {"figures": {"topic": 0.3}},
            {"drift": {"topic": {"fail": 0.2}}},
            Breach("drift.topic.fail", 0.3, 0.2, "fail"),
        ),
        ({"figures": {"label": 0.3}}, {"drift": {"label": {"warn": 0.2}}}, Breach("drift.label.warn", 0.3, 0.2, "ask")),
        ({"flags": ["refusal"]}, {"rules": {"refusal": "fail"}}, Breach("rules.refusal", 3, 0, "fail")),
        ({"flags": ["pii_email"]}, {"pii": {"email": "fail"}}, Breach("pii.email", 3, 0, "fail")),
        ({"flags": ["leak"]}, {"leaks": {"severity": "fail"}}, Breach("leaks.severity", 3, 0, "fail")),
    ],
    ids=lambda value: value.limit if isinstance(value, Breach) else "",
)
def test_each_limit_can_be_broken(given: Any, contract: Any, breach: Breach) -> None:
    verdict = judged(**given, **contract)
    assert verdict.breaches == [breach]
    assert verdict.decision == ("refused" if breach.level == "fail" else "ask")


@pytest.mark.parametrize(
    ("value", "levels"), [(0.0, []), (0.1, []), (0.1001, ["ask"]), (0.25, ["ask"]), (0.2501, ["fail", "ask"])]
)
def test_a_limit_itself_is_allowed(value: float, levels: list[str]) -> None:
    verdict = judged(
        {"topic": value, "lost_share": value},
        drift={"topic": {"warn": 0.1, "fail": 0.25}},
        budgets={"warn_lost_share": 0.1, "max_lost_share": 0.25},
    )
    assert [breach.level for breach in verdict.breaches] == [level for level in levels for _ in range(2)]


def test_what_refuses_comes_before_what_asks() -> None:
    verdict = judged(
        {"length": 0.5}, 8, drift={"length": {"warn": 0.1, "fail": 0.4}}, budgets={"warn_quarantined_share": 0.05}
    )
    assert [breach.level for breach in verdict.breaches] == ["fail", "ask", "ask"]
    assert verdict.decision == "refused"


def test_a_figure_that_is_not_there_is_compared_with_nothing() -> None:
    strict = {"warn": 0.0, "fail": 0.001}
    drift = dict.fromkeys(("length", "language", "topic", "source", "label"), strict)
    assert judged(drift=drift, budgets={"max_lost_share": 0.0}).decision == "accepted"


def test_the_same_rows_give_the_same_record() -> None:
    first, second = (judged({"length": 0.5}, 3, drift={"length": {"warn": 0.1}}) for _ in range(2))
    assert json.dumps(first.record) == json.dumps(second.record)
    text = json.dumps(first.record)
    assert not any(word in text for word in ('"id"', "run_time", "run_id", "validation_time"))
