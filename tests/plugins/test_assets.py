"""What is announced, and what is not; the same against a real Airflow is in tests/airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from nightshift.assets import (
    adapter_asset,
    announce,
    dataset_asset,
    extra_of,
    index_asset,
    refuse_repeated,
    refuse_unpublished,
    version_of,
)

URI = "nightshift://dataset/tickets"


def event(version: str) -> SimpleNamespace:
    return SimpleNamespace(extra={"version": version}, timestamp=datetime(2026, 11, 23, 2, 30, tzinfo=UTC))


def test_assets_have_the_names_of_the_yaml() -> None:
    assets = [dataset_asset("tickets"), adapter_asset("tickets"), index_asset("guide")]
    assert [a.uri for a in assets] == [URI, "nightshift://adapter/tickets", "nightshift://index/guide"]
    assert len({a.name for a in assets}) == 3


def test_a_new_version_passes() -> None:
    refuse_repeated("b", [event("a"), SimpleNamespace(extra={}, timestamp=None)], URI)


def test_the_version_that_was_announced_last_is_skipped_with_a_sentence() -> None:
    by_hand = SimpleNamespace(extra={}, timestamp=None)
    with pytest.raises(AirflowSkipException, match=r"version a was announced at 2026-11-23 02:30 UTC: nothing is new"):
        refuse_repeated("a", [by_hand, event("a"), event("b")], URI)


def test_a_version_that_comes_back_counts_again() -> None:
    refuse_repeated("a", [event("b"), event("a")], URI)


def nobody() -> str:
    return "version a was refused by jane at 2026-11-23 02:30 UTC"


@pytest.mark.parametrize(
    ("result", "publication"),
    [({}, None), ({"verdict": "accepted"}, None), ({"verdict": "ask"}, {"version": "a", "changed": True})],
)
def test_what_was_published_is_announced(result: dict[str, str], publication: object) -> None:
    refuse_unpublished(result, publication, nobody, URI)


@pytest.mark.parametrize(
    ("verdict", "said"), [("ask", f"{URI}: version a was refused by jane"), ("dry_run", f"{URI}: a dry run")]
)
def test_what_was_not_published_is_skipped_with_a_sentence(verdict: str, said: str) -> None:
    with pytest.raises(AirflowSkipException, match=said):
        refuse_unpublished({"verdict": verdict}, None, nobody, URI)


def test_the_extra_holds_the_figures_and_not_the_prose() -> None:
    assert extra_of({"version": "a", "rows_in": 3, "summary": "**3** rows"}) == {"version": "a", "rows_in": 3}


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
