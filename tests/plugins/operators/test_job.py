"""What JobOperator does before a job starts: forms, overrides, serialisation, refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import DAG, Context
from airflow.serialization.serialized_objects import DagSerialization

from llmjobs.contracts.base import JobConfig, Strict
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.contracts.training import TrainConfig
from nightshift import failures, settings
from nightshift.code_version import code_version
from nightshift.operators.job import JobOperator
from nightshift.runners.local import LocalRunner
from nightshift.runners.pods import refuse_nodes_apart, refuse_unreachable


class Section(Strict):
    rate: float = 0.1
    steps: int = 3


class NightConfig(JobConfig):
    name: str = "tickets"
    template: str = "{% for m in messages %}{{ m }}{% endfor %}"
    section: Section = Section()
    extra: dict[str, Any] = {}  # noqa: RUF012  pydantic copies it
    maybe: Section | None = None


def context(**params: Any) -> Context:
    return cast("Context", {"params": params})


def operator(**kwargs: Any) -> JobOperator:
    return JobOperator(task_id="job", module="m", config=NightConfig(), **kwargs)


def test_overrides_by_path_and_by_mapping_leave_the_rest() -> None:
    overrides = {"section.rate": "0.5", "extra": {"a.b": 1}, "maybe.steps": 7, "name": "other"}
    found = operator(overrides=overrides).effective_config(context())
    assert found == NightConfig(name="other", section=Section(rate=0.5), extra={"a.b": 1}, maybe=Section(steps=7))
    nested = operator(overrides={"section": {"steps": 9}}).effective_config(context())
    assert nested == NightConfig(section=Section(steps=9))


def test_overrides_win_over_the_form() -> None:
    one = operator(form=True, overrides={"section.rate": 0.9})
    found = one.effective_config(context(**{"section.rate": 0.5, "section.steps": 4}))
    assert found == NightConfig(section=Section(rate=0.9, steps=4))


def test_params_of_other_tasks_are_left_alone_but_a_typo_is_not() -> None:
    one = operator(form=True)
    assert one.effective_config(context(force=True, **{"other.rate": 1})) == NightConfig()
    with pytest.raises(failures.BadConfig, match=r"task job: section\.raet: unknown field; did you mean 'rate'\?"):
        one.effective_config(context(**{"section.raet": 1}))


def test_a_wrong_value_is_refused_with_its_field() -> None:
    with pytest.raises(failures.BadConfig, match=r"section\.rate: .*valid number.*'fast'"):
        operator(overrides={"section.rate": "fast"}).effective_config(context())


def test_the_config_of_the_dag_stays_as_it_is() -> None:
    config = NightConfig(extra={"deep": {"a": 1}})
    one = JobOperator(task_id="job", module="m", config=config, overrides={"extra": {"deep": {"b": 2}}})
    assert one.effective_config(context()) == NightConfig(extra={"deep": {"a": 1, "b": 2}})
    assert config == NightConfig(extra={"deep": {"a": 1}})


def dag(template: str = "{{ m }}") -> DAG:
    with DAG("d", schedule=None) as made:
        JobOperator(task_id="plain", module="m", config=NightConfig(template=template))
        JobOperator.partial(task_id="mapped", module="m", config=NightConfig()).expand(overrides=[{"name": "a"}])
    return made


def test_dags_serialise_with_their_configs_the_same_each_time() -> None:
    first, second = (DagSerialization.to_dict(dag()) for _ in range(2))
    assert first == second
    tasks = {task["__var"]["task_id"]: task["__var"] for task in first["dag"]["tasks"]}
    assert "{{ m }}" in tasks["plain"]["config"]
    assert "overrides" in tasks["mapped"]["template_fields"]


def test_another_config_is_another_version_of_the_dag() -> None:
    assert DagSerialization.to_dict(dag()) != DagSerialization.to_dict(dag("{{ other }}"))


def test_jinja_renders_overrides_and_leaves_the_config() -> None:
    one = operator(overrides={"name": "{{ greeting }}"}, env_vars={"A": "{{ greeting }}"})
    one.render_template_fields(cast("Context", {"greeting": "hello"}))
    assert one.config == NightConfig()
    assert one.effective_config(context()).name == "hello"  # type: ignore[attr-defined]
    variables = {one.name: one.value for one in one.build_pod_request_obj(dry_run=True).spec.containers[0].env}
    assert variables["A"] == "hello"
    assert NightConfig.model_validate_json(variables["LLMJOBS_CONFIG"]) == NightConfig()


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("LLMJOBS_LAKE_URL", "file:///srv/lake", "a place on this machine"),
        ("LLMJOBS_LAKE_URL", "/srv/lake", "a path"),
        ("LLMJOBS_DATABASE_URL", "postgresql://jobs@/jobs?host=/var/run/postgresql", "names a Unix socket"),
        ("LLMJOBS_DATABASE_URL", "postgresql:///jobs", "names a Unix socket"),
        ("LLMJOBS_DATABASE_URL", "postgresql://jobs:hunter22@localhost/jobs", "loopback"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000", "loopback"),
    ],
)
def test_what_no_pod_can_reach_is_refused(variable: str, value: str, text: str) -> None:
    with pytest.raises(failures.BadConfig, match=f"^{variable} .*{text}") as caught:
        refuse_unreachable({variable: value})
    assert "hunter22" not in str(caught.value)


def test_what_pods_can_reach_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unreachable(
        {
            "LLMJOBS_LAKE_URL": "s3://bucket/lake",
            "LLMJOBS_DATABASE_URL": "postgresql://jobs@db.example:5432/jobs",
            "MLFLOW_TRACKING_URI": "https://mlflow.example",
        }
    )
    refuse_unreachable({})
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__PODS_SHARE_THIS_MACHINE", "True")
    refuse_unreachable({"LLMJOBS_LAKE_URL": "file:///srv/lake"})


def test_nodes_without_a_common_folder_are_refused_before_there_is_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"name": "a", "dataset": "d", "model": "m"}
    refuse_nodes_apart(TrainConfig.from_mapping(training, origin="test"))
    refuse_nodes_apart(NightConfig())
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__RUNNER", "kubernetes")
    for name in ("LLMJOBS_LAKE_URL", "LLMJOBS_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    config = TrainConfig.from_mapping({**training, "dist": {"nodes": 2}}, origin="test")
    one = JobOperator(task_id="job", module="m", config=config)
    told = SimpleNamespace(xcom_push=lambda **_values: None)
    with pytest.raises(failures.BadConfig, match=r"dist\.nodes \(2\) needs a volume .*\[nightshift\] work_claim"):
        one.execute(cast("Context", {"params": {}, "ti": told}))
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__WORK_CLAIM", "checkpoints")
    refuse_nodes_apart(config)


def test_the_runner_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__NIGHTSHIFT__RUNNER", raising=False)
    assert settings.runner() == "local"
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__RUNNER", "kubernetes")
    assert settings.runner() == "kubernetes"
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__RUNNER", "docker")
    with pytest.raises(failures.BadConfig, match="runner is 'docker'; set it to one of: local, kubernetes"):
        settings.runner()


def test_code_version_prefers_what_a_deployment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        bundle_version = "4f1c"

    digest = code_version()
    assert digest.startswith("code-")
    assert code_version({"dag_run": Run()}) == "4f1c"
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__CODE_VERSION", "v1.2")
    assert code_version({"dag_run": Run()}) == "v1.2"


class Gated(JobConfig):
    contract: NightConfig = NightConfig(section=Section(steps=300), extra={"ours": 1})
    connection: str | None = None


def test_the_form_picks_a_section_by_name_and_the_job_gets_it_whole() -> None:
    other = NightConfig(name="other", section=Section(steps=5))
    one = JobOperator(
        task_id="job",
        module="m",
        config=Gated(),
        form=True,
        choices={"contract": {"ours": Gated().contract, "b": other}},
    )
    picked = one.effective_config(
        context(contract="b", **{"contract.section.steps": 300, "contract.section.rate": 0.7})
    )
    assert picked == Gated(contract=NightConfig(name="other", section=Section(steps=5, rate=0.7)))
    assert one.effective_config(context(contract="ours", **{"contract.section.steps": 9})) == Gated(
        contract=NightConfig(section=Section(steps=9), extra={"ours": 1})
    )
    with pytest.raises(failures.BadConfig, match="contract: there is no 'c'"):
        one.effective_config(context(contract="c"))


def test_a_pod_takes_the_credentials_of_a_connection_from_its_own_key_of_the_secret() -> None:
    def variables(connection: str | None) -> dict[str, Any]:
        one = JobOperator(task_id="job", module="m", config=Gated(connection=connection))
        return {found.name: found for found in one.build_pod_request_obj(dry_run=True).spec.containers[0].env}

    assert "LLMJOBS_STORAGE_OPTIONS" not in variables(None)
    reference = variables("archive/eu")["LLMJOBS_STORAGE_OPTIONS"].value_from.secret_key_ref
    assert (reference.name, reference.key) == ("nightshift-connections", "LLMJOBS_STORAGE_OPTIONS.archive-eu")


def judged(key_variable: str) -> JobOperator:
    judge = {"url": "http://vllm:8000/v1", "model": "grader", "key_variable": key_variable}
    contract = {"owner": "tests", "quality": {"score": True, "judge": judge}}
    config = PrepareConfig.from_mapping({"name": "rows", "source": "raw", "contract": contract}, origin="test")
    return JobOperator(task_id="job", module="m", config=config)


def test_a_pod_takes_the_key_of_a_judge_from_the_secret() -> None:
    (found,) = [
        one for one in judged("JUDGE_KEY").build_pod_request_obj(dry_run=True).spec.containers[0].env
        if one.name == "JUDGE_KEY"
    ]  # fmt: skip
    assert found.value is None
    reference = found.value_from.secret_key_ref
    assert (reference.name, reference.key) == ("nightshift-connections", "JUDGE_KEY")


@pytest.mark.parametrize(("name", "given"), [("JUDGE_KEY", True), ("AIRFLOW__CORE__FERNET_KEY", False)])
def test_a_local_job_takes_the_key_of_a_judge_from_airflows_environment_and_no_secret_of_airflows_own(
    monkeypatch: pytest.MonkeyPatch, name: str, given: bool
) -> None:
    seen: dict[str, str] = {}

    def run(self: LocalRunner, container: Any, *, relaunches: int, secrets: dict[str, str]) -> None:
        seen.update(secrets)

    monkeypatch.setattr(LocalRunner, "run", run)
    monkeypatch.setenv("JUDGE_KEY", "k-123")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "f-456")
    one = judged(name)
    pod = one.build_pod_request_obj(dry_run=True)
    monkeypatch.setattr(one, "build_pod_request_obj", lambda *_, **__: pod)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="job", map_index=-1, try_number=1)
    one._execute_locally(cast("Context", {"ti": ti}))
    assert seen == ({"JUDGE_KEY": "k-123"} if given else {})
