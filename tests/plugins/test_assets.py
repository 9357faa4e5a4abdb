"""What is announced, and what is not; the same against a real Airflow is in tests/airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from nightshift.assets import adapter_asset, announce, dataset_asset, index_asset, refuse_repeated, version_of

URI = "nightshift://dataset/tickets"


def event(version: str) -> SimpleNamespace:
    return SimpleNamespace(extra={"version": version}, timestamp=datetime(2026, 11, 23, 2, 30, tzinfo=UTC))


def test_assets_have_the_names_of_the_yaml() -> None:
    assets = [dataset_asset("tickets"), adapter_asset("tickets"), index_asset("guide")]
    assert [a.uri for a in assets] == [URI, "nightshift://adapter/tickets", "nightshift://index/guide"]
    assert len({a.name for a in assets}) == 3


def test_a_new_version_passes() -> None:
    refuse_repeated("b", [event("a"), SimpleNamespace(extra={}, timestamp=None)], URI)


def test_a_version_that_airflow_knows_is_skipped_with_a_sentence() -> None:
    with pytest.raises(AirflowSkipException, match=r"version a was announced at 2026-11-23 02:30 UTC: nothing is new"):
        refuse_repeated("a", [event("b"), event("a")], URI)


@pytest.mark.parametrize("result", [{}, {"version": ""}, {"version": None}, {"rows": 3}])
def test_a_result_without_version_fails_at_once(result: dict[str, object]) -> None:
    with pytest.raises(AirflowFailException, match="no version to announce"):
        version_of(result, URI)


def test_the_task_reads_and_writes_the_asset() -> None:
    asset = dataset_asset("tickets")

    @task
    def publish() -> dict[str, str]:
        return {"version": "a"}

    with DAG(dag_id="announces", schedule=None) as dag:
        announce(asset, publish(), task_id="announce_dataset")
    operator = dag.task_dict["announce_dataset"]
    assert operator.inlets == [asset]
    assert operator.outlets == [asset]
    assert operator.upstream_task_ids == {"publish"}
