"""Limits on drift and on lost rows: a limit is allowed, what is beyond it is not."""

from typing import Any

import pytest

from llmjobs.contracts.instructions import Budgets, Drift
from llmjobs.instructions.report.diff import Changes, Diff, Kind, Shift
from llmjobs.instructions.report.drift import breaches, lost_rows, lost_share


def moved(**values: float) -> Diff:
    kinds: dict[str, Kind] = {"length": "length", "topic": "topic", "label": "label"}
    shifts = tuple(
        Shift(kinds[kind], "Kolmogorov-Smirnov" if kind == "length" else "Jensen-Shannon", value, ())
        for kind, value in values.items()
    )
    return Diff(10, 10, Changes(), shifts=shifts)


def limits(**kinds: Any) -> Drift:
    return Drift.model_validate(kinds)


def lost(base: int, new: int) -> Diff:
    return Diff(base, new, Changes(removed=max(0, base - new), unchanged=min(base, new)))


def test_the_sentence_says_what_moved_and_by_how_much() -> None:
    (breach,) = breaches(moved(length=0.31), limits(length={"warn": 0.1, "fail": 0.25}))
    assert (breach.kind, breach.value, breach.limit, breach.level) == ("length", 0.31, 0.25, "fail")
    assert breach.sentence == "length moved by 0.31 (Kolmogorov-Smirnov), drift.length.fail allows 0.25"


@pytest.mark.parametrize(
    ("value", "levels"), [(0.0, []), (0.1, []), (0.1001, ["warn"]), (0.25, ["warn"]), (0.2501, ["fail"]), (1, ["fail"])]
)
def test_a_limit_itself_is_allowed(value: float, levels: list[str]) -> None:
    drift = limits(topic={"warn": 0.1, "fail": 0.25})
    assert [breach.level for breach in breaches(moved(topic=value), drift)] == levels


def test_without_limits_nothing_breaks() -> None:
    assert breaches(moved(length=1, topic=1), Drift()) == []


def test_every_kind_has_its_own_limits() -> None:
    drift = limits(length={"fail": 0.5}, label={"warn": 0.2})
    found = breaches(moved(length=0.6, topic=0.9, label=0.3), drift)
    assert [(breach.kind, breach.level) for breach in found] == [("length", "fail"), ("label", "warn")]


def test_what_rounds_to_the_limit_is_told_apart() -> None:
    (breach,) = breaches(moved(topic=0.2500004), limits(topic={"warn": 0.25}))
    assert breach.sentence == "topic moved by 0.2500004 (Jensen-Shannon), drift.topic.warn allows 0.2500000"


@pytest.mark.parametrize(
    ("base", "new", "share"), [(100, 90, 0.1), (100, 100, 0), (100, 120, 0), (0, 5, 0), (10, 0, 1)]
)
def test_the_lost_share(base: int, new: int, share: float) -> None:
    assert lost_share(lost(base, new)) == share


def test_lost_rows_are_asked_about_and_then_refused() -> None:
    budgets = Budgets(warn_lost_share=0.05, max_lost_share=0.2)
    assert lost_rows(lost(100, 95), budgets) is None
    asked, refused = lost_rows(lost(100, 94), budgets), lost_rows(lost(100, 79), budgets)
    assert asked is not None
    assert refused is not None
    assert (asked.level, refused.level) == ("warn", "fail")
    assert asked.sentence == (
        "6 of 100 rows (6.00%) are lost since the last version, budgets.warn_lost_share allows 5.00%"
    )
    assert "budgets.max_lost_share allows 20.00%" in refused.sentence


def test_without_a_budget_rows_may_be_lost() -> None:
    assert lost_rows(lost(100, 1), Budgets()) is None
