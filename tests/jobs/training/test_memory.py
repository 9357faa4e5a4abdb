"""The estimate of memory beside real models without memory, bitsandbytes' own layers, and peft's own adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.training import TrainConfig
from llmjobs.training.estimating.memory import MemoryEstimate, disk_of, memory_of
from llmjobs.training.estimating.shapes import NORMS, shape_from, shape_of
from llmjobs.training.sharding import Strategy
from tests.benchmarks.memory import LARGE, LLAMA_2_70B, LLAMA_31_8B, adapters, on_meta, quantised, weights

SMALL = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def config(**sections: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"name": "a", "dataset": "d", "model": "m", **sections}, origin="test")


def estimate(
    values: dict[str, Any], *, strategy: Strategy = "single", processes: int = 1, on_gpu: bool = True, **sections: Any
) -> MemoryEstimate:
    return memory_of(
        config(**sections), shape_from(values, origin="test"), strategy=strategy, processes=processes,
        micro_batch_size=1, longest_tokens=2048, on_gpu=on_gpu,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_models_have_the_weights_that_transformers_makes(name: str) -> None:
    assert shape_from(LARGE[name], origin="test").parameters == weights(LARGE[name])


@pytest.mark.parametrize("family", sorted(NORMS))
def test_every_family_has_the_weights_that_transformers_makes(family: str) -> None:
    model = on_meta(SMALL | {"model_type": family, "pad_token_id": 0})
    found = shape_from(model.config.to_dict(), origin="test")
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    linear = [name for name, _ in model.named_modules() if name.endswith("_proj")]
    assert {one.name for one in found.linears} == {name.rsplit(".", 1)[-1] for name in linear}


@pytest.mark.parametrize("double", [True, False])
def test_layers_in_4_bits_take_what_bitsandbytes_takes(double: bool) -> None:
    estimated, real = quantised(SMALL | {"model_type": "llama"}, double=double)
    assert estimated == real


def test_an_adapter_has_the_weights_that_peft_makes() -> None:
    estimated, real = adapters(SMALL | {"model_type": "qwen3"})
    assert estimated == real


def test_the_published_size_of_8_thousand_million_weights_in_4_bits() -> None:
    found = estimate(LLAMA_31_8B)
    assert found.training["base, linear layers"] == pytest.approx(3.60e9, rel=0.01)
    assert found.training["base, embeddings, head and norms"] == pytest.approx(2.10e9, rel=0.01)
    assert found.training_peak_bytes < 12 * 2**30


def test_zero_3_shares_the_base_but_not_while_it_loads() -> None:
    ddp = estimate(LLAMA_2_70B, strategy="ddp", processes=4)
    sharded = estimate(LLAMA_2_70B, strategy="zero3", processes=4)
    assert sharded.load == ddp.load
    assert sharded.training["base, linear layers"] == pytest.approx(ddp.training["base, linear layers"] / 4, rel=0.01)
    assert sharded.training_peak_bytes < 0.5 * ddp.training_peak_bytes


def test_zero_1_and_2_share_the_state_of_the_adapter_only() -> None:
    one, two = (estimate(LLAMA_31_8B, strategy=stage, processes=4).training for stage in ("zero1", "zero2"))
    assert (
        one["base, linear layers"]
        == two["base, linear layers"]
        == estimate(LLAMA_31_8B).training["base, linear layers"]
    )
    assert two["gradients"] < one["gradients"]
    assert one["optimiser"] == two["optimiser"] == pytest.approx(41.9e6 * 12 / 4, rel=0.01)


def test_offload_moves_the_optimiser_to_main_memory() -> None:
    found = estimate(
        LLAMA_31_8B, strategy="zero2", processes=2, dist={"strategy": "zero2", "processes": 2, "offload": "cpu"}
    )
    assert "optimiser" not in found.training
    assert found.host_bytes == pytest.approx(41.9e6 * (12 + 4) / 2, rel=0.01)


def test_every_saving_saves() -> None:
    plain = estimate(LLAMA_31_8B, train={"activation_checkpointing": False}).training
    assert estimate(LLAMA_31_8B).training["activations"] < 0.1 * plain["activations"]
    eight = estimate(LLAMA_31_8B, train={"optimizer": "adamw_8bit"}).training["optimiser"]
    assert eight == pytest.approx(plain["optimiser"] / 4, rel=0.05)
    packed = estimate(LLAMA_31_8B, data={"packing": "bfd", "max_length_tokens": 4096}).training
    assert packed["activations"] == pytest.approx(2 * estimate(LLAMA_31_8B).training["activations"], rel=0.01)
    eager = estimate(LLAMA_31_8B, model={"name": "m", "attention": "eager"}).training
    assert eager["one layer's backward pass"] > 2 * plain["one layer's backward pass"]


def test_a_processor_has_no_context_and_whole_logits() -> None:
    found = estimate(LLAMA_31_8B, on_gpu=False).training
    assert found["logits"] == 2048 * 128256 * 14
    assert "libraries" in found
    assert "CUDA context" not in found


def test_the_disk_holds_checkpoints_and_the_adapter() -> None:
    shape = shape_from(LLAMA_31_8B, origin="test")
    two, three = (disk_of(config(checkpoint={"keep_last": kept}), shape) for kept in (2, 3))
    assert two["checkpoints (3)"] == pytest.approx(3 * 41.9e6 * 12, rel=0.01)
    assert three["checkpoints (4)"] > two["checkpoints (3)"]


def test_a_saved_model_is_known_by_its_files(tiny_model: Path) -> None:
    found = shape_of(tiny_model)
    assert (found.layers, found.hidden, found.tied_embeddings) == (2, 64, True)


def test_a_model_of_another_form_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 7}), encoding="utf-8")
    with pytest.raises(BadConfig, match=r"config\.json: a 7-layer model .* the safetensors beside it have"):
        shape_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "mamba"}), encoding="utf-8")
    with pytest.raises(BadConfig, match="type 'mamba' is built is not known here"):
        shape_of(tmp_path)
    with pytest.raises(BadConfig, match=r"no config\.json is there"):
        shape_of(tmp_path / "absent")
