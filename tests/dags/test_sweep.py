"""The shape of a training DAG with a sweep: mapped candidates, one comparison, then as without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.serialization.serialized_objects import DagSerialization

from llmjobs.contracts.training import TrainConfig
from nightshift.operators.job import JobOperator, put
from nightshift.params import form_for

DAGS = Path(__file__).parents[2] / "dags"
LISTS = {"fractions": [0.25, 1.0], "learning_rates": [0.0003, 0.0001], "ranks": [8, 16]}
SWEPT = ("data.fraction", "train.learning_rate", "lora.r")


def dag_of(tmp_path_factory: pytest.TempPathFactory, sweep: dict[str, Any]) -> DAG:
    """The tickets' training with lists more in its YAML."""
    bundle = tmp_path_factory.mktemp("bundle")
    configs = bundle / "configs" / "train_adapter"
    configs.mkdir(parents=True)
    shutil.copy(DAGS / "train_adapter.py", bundle)
    values = yaml.safe_load((DAGS / "configs" / "train_adapter" / "tickets.yaml").read_text(encoding="utf-8"))
    (configs / "swept.yaml").write_text(yaml.safe_dump({**values, "sweep": sweep}))
    bag = BundleDagBag(bundle_path=bundle, bundle_name="sweep", dag_folder=str(bundle))
    assert bag.import_errors == {}
    found: DAG = bag.dags["train_adapter_swept"]
    return found


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> DAG:
    """A sweep over all three lists."""
    return dag_of(tmp_path_factory, LISTS)


def job(dag: DAG, task_id: str) -> JobOperator:
    task = dag.task_dict[task_id]
    assert isinstance(task, JobOperator)
    return task


def config_of(dag: DAG, task_id: str) -> TrainConfig:
    config = job(dag, task_id).config
    assert isinstance(config, TrainConfig)
    return config


def trains(dag: DAG) -> tuple[MappedOperator, list[dict[str, Any]]]:
    """The mapped task and the overrides of each candidate."""
    task = dag.task_dict["train"]
    assert isinstance(task, MappedOperator)
    mapped: Any = task.expand_input.value
    return task, mapped["overrides"]


def test_a_mapped_task_for_each_candidate_then_one_comparison(dag: DAG) -> None:
    assert dag.task_dict["needed"].downstream_task_ids == {"audit"}
    assert dag.task_dict["audit"].downstream_task_ids == {"estimate"}
    assert dag.task_dict["estimate"].downstream_task_ids == {"train"}
    assert dag.task_dict["sweep"].upstream_task_ids == {"train"}
    assert dag.task_dict["evaluate"].upstream_task_ids == {"sweep"}
    assert dag.task_dict["promote"].upstream_task_ids == {"evaluate"}


def test_every_combination_is_a_candidate_with_a_name(dag: DAG) -> None:
    task, candidates = trains(dag)
    assert [tuple(one[path] for path in SWEPT) for one in candidates] == [
        (part, rate, rank) for part in (0.25, 1.0) for rate in (0.0001, 0.0003) for rank in (8, 16)
    ]
    assert {one["dist.strategy"] for one in candidates} == {"{{ ti.xcom_pull(task_ids='estimate')['strategy'] }}"}
    assert task.map_index_template == (
        "{{ task.overrides['data.fraction'] }} of the rows, "
        "learning rate {{ task.overrides['train.learning_rate'] }}, rank {{ task.overrides['lora.r'] }}"
    )
    assert task.partial_kwargs["config"].sweep is None


def test_each_task_trains_what_the_comparison_looks_for(dag: DAG) -> None:
    task, candidates = trains(dag)
    whole = config_of(dag, "sweep")
    for overrides, candidate in zip(candidates, whole.candidates, strict=True):
        values = task.partial_kwargs["config"].model_dump(mode="json")
        for path in SWEPT:
            put(values, path, overrides[path])
        assert TrainConfig.from_mapping(values, origin="test") == candidate


def test_a_candidate_that_fails_does_not_end_the_sweep(dag: DAG) -> None:
    assert dag.task_dict["sweep"].trigger_rule == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS


def test_the_form_does_not_ask_for_what_the_lists_say(dag: DAG, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert {"train.learning_rate", "lora.r"}.isdisjoint(dag.params)
    assert "lora.alpha" in dag.params
    only = dag_of(tmp_path_factory, {"ranks": [4, 8]})
    assert "train.learning_rate" in only.params
    assert job(only, "evaluate").overrides.keys() - job(only, "sweep").overrides.keys() == {"lora.r"}


def test_the_machine_is_used_by_one_at_a_time(dag: DAG) -> None:
    assert {dag.task_dict[name].pool for name in ("train", "sweep", "evaluate")} == {"training"}


def test_plan_and_comparison_see_the_whole_sweep(dag: DAG) -> None:
    for name in ("plan", "estimate", "sweep"):
        assert config_of(dag, name).sweep is not None


@pytest.mark.parametrize("task_id", ["evaluate", "promote"])
def test_the_best_candidate_goes_on(dag: DAG, task_id: str) -> None:
    task = job(dag, task_id)
    assert {path: task.overrides[path] for path in SWEPT} == {
        path: f"{{{{ ti.xcom_pull(task_ids='sweep')['settings']['{path}'] }}}}" for path in SWEPT
    }
    form_for(task.config, task.overrides)  # raises for a path that is not there
    values = task.config.model_dump(mode="json")
    for path, value in zip(SWEPT, ("0.25", "0.0003", "16"), strict=True):
        put(values, path, value)  # as Jinja leaves it
    assert TrainConfig.from_mapping(values, origin="test") == config_of(dag, "sweep").candidates[3]


def test_the_page_tells_of_the_sweep_and_airflow_can_store_it(dag: DAG) -> None:
    assert "**Sweep**" in str(dag.doc_md)
    stored = DagSerialization.to_dict(dag)
    assert DagSerialization.from_dict(stored).task_dict.keys() == dag.task_dict.keys()
