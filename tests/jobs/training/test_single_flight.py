"""Two runs that mean the same adapter at once train it once, and the second one says so."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from llmjobs.contracts.environment import LAKE_URL
from llmjobs.contracts.training import TrainConfig
from llmjobs.contracts.training_results import TrainResult
from llmjobs.lake import Lake
from llmjobs.training import train
from llmjobs.training.identity import AdapterIdentity
from llmjobs.training.stopping import StopSignal

CONFIG = TrainConfig.from_mapping({"name": "tickets", "dataset": "tickets", "model": "m"}, origin="test")
FIGURES = {
    "steps": 1, "train_rows": 1, "over_long_rows": 0, "loss_first": 2.0, "loss_last": 1.0, "seconds": 1.0,
    "tokens_per_second": 1.0, "resumed_from_step": 0, "adapter_sha256": "0", "notes": [],
}  # fmt: skip
INPUTS = {"dataset": "tickets", "dataset_version": "d", "base_model": "m", "base_revision": "b", "mlflow_run_url": ""}


class Trainings:
    """Stands in for the training itself: counts, and is slow until it is told otherwise."""

    def __init__(self, source: Path) -> None:
        self.source, self.count, self.begun, self.go_on = source, 0, Event(), Event()

    def __call__(self, lake: Lake, adapter: AdapterIdentity, _folder: Path, _stop: Any, _live: Any) -> TrainResult:
        self.count += 1
        self.begun.set()
        assert self.go_on.wait(60)
        manifest = lake.publish(
            self.source, kind="adapters", name="tickets", version=adapter.version, metrics=FIGURES, inputs=INPUTS
        )
        return train._result(lake, manifest, reused=False)


def test_the_second_waits_and_reuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "adapter.txt").write_text("x", encoding="utf-8")
    trainings = Trainings(source)
    monkeypatch.setenv(LAKE_URL, f"file://{tmp_path}/lake")
    monkeypatch.setattr(train, "identify", lambda config, _lake: AdapterIdentity(config, "b", "v1"))
    monkeypatch.setattr(train, "_train", trainings)
    monkeypatch.setattr(StopSignal, "install", lambda _self: None)  # signals belong to the main thread
    waits = Event()
    monkeypatch.setattr(train.logger, "info", _told(train.logger.info, waits))
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(2) as both:
        first = both.submit(train.run, CONFIG)
        assert trainings.begun.wait(60)
        second = both.submit(train.run, CONFIG)
        assert waits.wait(60)
        trainings.go_on.set()
        results = [first.result(60), second.result(60)]
    assert trainings.count == 1
    assert [one.reused for one in results] == [False, True]
    assert "another run trains this adapter; waiting" in caplog.text
    assert "version v1 is there already: nothing to train" in caplog.text


def _told(say: Any, waits: Event) -> Any:
    """Return `say`, which besides tells that the second run waits."""

    def info(text: str, *values: Any) -> None:
        say(text, *values)
        if "waiting up to" in text:
            waits.set()

    return info
