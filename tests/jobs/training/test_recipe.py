"""The recipe: what it accepts, what it refuses with the numbers, and what an adapter's version depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmjobs.contracts.errors import BadConfig, ExitCode
from llmjobs.contracts.training import TrainConfig
from llmjobs.training import effective
from llmjobs.training.base_model import NOT_SERVED
from llmjobs.training.sharding import deepspeed_settings, layout_for

MINIMAL: dict[str, Any] = {"name": "a", "dataset": "d", "model": "Qwen/Qwen3-8B"}


def config(**sections: Any) -> TrainConfig:
    return TrainConfig.from_mapping({**MINIMAL, **sections}, origin="a.yaml")


def test_a_model_can_be_one_word() -> None:
    assert config().model.name == "Qwen/Qwen3-8B"
    assert config(model={"name": "Qwen/Qwen3-8B"}) == config()


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"train": {"epochs": 2, "max_steps": 10}}, r"epochs \(2\) and max_steps \(10\) clash"),
        ({"train": {"max_steps": 5, "warmup_steps": 5}}, r"warmup_steps \(5\) must be fewer than max_steps \(5\)"),
        (
            {"train": {"global_batch_size": 8}, "dist": {"processes": 3}},
            r"global_batch_size \(8\) cannot be shared evenly by 3 processes",
        ),
        (
            {"train": {"global_batch_size": 12, "micro_batch_size": 4}, "dist": {"processes": 2}},
            r"over 2 processes is 6 rows for each, which micro_batch_size \(4\) does not divide",
        ),
        ({"train": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"dist": {"strategy": "zero4"}}, "dist.strategy"),
        ({"data": {"fraction": 0}}, "data.fraction: Input should be greater than 0"),
        ({"data": {"fraction": 0.5}, "sweep": {"fractions": [0.5, 1]}}, r"data.fraction \(0.5\) and sweep.frac"),
        ({"sweep": {}}, "sweep is empty: give at least one list of two values: fractions, learning_rates, ranks"),
        ({"sweep": {"fractions": [1.0]}}, r"sweep.fractions has one value \(1\): give two or more, or leave"),
        ({"sweep": {"ranks": [8, 16], "learning_rates": [1e-4]}}, r"sweep.learning_rates has one value \(0.0001\)"),
        ({"sweep": {"fractions": [0.5, 1.5]}}, "sweep.fractions.1: Input should be less than or equal to 1"),
        ({"sweep": {"ranks": [0, 8]}}, "sweep.ranks.0: Input should be greater than or equal to 1"),
        ({"sweep": {"learning_rates": [0.1, 1]}}, "sweep.learning_rates.1: Input should be less than 1"),
        ({"sweep": {"fractions": [0.5, 0.5]}}, "sweep.fractions names a value twice: 0.5, 0.5"),
        ({"name": "../x"}, "name"),
        (
            {"quantisation": {"storage": "float32"}},
            r"quantisation.storage \(float32\) must be uint8 or model.dtype \(bfloat16\)",
        ),
        (
            {"quantisation": {"type": "none", "storage": "bfloat16"}},
            r"storage \(bfloat16\) is of 4-bit weights, but type",
        ),
        ({"quantisation": {"stroage": "uint8"}}, "did you mean 'storage'"),
        ({"lora": {"target": []}}, "lora: .*target is an empty list"),
        ({"lora": {"target": ["q_proj", "lm_head"]}}, r"target holds lm_head \(q_proj, lm_head\)"),
        (
            {"model": {"name": "m", "dtype": "float32", "attention": "flash_attention_2"}},
            r"model.attention \(flash_attention_2\) computes in 16 bits, but model.dtype is float32",
        ),
        ({"dist": {"offload": "cpu"}}, r"offload \(cpu\) is a part of ZeRO, but strategy is auto"),
        (
            {"train": {"optimizer": "paged_adamw_8bit"}, "dist": {"strategy": "zero1"}},
            r"train.optimizer \(paged_adamw_8bit\) and dist.strategy \(zero1\) clash",
        ),
        ({"lora": {"dora": True}, "dist": {"strategy": "zero3"}}, r"lora.dora and dist.strategy \(zero3\) clash"),
    ],
)
def test_clashes_are_refused_with_the_numbers(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        config(**sections)


@pytest.mark.parametrize(
    ("global_batch", "micro", "processes", "accumulation", "chosen"),
    [
        (8, None, 1, 1, 8),
        (16, None, 1, 2, 8),
        (24, None, 2, 2, 6),
        (8, 2, 2, 2, 2),
        (7, None, 1, 1, 7),
        (22, None, 2, 11, 1),
    ],
)
def test_the_global_batch_stays_whole(
    global_batch: int, micro: int | None, processes: int, accumulation: int, chosen: int
) -> None:
    batching = config(train={"global_batch_size": global_batch, "micro_batch_size": micro}).batching(processes)
    assert (batching.accumulation, batching.micro_batch_size) == (accumulation, chosen)
    assert batching.accumulation * batching.micro_batch_size * processes == global_batch


def test_version_follows_what_is_learnt_and_nothing_else() -> None:
    base = config().adapter_version("data1", "rev1")
    same = [
        config(owner="else", schedule="0 1 * * *"),
        config(dist={"strategy": "zero3", "processes": 2}),
        config(train={"micro_batch_size": 2}),
        config(checkpoint={"every_steps": 3}),
        config(evaluate={"metric": "loss"}),
        config(resources={"gpus": 4}),
        config(quantisation={"storage": "bfloat16"}),
        config(dist={"strategy": "zero2", "offload": "cpu"}),
    ]
    assert {one.adapter_version("data1", "rev1") for one in same} == {base}
    others = [
        config().adapter_version("data2", "rev1"),
        config().adapter_version("data1", "rev2"),
        config(train={"seed": 8}).adapter_version("data1", "rev1"),
        config(train={"global_batch_size": 32}).adapter_version("data1", "rev1"),
        config(lora={"rslora": True}).adapter_version("data1", "rev1"),
        config(lora={"dora": True}).adapter_version("data1", "rev1"),
        config(lora={"target": ["q_proj"]}).adapter_version("data1", "rev1"),
        config(lora={"r": 8}).adapter_version("data1", "rev1"),
        config(quantisation={"type": "none"}).adapter_version("data1", "rev1"),
        config(model={"name": "Qwen/Qwen3-8B", "dtype": "float32"}).adapter_version("data1", "rev1"),
        config(data={"max_length_tokens": 64}).adapter_version("data1", "rev1"),
        config(data={"fraction": 0.5}).adapter_version("data1", "rev1"),
    ]
    assert len({base, *others}) == len(others) + 1


def test_the_version_of_a_recipe_stays_unless_the_schema_is_raised() -> None:
    assert config().adapter_version("data1", "rev1") == "88e49366388c4c65"


def test_a_sweep_is_one_config_for_each_fraction_the_smallest_first() -> None:
    swept = config(sweep={"fractions": [1, 0.25, 0.5]})
    assert [one.data.fraction for one in swept.candidates] == [0.25, 0.5, 1]
    assert swept.candidates[1] == config(data={"fraction": 0.5})
    assert swept.candidates[2] == config(), "all rows are the adapter that it would be without a sweep"
    assert config().candidates == (config(),)


def test_a_sweep_is_every_combination_of_its_lists() -> None:
    swept = config(data={"fraction": 0.5}, sweep={"ranks": [32, 8], "learning_rates": [3e-4, 1e-4]})
    assert [(one.train.learning_rate, one.lora.r) for one in swept.candidates] == [
        (1e-4, 8), (1e-4, 32), (3e-4, 8), (3e-4, 32),
    ]  # fmt: skip
    assert {one.data.fraction for one in swept.candidates} == {0.5}
    assert {one.lora.alpha for one in swept.candidates} == {32}
    alone = config(data={"fraction": 0.5}, lora={"r": 32}, train={"learning_rate": 1e-4})
    assert swept.candidates[1].adapter_version("d", "r") == alone.adapter_version("d", "r")


def test_a_candidate_is_the_same_adapter_however_its_numbers_are_written() -> None:
    assert config().candidate({"data.fraction": 1}).adapter_version("d", "r") == config().adapter_version("d", "r")
    with pytest.raises(ValueError, match="less than or equal to 512"):
        config().candidate({"lora.r": 1000})


@pytest.mark.parametrize(
    ("dist", "gpus", "strategy", "processes"),
    [
        ({}, 0, "single", 1),
        ({}, 1, "single", 1),
        ({}, 4, "ddp", 4),
        ({"strategy": "ddp"}, 1, "single", 1),
        ({"strategy": "zero3"}, 2, "zero3", 2),
        ({"strategy": "zero2"}, 0, "zero2", 1),
        ({"processes": 2}, 0, "ddp", 2),
    ],
)
def test_layout_follows_config_and_machine(dist: dict[str, Any], gpus: int, strategy: str, processes: int) -> None:
    layout = layout_for(config(dist=dist), gpus=gpus, cores=8)
    assert (layout.strategy, layout.batching.processes, layout.on_gpu) == (strategy, processes, gpus > 0)


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"dist.processes \(4\) is more than the 2 GPUs"):
        layout_for(config(dist={"processes": 4}), gpus=2, cores=8)


def test_a_batch_that_the_machine_cannot_cut_is_refused() -> None:
    with pytest.raises(BadConfig, match="cannot be shared evenly by 3 processes"):
        layout_for(config(), gpus=3, cores=8)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("gpus", [0, 2])
def test_deepspeed_settings(stage: int, gpus: int) -> None:
    layout = layout_for(config(dist={"strategy": f"zero{stage}", "processes": 2}), gpus=gpus, cores=8)
    settings = deepspeed_settings(layout, bf16=True)
    assert settings is not None
    zero = settings["zero_optimization"]
    assert zero["stage"] == stage
    assert zero["overlap_comm"] is (gpus > 0)
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) is (stage == 3)
    assert settings["bf16"] == {"enabled": True}
    assert {settings[key] for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")} == {"auto"}


def test_no_deepspeed_without_zero() -> None:
    assert deepspeed_settings(layout_for(config(), gpus=2, cores=8), bf16=True) is None


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_keeps_torch_adamw(stage: int) -> None:
    dist = {"strategy": f"zero{stage}", "processes": 2}
    plain = deepspeed_settings(layout_for(config(dist=dist), gpus=2, cores=8), bf16=True)
    settings = deepspeed_settings(layout_for(config(dist={**dist, "offload": "cpu"}), gpus=2, cores=8), bf16=True)
    assert plain is not None
    assert settings is not None
    assert settings["zero_optimization"].pop("offload_optimizer") == {"device": "cpu", "pin_memory": True}
    assert settings.pop("zero_force_ds_cpu_optimizer") is False
    assert settings == plain


def test_the_effective_recipe_is_printed_with_all_that_is_derived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_gpu: None
) -> None:
    file = tmp_path / "a.yaml"
    sections = {
        "lora": {"r": 16, "rslora": True, "dora": True},
        "dist": {"strategy": "zero2", "processes": 2, "threads": 3},
    }
    file.write_text(json.dumps({**MINIMAL, **sections}), encoding="utf-8")
    assert effective.show([str(file)]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert TrainConfig.from_mapping(printed["config"], origin="printed") == config(**sections)
    derived = printed["derived"]
    assert derived.pop("deepspeed")["zero_optimization"]["stage"] == 2
    assert derived == {
        "strategy": "zero2", "processes": 2, "micro_batch_size": 8, "accumulation": 1, "device": "cpu",
        "threads_per_process": 3, "activation_checkpointing": False, "epochs": 1.0, "adapter_scale": 8.0,
        "notes": [NOT_SERVED],
    }  # fmt: skip


def test_a_refused_recipe_is_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps({**MINIMAL, "lora": {"alfa": 3}}), encoding="utf-8")
    assert effective.show([str(file)]) == ExitCode.BAD_CONFIG
    out, err = capsys.readouterr()
    assert (out, err.count("did you mean 'alpha'")) == ("", 1)
