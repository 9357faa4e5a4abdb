"""An adapter that is not the one that was trained is not published; one that is can be trained again, byte by byte."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import LAKE_URL
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.contracts.training import TrainConfig
from llmjobs.contracts.training_results import TrainResult
from llmjobs.lake import Lake
from llmjobs.models import resolve_model
from llmjobs.training import adapter_files, rerun, train
from llmjobs.training.adapter_files import SETTINGS, WEIGHTS
from llmjobs.training.identity import identify
from llmjobs.training.publication import self_test, witness
from llmjobs.training.publication.witness import WITNESS
from llmjobs.training.stopping import StopSignal
from llmjobs.training.worker import layout_here

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft 0.21.2
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, offline: Any) -> Iterator[Path]:
    """A lake with one dataset version."""
    with offline(tmp_path_factory.mktemp("world"), train=range(100, 140), test=range(140, 148)) as folder:
        yield folder


@pytest.fixture(scope="module")
def config(world: Path, tiny_model: Path, recipe: Any) -> TrainConfig:
    made: TrainConfig = recipe(tiny_model)
    return made


@pytest.fixture(scope="module")
def spied(world: Path, config: TrainConfig) -> tuple[TrainResult, Path, list[str]]:
    """A training; its witness, kept from the cleaning up; and the trainers that lived when the adapter was loaded."""
    kept, living = world / "kept", list[str]()
    honest = witness.loss_on

    def watched(*given: Any) -> float:
        living.extend(type(one).__name__ for one in gc.get_objects() if type(one).__name__ == "AdapterTrainer")
        shutil.copytree(next((world / "lake" / "work").glob("adapters/*/*/checkpoints/step-00000012")), kept)
        return honest(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_test, "loss_on", watched)
        return train.run(config), kept, living


def test_the_adapter_is_loaded_back_without_the_trainer_beside_it(
    spied: tuple[TrainResult, Path, list[str]], config: TrainConfig
) -> None:
    result, kept, living = spied
    assert living == [], "its model would take its memory twice"
    manifest = Lake.from_environment().manifest("adapters", "tickets", result.version)
    assert manifest is not None
    told, inputs = manifest.metrics["self_test"], manifest.inputs
    assert (told["rows"], told["split"], told["answers"]) == (4, "train", 4)
    assert told["loss"] == told["loss_trained"] == json.loads((kept / WITNESS).read_text())["loss"]
    assert told["serving"] == {"max_lora_rank": 8, "notes": []}
    assert inputs["config"] == config.model_copy(update={"dataset_version": result.dataset_version}).model_dump(
        mode="json"
    )
    assert [one["from_step"] for one in inputs["attempts"]] == [0]
    assert manifest.metrics["device_seconds"] > 0
    assert (inputs["device"], inputs["machine"]["devices"], inputs["machine"]["threads"]) == ("cpu", ["cpu"], 1)
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= inputs["base_files"].keys()
    folder = Path(result.adapter_url.removeprefix("file://"))
    assert (
        f"has a loss of {told['loss']:.6f} nats per answer token on 4 train rows" in (folder / "README.md").read_text()
    )
    assert not (folder / WITNESS).exists(), "it holds rows"


def damaged(folder: Path, kind: str) -> None:
    """Change an adapter in a way that its file's own checks cannot see."""
    from safetensors.torch import load_file, save_file

    settings = json.loads((folder / SETTINGS).read_text())
    if kind == "scale":
        (folder / SETTINGS).write_text(json.dumps({**settings, "lora_alpha": settings["lora_alpha"] * 2}))
        return
    tensors = load_file(folder / WEIGHTS)
    if kind == "layer":
        tensors = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    else:
        tensors = {name: tensor * 0.5 if "lora_B" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")  # peft only warns of a lost layer
@pytest.mark.parametrize("kind", ["scale", "layer", "weights"])
def test_an_adapter_that_is_not_what_was_trained_is_refused(
    kind: str, spied: tuple[TrainResult, Path, list[str]], config: TrainConfig, tmp_path: Path
) -> None:
    result, kept, _ = spied
    copy = shutil.copytree(Path(result.adapter_url.removeprefix("file://")), tmp_path / "adapter")
    base, layout = resolve_model(config.model.name), layout_here(config)
    self_test.self_test(copy, kept, config=config, base=base, layout=layout)
    damaged(copy, kind)
    with pytest.raises(
        JobError, match=r"loss [\d.]+ on 4 train rows, the trainer's model had [\d.]+; [\d.]+ apart, allo"
    ):
        self_test.self_test(copy, kept, config=config, base=base, layout=layout)


def test_a_refused_adapter_is_not_published_and_its_checkpoints_stay(
    world: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = config.model_copy(update={"train": config.train.model_copy(update={"seed": 8, "max_steps": 4})})
    honest = adapter_files.assemble

    def wrecked(*given: Any, **named: Any) -> Any:
        report = honest(*given, **named)
        damaged(given[1], "weights")
        return report

    monkeypatch.setattr(train, "assemble", wrecked)
    with pytest.raises(JobError, match="Nothing is published, the checkpoints are kept"):
        train.run(other)
    version = identify(other, Lake.from_environment()).version
    assert Lake.from_environment().manifest("adapters", "tickets", version) is None
    assert list((world / "lake" / "work" / "adapters" / "tickets" / version).glob("checkpoints/step-*"))
    monkeypatch.undo()
    monkeypatch.setenv(LAKE_URL, f"file://{world / 'lake'}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert train.run(other).resumed_from_step == 4
    manifest = Lake.from_environment().manifest("adapters", "tickets", version)
    assert manifest is not None
    assert [one["from_step"] for one in manifest.inputs["attempts"]] == [0, 4]


def test_a_rerun_from_the_manifest_gives_the_same_bytes(
    spied: tuple[TrainResult, Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    result, _, _ = spied
    assert rerun.main([f"tickets@{result.version}"]) == 0
    assert capsys.readouterr().out.endswith(f"\nadapter {result.version}: the same bytes\n")


def test_a_rerun_tells_what_differs(spied: tuple[TrainResult, Path, list[str]]) -> None:
    result, _, _ = spied
    lake = Lake.from_environment()
    manifest = lake.manifest("adapters", "tickets", result.version)
    assert manifest is not None
    old = manifest.model_copy(
        update={"inputs": {**manifest.inputs, "packages": {**manifest.inputs["packages"], "trl": "0.1"}}}
    )
    config = rerun.config_of(old)
    base = resolve_model(config.model.name)
    assert rerun.differences_of(manifest, config, base) == []
    assert rerun.differences_of(old, config, base) == [f"package trl is {manifest.inputs['packages']['trl']}, was 0.1"]
    with pytest.raises(BadData, match=r"adapters/tickets: there is no version nine"):
        rerun.rerun("tickets", "nine", lake, StopSignal())
    with pytest.raises(BadConfig, match="its manifest is of an older version, without config"):
        rerun.config_of(manifest.model_copy(update={"inputs": {}}))
