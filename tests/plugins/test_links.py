"""Buttons of a task, from the job's result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.links import LINKS, SENTENCE

RESULT = {
    "version": "v1",
    "report_url": "s3://bucket/lake/audits/tickets/versions/v1/report.html",
    "quarantine_url": "s3://bucket/lake/audits/tickets/versions/v1/quarantine.jsonl",
    "mlflow_run_url": "http://127.0.0.1:5000/#/experiments/1/runs/abc",
}


class EndedTask:
    """A task instance as `finalize` hands it to a link: its result is one pull away."""

    map_index = 2

    def __init__(self, **xcoms: Any) -> None:
        self.xcoms = xcoms

    def xcom_pull(self, *, task_ids: str, map_indexes: int, key: str) -> Any:
        assert (task_ids, map_indexes) == ("prepare", 2)
        return self.xcoms.get(key)


def addresses(result: Any, **more: Any) -> dict[str, str]:
    task = SimpleNamespace(task_id="prepare")
    return {link.name: link.get_link(task, ti_key=EndedTask(return_value=result, **more)) for link in LINKS}


def test_each_button_opens_its_page() -> None:
    assert addresses(RESULT) == {
        "Report": "nightshift/reports/audits/tickets/versions/v1/report.html",
        "Quarantine": "nightshift/reports/audits/tickets/versions/v1/quarantine.jsonl",
        "MLflow": "http://127.0.0.1:5000/#/experiments/1/runs/abc",
    }


@pytest.mark.parametrize("result", [None, {}, "x", {"report_url": None, "mlflow_run_url": 3}, {"mlflow_run_url": ""}])
def test_a_task_without_result_has_no_buttons(result: Any) -> None:
    assert set(addresses(result).values()) == {""}


def test_a_promotion_shows_the_registered_model() -> None:
    assert addresses({"mlflow_model_url": "http://mlflow/#/models/tickets"})["MLflow"].endswith("/models/tickets")


def test_a_refused_dataset_shows_the_report_that_its_sentence_names() -> None:
    sentence = f"19% of 300 rows broke a rule, 10% are allowed; report: {RESULT['report_url']}"
    assert (
        addresses(None, **{SENTENCE: sentence})["Report"] == "nightshift/reports/audits/tickets/versions/v1/report.html"
    )
    assert addresses(None, **{SENTENCE: "the disk is full"})["Report"] == ""
