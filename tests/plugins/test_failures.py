"""The table of failures: exit codes, phases, conditions and container reasons, each with what Airflow does."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from llmjobs.contracts.errors import ExitCode
from nightshift import failures
from nightshift.failures import Action, Ended, JobFailed, ended_pod, failure_of, sentence_of, signal_name


def pod(state: dict[str, Any] | None = None, **status: Any) -> k8s.V1Pod:
    """Build a pod as the API server's JSON would."""
    statuses = [{"name": "base", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}]
    raw = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "base", "image": "registry/none:1"}]},
        "status": {**status, **({"containerStatuses": statuses} if state else {})},
    }
    client = ApiClient()
    return client._ApiClient__deserialize(raw, "V1Pod")


def terminated(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "node shutdown"}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}

PODS: list[tuple[str, k8s.V1Pod, type[JobFailed], str]] = [
    ("exit 65", pod(terminated(65, message="ts ERROR x: REFUSED 65 row 7 is empty")), failures.BadData, "^row 7 is"),
    ("exit 75, drained", pod(terminated(75), conditions=[DRAINED]), failures.Interrupted, "exit code 75"),
    ("exit 1", pod(terminated(1, message="a\nlast line\n")), JobFailed, "exit code 1: last line"),
    ("oom", pod(terminated(137, "OOMKilled")), failures.OutOfMemory, "memory_gib"),
    ("oom of a child", pod(terminated(1, "OOMKilled")), failures.OutOfMemory, "OOMKilled"),
    ("137 alone", pod(terminated(137)), failures.Preempted, "SIGKILL, and nothing says"),
    ("143, drained", pod(terminated(143), conditions=[DRAINED]), failures.Preempted, "node shutdown"),
    ("lost node", pod(terminated(137, "ContainerStatusUnknown")), failures.Preempted, "the node lost it"),
    ("evicted", pod(phase="Failed", reason="Evicted", message="low on disk"), failures.Preempted, "Evicted: low on"),
    ("rejected", pod(phase="Failed", reason="UnexpectedAdmissionError"), failures.Preempted, "AdmissionError"),
    ("no node", pod(phase="Pending", conditions=[UNSCHEDULED]), failures.CapacityTimeout, "Unschedulable: 0/3"),
    ("slow start", pod(phase="Pending"), failures.CapacityTimeout, "did not start in time"),
    ("pull", pod({"waiting": {"reason": "ImagePullBackOff"}}, phase="Pending"), failures.ImageUnavailable, "none:1"),
    ("name", pod({"waiting": {"reason": "InvalidImageName"}}, phase="Pending"), failures.BadConfig, "InvalidImage"),
    (
        "secret",
        pod({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}, phase="Pending"),
        failures.BadConfig,
        'secret "x" not found',
    ),
]


@pytest.mark.parametrize(("ended", "expected", "text"), [case[1:] for case in PODS], ids=[case[0] for case in PODS])
def test_states_of_a_pod(ended: k8s.V1Pod, expected: type[JobFailed], text: str) -> None:
    known = ended_pod(ended)
    assert known is not None
    with pytest.raises(JobFailed, match=text) as caught:
        raise failure_of(known)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "living", [pod({"running": {}}, phase="Running"), pod(terminated(0, "Completed"), phase="Succeeded")]
)
def test_a_pod_that_runs_or_succeeded_has_no_failure(living: k8s.V1Pod) -> None:
    assert ended_pod(living) is None


def test_every_exit_code_of_the_contract_has_its_exception() -> None:
    assert set(failures.BY_EXIT_CODE) == set(ExitCode) - {ExitCode.DONE, ExitCode.UNKNOWN}


def test_the_action_of_a_failure_is_what_airflow_sees() -> None:
    kinds = [kind for kind in vars(failures).values() if isinstance(kind, type) and issubclass(kind, JobFailed)]
    assert len(kinds) == 9
    for kind in kinds:
        assert issubclass(kind, AirflowFailException) == (kind.action is Action.FAIL), kind
    never = {kind.__name__ for kind in kinds if kind.action is Action.FAIL}
    assert never == {"BadData", "BadConfig", "Diverged", "OutOfMemory"}
    assert [kind.__name__ for kind in kinds if kind.action is Action.RESUME] == ["Interrupted"]


def test_the_table_at_the_top_names_every_exception() -> None:
    for name in [kind.__name__ for kind in JobFailed.__subclasses__()]:
        assert name in (failures.__doc__ or ""), name


def test_the_last_refusal_of_a_log_counts() -> None:
    log = "x REFUSED 65 first\n2026 ERROR llmjobs.results: REFUSED 78 second: use 3\nafterwards\n"
    assert sentence_of(log) == "second: use 3"
    assert sentence_of("nothing REFUSED here") == ""


def test_signals_by_the_shells_count() -> None:
    assert signal_name(137) == "SIGKILL"
    assert [signal_name(code) for code in (None, 0, 1, 128, 255)] == [""] * 5
    assert type(failure_of(Ended(exit_code=139))) is JobFailed
