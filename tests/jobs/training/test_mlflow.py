"""A real MLflow server: curves of a resumed run in one run, system metrics, and the registry as a mirror."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import MLFLOW_URL
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.mlflow_server import reach
from llmjobs.training import evaluate, plan, promote, rollback, tracking, train
from llmjobs.training.identity import ADAPTERS, CHAMPION
from llmjobs.training.registry import mirror, tag

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft 0.21.2
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server as the embedded stack starts it; torn down with its whole process group."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", f"{folder}/artifacts",
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(MLFLOW_URL, server)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(tracking, "_SAMPLE_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "_FLUSH_EVERY_SECONDS", 0.0)
    reached, why = reach()
    assert reached is not None, why
    return reached.client


def open_tracking(folder: Path) -> tracking.Tracking:
    return tracking.Tracking(folder, experiment="nightshift/tickets", run_name="v1", params={"lora.r": 8})


def test_a_resumed_training_goes_on_in_its_run(client: Any, server: str, tmp_path: Path) -> None:
    first = open_tracking(tmp_path)
    assert first.note == ""
    for step in (1, 2):
        first.log(step, {"loss": 3.0 - step})
    first.close("KILLED")
    again = open_tracking(tmp_path)
    assert again.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    again.log(3, {"loss": 0.0})
    deadline = time.monotonic() + 60
    while not any(key.startswith("system/") for key in client.get_run(first.run_id).data.metrics):
        assert time.monotonic() < deadline, "no system metrics arrived"
        time.sleep(0.2)
    again.close("FINISHED")
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lora.r": "8"}
    assert [(one.step, one.value) for one in client.get_metric_history(first.run_id, "loss")] == [
        (1, 2.0), (2, 1.0), (3, 0.0),
    ]  # fmt: skip
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= run.data.metrics.keys()
    assert again.url == f"{server}/#/experiments/{run.info.experiment_id}/runs/{first.run_id}"


def test_a_server_lost_in_the_middle_costs_one_sentence(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = open_tracking(tmp_path)
    client.delete_run(run.run_id)  # as good as lost: it takes no metrics any more
    run.log(1, {"loss": 1.0})
    assert "MLflow failed to log" in run.note
    run.log(2, {"loss": 1.0})
    run.close("FINISHED")


def put_adapter(lake: Lake, folder: Path, version: str, run_id: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    fields = ("dataset", "dataset_version", "base_model", "base_revision", "config_digest", "seed")
    inputs = {**{field: f"the {field}" for field in fields}, "mlflow_run_id": run_id}
    lake.publish(folder, kind=ADAPTERS, name="tickets", version=version, inputs=inputs)


def test_the_registry_follows_the_lake(client: Any, server: str, lake: Lake, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(MLFLOW_URL, server)
    run = client.create_run(client.create_experiment("registry"))
    put_adapter(lake, tmp_path / "adapter", "v1", run.info.run_id)
    put_adapter(lake, tmp_path / "adapter", "v2")  # trained while MLflow was away

    assert mirror(lake, "tickets", ["v1"]) == (f"{server}/#/models/nightshift-tickets", "")
    (registered,) = client.search_model_versions("name='nightshift-tickets'")
    assert registered.tags["adapter_version"] == "v1"
    assert registered.tags["dataset_version"] == "the dataset_version"
    assert registered.run_id == run.info.run_id
    assert [one.path for one in client.list_artifacts(run.info.run_id, "adapter")] == ["adapter/manifest.json"]
    assert client.get_registered_model("nightshift-tickets").aliases == {}

    # A champion that was never mirrored is registered with the next occasion, and the alias follows each move.
    for champion in ("v2", "v1"):
        lake.move_pointer(ADAPTERS, "tickets", CHAMPION, champion)
        mirror(lake, "tickets", ["v1"])
        aliased = client.get_model_version_by_alias("nightshift-tickets", CHAMPION)
        assert aliased.tags["adapter_version"] == champion
    rollback.roll_back(lake, "tickets", "v2", reason="users complained")
    aliased = client.get_model_version_by_alias("nightshift-tickets", CHAMPION)
    assert aliased.tags["adapter_version"] == "v2"
    assert len(client.search_model_versions("name='nightshift-tickets'")) == 2


def test_exports_are_told_to_the_registry(
    client: Any, server: str, lake: Lake, tmp_path: Path, monkeypatch: Any
) -> None:
    assert tag(lake, "tickets", "v9", {}) == "MLflow is not used: MLFLOW_TRACKING_URI is not set"
    monkeypatch.setenv(MLFLOW_URL, server)
    put_adapter(lake, tmp_path / "adapter", "v9")
    assert tag(lake, "tickets", "v9", {"export.gguf": "s3://lake/exports/x"}) == ""
    (found,) = client.search_model_versions("name='nightshift-tickets' and tags.adapter_version = 'v9'")
    assert found.tags["export.gguf"] == "s3://lake/exports/x"
    assert "MLflow did not take the tags of adapter tickets" in tag(lake, "tickets", "absent", {"export.gguf": "x"})


@pytest.fixture
def signal_handler() -> Iterator[None]:
    """Jobs take over SIGTERM; hand it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def night(lake: Lake, tmp_path: Path, published: Any, recipe: Any, tiny_model: Path) -> TrainConfig:
    published(lake, tmp_path / "dataset", train=range(100, 132), test=range(140, 152))
    config: TrainConfig = recipe(tiny_model, name="night", evaluate={"metric": "loss"})
    return config


@pytest.mark.usefixtures("no_gpu", "signal_handler", "lake")
def test_a_whole_night_is_mirrored(
    client: Any, server: str, night: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW_URL, server)  # the lake's fixture took it away
    config = night
    assert plan.run(config).needed
    trained = train.run(config)
    assert trained.notes == []
    measured = evaluate.run(config)
    promoted = promote.run(config)
    assert promoted.promoted
    assert promoted.notes == []
    assert not plan.run(config).needed

    run_id = trained.mlflow_run_url.rpartition("/")[2]
    assert measured.mlflow_run_url == trained.mlflow_run_url
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run_id, "loss")) == trained.steps
    assert run.data.metrics["test_loss_adapter"] == pytest.approx(measured.adapter.loss)
    assert run.data.params["dataset_version"] == trained.dataset_version
    champion = client.get_model_version_by_alias("nightshift-night", CHAMPION)
    assert champion.tags["adapter_version"] == trained.version
    assert champion.run_id == run_id
    assert promoted.mlflow_model_url == f"{server}/#/models/nightshift-night"
