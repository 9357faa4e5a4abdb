"""The shape of each DAG: what starts it, what follows what, and what it tells Airflow."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, CronTriggerTimetable
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from llmjobs.contracts.training import TrainConfig
from nightshift.assets import adapter_asset, dataset_asset, index_asset
from nightshift.operators.job import put

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
def test_prepare_asks_where_it_matters_publishes_then_announces(dag: DAG) -> None:
    assert modules(dag) == ["instructions.prepare", "instructions.publish"]
    assert dag.task_dict["approve"].upstream_task_ids == {"prepare"}
    assert dag.task_dict["publish"].upstream_task_ids == {"approve"}
    # Not `approve`: Airflow skips what hangs on a rejected approval, and the announcement says who rejected.
    assert dag.task_dict["announce"].upstream_task_ids == {"prepare", "publish"}
    assert dag.task_dict["announce"].trigger_rule == "none_failed"
    assert outlets(dag) == {"announce": [dataset_asset("tickets")]}


@pytest.mark.parametrize("dag", [PREPARE], indirect=True)
def test_no_answer_is_a_rejection(dag: DAG) -> None:
    approve: Any = dag.task_dict["approve"]
    assert approve.defaults == ["Reject"]
    assert approve.response_timeout.total_seconds() == 24 * 3600
    assert not approve.ignore_downstream_trigger_rules


DATED = """
name: dated
source: raw/dated/{date}/*.jsonl
schedule: 0 22 * * *
map_files: true
connection: archive
contract: tickets
"""


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> DAG:
    """The DAG of a dataset with a folder for each day, each file in a task of its own."""
    bundle = tmp_path_factory.mktemp("bundle") / "dags"
    shutil.copytree(Path(__file__).parents[2] / "dags", bundle, ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / "configs/prepare_instructions/dated.yaml").write_text(DATED, encoding="utf-8")
    bag = BundleDagBag(bundle_path=bundle, bundle_name="dated", dag_folder=str(bundle / "prepare_instructions.py"))
    assert bag.import_errors == {}
    found: DAG = bag.dags["prepare_instructions_dated"]
    return found


def test_mapped_files_come_before_the_preparation(dated: DAG) -> None:
    assert modules(dated)[:3] == ["instructions.files", "instructions.examine", "instructions.prepare"]
    examine = dated.task_dict["examine"]
    assert isinstance(examine, MappedOperator)
    assert examine.partial_kwargs["map_index_template"] == "{{ task.overrides.only_file }}"
    assert dated.task_dict["prepare"].upstream_task_ids == {"examine"}
    assert dated.task_dict["prepare"].trigger_rule == "none_failed"  # a rollback maps no file


def test_dated_sources_have_data_intervals(dated: DAG) -> None:
    assert isinstance(dated.timetable, CronDataIntervalTimetable)
    assert dated.catchup is False
    taking: list[Any] = [dated.task_dict[task_id] for task_id in ("files", "prepare")]
    assert [list(task.overrides) for task in taking] == [["interval_end"]] * 2
    approved: Any = dated.task_dict["publish"]
    assert approved.overrides["interval_end"] == taking[1].overrides["interval_end"]


def test_an_interval_ends_when_it_ends_or_when_a_run_without_one_starts(dated: DAG) -> None:
    prepare: Any = dated.task_dict["prepare"]
    template = dated.get_template_env().from_string(prepare.overrides["interval_end"])
    run = SimpleNamespace(run_after=datetime(2026, 11, 3, 9, 30, tzinfo=UTC))
    end = datetime(2026, 11, 2, 22, tzinfo=UTC)
    assert template.render(data_interval_end=end, dag_run=run) == "2026-11-02T22:00:00+00:00"
    assert template.render(dag_run=run) == "2026-11-03T09:30:00+00:00"


def test_each_file_is_dealt_with_the_interval_and_none_for_a_rollback(dated: DAG) -> None:
    deal: Any = dated.task_dict["deal"]
    files = {"files": ["a.json", "b.json"]}
    dealt = deal.python_callable(files, {"interval_end": "now"}, params={"rollback_to": None})
    assert dealt == [{"interval_end": "now", "only_file": file} for file in files["files"]]
    assert deal.python_callable(files, {}, params={"rollback_to": "3f2a"}) == []
    with pytest.raises(AirflowFailException, match="1025 files are more than the 1024 tasks that Airflow maps"):
        deal.python_callable({"files": ["x"] * 1025}, {}, params={"rollback_to": None})


@pytest.mark.parametrize("dag", [PREPARE], indirect=True)
def test_the_form_offers_every_contract(dag: DAG) -> None:
    param = dag.params.get_param("contract")
    assert param.value == "tickets"
    assert param.schema["enum"] == ["alpaca", "tickets"]
    assert list(dag.params)[:3] == ["contract", "source", "dry_run"]
    # Whoever may start a run must not choose whose credentials it uses.
    assert "connection" not in dag.params


@pytest.mark.parametrize("dag", [REFRESH], indirect=True)
def test_refresh_maps_its_shards_and_finalises_once(dag: DAG) -> None:
    assert modules(dag) == ["embeddings.plan", "embeddings.embed", "embeddings.finalise", "embeddings.measure"]
    assert dag.task_dict["embed"].is_mapped
    assert not dag.task_dict["finalise"].is_mapped
    # No shard has work: the mapped task is skipped, and finalise must run all the same.
    assert dag.task_dict["finalise"].trigger_rule == "none_failed"
    assert outlets(dag) == {"announce": [index_asset("guide")]}


def test_a_dated_index_has_data_intervals(tmp_path: Path) -> None:
    bundle = tmp_path / "dags"
    shutil.copytree(Path(__file__).parents[2] / "dags", bundle, ignore=shutil.ignore_patterns("__pycache__"))
    config = "name: dated\nschedule: 0 22 * * *\nsource: {url: 'documents/{date}'}\n"
    (bundle / "configs/refresh_embeddings/dated.yaml").write_text(config, encoding="utf-8")
    bag = BundleDagBag(bundle_path=bundle, bundle_name="dated", dag_folder=str(bundle / "refresh_embeddings.py"))
    assert bag.import_errors == {}
    found: Any = bag.dags["refresh_embeddings_dated"]
    assert isinstance(found.timetable, CronDataIntervalTimetable)
    assert list(found.task_dict["plan"].overrides) == ["interval_start", "interval_end"]
    dealt = found.task_dict["deal"].python_callable(
        {"run_id": 7, "shards": [{"shard": 1, "documents": 3}]}, {"interval_end": "now"}
    )
    assert dealt == [{"interval_end": "now", "run_id": 7, "shard": 1, "documents": 3}]
    # One without dates keeps its plain schedule.
    assert isinstance(bag.dags[REFRESH].timetable, CronTriggerTimetable)


@pytest.mark.parametrize("dag", [TRAIN], indirect=True)
def test_train_starts_from_the_dataset(dag: DAG) -> None:
    assert assets_in(dag.timetable) == {dataset_asset("tickets").uri}


@pytest.mark.parametrize("dag", [TRAIN], indirect=True)
def test_train_plans_trains_evaluates_then_promotes(dag: DAG) -> None:
    in_order = ["plan", "audit", "estimate", "train", "evaluate", "promote"]
    assert modules(dag) == [f"training.{name}" for name in in_order]
    assert dag.task_dict["audit"].upstream_task_ids == {"needed"}
    assert not {"approve", "approve_budget"} & dag.task_dict.keys(), "nobody is asked unless the config says so"
    assert "rollback_to" in dag.params
    assert [asset for assets in outlets(dag).values() for asset in assets] == [adapter_asset("tickets")]


def test_a_person_is_asked_before_the_promotion_where_the_config_says_so(tmp_path: Path) -> None:
    bundle = tmp_path / "dags"
    shutil.copytree(Path(__file__).parents[2] / "dags", bundle, ignore=shutil.ignore_patterns("__pycache__"))
    config = bundle / "configs/train_adapter/tickets.yaml"
    text = config.read_text(encoding="utf-8").replace("evaluate:\n", "evaluate:\n  approval: true\n")
    config.write_text(text, encoding="utf-8")
    bag = BundleDagBag(bundle_path=bundle, bundle_name="asking", dag_folder=str(bundle / "train_adapter.py"))
    assert bag.import_errors == {}
    tasks: Any = bag.dags[TRAIN].task_dict
    assert tasks["approve"].upstream_task_ids == {"evaluate"}
    # A candidate that is not better asks nobody and is decided; where nothing was measured, nothing is.
    assert tasks["promote"].upstream_task_ids == {"evaluate", "approve"}
    assert tasks["promote"].trigger_rule == "none_failed_min_one_success"
    template = bag.dags[TRAIN].get_template_env().from_string(tasks["promote"].overrides["approved"])
    for said, approved in (("approved by jane", "approved by jane"), (None, "")):
        ti = SimpleNamespace(xcom_pull=lambda task_ids, key, said=said: said)
        assert template.render(ti=ti) == approved


@pytest.mark.parametrize("dag", [TRAIN], indirect=True)
def test_a_training_is_laid_out_as_it_was_estimated(dag: DAG) -> None:
    train: Any = dag.task_dict["train"]
    assert dag.task_dict["train"].upstream_task_ids == {"estimate"}
    told = {"strategy": "zero3", "processes": 4, "micro_batch_size": 2}
    ti = SimpleNamespace(xcom_pull=lambda task_ids: told if task_ids == "estimate" else {})
    fields = {"dist.strategy": "zero3", "dist.processes": "4", "train.micro_batch_size": "2"}
    render = dag.get_template_env().from_string
    assert {path: render(train.overrides[path]).render(ti=ti) for path in fields} == fields
    values = train.config.model_dump(mode="json")
    for path, value in fields.items():
        put(values, path, value)
    assert TrainConfig.from_mapping(values, origin="test").dist.processes == 4
    assert "limits.max_hours" not in dag.params, "a limit is in the form where there is a task that asks"


def test_a_person_is_asked_before_a_training_beyond_its_limits(tmp_path: Path) -> None:
    bundle = tmp_path / "dags"
    shutil.copytree(Path(__file__).parents[2] / "dags", bundle, ignore=shutil.ignore_patterns("__pycache__"))
    config = bundle / "configs/train_adapter/tickets.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "limits:\n  max_hours: 2\n", encoding="utf-8")
    bag = BundleDagBag(bundle_path=bundle, bundle_name="limited", dag_folder=str(bundle / "train_adapter.py"))
    assert bag.import_errors == {}
    tasks: Any = bag.dags[TRAIN].task_dict
    assert tasks["approve_budget"].upstream_task_ids == {"estimate"}
    # Within the limits the question is skipped and the training runs; a rejection skips what hangs on the question.
    assert tasks["train"].upstream_task_ids == {"estimate", "approve_budget"}
    assert tasks["train"].trigger_rule == "none_failed_min_one_success"
    assert not tasks["approve_budget"].ignore_downstream_trigger_rules
    assert "limits.max_hours" in bag.dags[TRAIN].params


def test_a_champion_is_exported_where_the_config_names_a_form(tmp_path: Path, bag: BundleDagBag) -> None:
    assert not {"promoted", "export"} & bag.dags[TRAIN].task_dict.keys(), "nothing is exported unless it is asked for"
    bundle = tmp_path / "dags"
    shutil.copytree(Path(__file__).parents[2] / "dags", bundle, ignore=shutil.ignore_patterns("__pycache__"))
    config = bundle / "configs/train_adapter/tickets.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "export:\n  formats: [gguf]\n", encoding="utf-8")
    exporting = BundleDagBag(bundle_path=bundle, bundle_name="exporting", dag_folder=str(bundle / "train_adapter.py"))
    assert exporting.import_errors == {}
    tasks: Any = exporting.dags[TRAIN].task_dict
    assert tasks["export"].upstream_task_ids == {"promoted"}
    assert tasks["promoted"].upstream_task_ids == {"promote"}
    # Skipped with what it hangs on: where nothing was decided, and where the adapter is not the champion.
    assert {tasks[name].trigger_rule for name in ("promoted", "export")} == {"all_success"}
    assert tasks["export"].pool == "training"
    assert tasks["export"].overrides == tasks["promote"].overrides, "the adapter that was decided about"
    assert "export" not in tasks["announce"].upstream_task_ids | tasks["champion"].upstream_task_ids
    decide = tasks["promoted"].python_callable
    assert decide({"promoted": True, "sentence": "better"}) == "better"
    with pytest.raises(AirflowSkipException, match="not exported: not promoted: worse"):
        decide({"promoted": False, "sentence": "not promoted: worse"})


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
