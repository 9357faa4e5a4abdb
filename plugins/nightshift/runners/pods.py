"""What the kubernetes runner adds to the provider: refuses what a pod cannot reach, and leaves no pod behind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from airflow.providers.cncf.kubernetes.utils.pod_manager import PodNotFoundException
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.client import models as k8s

from llmjobs.contracts import environment
from llmjobs.contracts.base import JobConfig
from nightshift import settings
from nightshift.failures import BadConfig, JobFailed

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ONE_MACHINE = {"", "file", "memory", "local"}
_POLL_SECONDS = 1.0
GONE = 404


def refuse_unreachable(environ: Mapping[str, str]) -> None:
    """Refuse connections of this machine that a pod elsewhere cannot reach.

    The pod takes its own from a Secret, which we do not read; where this machine's variables point is where the
    Secret should point too, for the jobs write what the web server shows.

    Raises:
        BadConfig: The variable and what to set instead.
    """
    if settings.pods_share_this_machine():
        return
    for name in environment.CONNECTIONS:
        reason = _unreachable(environ.get(name, ""))
        if reason:
            raise BadConfig(
                f"{name} {reason}, which no pod can reach; set it, here and in the Secret, to an address that "
                "both see (an s3:// or gs:// lake, a database or MLflow host), or set [nightshift] runner = local"
            )


def nodes_of(config: JobConfig) -> int:
    """Return over how many nodes a job is spread."""
    return int(getattr(getattr(config, "dist", None), "nodes", 1))


def refuse_nodes_apart(config: JobConfig) -> None:
    """Refuse a training over several nodes that have no folder in common: they meet in it, and share checkpoints.

    Raises:
        BadConfig: The field and what to set.
    """
    nodes = nodes_of(config)
    if nodes > 1 and not settings.text("work_claim", ""):
        raise BadConfig(
            f"dist.nodes ({nodes}) needs a volume that the pods share: set [nightshift] work_claim to a "
            "PersistentVolumeClaim that many nodes can write (ReadWriteMany), or set dist.nodes to 1 and take a pod "
            "with more GPUs (resources.gpus)"
        )


def _unreachable(url: str) -> str:
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme in _ONE_MACHINE:
        return f"is {parts.scheme or 'a path'}://..., a place on this machine"
    hosts = {parts.hostname or "", *parse_qs(parts.query).get("host", [])} - {""}
    if parts.scheme.startswith("postgres") and (not hosts or any(host.startswith("/") for host in hosts)):
        return "names a Unix socket of this machine"
    if hosts & _LOOPBACK:
        return f"names {', '.join(sorted(hosts & _LOOPBACK))}, this machine's own loopback"
    return ""


def read(client: CoreV1Api, pod: k8s.V1Pod) -> k8s.V1Pod | None:
    """Return the pod as the cluster sees it now, or None if it is gone."""
    try:
        return client.read_namespaced_pod(pod.metadata.name, pod.metadata.namespace)
    except ApiException as error:
        if error.status == GONE:
            return None
        raise


def missed(error: BaseException | None) -> bool:
    """Return whether the provider failed because the pod was gone, rather than deleted it after a failure."""
    while error is not None:
        if isinstance(error, PodNotFoundException) or (isinstance(error, ApiException) and error.status == GONE):
            return True
        error = error.__cause__ or error.__context__
    return False


def ask_to_end(client: CoreV1Api, pod: k8s.V1Pod, *, grace_seconds: int) -> None:
    """Delete a pod, without waiting for its end; one that is gone is left alone."""
    try:
        client.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, grace_period_seconds=grace_seconds)
    except ApiException as error:
        if error.status != GONE:
            raise


def remove(client: CoreV1Api, pod: k8s.V1Pod, *, grace_seconds: int) -> None:
    """Delete a pod and wait until it is gone.

    Raises:
        JobFailed: It is still there well after its grace period.
    """
    ask_to_end(client, pod, grace_seconds=grace_seconds)
    deadline = time.monotonic() + grace_seconds + 60
    while read(client, pod) is not None:
        if time.monotonic() > deadline:
            raise JobFailed(f"pod {pod.metadata.name} is still there {grace_seconds + 60} s after its deletion")
        time.sleep(_POLL_SECONDS)
