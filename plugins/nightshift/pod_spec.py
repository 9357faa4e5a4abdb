"""What the pod of a job looks like: safe by default, every part open to the DAG's own arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kubernetes.client import models as k8s

from llmjobs.contracts import environment
from nightshift import settings

USER_ID = 10001
HOME = "/home/nightshift"
SPOT_LABEL = "nightshift/capacity"

POD_ONLY = ("HOME", environment.IMAGE, environment.WORK_FOLDER)
"""Variables that describe the container: a process on this machine keeps its own home, and has no image or claim."""


WORK_FOLDER = "/work"
"""Where the claim of ``[nightshift] work_claim`` is mounted."""

_CLAIM = "work"


def defaults(
    *, module: str, memory_gib: float, cpus: float, gpus: int, spot: bool, resumable: bool = False
) -> dict[str, Any]:
    """Return the arguments of `KubernetesPodOperator` that make a job's pod.

    Args:
        module: The job, run as ``python -m <module>``.
        memory_gib: Memory of the container, in GiB: asked for and the limit.
        cpus: Cores asked for. No limit: idle cores may be used.
        gpus: Whole NVIDIA GPUs.
        spot: Whether the pod runs on capacity that may be taken away.
        resumable: Whether the job leaves checkpoints for the pod after it: they go to the claim, where there is one.
    """
    claim = settings.text("work_claim", "") if resumable else ""
    return {
        "image": settings.text("image", "nightshift-jobs:latest"),
        "namespace": settings.text("namespace", "") or None,
        "config_file": settings.text("kubeconfig", "") or None,
        "cmds": ["python", "-m", module],
        "container_resources": resources(memory_gib=memory_gib, cpus=cpus, gpus=gpus),
        "volumes": volumes(memory_gib=memory_gib, gpus=gpus, claim=claim),
        "volume_mounts": mounts(gpus=gpus, claim=claim),
        "node_selector": {SPOT_LABEL: "spot"} if spot else {},
        "tolerations": tolerations(gpus=gpus, spot=spot),
        **SAFE,
        **LIFE,
    }


_CONTAINER = k8s.V1SecurityContext(
    allow_privilege_escalation=False,
    read_only_root_filesystem=True,
    run_as_non_root=True,
    capabilities=k8s.V1Capabilities(drop=["ALL"]),
    seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
)

SAFE: dict[str, Any] = {
    "automount_service_account_token": False,
    "security_context": k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=USER_ID,
        run_as_group=USER_ID,
        fs_group=USER_ID,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    ),
    "container_security_context": _CONTAINER,
    "xcom_sidecar_container_security_context": _CONTAINER,
    # The provider's default prints the whole pod, config included, into the error.
    "log_pod_spec_on_failure": False,
}
"""Meets the Pod Security Standard ``restricted``, and a read-only root besides."""

LIFE: dict[str, Any] = {
    "do_xcom_push": True,
    # A failed pod stays, so that its state can be read; a succeeded one has said all it knows.
    "on_finish_action": "delete_succeeded_pod",
    "termination_message_policy": "FallbackToLogsOnError",
    # Time to write a checkpoint after SIGTERM.
    "termination_grace_period": 120,
    # A night waits for a GPU node; the provider's default of two minutes does not even outlast its boot.
    "schedule_timeout_seconds": 3600,
    "startup_timeout_seconds": 900,
    "log_events_on_failure": True,
    # Deferred: lines appear every so often, not at the end only.
    "logging_interval": 30,
    "container_name_log_prefix_enabled": False,
}


def resources(*, memory_gib: float, cpus: float, gpus: int) -> k8s.V1ResourceRequirements:
    """Return requests and limits; a GPU is asked for by its limit."""
    memory = f"{round(memory_gib * 1024)}Mi"
    accelerator = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return k8s.V1ResourceRequirements(
        requests={"cpu": f"{round(cpus * 1000)}m", "memory": memory, **accelerator},
        limits={"memory": memory, **accelerator},
    )


def volumes(*, memory_gib: float, gpus: int, claim: str = "") -> list[k8s.V1Volume]:
    """Return the writable folders of a container whose root is read-only, and the claim's where one is named.

    ``/dev/shm`` of a GPU job is memory and counts against the container's limit: NCCL and data loaders need
    more than the runtime's 64 MiB, so up to half of the memory may go there.
    """
    found = [
        k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource()),
        k8s.V1Volume(name="home", empty_dir=k8s.V1EmptyDirVolumeSource()),
    ]
    if gpus:
        half = f"{round(memory_gib * 512)}Mi"
        found.append(k8s.V1Volume(name="shm", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=half)))
    if claim:
        source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
        found.append(k8s.V1Volume(name=_CLAIM, persistent_volume_claim=source))
    return found


def mounts(*, gpus: int, claim: str = "") -> list[k8s.V1VolumeMount]:
    """Return where `volumes` are mounted."""
    paths = {"tmp": "/tmp", "home": HOME, **({"shm": "/dev/shm"} if gpus else {})}  # noqa: S108  the container's own
    if claim:
        paths[_CLAIM] = WORK_FOLDER
    return [k8s.V1VolumeMount(name=name, mount_path=path) for name, path in paths.items()]


def tolerations(*, gpus: int, spot: bool) -> list[k8s.V1Toleration]:
    """Return tolerations for the taints that GPU and spot nodes usually carry."""
    found = [k8s.V1Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")] if gpus else []
    if spot:
        found.append(k8s.V1Toleration(key=SPOT_LABEL, operator="Equal", value="spot", effect="NoSchedule"))
    return found


def job_environment(
    config_json: str,
    identity: dict[str, str],
    cpus: float,
    connection: str | None = None,
    secret_variables: Iterable[str] = (),
    *,
    image: str | None = None,
) -> list[k8s.V1EnvVar]:
    """Return a job's variables: its config, whose run it is, and references to where things are.

    Connections are references to a Secret, so that no pod, log or Airflow table holds one. The credentials of a
    config's `connection` are its key `storage_key`, further variables with secrets are keys of their own names: a pod
    that lacks one never starts, and the failure names the key. The image is told so that a manifest can name it.
    """
    plain = {
        environment.CONFIG: config_json,
        **identity,
        "HOME": HOME,
        environment.IMAGE: image or "",
        "OMP_NUM_THREADS": str(max(1, round(cpus))),
        "PYTHONUNBUFFERED": "1",
    }
    secret = settings.text("connections_secret", "nightshift-connections")
    keys = {name: name for name in (*environment.CONNECTIONS, *secret_variables)}
    if connection:
        keys[environment.STORAGE_OPTIONS] = storage_key(connection)
    return [k8s.V1EnvVar(name=name, value=value) for name, value in plain.items()] + [
        k8s.V1EnvVar(
            name=name,
            value_from=k8s.V1EnvVarSource(secret_key_ref=k8s.V1SecretKeySelector(name=secret, key=key)),
        )
        for name, key in keys.items()
    ]


def storage_key(connection: str) -> str:
    """Return the Secret's key with the fsspec options, as JSON, that stand for an Airflow connection in pods."""
    return f"{environment.STORAGE_OPTIONS}.{re.sub(r'[^A-Za-z0-9._-]', '-', connection)}"
