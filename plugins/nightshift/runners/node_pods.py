"""Pods of a job over several nodes: the task's own pod is node 0, the others are made from the same description.

Node 0 is watched by the provider as any pod is, and the job's own meeting brings all nodes to one end. What is made
here belongs to node 0's pod, so that the cluster takes it away with that pod even where nobody here can any more:

    Service nodes-<pod>      headless: the name by which all find node 0, before it is ready
    Pod     <pod>-1, ...     the other nodes
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from kubernetes.client import ApiException, CoreV1Api
from kubernetes.client import models as k8s

from llmjobs.contracts import environment
from nightshift.failures import BadConfig, Ended, JobFailed, ended_pod, failure_of
from nightshift.runners import pods

LABEL = "nightshift/nodes-of"
"""All pods of one job over several nodes have it, with the Service's name."""

PORT = 29500
"""On which node 0 is met; NCCL and gloo take further ones, between these pods alone."""

_OPERATORS_LABEL = "kubernetes_pod_operator"
"""By it the provider finds the task's own pod; another pod with it would be taken for that."""

_XCOM = "xcom"
_LONGEST_NAME = 63
_FORBIDDEN, _THERE = 403, 409


def become_first(pod: k8s.V1Pod, *, nodes: int, container: str) -> None:
    """Make a pod that was not created yet node 0.

    Args:
        pod: Its name is final.
        nodes: How many there will be.
        container: Of the job.
    """
    service = service_name(pod.metadata.name)
    pod.metadata.labels = {**(pod.metadata.labels or {}), LABEL: service}
    _take_place(pod, 0, container, {"NODE_RANK": "0", "NNODES": str(nodes), "MASTER_ADDR": f"node-0.{service}"})


def further(first: k8s.V1Pod, *, nodes: int, container: str) -> list[k8s.V1Pod]:
    """Return the pods of the other nodes. Their results are nobody's, so they have no sidecar.

    Args:
        first: As `become_first` has left it.
        nodes: How many there will be, node 0 included.
        container: Of the job.
    """
    return [_other(first, node, container) for node in range(1, nodes)]


def service(first: k8s.V1Pod) -> k8s.V1Service:
    """Return the Service that gives node 0 its name."""
    name = service_name(first.metadata.name)
    return k8s.V1Service(
        api_version="v1",
        kind="Service",
        metadata=k8s.V1ObjectMeta(name=name, namespace=first.metadata.namespace, labels={LABEL: name}),
        spec=k8s.V1ServiceSpec(
            cluster_ip="None",
            # A job's pod is never "ready" in the sense of a server's.
            publish_not_ready_addresses=True,
            selector={LABEL: name},
            ports=[k8s.V1ServicePort(name="rendezvous", port=PORT)],
        ),
    )


def start(client: CoreV1Api, first: k8s.V1Pod, *, nodes: int, container: str) -> None:
    """Create the Service and the other nodes, unless they are there.

    Args:
        client: Of the cluster.
        first: Node 0, created.
        nodes: How many there are, node 0 included.
        container: Of the job.

    Raises:
        BadConfig: Airflow may not create one of them.
        JobFailed: Node 0 is gone already.
    """
    found = pods.read(client, first)
    if found is None:
        raise JobFailed(f"pod {first.metadata.name} was gone before the other nodes were started")
    owner = k8s.V1OwnerReference(api_version="v1", kind="Pod", name=found.metadata.name, uid=found.metadata.uid)
    described, namespace = service(first), first.metadata.namespace
    others = further(first, nodes=nodes, container=container)
    for one in (described, *others):
        one.metadata.owner_references = [owner]
    try:
        with _there_already():
            client.create_namespaced_service(namespace, described)
        for one in others:
            with _there_already():
                client.create_namespaced_pod(namespace, one)
    except ApiException as error:
        if error.status != _FORBIDDEN:
            raise
        raise BadConfig(
            f"dist.nodes ({nodes}): Airflow's service account may not create Services and Pods in the namespace "
            f"{namespace}; give its Role the verbs create, get, list and delete on both"
        ) from None


def others_of(client: CoreV1Api, first: k8s.V1Pod) -> list[k8s.V1Pod]:
    """Return the other nodes' pods as the cluster sees them, by name."""
    label = f"{LABEL}={service_name(first.metadata.name)}"
    found = client.list_namespaced_pod(first.metadata.namespace, label_selector=label).items
    return sorted((pod for pod in found if pod.metadata.name != first.metadata.name), key=lambda pod: pod.metadata.name)


def failures(client: CoreV1Api, first: k8s.V1Pod, container: str) -> dict[str, JobFailed]:
    """Return how the other nodes have ended badly, by their pods' names."""
    ends: dict[str, Ended | None] = {pod.metadata.name: ended_pod(pod, container) for pod in others_of(client, first)}
    return {name: failure_of(ended) for name, ended in ends.items() if ended}


def stop(client: CoreV1Api, first: k8s.V1Pod, *, grace_seconds: int) -> None:
    """Delete the other nodes and the Service, and wait until the pods are gone.

    Raises:
        JobFailed: One is still there well after its grace period.
    """
    found = others_of(client, first)
    for pod in found:
        pods.ask_to_end(client, pod, grace_seconds=grace_seconds)
    for pod in found:
        pods.remove(client, pod, grace_seconds=grace_seconds)
    try:
        client.delete_namespaced_service(service_name(first.metadata.name), first.metadata.namespace)
    except ApiException as error:
        if error.status != pods.GONE:
            raise


def service_name(pod: str) -> str:
    """Return the name of the Service of node 0's pod: a DNS label; a pod's name ends in what makes it unique."""
    prefix = "nodes-"
    return prefix + re.sub(r"[^a-z0-9-]", "-", pod)[len(prefix) - _LONGEST_NAME :].lstrip("-")


def _other(first: k8s.V1Pod, node: int, container: str) -> k8s.V1Pod:
    pod = deepcopy(first)
    suffix = f"-{node}"
    pod.metadata.name = first.metadata.name[len(suffix) - _LONGEST_NAME :].lstrip("-.") + suffix
    pod.metadata.labels = {name: value for name, value in pod.metadata.labels.items() if name != _OPERATORS_LABEL}
    pod.spec.containers = [one for one in pod.spec.containers if one.name == container]
    pod.spec.volumes = [one for one in pod.spec.volumes if one.name != _XCOM]
    job = pod.spec.containers[0]
    job.volume_mounts = [one for one in job.volume_mounts if one.name != _XCOM]
    _take_place(pod, node, container, {"NODE_RANK": str(node), environment.RESULT: "/tmp/result.json"})  # noqa: S108  the container's own
    return pod


def _take_place(pod: k8s.V1Pod, node: int, container: str, variables: dict[str, str]) -> None:
    pod.spec.hostname, pod.spec.subdomain = f"node-{node}", pod.metadata.labels[LABEL]
    job = next(one for one in pod.spec.containers if one.name == container)
    kept = [one for one in job.env if one.name not in variables]
    job.env = kept + [k8s.V1EnvVar(name=name, value=value) for name, value in variables.items()]


@contextmanager
def _there_already() -> Iterator[None]:
    """Take no offence where an object of this name is there: a worker that died has created it."""
    try:
        yield
    except ApiException as error:
        if error.status != _THERE:
            raise
