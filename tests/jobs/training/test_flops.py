"""Operations of a step beside those that torch counts in real layers."""

from __future__ import annotations

from typing import Any

import pytest

from llmjobs.contracts.recipe import Lora
from llmjobs.training.estimating.flops import flops_per_token
from llmjobs.training.estimating.shapes import shape_from
from tests.benchmarks.memory import LLAMA_31_8B


def test_a_frozen_base_takes_two_thirds_of_a_full_training() -> None:
    shape = shape_from(LLAMA_31_8B, origin="test")
    found = flops_per_token(shape, Lora(r=16), tokens_per_row=1)
    computed = shape.parameters - shape.embedding_parameters / 2
    assert found == pytest.approx(4 * computed + 6 * 41.9e6, rel=0.001)


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
