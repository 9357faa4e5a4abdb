"""The estimate of a training's memory beside what it does not compute itself.

    python -m tests.benchmarks.memory

* tensor bytes: real transformers models of 8 and 70 thousand million weights without memory (meta device), and layers
  of every size that bitsandbytes itself quantised; the estimate may be off by 1%
* activations: what autograd saves in a forward pass of the real small model (saved-tensor hooks); 10%
* resident memory: the highest of a process that loads the real small model and trains it (VmHWM); 25%
* published peaks of other programs with the same form of training; 20%. Each is a line of its own: one that is missed
  stays missed, no constant was fitted to them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmjobs.contracts.recipe import Quantisation
from llmjobs.contracts.training import TrainConfig
from llmjobs.models import resolve_model
from llmjobs.training.estimating.memory import adapter_parameters, linear_bytes, memory_of
from llmjobs.training.estimating.shapes import ModelShape, shape_from, shape_of
from llmjobs.training.sharding import Strategy
from tests.benchmarks.figures import Figure, Skipped, report

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
EXACT, ACTIVATIONS, RESIDENT, PUBLISHED = 0.01, 0.10, 0.25, 0.20
GIGABYTE = 1e9
ROWS, TOKENS = 4, 256

LLAMA_2_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_31_8B = LLAMA_2_7B | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
LLAMA_2_70B = LLAMA_2_7B | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8,
}  # fmt: skip
QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": False,
}  # fmt: skip
LARGE = {"Llama 3.1 8B": LLAMA_31_8B, "Qwen 3 8B": QWEN3_8B, "Llama 2 70B": LLAMA_2_70B}

PEAKS: tuple[tuple[str, dict[str, Any], Strategy, int, int, float], ...] = (
    *(
        (
            f"Llama 2 7B, 4 bits, rank 8, FlashAttention 2, {length} tokens (LLaMA-Factory wiki, performance)",
            LLAMA_2_7B, "single", 1, length, peak,
        )
        for length, peak in ((1024, 6.0), (2048, 7.0), (4096, 9.0), (8192, 12.0))
    ),
    (
        "Llama 2 70B, 4 bits, rank 8, ZeRO-3 on 2 GPUs, the copy at load (PEFT, accelerate/deepspeed.md)",
        LLAMA_2_70B, "zero3", 2, 2048, 36.6,
    ),
)  # fmt: skip
"""Name, base, strategy, processes (and rows at once), tokens of a row, published peak in GB. These programs hold the
logits whole."""


def measure() -> Iterator[Figure | Skipped]:
    """Yield every comparison as the relative error of the estimate."""
    for name, values in LARGE.items():
        yield _error(f"weights of {name}, meta device", _estimated_weights(values), weights(values), EXACT)
    for double in (True, False):
        estimated, real = quantised(LLAMA_31_8B, double=double)
        yield _error(f"bytes of 4-bit layers, double quantisation {double}", estimated, real, EXACT)
    yield _error("weights of an adapter on Llama 3.1 8B, rank 16", *adapters(LLAMA_31_8B), EXACT)
    for dropout, recomputed in ((0.0, False), (0.05, False), (0.0, True)):
        estimated, real = saved(dropout=dropout, recomputed=recomputed)
        name = f"activations of {MODEL}, dropout {dropout}, recomputation {recomputed}"
        yield _error(name, estimated, real, ACTIVATIONS)
    estimated, real = resident()
    yield _error(f"peak resident memory, {MODEL}, {ROWS} rows of {TOKENS} tokens", estimated, real, RESIDENT)
    for name, values, strategy, processes, length, peak in PEAKS:
        found = memory_of(
            _config(r=8), shape_from(values, origin=name), strategy=strategy, processes=processes,
            micro_batch_size=processes, longest_tokens=length, on_gpu=True, fused_head=False,
        )  # fmt: skip
        highest = max(found.load_peak_bytes, found.training_peak_bytes)
        yield _error(name, highest, peak * GIGABYTE, PUBLISHED)


def _error(name: str, estimated: float, real: float, target: float) -> Figure:
    said = f"{estimated / GIGABYTE:.4g} estimated, {real / GIGABYTE:.4g} measured (GB or 10^9 weights)"
    return Figure(
        "training", f"memory estimate, {name}: {said}", round(abs(estimated / real - 1), 4), "", target=target
    )


def _config(*, r: int = 16, dropout: float = 0.0, recomputed: bool | None = None) -> TrainConfig:
    return TrainConfig.from_mapping(
        {
            "name": "memory", "dataset": "none", "model": MODEL, "lora": {"r": r, "alpha": r, "dropout": dropout},
            "data": {"max_length_tokens": TOKENS},
            "train": {"activation_checkpointing": recomputed, "global_batch_size": ROWS},
        },
        origin="benchmark",
    )  # fmt: skip


def _estimated_weights(values: dict[str, Any]) -> int:
    return shape_from(values, origin="benchmark").parameters


def on_meta(values: dict[str, Any]) -> Any:
    """Return a real model of these sizes without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**values)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def weights(values: dict[str, Any]) -> int:
    """Return the weights that transformers itself makes."""
    return sum(parameter.numel() for parameter in on_meta(values).parameters())


