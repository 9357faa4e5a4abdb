"""The shape of each DAG: what starts it, what follows what, and what it tells Airflow."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG, Asset, CronTriggerTimetable

from nightshift.assets import adapter_asset, dataset_asset, index_asset

PREPARE = "prepare_instructions_tickets"
TRAIN = "train_adapter_tickets"
REFRESH = "refresh_embeddings_guide"


@pytest.fixture
def dag(request: pytest.FixtureRequest, bag: BundleDagBag) -> DAG:
    found: DAG = bag.dags[request.param]
    return found


def outlets(dag: DAG) -> dict[str, list[Asset]]:
    return {task.task_id: list(task.outlets) for task in dag.tasks if task.outlets}


def assets_in(schedule: Any) -> set[str]:
    """Return the URIs of the assets that start a DAG, alone or beside a cron expression."""
    condition = getattr(schedule, "asset_condition", schedule)
    return {asset.uri for asset in condition.objects}


def modules(dag: DAG) -> list[str]:
    found = []
    order: list[Any] = list(dag.topological_sort())  # type: ignore[no-untyped-call]
    for task in order:
        values = task.partial_kwargs if task.is_mapped else vars(task)
        if "module" in values:
            found.append(values["module"].removeprefix("llmjobs."))
    return found


@pytest.mark.parametrize("dag", [PREPARE], indirect=True)
def test_prepare_publishes_then_announces(dag: DAG) -> None:
    assert modules(dag) == ["instructions.prepare"]
    assert dag.task_dict["announce"].upstream_task_ids == {"prepare"}
    assert outlets(dag) == {"announce": [dataset_asset("tickets")]}


@pytest.mark.parametrize("dag", [REFRESH], indirect=True)
def test_refresh_maps_its_shards_and_finalises_once(dag: DAG) -> None:
    assert modules(dag) == ["embeddings.plan", "embeddings.embed", "embeddings.finalise"]
    assert dag.task_dict["embed"].is_mapped
    assert not dag.task_dict["finalise"].is_mapped
    # No shard has work: the mapped task is skipped, and finalise must run all the same.
    assert dag.task_dict["finalise"].trigger_rule == "none_failed"
    assert outlets(dag) == {"announce": [index_asset("guide")]}


@pytest.mark.parametrize("dag", [TRAIN], indirect=True)
def test_train_starts_from_the_dataset(dag: DAG) -> None:
    assert assets_in(dag.timetable) == {dataset_asset("tickets").uri}


@pytest.mark.parametrize("dag", [TRAIN], indirect=True)
def test_train_plans_trains_evaluates_then_promotes(dag: DAG) -> None:
    assert modules(dag) == ["training.plan", "training.train", "training.evaluate", "training.promote"]
    assert [asset for assets in outlets(dag).values() for asset in assets] == [adapter_asset("tickets")]


@pytest.mark.parametrize("dag", [TRAIN], indirect=True)
def test_one_training_at_a_time_guards_the_machine(dag: DAG) -> None:
    heavy = [
        t for t in dag.tasks if getattr(t, "module", "").startswith(("llmjobs.training.train", "llmjobs.training.ev"))
    ]
    assert len(heavy) == 2
    assert {task.pool for task in heavy} == {"training"}


@pytest.mark.parametrize("dag", [PREPARE, REFRESH], indirect=True)
def test_nights_start_by_the_clock(dag: DAG) -> None:
    assert isinstance(dag.timetable, CronTriggerTimetable)
