"""What holds for every DAG: it loads, says who it is for, and is safe to leave alone at night."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.serialization.serialized_objects import DagSerialization

from nightshift.operators.job import JobOperator, put
from nightshift.params import chosen_values, form_for, form_values, name_of

REPOSITORY = Path(__file__).parents[2]
DAGS = REPOSITORY / "dags"
CHECKER = "check_configs.py"
FILES = sorted(path for path in DAGS.glob("*.py") if path.name != CHECKER)
CONFIGS = sorted((DAGS / "configs").glob("*/*.yaml"))
DAG_IDS = [f"{path.parent.name}_{path.stem}" for path in CONFIGS]
POOLS = {"default_pool", "training"}


@pytest.fixture(params=DAG_IDS)
def dag(request: pytest.FixtureRequest, bag: BundleDagBag) -> DAG:
    """Each DAG in turn."""
    assert request.param in bag.dags
    found: DAG = bag.dags[request.param]
    return found


def jobs_of(dag: DAG) -> list[JobOperator]:
    """Return the DAG's jobs; of a mapped one the operator that each mapped task becomes."""
    found = []
    for task in dag.tasks:
        if isinstance(task, MappedOperator) and issubclass(task.operator_class, JobOperator):
            found.append(task.operator_class(**{**task.partial_kwargs, "task_id": task.task_id, "dag": None}))
        elif isinstance(task, JobOperator):
            found.append(task)
    return found


def test_every_file_loads(bag: BundleDagBag) -> None:
    assert FILES
    assert bag.import_errors == {}
    assert bag.captured_warnings == {}


def test_every_config_is_one_dag_and_there_is_no_other(bag: BundleDagBag) -> None:
    assert sorted(bag.dags) == sorted(DAG_IDS)


def test_every_file_has_configs_and_every_config_a_file() -> None:
    assert {path.stem for path in FILES} == {path.parent.name for path in CONFIGS}


def test_the_web_page_says_what_it_is(dag: DAG) -> None:
    assert dag.doc_md
    assert len(dag.doc_md) > 200
    assert dag.description
    assert dag.dag_display_name != dag.dag_id
    assert "nightshift" in dag.tags
    assert len(dag.tags) >= 3
    for task in dag.tasks:
        values = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
        named = values.get("task_display_name") or values.get("_task_display_name")
        assert named not in {None, task.task_id}, f"{task.task_id} has no display name"


def test_somebody_answers_for_it(dag: DAG) -> None:
    owners = {task.owner for task in dag.tasks}
    assert "airflow" not in owners
    assert all(owners)


def test_it_is_safe_to_leave_alone(dag: DAG) -> None:
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert [task.task_id for task in dag.tasks if not task.retries or task.retries < 1] == []
    assert [task.task_id for task in dag.tasks if task.pool not in POOLS] == []


def test_every_job_can_be_started_and_ends_at_last(dag: DAG) -> None:
    jobs = jobs_of(dag)
    assert jobs
    for job in jobs:
        spec = importlib.util.find_spec(job.module)
        assert spec is not None, f"{job.task_id}: there is no module {job.module}"
        assert spec.origin is not None
        assert '__name__ == "__main__"' in Path(spec.origin).read_text(encoding="utf-8"), f"{job.module} starts nothing"
        assert job.execution_timeout is not None, f"{job.task_id} could run for ever"


def test_mapped_tasks_have_names(dag: DAG) -> None:
    mapped = [task for task in dag.tasks if isinstance(task, MappedOperator)]
    assert [task.task_id for task in mapped if not task.partial_kwargs.get("map_index_template")] == []


def test_overrides_lead_to_fields_of_the_config(dag: DAG) -> None:
    for job in jobs_of(dag):
        form_for(job.config, job.overrides)  # raises for a path that is not there


def test_the_form_belongs_to_a_job(dag: DAG) -> None:
    taking = [job for job in jobs_of(dag) if job.form]
    assert taking
    for path in dag.params:
        takers = [job for job in taking if path.split(".")[0] in type(job.config).model_fields]
        assert takers, f"no job takes {path} of the form"
        if path in takers[0].choices:
            assert dag.params.get_param(path).value == name_of(takers[0].config, path, takers[0].choices[path])
        else:
            assert form_for(takers[0].config, [path])[path].value == dag.params.get_param(path).value


def test_the_form_can_be_sent_as_it_is_and_then_means_the_yaml(dag: DAG) -> None:
    untouched = {path: dag.params.get_param(path).value for path in dag.params}
    assert "" not in untouched.values(), "Airflow's form does not let an empty text pass"
    for job in jobs_of(dag):
        sections, left = chosen_values(job.config, untouched, job.choices)
        assert sections == {}
        values = job.config.model_dump(mode="json")
        for path, value in form_values(job.config, left).items():
            put(values, path, value)
        assert type(job.config).model_validate(values) == job.config


def test_airflow_can_store_it(dag: DAG) -> None:
    stored = DagSerialization.to_dict(dag)
    assert DagSerialization.from_dict(stored).task_dict.keys() == dag.task_dict.keys()


def test_parsing_twice_gives_the_same(dag: DAG) -> None:
    again = BundleDagBag(bundle_path=DAGS, bundle_name="nightshift", dag_folder=dag.fileloc)
    assert DagSerialization.to_dict(again.dags[dag.dag_id]) == DagSerialization.to_dict(dag)
