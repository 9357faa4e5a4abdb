"""Print the pod of a task as YAML, without a cluster: what a platform team wants to read before it says yes.

Of a training over several nodes all pods and their Service are printed.

python -m nightshift.pod_preview dags/train_adapter.py train_adapter_tickets train
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.mappedoperator import MappedOperator
from kubernetes.client import ApiClient

from nightshift.operators.job import JobOperator


def manifests_of(task: Any) -> list[dict[str, Any]]:
    """Return what a task would create as plain data, as the API server would get it; its own pod first.

    A mapped task shows the pod of its plain config; overrides are known only when it runs.
    """
    if isinstance(task, MappedOperator):
        task = task.unmap({"overrides": {}})
    return [dict(ApiClient().sanitize_for_serialization(one)) for one in task.manifests()]


def dags_of(path: str) -> dict[str, Any]:
    """Return the DAGs that a file makes, by id; no database is needed.

    Raises:
        SystemExit: The file cannot be imported.
    """
    bag = DagBag(dag_folder=path, bundle_path=Path(path).parent)
    if bag.import_errors:
        raise SystemExit("\n".join(bag.import_errors.values()))
    return dict(bag.dags)


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what Airflow's loggers write to standard error: they hold the stream, so the descriptor is turned."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def main(arguments: list[str]) -> int:
    """Print the pod of the task that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m nightshift.pod_preview", description=__doc__)
    parser.add_argument("file", help="a DAG file")
    parser.add_argument("dag_id")
    parser.add_argument("task_id")
    given = parser.parse_args(arguments)
    with quiet_stdout():
        manifests = manifests_of(task_of(given.file, given.dag_id, given.task_id))
    sys.stdout.write(yaml.safe_dump_all(manifests, sort_keys=False))
    return 0


def task_of(path: str, dag_id: str, task_id: str) -> Any:
    """Return one task of a DAG file.

    Raises:
        SystemExit: There is no such DAG or task, or it has no pod.
    """
    dags = dags_of(path)
    if dag_id not in dags:
        raise SystemExit(f"{path} makes no DAG {dag_id!r}; it makes: {', '.join(sorted(dags))}")
    tasks = dags[dag_id].task_dict
    if task_id not in tasks:
        raise SystemExit(f"{dag_id} has no task {task_id!r}; it has: {', '.join(sorted(tasks))}")
    task = tasks[task_id]
    if not isinstance(task, JobOperator) and getattr(task, "operator_class", None) is not JobOperator:
        raise SystemExit(f"{task_id} is no JobOperator and has no pod")
    return task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
