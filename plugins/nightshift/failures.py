"""Why a job failed, and what Airflow does about it: one table for processes and pods.

    exception          from                                                   what happens
    -----------------  -----------------------------------------------------  ----------------------------------
    BadData            exit 65                                                fails, never retried
    Diverged           exit 70                                                fails, never retried
    BadConfig          exit 78, an image or Secret that cannot be named       fails, never retried
    Interrupted        exit 75                                                resumes in the same try, bounded;
                                                                              after that an ordinary retry
    OutOfMemory        exit 77, OOMKilled, SIGKILL with evidence              fails with advice, never retried
    Preempted          SIGKILL or SIGTERM without evidence, DisruptionTarget,  ordinary retry
                       Evicted, a pod that is gone
    CapacityTimeout    a pod that no node took in time                        ordinary retry
    ImageUnavailable   ErrImagePull, ImagePullBackOff                         ordinary retry
    JobFailed          anything else                                          ordinary retry

Exit codes come from `llmjobs.contracts.errors`.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from enum import StrEnum

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import models as k8s

from llmjobs.contracts.errors import ExitCode


class Action(StrEnum):
    """What a failure leads to."""

    FAIL = "fail"
    RESUME = "resume"
    RETRY = "retry"


class JobFailed(AirflowException):
    """A job failed for a reason that has no name of its own."""

    action = Action.RETRY


class BadData(JobFailed, AirflowFailException):
    """The input data breaks its contract."""

    action = Action.FAIL


class Diverged(JobFailed, AirflowFailException):
    """Training went to NaN, infinity or away from the data."""

    action = Action.FAIL


class BadConfig(JobFailed, AirflowFailException):
    """The config cannot be obeyed."""

    action = Action.FAIL


class Interrupted(JobFailed):
    """The job stopped when it was asked to, and can resume."""

    action = Action.RESUME


class OutOfMemory(JobFailed, AirflowFailException):
    """Memory of the machine, the container or the GPU ran out. The same job would end the same way again."""

    action = Action.FAIL


class Preempted(JobFailed):
    """The machine was taken away, or somebody killed the job."""


class CapacityTimeout(JobFailed):
    """No node took the pod in time."""


class ImageUnavailable(JobFailed):
    """The pod's image could not be pulled."""


BY_EXIT_CODE: dict[int, type[JobFailed]] = {
    ExitCode.BAD_DATA: BadData,
    ExitCode.DIVERGED: Diverged,
    ExitCode.INTERRUPTED: Interrupted,
    ExitCode.OUT_OF_MEMORY: OutOfMemory,
    ExitCode.BAD_CONFIG: BadConfig,
}

NEVER_STARTS: dict[str, type[JobFailed]] = {
    "ErrImagePull": ImageUnavailable,
    "ImagePullBackOff": ImageUnavailable,
    "ErrImageNeverPull": BadConfig,
    "InvalidImageName": BadConfig,
    "CreateContainerConfigError": BadConfig,  # a Secret or ConfigMap that is not there
}
"""Why a container waits for ever: kubelet's reasons."""

_ADVICE = "give the task more memory_gib, or lower the batch size or the sequence length"
_REFUSED = re.compile(r"\bREFUSED \d+ (?P<sentence>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """What is known about a job that ended badly.

    Attributes:
        exit_code: The process' exit code as a shell counts it (128 + signal), or None if it never ran.
        reason: The job's own sentence, or the last line that it left.
        memory: The evidence that memory ran out, or empty.
        disrupted: How the machine took the job away, or empty.
        not_started: The exception that says why it never ran, or None.
    """

    exit_code: int | None = None
    reason: str = ""
    memory: str = ""
    disrupted: str = ""
    not_started: type[JobFailed] | None = None


def sentence_of(log: str) -> str:
    """Return the sentence of the last ``REFUSED <code> <sentence>`` of a log, or an empty text."""
    found = _REFUSED.findall(log)
    return str(found[-1]).strip() if found else ""


def ended_pod(pod: k8s.V1Pod, container: str = "base") -> Ended | None:
    """Read a pod's state: conditions, phase, and its container's reason, exit code and last message.

    Returns:
        What is known, or None for a pod that runs or has succeeded.
    """
    status = pod.status
    found = [one.state for one in status.container_statuses or [] if one.name == container and one.state]
    state = found[0] if found else k8s.V1ContainerState()
    if state.terminated is not None:
        return _ended_container(state.terminated, _disruption(status))
    if state.waiting is not None and state.waiting.reason in NEVER_STARTS:
        reason = f"{state.waiting.reason}: {state.waiting.message or pod.spec.containers[0].image}"
        return Ended(reason=reason, not_started=NEVER_STARTS[state.waiting.reason])
    if _disruption(status) or status.phase == "Failed":
        return Ended(disrupted=_disruption(status) or "the pod failed before its container ran")
    if status.phase in {"Pending", None}:
        return Ended(reason=_waiting_for(status), not_started=CapacityTimeout)
    return None


def _ended_container(terminated: k8s.V1ContainerStateTerminated, disrupted: str) -> Ended | None:
    if terminated.exit_code == 0:
        return None
    message = (terminated.message or "").strip()
    return Ended(
        exit_code=terminated.exit_code,
        # The job's own sentence, or the last line of the log (FallbackToLogsOnError).
        reason=sentence_of(message) or message.rpartition("\n")[2],
        memory="the container was OOMKilled" if terminated.reason == "OOMKilled" else "",
        disrupted=disrupted or ("the node lost it" if terminated.reason == "ContainerStatusUnknown" else ""),
    )


def _disruption(status: k8s.V1PodStatus) -> str:
    """Return how the machine took the pod away: preemption, eviction, a drained or lost node."""
    for condition in status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return f"{condition.reason}: {condition.message}"
    return f"{status.reason}: {status.message}" if status.phase == "Failed" and status.reason else ""


def _waiting_for(status: k8s.V1PodStatus) -> str:
    """Return the scheduler's own words about a pod that did not start in time."""
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"no node took the pod in time ({condition.reason}: {condition.message})"
    return "the pod did not start in time; its events say what it waits for"


def failure_of(ended: Ended) -> JobFailed:
    """Return the exception for a job that ended badly: the job's own code first, then what is known around it."""
    code = ended.exit_code
    if code in BY_EXIT_CODE:
        return BY_EXIT_CODE[code](ended.reason or f"the job ended with exit code {code} and said no more")
    if ended.memory:
        return OutOfMemory(f"memory ran out ({ended.memory}): {_ADVICE}")
    if ended.not_started is not None:
        return ended.not_started(ended.reason or "the pod never started")
    if ended.disrupted:
        return Preempted(f"the job was taken away ({ended.disrupted}); its next try goes on from its last checkpoint")
    last = ended.reason or "it left no word"
    return _by_signal(signal_name(code)) or JobFailed(f"the job ended with exit code {code}: {last}")


def _by_signal(name: str) -> JobFailed | None:
    if name in {"SIGKILL", "SIGTERM"}:
        return Preempted(
            f"the job was ended by {name}, and nothing says that memory ran out: "
            "a person or the machine stopped it; its next try goes on from its last checkpoint"
        )
    if name:
        return JobFailed(f"the job crashed with {name}: a fault in native code, see the last lines of its log")
    return None


def signal_name(exit_code: int | None) -> str:
    """Return the name of the signal that an exit code above 128 stands for, or an empty text."""
    try:
        return signal.Signals((exit_code or 0) - 128).name
    except ValueError:
        return ""
