"""The shape of a training DAG with a sweep: a candidate for each fraction, one comparison, then as without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from llmjobs.contracts.training import TrainConfig
from nightshift.operators.job import JobOperator, put
from nightshift.params import form_for

DAGS = Path(__file__).parents[2] / "dags"
CANDIDATES = ["train_0_25", "train_0_5", "train_1"]


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> DAG:
    """The tickets' training with one list more in its YAML."""
    bundle = tmp_path_factory.mktemp("bundle")
    configs = bundle / "configs" / "train_adapter"
    configs.mkdir(parents=True)
    shutil.copy(DAGS / "train_adapter.py", bundle)
    values = yaml.safe_load((DAGS / "configs" / "train_adapter" / "tickets.yaml").read_text(encoding="utf-8"))
    (configs / "swept.yaml").write_text(yaml.safe_dump({**values, "sweep": {"fractions": [0.25, 0.5, 1.0]}}))
    bag = BundleDagBag(bundle_path=bundle, bundle_name="sweep", dag_folder=str(bundle))
    assert bag.import_errors == {}
    found: DAG = bag.dags["train_adapter_swept"]
    return found


def job(dag: DAG, task_id: str) -> JobOperator:
    task = dag.task_dict[task_id]
    assert isinstance(task, JobOperator)
    return task


def config_of(dag: DAG, task_id: str) -> TrainConfig:
    config = job(dag, task_id).config
    assert isinstance(config, TrainConfig)
    return config


def test_a_task_for_each_fraction_then_one_comparison(dag: DAG) -> None:
    assert dag.task_dict["needed"].downstream_task_ids == {"audit"}
    assert dag.task_dict["audit"].downstream_task_ids == {"estimate"}
    assert dag.task_dict["estimate"].downstream_task_ids == {*CANDIDATES}
    assert dag.task_dict["sweep"].upstream_task_ids == {*CANDIDATES}
    assert dag.task_dict["evaluate"].upstream_task_ids == {"sweep"}
    assert dag.task_dict["promote"].upstream_task_ids == {"evaluate"}
    assert "train" not in dag.task_dict


def test_every_candidate_has_its_fraction_and_its_name(dag: DAG) -> None:
    assert [config_of(dag, name).data.fraction for name in CANDIDATES] == [0.25, 0.5, 1]
    assert {config_of(dag, name).sweep for name in CANDIDATES} == {None}
    assert [dag.task_dict[name].task_display_name for name in CANDIDATES] == [
        "Train on 0.25 of the rows", "Train on 0.5 of the rows", "Train on 1 of the rows",
    ]  # fmt: skip


def test_the_machine_is_used_by_one_at_a_time(dag: DAG) -> None:
    assert {dag.task_dict[name].pool for name in (*CANDIDATES, "sweep", "evaluate")} == {"training"}


def test_plan_and_comparison_see_the_whole_sweep(dag: DAG) -> None:
    for name in ("plan", "estimate", "sweep"):
        assert config_of(dag, name).sweep is not None


@pytest.mark.parametrize("task_id", ["evaluate", "promote"])
def test_the_best_fraction_goes_on(dag: DAG, task_id: str) -> None:
    task = job(dag, task_id)
    assert task.overrides["data.fraction"] == "{{ ti.xcom_pull(task_ids='sweep')['fraction'] }}"
    form_for(task.config, task.overrides)  # raises for a path that is not there
    values = task.config.model_dump(mode="json")
    put(values, "data.fraction", "0.25")  # as Jinja leaves it
    assert TrainConfig.from_mapping(values, origin="test") == config_of(dag, "train_0_25")


def test_the_page_tells_of_the_sweep_and_airflow_can_store_it(dag: DAG) -> None:
    assert "**Sweep**" in str(dag.doc_md)
    stored = DagSerialization.to_dict(dag)
    assert DagSerialization.from_dict(stored).task_dict.keys() == dag.task_dict.keys()
