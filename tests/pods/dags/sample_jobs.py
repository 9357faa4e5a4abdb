"""Two DAGs of sample jobs: `jobs` runs with either runner, `faults` plays what only a cluster does to a pod."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Context, task
from sample_job import SampleConfig  # type: ignore[import-not-found]

from nightshift.operators.job import JobOperator

OUT = Path(os.environ["SAMPLE_OUT"])


def note_failure(context: Context) -> None:
    """Write down how a task failed for good."""
    ti, error = context["ti"], context["exception"]
    found = {"task": ti.task_id, "try": ti.try_number, "error": type(error).__name__, "text": str(error)}
    with (OUT / "failures.jsonl").open("a") as stream:
        stream.write(json.dumps(found) + "\n")


def job(task_id: str, mode: str = "succeed", *, fields: dict[str, Any] | None = None, **kwargs: Any) -> JobOperator:
    folder = OUT / task_id
    folder.mkdir(parents=True, exist_ok=True)
    config = SampleConfig(mode=mode, folder=str(folder), **(fields or {}))
    quick = {
        "startup_check_interval_seconds": 1,
        "poll_interval": 0.5,
        "memory_gib": 0.5,
        "termination_grace_period": 5,
    }
    return JobOperator(
        task_id=task_id,
        module="sample_job",
        config=config,
        namespace="night",
        on_failure_callback=note_failure,
        **{**quick, **kwargs},
    )


def spread() -> list[JobOperator]:
    """Return the jobs over several nodes: only as pods does the operator start all of them."""

    def meet(task_id: str, fields: dict[str, Any], **kwargs: Any) -> JobOperator:
        return job(task_id, "meet", fields={"dist": {"nodes": 3}, **fields}, resumable=True, **kwargs)

    return [
        meet("nodes", {}),
        meet("nodes_interrupted", {"times": 2}),
        meet("nodes_deferred", {"times": 2}, deferrable=True),
        meet("node_lost", {"code": 9}),
    ]


@task(trigger_rule="all_done")
def collect(**context: Any) -> None:
    """Pull every result as a downstream task does."""
    ids = [one for one in context["dag"].task_ids if one != "collect"]
    pulled = {one: context["ti"].xcom_pull(task_ids=one) for one in ids}
    (OUT / "results.json").write_text(json.dumps(pulled, default=list))


with DAG("jobs", schedule=None, params={"section.rate": 0.5, "other.task": 1}) as jobs:
    once: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(seconds=0)}
    [
        job("succeed", overrides={"text": "run {{ run_id }}"}),
        job("template", form=True),
        job("deferred", deferrable=True, overrides={"section": {"rate": 0.25}}),
        JobOperator.partial(
            task_id="mapped",
            module="sample_job",
            config=SampleConfig(folder=str(OUT)),
            namespace="night",
            startup_check_interval_seconds=1,
        ).expand(overrides=[{"section.rate": 1}, {"section": {"rate": 2}, "text": "{{ ti.map_index }}"}]),
        job("bad_data", "refuse", fields={"code": 65}, **once),
        job("bad_data_deferred", "refuse", fields={"code": 65}, deferrable=True, **once),
        job("bad_config", "refuse", fields={"code": 78}),
        job("bad_override", overrides={"section.rat": 1}, **once),
        job("out_of_memory", "refuse", fields={"code": 77}, **once),
        job("unknown", "refuse", fields={"code": 3}, **once),
        job("killed", "die", fields={"code": 9}),
        job("resumed", "resume", fields={"times": 3}),
        job("resumed_deferred", "resume", fields={"times": 3}, deferrable=True),
        *(spread() if os.environ.get("AIRFLOW__NIGHTSHIFT__RUNNER") == "kubernetes" else []),
        job("interrupted_too_often", "resume", fields={"times": 9}, relaunches=1),
    ] >> collect()

with DAG("faults", schedule=None) as faults:
    [
        job("no_capacity", annotations={"fake/unschedulable": "0/3 nodes: Insufficient nvidia.com/gpu"},
            schedule_timeout_seconds=1),
        job("no_capacity_deferred", annotations={"fake/unschedulable": "0/3 nodes: Insufficient nvidia.com/gpu"},
            schedule_timeout_seconds=1, deferrable=True),
        job("no_image", annotations={"fake/waiting": "ErrImagePull"}),
        job("bad_image", annotations={"fake/waiting": "InvalidImageName"}),
        job("oom_killed", "die", fields={"code": 9}, annotations={"fake/oom": "1"}),
        job("evicted", "wait", annotations={"fake/evicted": "waiting for SIGTERM"}, relaunches=0),
        job("evicted_without_handler", "sleep", annotations={"fake/evicted": "sleeping"}),
    ] >> collect()  # fmt: skip
