"""An evaluation in the middle of a training leaves the gradients as they were.

On a CPU with AVX512-BF16 one evaluation made the gradients through frozen NF4 layers vanish while the loss stayed right
(bitsandbytes 0.50.2, see `llmjobs.training.base_model.keep_gradients_after_evaluation`). There this test fails
without the workaround; elsewhere it holds anyway.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmjobs.contracts.recipe import Lora, Model, Quantisation
from llmjobs.training.base_model import adapter_config, load_base

# peft 0.21.2 asks transformers 5.23 by a name that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random NF4 Llama with an adapter that has moved: gradients reach both of its matrices."""
    import torch
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    base = load_base(str(folder), Model(name="tiny"), Quantisation(), device="cpu")
    model = get_peft_model(base, adapter_config(Lora(r=4, dropout=0.0), base))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def gradients(model: Any, ids: Any) -> dict[str, float]:
    """Return the norm of each adapter tensor's gradient for one fixed batch."""
    import torch

    model.train()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=ids, labels=ids).loss.backward()
    return {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.requires_grad}


def test_gradients_are_the_same_after_an_evaluation(quantised: Any) -> None:
    import torch

    ids = torch.arange(48).reshape(2, 24)
    before = gradients(quantised, ids)
    assert min(before.values()) > 0
    quantised.eval()
    with torch.no_grad():
        loss = float(quantised(input_ids=ids, labels=ids).loss)
    assert loss > 0
    assert gradients(quantised, ids) == before


def test_every_quantised_layer_is_guarded(quantised: Any) -> None:
    import bitsandbytes as bnb

    layers = [module for module in quantised.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == 3 * 7
    assert {layer.support_avx512bf16_for_cpu for layer in layers} == {False}