def adapters(values: dict[str, Any]) -> tuple[int, int]:
    """Return the weights of an adapter: estimated, and as peft makes it."""
    from peft import get_peft_model

    from llmjobs.training.base_model import adapter_config, quiet_libraries

    quiet_libraries()
    config = _config()
    model = on_meta(values)
    found = get_peft_model(model, adapter_config(config.lora, model), low_cpu_mem_usage=True)
    made = sum(parameter.numel() for parameter in found.parameters() if parameter.requires_grad)
    return adapter_parameters(shape_from(values, origin="benchmark"), config.lora), made


def quantised(values: dict[str, Any], *, double: bool) -> tuple[int, int]:
    """Return the bytes of one layer of each size: estimated, and of the tensors that bitsandbytes makes."""
    import torch
    from bitsandbytes.functional import quantize_4bit

    shape = shape_from(values, origin="benchmark")
    real = 0
    for one in shape.linears:
        packed, state = quantize_4bit(
            torch.zeros(one.outputs, one.inputs, dtype=torch.bfloat16), quant_type="nf4", compress_statistics=double
        )
        kept = [packed, state.absmax, state.code]
        if double:
            kept += [state.offset, state.state2.absmax, state.state2.code]
        real += one.count * sum(tensor.nbytes for tensor in kept)
    return linear_bytes(shape, Quantisation(double=double), bf16=True), real


def saved(*, dropout: float, recomputed: bool) -> tuple[int, int]:
    """Return the bytes that one forward pass of the small model keeps, without the head: estimated, and by hooks."""
    import torch
    from peft import get_peft_model
    from torch.autograd.graph import saved_tensors_hooks

    from llmjobs.contracts.recipe import Model
    from llmjobs.training.base_model import adapter_config, load_base, quiet_libraries

    quiet_libraries()
    config = _config(dropout=dropout, recomputed=recomputed)
    path = resolve_model(MODEL).path
    base = load_base(path, Model(name=MODEL), config.quantisation, device="cpu")
    model = get_peft_model(base, adapter_config(config.lora, base))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recomputed:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model.base_model.model.model(input_ids=torch.randint(0, 1000, (ROWS, TOKENS)), use_cache=False)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return _estimated_activations(config, shape_of(Path(path)), recomputed=recomputed), real


def _estimated_activations(config: TrainConfig, shape: ModelShape, *, recomputed: bool) -> int:
    found = memory_of(
        config, shape, strategy="single", processes=1, micro_batch_size=ROWS, longest_tokens=TOKENS, on_gpu=False
    )
    # The casts of the adapter are kept by its products; the estimate has them among the adapter.
    casts = 0 if recomputed else 2 * adapter_parameters(shape, config.lora)
    return found.training["activations"] + casts


def resident() -> tuple[int, int]:
    """Return the highest resident memory of a training of the small model: estimated, and as the kernel says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.memory", "resident"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the training failed:\n{done.stderr[-2_000:]}")
    real = int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])
    found = memory_of(
        _config(), shape_of(Path(resolve_model(MODEL).path)), strategy="single", processes=1, micro_batch_size=ROWS,
        longest_tokens=TOKENS, on_gpu=False,
    )  # fmt: skip
    return max(found.load_peak_bytes, found.training_peak_bytes), real


def train_small() -> None:
    """Train two steps of rows that are all answer, through our own trainer; print the peak."""
    from llmjobs.rendering import load_tokenizer
    from llmjobs.training.base_model import load_base, quiet_libraries
    from llmjobs.training.data.tokenisation import Tokenised, TokenRow, TrainingRows
    from llmjobs.training.sharding import layout_for
    from llmjobs.training.state.checkpoints import CheckpointStore
    from llmjobs.training.trainer import build_trainer, training_arguments

    quiet_libraries()
    config = _config().model_copy(update={"train": _config().train.model_copy(update={"max_steps": 2})})
    path = resolve_model(MODEL).path
    rows = [TokenRow(str(n), list(range(1000, 1000 + TOKENS)), list(range(1000, 1000 + TOKENS))) for n in range(8)]
    layout = layout_for(config, gpus=0, cores=2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            config, layout, rows=TrainingRows(load_tokenizer(path), Tokenised(rows, {}), []),
            arguments=training_arguments(config, layout, Path(folder)),
            base=load_base(path, config.model, config.quantisation, device="cpu"),
            store=CheckpointStore(Path(folder, "checkpoints"), layout.checkpoint_layout()), callbacks=[],
        )  # fmt: skip
        trainer.train()
    # What getrusage tells is not less than the memory of the process that started this one.
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    print(json.dumps({"peak_bytes": int(lines["VmHWM"].split()[0]) * 1024}))


if __name__ == "__main__":
    if sys.argv[1:] == ["resident"]:
        train_small()
    else:
        raise SystemExit(report(measure))
