"""Who is asked what, and what an answer or none leads to; the same against a real Airflow is in tests/airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import DAG, Context
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped, TaskAwaitingInput

from nightshift.decisions import decision_of
from nightshift.operators.approval import PromotionApproval, PublicationApproval, body_of

RESULT = {
    "version": "d6e9e0c8c397aaaa",
    "verdict": "ask",
    "summary": "| rows | now |\n|---|---|\n| {{ not jinja }} | 3 |",
    "report_url": "file:///lake/audits/rows/versions/a1/report.html",
}


class TaskInstance(SimpleNamespace):
    """What the operator needs of one: results by task, and what it pushed."""

    def xcom_pull(self, *, task_ids: str, key: str = "return_value") -> Any:
        return self.results.get((task_ids, key))

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.results["approve", key] = value


def task_instance(result: Any = RESULT) -> Any:
    return TaskInstance(id="1", map_index=-1, results={("prepare", "return_value"): result})


@pytest.fixture
def operator() -> PublicationApproval:
    """The approval of a DAG, with a task behind it."""
    with DAG("asks", schedule=None):
        from airflow.providers.standard.operators.empty import EmptyOperator

        one = PublicationApproval(name="rows", of="prepare", hours=6)
        one >> EmptyOperator(task_id="publish")
    return one


def context(ti: Any, operator: PublicationApproval) -> Context:
    return cast("Context", {"ti": ti, "task_instance": ti, "task": operator})


def answer(option: str, *, timedout: bool = False) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime(2026, 11, 23, 2, 30, tzinfo=UTC),
        "responded_by_user": None if timedout else {"id": "7", "name": "jane"},
        "timedout": timedout,
    }


@pytest.mark.parametrize("verdict", ["accepted", "dry_run"])
def test_nobody_is_asked_where_nothing_is_in_question(operator: PublicationApproval, verdict: str) -> None:
    with pytest.raises(AirflowSkipException, match="dataset rows: nobody has to be asked"):
        operator.execute(context(task_instance({**RESULT, "verdict": verdict}), operator))


def test_the_question_shows_the_differences_and_waits_so_long(
    operator: PublicationApproval, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **values: asked.update(values)
    )
    with pytest.raises(TaskAwaitingInput) as waiting:
        operator.execute(context(task_instance(), operator))
    assert waiting.value.timeout is not None
    assert waiting.value.timeout.total_seconds() == 6 * 3600
    assert asked["defaults"] == ["Reject"]
    assert asked["subject"] == "Publish a new version of the dataset rows?"
    assert asked["body"] == body_of(RESULT, operator.effects, 6)
    assert RESULT["summary"] in asked["body"]
    assert "[Open the report](nightshift/reports/audits/rows/versions/a1/report.html)" in asked["body"]


def test_an_approval_is_kept_with_its_author(operator: PublicationApproval) -> None:
    ti = task_instance()
    operator.execute_complete(context(ti, operator), answer("Approve"))
    assert decision_of(ti) == "version d6e9e0c8c397 was approved by jane at 2026-11-23 02:30 UTC"


@pytest.mark.parametrize(
    ("timedout", "said"),
    [
        (False, "version d6e9e0c8c397 was refused by jane at 2026-11-23 02:30 UTC"),
        (True, "version d6e9e0c8c397 was refused at 2026-11-23 02:30 UTC: nobody answered within 6 hours"),
    ],
)
def test_a_rejection_skips_what_follows_and_is_kept_too(
    operator: PublicationApproval, timedout: bool, said: str
) -> None:
    ti = task_instance()
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        operator.execute_complete(context(ti, operator), answer("Reject", timedout=timedout))
    assert skipped.value.tasks == ["publish"]
    assert decision_of(ti) == said


def test_a_result_without_a_report_or_a_summary_is_asked_about_all_the_same(operator: PublicationApproval) -> None:
    body = body_of({"version": "v"}, operator.effects, 1.5)
    assert body.startswith("**Approve** makes version `v` current")
    assert "rejected after 1.5 hours" in body


def test_of_an_evaluation_the_adapter_is_in_question() -> None:
    approval = PromotionApproval(name="tickets", of="evaluate", hours=6)
    body = body_of({"version": "of-the-evaluation", "adapter_version": "ad1"}, approval.effects, 6)
    assert body.startswith("**Approve** makes version `ad1` champion")
    assert "of-the-evaluation" not in body


def test_where_nobody_was_asked_it_says_so() -> None:
    assert decision_of(task_instance()) == "nobody was asked, so it was not published"
