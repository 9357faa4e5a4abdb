"""The pods that would be launched: valid for a strict API server, safe, and without a secret in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from llmjobs.contracts.base import JobConfig, Strict
from nightshift.operators.job import JobOperator
from nightshift.pod_preview import manifests_of, task_of
from nightshift.runners import node_pods

KUBERNETES = ("1.33", "1.36")


class Dist(Strict):
    nodes: int = 3


class SpreadConfig(JobConfig):
    dist: Dist = Dist()


class PodConfig(JobConfig):
    text: str = "{{ run_id }} {% raw %}"
    url: str = ""


def render(**kwargs: Any) -> dict[str, Any]:
    task = JobOperator(task_id="train", module="llmjobs.training.train", config=PodConfig(), **kwargs)
    pod = ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))
    return dict(pod)


def base(pod: dict[str, Any]) -> dict[str, Any]:
    return next(dict(one) for one in pod["spec"]["containers"] if one["name"] == "base")


VARIANTS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {"gpus": 2, "memory_gib": 32.0, "cpus": 8},
    "spot": {"gpus": 1, "spot": True},
    "without result": {"do_xcom_push": False},
    "own parts": {
        "env_vars": {"EXTRA": "{{ ds }}"},
        "labels": {"team": "night"},
        "node_selector": {"pool": "a100"},
        "image": "registry.example/jobs:1.2",
        "service_account_name": "jobs",
        "priority_class_name": "night",
    },
}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_strict_api_server_takes_it(variant: str, version: str) -> None:
    kubernetes_validate.validate(render(**VARIANTS[variant]), version, strict=True)


def test_the_check_can_fail() -> None:
    pod = render()
    pod["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_container_meets_the_restricted_standard(variant: str) -> None:
    spec = render(**VARIANTS[variant])["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "hostNetwork" not in spec or spec["hostNetwork"] is False
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not container["image"].endswith("sidecar:latest")


def test_writable_folders_and_resources() -> None:
    pod = render(memory_gib=3, cpus=1.5)
    container, volumes = base(pod), {one["name"]: one for one in pod["spec"]["volumes"]}
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert {"/tmp", "/home/nightshift"} <= set(mounts)
    assert volumes[mounts["/tmp"]]["emptyDir"] == {}
    assert "/dev/shm" not in mounts
    assert container["resources"] == {
        "requests": {"cpu": "1500m", "memory": "3072Mi"},
        "limits": {"memory": "3072Mi"},
    }


def test_gpu_pods_have_shared_memory_limits_and_tolerations() -> None:
    pod = render(gpus=2, memory_gib=32)
    container, volumes = base(pod), {one["name"]: one for one in pod["spec"]["volumes"]}
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16384Mi"}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert [one["key"] for one in pod["spec"]["tolerations"]] == ["nvidia.com/gpu"]


def test_spot_pods_choose_spot_nodes() -> None:
    spec = render(spot=True)["spec"]
    assert spec["nodeSelector"] == {"nightshift/capacity": "spot"}
    assert [one["key"] for one in spec["tolerations"]] == ["nightshift/capacity"]


def of_three_nodes() -> list[dict[str, Any]]:
    task = JobOperator(
        task_id="train",
        module="llmjobs.training.train",
        config=SpreadConfig(),
        resumable=True,
        namespace="night",
        gpus=1,
    )
    return manifests_of(task)


@pytest.mark.parametrize("version", KUBERNETES)
def test_pods_of_several_nodes_are_valid_and_alike(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__WORK_CLAIM", "checkpoints")
    first, service, *others = of_three_nodes()
    for manifest in (first, service, *others):
        kubernetes_validate.validate(manifest, version, strict=True)
    name = service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert [pod["spec"]["hostname"] for pod in (first, *others)] == ["node-0", "node-1", "node-2"]
    for node, pod in enumerate((first, *others)):
        variables = {one["name"]: one.get("value") for one in base(pod)["env"]}
        assert variables["NODE_RANK"] == str(node)
        assert variables["MASTER_ADDR"] == f"node-0.{name}"
        assert variables["LLMJOBS_WORK_FOLDER"] == "/work"
        assert (pod["spec"]["subdomain"], pod["metadata"]["labels"]["nightshift/nodes-of"]) == (name, name)
        assert {"name": "work", "persistentVolumeClaim": {"claimName": "checkpoints"}} in pod["spec"]["volumes"]
        assert base(pod)["resources"] == base(first)["resources"]
    for pod in others:
        assert [one["name"] for one in pod["spec"]["containers"]] == ["base"], "nobody reads their results"
        assert "kubernetes_pod_operator" not in pod["metadata"]["labels"], "the provider would take it for the task's"


def test_only_a_job_that_goes_on_gets_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__WORK_CLAIM", "checkpoints")
    assert "checkpoints" not in yaml.dump(render())
    assert "checkpoints" in yaml.dump(render(resumable=True))
    monkeypatch.delenv("AIRFLOW__NIGHTSHIFT__WORK_CLAIM")
    assert "LLMJOBS_WORK_FOLDER" not in yaml.dump(render(resumable=True))


@pytest.mark.parametrize(
    "pod", ["a" * 63, "train-" + "x" * 50 + "-ab12cd34", "9lives-ab12cd34", "dotted.name-ab12cd34"]
)
def test_names_of_what_is_made_beside_a_pod_are_dns_labels(pod: str) -> None:
    label = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
    assert label.fullmatch(node_pods.service_name(pod))
    assert node_pods.service_name(pod)[-8:] == pod[-8:], "the end is what makes it unique"


def test_life_of_a_pod() -> None:
    spec = render()["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["terminationGracePeriodSeconds"] >= 60, "a checkpoint takes time"
    assert base(render())["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_command_config_and_identity() -> None:
    container = base(render())
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert container["command"] == ["python", "-m", "llmjobs.training.train"]
    assert PodConfig.model_validate_json(variables["LLMJOBS_CONFIG"]) == PodConfig()
    assert variables["LLMJOBS_CODE_VERSION"].startswith("code-")


def test_connections_are_references_and_no_pod_holds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMJOBS_LAKE_URL", "LLMJOBS_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, f"s3://user:hunter22@{name.lower()}")
    pod = render()
    assert "hunter22" not in yaml.dump(pod)
    found = {one["name"]: one["valueFrom"] for one in base(pod)["env"] if "valueFrom" in one}
    assert found["LLMJOBS_DATABASE_URL"] == {
        "secretKeyRef": {"name": "nightshift-connections", "key": "LLMJOBS_DATABASE_URL"}
    }
    assert len(found) == 3


def test_the_dags_own_arguments_win() -> None:
    pod = render(env_vars={"EXTRA": "1", "LLMJOBS_CONFIG": "{}"}, termination_grace_period=7, cmds=["bash"])
    variables = [one["name"] for one in base(pod)["env"]]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 7
    assert base(pod)["command"] == ["bash"]
    assert "EXTRA" in variables
    assert variables.count("LLMJOBS_CONFIG") == 1


def test_rendering_twice_gives_the_same_variables() -> None:
    task = JobOperator(task_id="train", module="m", config=PodConfig())
    first, second = (task.build_pod_request_obj(dry_run=True) for _ in range(2))
    assert [one.name for one in first.spec.containers[0].env] == [one.name for one in second.spec.containers[0].env]


def test_a_pod_can_be_looked_at_without_a_cluster(airflow_environment: dict[str, str]) -> None:
    source = Path(__file__).with_name("dags") / "preview.py"
    command = [sys.executable, "-m", "nightshift.pod_preview", str(source), "preview", "train"]
    done = subprocess.run(command, env=airflow_environment, check=True, capture_output=True, text=True)
    pod = yaml.safe_load(done.stdout)
    kubernetes_validate.validate(pod, KUBERNETES[-1], strict=True)
    assert base(pod)["command"][-1] == "llmjobs.training.train"
    [mapped] = manifests_of(task_of(str(source), "preview", "mapped"))
    assert base(mapped)["command"][-1] == "llmjobs.embeddings.embed"
    with pytest.raises(SystemExit, match="no task 'nothing'; it has: mapped, train"):
        task_of(str(source), "preview", "nothing")


def test_resources_are_kubernetes_objects_so_that_airflow_can_template_them() -> None:
    task = JobOperator(task_id="train", module="m", config=PodConfig())
    assert isinstance(task.container_resources, k8s.V1ResourceRequirements)
