"""Loads the frozen base and puts an adapter on it. Everything here needs torch."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.recipe import Lora, Model, Quantisation

logger = logging.getLogger(__name__)

NOT_SERVED = "lora.dora: vLLM does not serve such an adapter; merge it into the base to serve it"


def quiet_libraries() -> None:
    """Keep progress bars and known noise of the libraries out of the job's log."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # bitsandbytes 0.50.2 tells about an optional kernel package that is not used here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # peft 0.21.2 asks transformers 5.23 by a name that is deprecated there.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")


def load_base(path: str, model: Model, quantisation: Quantisation, *, device: str | None) -> Any:
    """Return the base as a causal language model, quantised if so configured, ready to train adapters on.

    Args:
        path: Folder of the resolved model.
        model: Number format and attention.
        quantisation: Storage of the linear layers.
        device: ``cpu``, ``cuda:0``, ... or None where the strategy itself places the weights (ZeRO-3).
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, model.dtype)
    base = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        quantization_config=_quantisation_config(quantisation, dtype),
        attn_implementation=model.attention,
        device_map=None if device is None else {"": device},
        trust_remote_code=False,
        use_safetensors=True,
    )
    base.config.use_cache = False
    keep_gradients_after_evaluation(base)
    return base


def _quantisation_config(quantisation: Quantisation, dtype: Any) -> Any:
    if quantisation.type == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantisation.type,
        bnb_4bit_use_double_quant=quantisation.double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=quantisation.storage,
    )


def keep_gradients_after_evaluation(model: Any) -> int:
    """Keep every 4-bit layer on the path that has gradients; return how many layers there are.

    Workaround for bitsandbytes 0.50.2 (`nn/modules.py`, `Linear4bit.forward`): on a CPU with AVX512-BF16 the first
    forward in evaluation mode repacks the weights for an inference kernel without autograd. From then on
    the loss stays right while the gradients through frozen layers are silently gone. Guarded by
    tests/invariants/test_gradients_after_evaluation.py; remove when that passes without it.
    """
    import bitsandbytes as bnb

    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def adapter_config(lora: Lora, base: Any) -> Any:
    """Return peft's form of the adapter's settings.

    Args:
        lora: The recipe's part.
        base: The model that the adapter is for.

    Raises:
        BadConfig: The base has no such layers.
    """
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=lora.target if lora.target == "all-linear" else _existing(lora.target, base),
        bias="none",
    )


def _existing(target: tuple[str, ...], base: Any) -> list[str]:
    """Return the targeted names if each is the last part of a linear layer's; peft itself looks for one hit in all."""
    from torch import nn

    linear = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    known = sorted({name.rsplit(".", 1)[-1] for name in linear} - {"lm_head"})
    absent = sorted(set(target) - set(known))
    if absent:
        raise BadConfig(f"lora.target: the base has no linear layer {', '.join(absent)}; it has {', '.join(known)}")
    return list(target)
