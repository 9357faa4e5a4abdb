"""One DAG, two runners: as processes of this machine, and through the provider's real client code as pods."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nightshift.failures import JobFailed
from nightshift.operators.job import JobOperator
from nightshift.runners import node_pods, pods


def test_results_reach_the_next_task(run_of_jobs: Any) -> None:
    results = run_of_jobs.results
    assert results["succeed"]["text"].startswith("run manual__")
    assert results["deferred"]["rate"] == 0.25
    assert results["succeed"]["variables"]["LLMJOBS_TASK_ID"] == "succeed"
    assert results["succeed"]["variables"]["LLMJOBS_RUN_ID"] == results["succeed"]["text"].removeprefix("run ")
    assert results["succeed"]["variables"]["LLMJOBS_CODE_VERSION"].startswith("code-")


def test_mapped_tasks_differ_by_their_overrides(run_of_jobs: Any) -> None:
    mapped = run_of_jobs.results["mapped"]
    assert [one["rate"] for one in mapped] == [1.0, 2.0]
    assert mapped[1]["text"] == "1"
    assert [one["variables"]["LLMJOBS_MAP_INDEX"] for one in mapped] == ["0", "1"]


def test_jinja_leaves_the_config_alone_and_the_form_comes_in(run_of_jobs: Any) -> None:
    template = run_of_jobs.results["template"]
    assert template["text"] == "{% for m in messages %}{{ m.role }}{% endfor %} {# kept #}"
    assert template["rate"] == 0.5
    assert run_of_jobs.results["succeed"]["rate"] == 0.1, "without form=True params are none of its business"


@pytest.mark.parametrize(
    ("task", "error", "tries", "text"),
    [
        ("bad_data", "BadData", 1, r"^row 7 of tickets\.json has no text; add it \(code 65\)$"),
        ("bad_data_deferred", "BadData", 1, r"^row 7 of tickets\.json has no text; add it \(code 65\)$"),
        ("bad_config", "BadConfig", 1, r"^row 7 of tickets\.json has no text; add it \(code 78\)$"),
        ("bad_override", "BadConfig", 1, r"section\.rat: unknown field; did you mean 'rate'\?"),
        ("out_of_memory", "OutOfMemory", 1, "^row 7"),
        ("unknown", "JobFailed", 2, "exit code 3: the last words of a job that knows no codes"),
        ("killed", "Preempted", 1, "ended by SIGKILL, and nothing says that memory ran out"),
        ("interrupted_too_often", "Interrupted", 1, "^stopped after step 2"),
    ],
)
def test_failures_have_a_type_a_sentence_and_their_retries(
    run_of_jobs: Any, task: str, error: str, tries: int, text: str
) -> None:
    failure = run_of_jobs.failures[task]
    assert failure["error"] == error
    assert re.search(text, failure["text"])
    assert run_of_jobs.states[f"{task}[-1]"] == ["failed", tries]


@pytest.mark.parametrize("task", ["resumed", "resumed_deferred"])
def test_an_interrupted_job_goes_on_in_the_same_try(run_of_jobs: Any, task: str) -> None:
    assert run_of_jobs.results[task]["starts"] == 3
    assert run_of_jobs.states[f"{task}[-1]"] == ["success", 1]


def test_the_jobs_own_lines_are_in_the_task_log(run_of_jobs: Any) -> None:
    assert "llmjobs.results: REFUSED 65 row 7 of tickets.json" in run_of_jobs.log
    assert "the last words of a job that knows no codes" in run_of_jobs.log


def test_connections_come_from_the_secret_or_the_environment(runs: Any, secret: dict[str, str]) -> None:
    in_pod = runs.pods.results["succeed"]["variables"]
    assert {name: in_pod[name] for name in secret} == secret
    assert runs.local.results["succeed"]["variables"]["LLMJOBS_LAKE_URL"] == "file:///lake-of-the-environment"


def test_no_connection_is_in_airflows_logs(runs: Any) -> None:
    # The last task prints nothing of the results, so what is found here came from a pod or its failure.
    for run in (runs.local, runs.pods, runs.faults):
        assert "hunter22" not in run.log


def test_the_deferred_task_really_waited_in_the_trigger(runs: Any) -> None:
    assert "Pausing task as DEFERRED" in runs.pods.log
    assert "Pausing task as DEFERRED" not in runs.local.log


@pytest.mark.parametrize(
    ("task", "error", "text"),
    [
        ("no_capacity", "CapacityTimeout", r"no node took the pod in time .*Insufficient nvidia\.com/gpu"),
        ("no_capacity_deferred", "CapacityTimeout", r"no node took the pod in time .*Insufficient nvidia\.com/gpu"),
        ("no_image", "ImageUnavailable", "ErrImagePull"),
        ("bad_image", "BadConfig", "InvalidImageName"),
        ("oom_killed", "OutOfMemory", "OOMKilled.*memory_gib"),
        ("evicted", "Interrupted", "^asked to stop, checkpoint written$"),
        ("evicted_without_handler", "Preempted", "EvictionByEvictionAPI"),
    ],
)
def test_what_a_cluster_does_to_a_pod_has_a_name(runs: Any, task: str, error: str, text: str) -> None:
    failure = runs.faults.failures[task]
    assert failure["error"] == error
    assert re.search(text, failure["text"])


@pytest.mark.parametrize(("task", "rounds"), [("nodes", 1), ("nodes_interrupted", 2), ("nodes_deferred", 2)])
def test_all_nodes_of_a_job_are_started_and_started_again(runs: Any, task: str, rounds: int) -> None:
    assert runs.pods.states[f"{task}[-1]"] == ["success", 1]
    first = runs.pods.results[task]["variables"]
    assert (first["NODE_RANK"], first["NNODES"], first["LLMJOBS_TASK_ID"]) == ("0", "3", task)
    assert runs.pods.starts(task) == 3 * rounds
    met = Path(first["LLMJOBS_WORK_FOLDER"]) / task
    assert len(list(met.glob("round-*"))) == 3 * rounds
    assert {path.read_text() for path in met.iterdir()} == {"127.0.0.1"}, "node 0 has a name that all can look up"


def test_why_a_node_was_lost_is_said_by_its_own_pod(runs: Any) -> None:
    failure = runs.pods.failures["node_lost"]
    assert failure["error"] == "Preempted"
    assert re.search(r"^pod node-lost-\w+-[12]: the job was ended by SIGKILL", failure["text"])
    assert re.search(r"The other nodes: node-lost-\w+-1, node-lost-\w+-2", runs.pods.log)


def test_nothing_of_the_other_nodes_is_left(runs: Any) -> None:
    kept = {name for name in runs.left if name.startswith("node")}
    assert kept == {"nodes-interrupted", "nodes-deferred", "node-lost"}, "node 0 of each failed round may be looked at"
    assert runs.services == set()


def test_a_kill_ends_all_nodes(spread: JobOperator) -> None:
    spread.pod = spread.get_or_create_pod(spread.build_pod_request_obj(), {})
    first = pods.read(spread.client, spread.pod)
    assert first is not None
    others = node_pods.others_of(spread.client, spread.pod)
    assert [one.metadata.owner_references[0].uid for one in others] == [first.metadata.uid] * 2
    # What a worker does that takes over from one that died: nothing is there twice.
    node_pods.start(spread.client, spread.pod, nodes=3, container="base")
    assert len(node_pods.others_of(spread.client, spread.pod)) == 2
    spread.on_kill()
    assert node_pods.others_of(spread.client, spread.pod) == []
    assert spread.client.list_namespaced_service("night").items == []


def test_nodes_of_a_pod_that_is_gone_are_not_started(spread: JobOperator) -> None:
    pod = spread.build_pod_request_obj()
    node_pods.become_first(pod, nodes=3, container="base")
    with pytest.raises(JobFailed, match="was gone before the other nodes were started"):
        node_pods.start(spread.client, pod, nodes=3, container="base")


def test_no_pod_is_left_that_could_run_beside_the_next_try(runs: Any) -> None:
    assert set(runs.left.values()) == {"Failed"}, "succeeded pods are deleted, failed ones kept to be looked at"
    assert not {"no-capacity", "no-image", "bad-image"} & set(runs.left), "these could still start"
