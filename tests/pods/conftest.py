"""A cluster on loopback, and one run of the sample DAGs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts import environment
from nightshift.operators.job import JobOperator

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SECRET = {
    environment.LAKE_URL: "file:///lake-of-the-secret",
    environment.DATABASE_URL: "postgresql://jobs:hunter22@db.example/jobs",
    environment.MLFLOW_URL: "http://mlflow.example:5000",
}


@dataclass(frozen=True)
class DagRun:
    """What one run of a sample DAG left behind."""

    folder: Path

    @property
    def states(self) -> dict[str, list[Any]]:
        """Return state and try number of each task instance, by ``task[map index]``."""
        return dict(json.loads((self.folder / "states.json").read_text()))

    @property
    def results(self) -> dict[str, Any]:
        """Return what a downstream task pulled, by task id."""
        return dict(json.loads((self.folder / "results.json").read_text()))

    @property
    def failures(self) -> dict[str, dict[str, Any]]:
        """Return how tasks failed for good, by task id."""
        lines = [json.loads(line) for line in (self.folder / "failures.jsonl").read_text().splitlines()]
        return {line["task"]: line for line in lines}

    @property
    def log(self) -> str:
        """Return everything that the run printed, task logs included."""
        return (self.folder / "log.txt").read_text()

    def starts(self, task_id: str) -> int:
        """Return how often the sample job of a task was started."""
        return len((self.folder / task_id / "starts").read_text().splitlines())


@dataclass(frozen=True)
class Runs:
    """The sample DAGs, run with both runners, and the pods that were left."""

    local: DagRun
    pods: DagRun
    faults: DagRun
    left: dict[str, str]
    services: set[str]


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Serve the fake Kubernetes in a process of its own; yield its kubeconfig."""
    secrets = [f"nightshift-connections:{name}={value}" for name, value in SECRET.items()]
    environ = {**os.environ, "PYTHONPATH": path_of_jobs()}
    server = subprocess.Popen([sys.executable, str(HERE / "fake_kubernetes.py"), str(folder), *secrets], env=environ)
    kubeconfig, deadline = folder / "kubeconfig.json", time.monotonic() + 60
    try:
        while not kubeconfig.exists():
            assert server.poll() is None, "the fake Kubernetes did not start"
            assert time.monotonic() < deadline, "the fake Kubernetes took over 60 s to start"
            time.sleep(0.1)
        yield kubeconfig
    finally:
        server.terminate()
        server.wait(timeout=30)


def path_of_jobs() -> str:
    """Return the PYTHONPATH with jobs, plugins and the sample job."""
    folders = [REPOSITORY / "jobs", REPOSITORY / "plugins", REPOSITORY / "tests" / "fixtures" / "programs"]
    return os.pathsep.join(str(folder) for folder in folders)


def kept(kubeconfig: Path, kind: str) -> list[dict[str, Any]]:
    """Return what the cluster holds of one kind: ``pods``, ``services``."""
    address = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    with urllib.request.urlopen(f"{address}/api/v1/namespaces/night/{kind}") as answer:
        return list(json.load(answer)["items"])


def phases(kubeconfig: Path) -> dict[str, str]:
    """Return the phase of each pod in the cluster, by name without its random suffix."""
    pods = kept(kubeconfig, "pods")
    return {pod["metadata"]["name"].rpartition("-")[0]: pod["status"]["phase"] for pod in pods}


@pytest.fixture(scope="session")
def airflow_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of an Airflow of our own: SQLite, the sample DAGs, no plugins."""
    folder = tmp_path_factory.mktemp("airflow")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "LLMJOBS"))},
        "AIRFLOW_HOME": str(folder),
        "NIGHTSHIFT_HOME": str(folder / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder / "no-plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": path_of_jobs(),
        environment.LAKE_URL: "file:///lake-of-the-environment",
    }


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, airflow_environment: dict[str, str]) -> Runs:
    """Run the sample DAGs once, all in one process: the imports are what costs."""
    folder, environ = tmp_path_factory.mktemp("runs"), airflow_environment
    (folder / "cluster").mkdir()
    run = subprocess.run
    run([sys.executable, "-m", "airflow", "db", "migrate"], env=environ, check=True, capture_output=True)
    with cluster(folder / "cluster") as kubeconfig:
        command = [sys.executable, str(HERE / "run_dags.py"), str(folder / "out"), str(kubeconfig)]
        done = run(command, env=environ, check=False, capture_output=True, text=True, timeout=540)
        assert done.returncode == 0, done.stderr + "".join(p.read_text()[-4000:] for p in folder.glob("out/*/log.txt"))
        left, services = phases(kubeconfig), {one["metadata"]["name"] for one in kept(kubeconfig, "services")}
    out = folder / "out"
    return Runs(
        DagRun(out / "local-jobs"), DagRun(out / "kubernetes-jobs"), DagRun(out / "kubernetes-faults"), left, services
    )


@pytest.fixture(params=["local", "pods"])
def run_of_jobs(request: pytest.FixtureRequest, runs: Runs) -> DagRun:
    """Return the run of the same DAG, as processes and as pods."""
    return runs.local if request.param == "local" else runs.pods


@pytest.fixture
def secret() -> dict[str, str]:
    """Return what the cluster's Secret holds."""
    return dict(SECRET)


@pytest.fixture
def spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobOperator]:
    """A job over three nodes that waits for SIGTERM, on a cluster of its own."""
    for option, value in (("RUNNER", "kubernetes"), ("WORK_CLAIM", "checkpoints")):
        monkeypatch.setenv(f"AIRFLOW__NIGHTSHIFT__{option}", value)
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "fixtures" / "programs"))
    from sample_job import Dist, SampleConfig  # type: ignore[import-not-found]

    (tmp_path / "cluster").mkdir()
    with cluster(tmp_path / "cluster") as kubeconfig:
        yield JobOperator(
            task_id="killed",
            module="sample_job",
            config=SampleConfig(mode="wait", folder=str(tmp_path), dist=Dist(nodes=3)),
            resumable=True,
            namespace="night",
            config_file=str(kubeconfig),
            durable=False,
            termination_grace_period=5,
        )
