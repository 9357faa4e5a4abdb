"""The whole job on a tiny model: killed, stopped, resumed, refused, reused; one process, NF4, on the CPU.

Heavy imports cost 15 CPU seconds a process, so most of it happens in this one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmjobs.contracts.environment import CONFIG, LAKE_URL, MLFLOW_URL, RESULT
from llmjobs.contracts.errors import BadData, Diverged, ExitCode
from llmjobs.contracts.training import TrainConfig
from llmjobs.contracts.training_results import TrainResult
from llmjobs.lake import Lake
from llmjobs.training import evaluate, identity, train, worker
from llmjobs.training.curves import read_curves
from llmjobs.training.estimating.throughput import past_runs
from llmjobs.training.state.checkpoints import CheckpointStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft 0.21.2
]

JOBS = Path(__file__).parents[3] / "jobs"
STEPS = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, offline: Any) -> Iterator[Path]:
    """A lake with one dataset version, found by every job of this module."""
    with offline(tmp_path_factory.mktemp("world"), train=range(100, 148), test=range(140, 164)) as folder:
        yield folder


@pytest.fixture(scope="module")
def config(world: Path, tiny_model: Path, recipe: Any) -> TrainConfig:
    """Dropout, accumulation and several epochs: everything that a resumed run could get wrong."""
    made: TrainConfig = recipe(tiny_model, train={"max_steps": STEPS}, evaluate={"validate_every_steps": 7})
    return made


@pytest.fixture(scope="module")
def uninterrupted(world: Path, config: TrainConfig) -> TrainResult:
    return train.run(config)


class Elsewhere:
    """The same dataset in another lake, where the job runs as a process of its own and then in this one.

    Args:
        world: Folder whose lake is copied.
        folder: Where to.
    """

    def __init__(self, world: Path, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(world / "lake" / "datasets", folder / "lake" / "datasets")
        self.url = f"file://{folder / 'lake'}"
        self.log = folder / "log.txt"

    def start(self, config: TrainConfig) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            LAKE_URL: self.url,
            CONFIG: config.model_dump_json(),
            RESULT: str(self.folder / "result.json"),
            "PYTHONPATH": str(JOBS),
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "llmjobs.training.train"], env=environment, stdout=log, stderr=log
            )

    def wait_for_checkpoints(self, process: subprocess.Popen[bytes], count: int, within_seconds: float = 300) -> None:
        deadline = time.monotonic() + within_seconds
        while len(self.checkpoints()) < count:
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def adapters(self) -> list[Path]:
        return list((self.folder / "lake" / "adapters").glob("*/versions/*/manifest.json"))

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "lake" / "work").glob("adapters/*/*/checkpoints/step-*"))


@pytest.fixture
def there(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    copy = Elsewhere(world, tmp_path)
    monkeypatch.setenv(LAKE_URL, copy.url)
    return copy


def files_of(result: TrainResult) -> set[str]:
    folder = Path(result.adapter_url.removeprefix("file://"))
    return {path.name for path in folder.iterdir()}


def test_the_adapter_and_its_papers(config: TrainConfig, uninterrupted: TrainResult, world: Path) -> None:
    result = uninterrupted
    assert not result.reused
    assert (result.steps, result.train_rows, result.over_long_rows, result.resumed_from_step) == (STEPS, 48, 0, 0)
    assert result.loss_last < result.loss_first - 0.5
    assert result.notes == [f"MLflow is not used: {MLFLOW_URL} is not set"]
    assert files_of(result) == {
        "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "recipe.json", "metrics.jsonl", "README.md", "manifest.json",
    }  # fmt: skip
    folder = Path(result.adapter_url.removeprefix("file://"))
    curves = read_curves(folder / "metrics.jsonl")
    assert [line["step"] for line in curves] == list(range(1, STEPS + 1))
    for line in curves:
        assert 0 < line["trainable_tokens"] < line["tokens"]
        assert 0 < line["step_seconds"] <= line["seconds"]
        assert line["tokens_per_second_per_device"] == pytest.approx(line["tokens"] / line["step_seconds"])
        assert line["tflops_per_device"] > 0
        assert "mfu" not in line, "nobody knows the peak of this CPU"
    manifest = Lake.from_environment().manifest("adapters", "tickets", result.version)
    assert manifest is not None
    assert manifest.inputs["dataset_version"] == result.dataset_version
    assert manifest.inputs["base_revision"] == result.base_revision
    assert manifest.inputs["seed"] == config.train.seed
    assert manifest.metrics["tensors"] == 2 * 2 * 7
    spent = sum(line["step_seconds"] for line in curves)
    assert result.tokens_per_second_per_device == pytest.approx(sum(line["tokens"] for line in curves) / spent)
    assert result.mfu is None
    assert config.model.name in (folder / "README.md").read_text()
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == config.model.name
    work = world / "lake" / "work" / "adapters" / "tickets" / result.version
    assert not (work / worker.CHECKPOINTS).exists(), "nothing goes on from a finished run"


def test_the_estimate_of_the_next_training_learns_from_it(uninterrupted: TrainResult, world: Path) -> None:
    runs = past_runs(Lake.from_environment())
    assert [(run.device, run.strategy, run.max_length) for run in runs] == [("cpu", "single", 128)]
    assert runs[0].tokens_per_second == uninterrupted.tokens_per_second


def test_a_second_run_reuses_it(config: TrainConfig, uninterrupted: TrainResult) -> None:
    again = train.run(config)
    assert again == uninterrupted.model_copy(update={"reused": True})


def test_a_reused_run_does_not_even_import_torch(config: TrainConfig, uninterrupted: TrainResult) -> None:
    code = (
        "import os, sys; from llmjobs.training import train, plan; from llmjobs.contracts.training import TrainConfig;"
        "c = TrainConfig.from_environment(); assert train.run(c).reused; plan.run(c);"
        "sys.exit(','.join(m for m in ('torch', 'transformers', 'mlflow', 'numpy') if m in sys.modules) or 0)"
    )
    environment = {**os.environ, CONFIG: config.model_dump_json(), "PYTHONPATH": str(JOBS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_asked_to_stop_it_leaves_a_checkpoint_and_75(
    uninterrupted: TrainResult, config: TrainConfig, there: Elsewhere, caplog: pytest.LogCaptureFixture
) -> None:
    process = there.start(config)
    there.wait_for_checkpoints(process, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == ExitCode.INTERRUPTED, there.log.read_text()
    assert there.log.read_text().splitlines()[-1].endswith("a rerun goes on from the newest checkpoint")
    assert "REFUSED 75" in there.log.read_text()
    assert there.adapters() == []
    newest = there.checkpoints()[-1]
    assert not list(there.folder.rglob("training_args.bin"))
    # The newest is damaged on the disk: it is named, and the one before counts.
    (newest / "optimizer.safetensors").write_bytes(b"?")
    before = int(there.checkpoints()[-2].name.removeprefix("step-"))
    with caplog.at_level(logging.WARNING):
        result = train.run(config)
    assert f"{newest.name} is skipped: optimizer.safetensors is not what its hash says" in caplog.text
    assert result.resumed_from_step == before
    assert result.adapter_sha256 == uninterrupted.adapter_sha256


def test_a_run_that_gets_no_better_ends_early_and_publishes_its_best(world: Path, config: TrainConfig) -> None:
    values = config.model_dump(mode="json")
    values["evaluate"] |= {"validate_every_steps": 2, "early_stopping": {"patience": 2, "min_delta": 5.0}}
    patient = TrainConfig.from_mapping(values, origin="test")
    result = train.run(patient)
    assert result.version != identity.identify(config, Lake.from_environment()).version, "it is another recipe"
    assert result.steps == 6
    assert result.notes[1:] == [
        "ended early, after step 6 of 60: the validation loss fell no more",
        "the adapter is that of step 6, which has the lowest validation loss",
    ]
    manifest = Lake.from_environment().manifest("adapters", "tickets", result.version)
    assert manifest is not None
    assert (manifest.metrics["published_step"], manifest.metrics["elastic"]) == (6, [])


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit"])
def test_optimiser_state_comes_back_by_name(optimizer: str, tmp_path: Path) -> None:
    import bitsandbytes
    import torch
    from safetensors.torch import load_file, save_file

    from llmjobs.training.state.training_state import gather, restore

    kind = getattr(torch.optim if optimizer == "AdamW" else bitsandbytes.optim, optimizer)
    torch.manual_seed(1)
    data = torch.randn(8, 96)

    def fresh() -> tuple[Any, Any]:
        torch.manual_seed(2)
        model = torch.nn.Linear(96, 96)  # over 4096 weights: bitsandbytes keeps smaller tensors in float32
        return model, SimpleNamespace(optimizer=kind(model.parameters(), lr=0.01))

    def step(model: Any, wrapped: Any) -> None:
        wrapped.optimizer.zero_grad()
        model(data).square().mean().backward()
        wrapped.optimizer.step()

    model, wrapped = fresh()
    for _ in range(3):
        step(model, wrapped)
    save_file(gather(model, wrapped), tmp_path / "state")
    other, others = fresh()
    restore(other, others, load_file(tmp_path / "state"))
    if optimizer == "AdamW8bit":
        assert others.optimizer.state[other.weight]["state1"].dtype == torch.uint8
    for _ in range(2):
        step(model, wrapped)
        step(other, others)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


@pytest.fixture
def with_a_long_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Any) -> None:
    monkeypatch.setenv(LAKE_URL, f"file://{tmp_path / 'lake'}")
    published(Lake.from_environment(), tmp_path / "dataset", train=range(100, 115), test=range(140, 144), long_row=True)


@pytest.mark.usefixtures("world", "with_a_long_row")
def test_rows_that_are_too_long_are_refused_or_counted(recipe: Any, tiny_model: Path) -> None:
    with pytest.raises(BadData, match=r"1 of 16 rows are longer than data.max_length_tokens \(128\), the longest has"):
        train.run(recipe(tiny_model))
    with pytest.raises(BadData, match=r"1 of 16 rows \(6.2%\) .* more than data.max_dropped_share \(1.0%\)"):
        train.run(recipe(tiny_model, data={"on_overflow": "drop"}))
    result = train.run(recipe(tiny_model, data={"on_overflow": "drop", "max_dropped_share": 0.1}))
    assert (result.train_rows, result.over_long_rows) == (15, 1)


def test_a_loss_that_is_no_number_ends_with_the_step(
    world: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmjobs.training import trainer

    honest = trainer.AdapterTrainer.log

    def broken(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.state.global_step == 3:
            logs["loss"] = float("nan")
        honest(self, logs, start_time)

    monkeypatch.setattr(trainer.AdapterTrainer, "log", broken)
    other = config.model_copy(update={"train": config.train.model_copy(update={"seed": 8})})
    with pytest.raises(Diverged, match=r"loss is nan at step 3 of 60: lower train.learning_rate \(now 0.01\)"):
        train.run(other)
    version = identity.identify(other, Lake.from_environment()).version
    assert Lake.from_environment().manifest("adapters", "tickets", version) is None


def test_evaluation_excludes_what_was_trained_on(config: TrainConfig, uninterrupted: TrainResult) -> None:
    result = evaluate.run(config)
    # The test split holds 24 rows, 8 of them from the train split.
    assert (result.rows, result.excluded_rows, result.over_long_rows) == (16, 8, 0)
    assert result.adapter.loss < result.base.loss
    assert result.champion is None
    assert result.conditions == "double-quantised nf4 base in bfloat16, as trained"
    assert evaluate.run(config) == result.model_copy(update={"reused": True})
    rows = Path(result.evaluation_url.removeprefix("file://")) / "rows.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(lines) == 32
    mine = [line for line in lines if line["model"] == "adapter"]
    assert sum(line["nats"] for line in mine) / sum(line["tokens"] for line in mine) == pytest.approx(
        result.adapter.loss
    )


def test_evaluation_meets_the_champion_on_the_same_rows(config: TrainConfig, uninterrupted: TrainResult) -> None:
    lake = Lake.from_environment()
    lake.move_pointer("adapters", "tickets", "champion", uninterrupted.version)
    short = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": 4})})
    train.run(short)
    result = evaluate.run(short)
    alone = evaluate.run(config)
    assert result.champion is not None
    assert result.champion.version == result.champion_version == uninterrupted.version
    assert result.champion.loss == pytest.approx(alone.adapter.loss)
    assert result.base.loss == pytest.approx(alone.base.loss)
    assert result.adapter.loss > result.champion.loss


def test_the_loss_on_a_cpu_is_the_one_that_trl_would_take(
    uninterrupted: TrainResult, config: TrainConfig, tmp_path: Path
) -> None:
    from trl import SFTTrainer

    from llmjobs.training.base_model import load_base
    from llmjobs.training.data.batches import padded
    from llmjobs.training.trainer import build_trainer, training_arguments

    pinned = config.model_copy(update={"dataset_version": uninterrupted.dataset_version})
    layout = worker.layout_here(pinned)
    trainer = build_trainer(
        pinned,
        layout,
        rows=worker._load_rows(pinned, pinned.model.name),
        arguments=training_arguments(pinned, layout, tmp_path),
        base=load_base(pinned.model.name, pinned.model, pinned.quantisation, device="cpu"),
        store=CheckpointStore(tmp_path / "checkpoints", {}),
        callbacks=[],
    )
    batch = padded([trainer.rows[n] for n in (0, 5, 11)], pad_token_id=0, device="cpu")
    answers = (batch["labels"] != -100).sum()
    trainer.model.eval()
    found = []
    for compute_loss in (trainer.compute_loss, partial(SFTTrainer.compute_loss, trainer)):
        trainer.model.zero_grad()
        loss = compute_loss(trainer.model, dict(batch), num_items_in_batch=answers)
        loss.backward()
        norms = [float(p.grad.norm()) for p in trainer.model.parameters() if p.grad is not None]
        found.append((float(loss.detach()), sum(norms)))
        assert trainer._metrics["eval"]["mean_token_accuracy"][-1] == pytest.approx(
            trainer._metrics["eval"]["mean_token_accuracy"][0]
        )
    assert found[0][1] > 0, "no gradient arrived"
    (loss, gradient), (their_loss, their_gradient) = found
    assert loss == pytest.approx(their_loss, rel=2e-3)
    assert gradient == pytest.approx(their_gradient, rel=2e-2)
