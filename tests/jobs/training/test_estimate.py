"""What a training will take: the choice of a strategy, refusals that say what would fit, hours, cost and limits."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.training import Limits, TrainConfig
from llmjobs.lake import Lake
from llmjobs.training import audit, estimate
from llmjobs.training.estimating.amount import Amount, bill_of, exceeded
from llmjobs.training.estimating.fitting import Case, choose, peak_of
from llmjobs.training.estimating.gpus import gpu_named
from llmjobs.training.estimating.machine import Machine, machine_of
from llmjobs.training.estimating.shapes import shape_from
from llmjobs.training.estimating.throughput import Run, Throughput, derived, learned
from tests.benchmarks.memory import LLAMA_2_70B, LLAMA_31_8B

GB = 10**9


def config(**sections: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"name": "a", "dataset": "d", "model": "m", **sections}, origin="test")


def case(values: dict[str, Any], *, processes: int, room: int, device: str = "a100", **sections: Any) -> Case:
    machine = Machine(device, processes, room)
    return Case([config(**sections)], shape_from(values, origin="test"), 2048, machine)


def test_several_processes_are_ddp_by_default() -> None:
    found = choose(case(LLAMA_31_8B, processes=4, room=24 * GB))
    assert found.strategy == "ddp"
    assert peak_of(found.memory) < 24 * GB
    assert choose(case(LLAMA_31_8B, processes=1, room=24 * GB)).strategy == "single"


def test_zero_3_is_taken_where_the_copy_fits_and_the_training_does_not() -> None:
    assert choose(case(LLAMA_2_70B, processes=8, room=45 * GB)).strategy == "zero3"
    assert choose(case(LLAMA_2_70B, processes=8, room=80 * GB)).strategy == "ddp"


def test_a_smaller_micro_batch_is_tried_before_it_is_refused() -> None:
    roomy, tight = (choose(case(LLAMA_31_8B, processes=1, room=room * GB)) for room in (48, 12))
    assert (roomy.micro_batch_size, tight.micro_batch_size) == (8, 2)


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    said = r"m under \w+ takes [\d.]+ GiB .*, and a GPU of type a10g is 22\.4 GiB; what would fit: resources\.gpu: a100"
    with pytest.raises(BadConfig, match=said):
        choose(case(LLAMA_2_70B, processes=2, room=24 * GB, device="a10g"))
    many = {"micro_batch_size": 16, "global_batch_size": 16}
    with pytest.raises(BadConfig, match=r"what would fit: train\.micro_batch_size: \d+"):
        choose(case(LLAMA_31_8B, processes=1, room=10 * GB, train=many))


def test_a_recipe_that_zero_3_cannot_compute_is_not_given_it() -> None:
    with pytest.raises(BadConfig, match=r"ZeRO-3, but train\.optimizer \(adamw_8bit\)|lora\.dora"):
        choose(case(LLAMA_2_70B, processes=8, room=45 * GB, train={"optimizer": "adamw_8bit"}))


def test_types_of_gpus_are_known_by_the_names_of_configs_and_of_the_driver() -> None:
    named = {"h100": "NVIDIA H100 80GB HBM3", "a100-80gb": "NVIDIA A100-SXM4-80GB", "l4": "NVIDIA L4"}
    for name, driver in named.items():
        found, known = gpu_named(driver), gpu_named(name)
        assert found is not None
        assert found == known
    assert gpu_named("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None
    with pytest.raises(BadConfig, match=r"resources\.gpu \(h1000\) is no type that is known here; known are b200, "):
        machine_of(config(resources={"gpus": 1, "gpu": "h1000"}))


def test_hours_and_cost_follow_from_tokens_and_rate() -> None:
    limits = Limits(price_per_hour=2.0, max_cost=10, max_hours=1)
    bill = bill_of(Amount(100, 7_200_000), Throughput(1000, "given"), 2, limits, on_gpu=True)
    assert (bill.hours, bill.cost) == (1.0, 4.0)
    assert exceeded(bill, limits) == []
    slower = bill_of(Amount(100, 7_200_000), Throughput(100, "given"), 2, limits, on_gpu=True)
    assert exceeded(slower, limits) == [
        "10 h is more than limits.max_hours (1 h)", "40 USD is more than limits.max_cost (10 USD)"
    ]  # fmt: skip
    unknown = bill_of(Amount(1, 1), None, 1, limits, on_gpu=True)
    assert exceeded(unknown, limits)[0] == "limits.max_hours is 1 h, and what it takes is not known"


def test_the_rate_is_learned_from_like_trainings_else_from_the_same_base() -> None:
    run = Run("m", "l4", "single", 512, 100.0, "2026-01-01")
    runs = [run, replace(run, tokens_per_second=300.0), replace(run, tokens_per_second=200.0), replace(run, base="n")]
    alike = learned(runs, base="m", device="l4", strategy="single", max_length=512)
    assert alike == Throughput(200.0, "learned from the last 3 trainings (median) of m on l4")
    other = learned(runs[:1], base="m", device="l4", strategy="ddp", max_length=512)
    assert other is not None
    assert other.source.endswith("under another strategy or with rows of another length")
    assert learned(runs, base="m", device="h100", strategy="single", max_length=512) is None
    assert derived("cpu", 1.0) is None
    rate = derived("a100", 4 * 8.03e9)
    assert rate is not None
    assert 1_500 < rate.tokens_per_second < 2_500


@pytest.mark.usefixtures("no_gpu")
def test_the_job_reads_the_audit_and_asks_beyond_a_limit(
    lake: Lake, tiny_model: Path, recipe: Any, published: Any, tmp_path: Path
) -> None:
    published(lake, tmp_path / "rows", train=range(40), test=range(100, 110))
    with pytest.raises(BadData, match=r"its rows were not audited for .* run llmjobs.training.audit first"):
        estimate.run(recipe(tiny_model))
    audited = audit.run(recipe(tiny_model))
    before = time.process_time()
    found = estimate.run(recipe(tiny_model))
    assert time.process_time() - before < 2
    assert (found.device, found.strategy, found.processes, found.micro_batch_size) == ("cpu", "ddp", 1, 4)
    assert (found.steps, found.tokens) == (12, round(audited.tokens_per_epoch * 12 / 5))
    assert (found.hours, found.verdict) == (None, "within")
    assert "base, linear layers" in found.summary
    limited = estimate.run(
        recipe(tiny_model, limits={"max_cost": 0.0001, "price_per_hour": 3.6, "tokens_per_second": 10})
    )
    assert limited.verdict == "ask"
    assert limited.cost == pytest.approx(limited.tokens / 10 / 1000)
    assert "is more than limits.max_cost" in limited.sentence


@pytest.mark.usefixtures("no_gpu")
def test_too_little_memory_is_refused_before_anything_is_trained(
    lake: Lake, tiny_model: Path, recipe: Any, published: Any, tmp_path: Path
) -> None:
    published(lake, tmp_path / "rows", train=range(40), test=range(100, 110))
    small = recipe(tiny_model, resources={"memory_gib": 0.5})
    audit.run(small)
    with pytest.raises(
        BadConfig, match=r"resources\.memory_gib \(0\.5\) is 0\.5 GiB; what would fit: resources\.memory_gib: 1"
    ):
        estimate.run(small)


@pytest.mark.usefixtures("no_gpu")
def test_a_sweep_is_the_sum_of_its_candidates(
    lake: Lake, tiny_model: Path, recipe: Any, published: Any, tmp_path: Path
) -> None:
    published(lake, tmp_path / "rows", train=range(40), test=range(100, 110), ranked=True)
    by_epochs = {"max_steps": None, "epochs": 2}
    one = recipe(tiny_model, train=by_epochs)
    audit.run(one)
    alone = estimate.run(one)
    swept = estimate.run(recipe(tiny_model, train=by_epochs, sweep={"fractions": [0.5, 1.0]}))
    assert (alone.adapters, swept.adapters) == (1, 2)
    assert swept.tokens == pytest.approx(1.5 * alone.tokens, rel=0.01)
    assert (alone.steps, swept.steps) == (10, 16)
    ranks = estimate.run(recipe(tiny_model, train=by_epochs, sweep={"ranks": [2, 64], "learning_rates": [0.01, 0.02]}))
    assert (ranks.adapters, ranks.tokens, ranks.steps) == (4, 4 * alone.tokens, 40)
    assert ranks.peak_bytes > alone.peak_bytes, "the largest rank must fit"


def test_limits_change_no_adapter() -> None:
    plain, limited = config(), config(limits={"max_hours": 1})
    assert plain.adapter_version("d", "b") == limited.adapter_version("d", "b")
    with pytest.raises(BadConfig, match=r"max_cost \(5 USD\) needs price_per_hour"):
        config(limits={"max_cost": 5})
