"""Operations of a step beside those that torch counts in real layers."""

from __future__ import annotations

from typing import Any

import pytest

from llmjobs.contracts.recipe import Lora
from llmjobs.training.estimating.flops import flops_per_token, step_flops
from llmjobs.training.estimating.shapes import shape_from
from llmjobs.training.rates import STEP_ANSWERS, STEP_SQUARES, STEP_TOKENS, Rates
from tests.benchmarks.memory import LLAMA_31_8B

LOGGED = {STEP_TOKENS: 1000.0, STEP_ANSWERS: 400.0, STEP_SQUARES: 260_000.0}


def test_a_frozen_base_takes_two_thirds_of_a_full_training() -> None:
    shape = shape_from(LLAMA_31_8B, origin="test")
    found = flops_per_token(shape, Lora(r=16), tokens_per_row=1)
    computed = shape.parameters - shape.embedding_parameters / 2
    assert found == pytest.approx(4 * computed + 6 * 41.9e6, rel=0.001)


def test_tokens_without_a_loss_need_no_logits() -> None:
    shape, lora = shape_from(LLAMA_31_8B, origin="test"), Lora(r=16)
    all_of_them = step_flops(shape, lora, tokens=1000, answers=1000, squares=260_000)
    assert all_of_them == pytest.approx(1000 * flops_per_token(shape, lora, tokens_per_row=260))
    some = step_flops(shape, lora, tokens=1000, answers=400, squares=260_000)
    assert all_of_them - some == 4 * 128_256 * 4096 * 600


def test_rates_are_those_of_one_device() -> None:
    shape, lora = shape_from(LLAMA_31_8B, origin="test"), Lora(r=16)
    flops = step_flops(shape, lora, tokens=1000, answers=400, squares=260_000)
    found = Rates(devices=2, lora=lora, shape=shape, peak_flops=1e14).of_step(LOGGED, 0.5)
    assert found == pytest.approx(
        {"tokens_per_second_per_device": 1000.0, "tflops_per_device": flops / 1e12, "mfu": flops / 1e14}
    )


def test_what_is_not_known_is_left_out() -> None:
    lora = Lora(r=16)
    unknown = Rates(devices=1, lora=lora, shape=None, peak_flops=1e14).of_step(LOGGED, 2.0)
    assert unknown == {"tokens_per_second_per_device": 500.0}
    no_peak = Rates(devices=1, lora=lora, shape=shape_from(LLAMA_31_8B, origin="test"), peak_flops=None)
    assert set(no_peak.of_step(LOGGED, 2.0)) == {"tokens_per_second_per_device", "tflops_per_device"}


def test_torch_counts_the_same_in_a_real_model() -> None:
    import torch
    from peft import get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmjobs.training.base_model import adapter_config, quiet_libraries

    quiet_libraries()
    values: dict[str, Any] = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    lora, tokens = Lora(r=8, dropout=0.0), 64
    # Eager attention: what a fused kernel on a CPU computes is not counted.
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), attn_implementation="eager")
    model = get_peft_model(model, adapter_config(lora, model))
    # The first layer's input needs no gradient; it is asked for one, so that every layer is like the others.
    model.enable_input_require_grads()
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    # What is computed eagerly is not halved by causality.
    whole = flops_per_token(shape_from(values, origin="test"), lora, tokens_per_row=2 * tokens)
    assert counter.get_total_flops() / tokens == pytest.approx(whole, rel=0.02)
