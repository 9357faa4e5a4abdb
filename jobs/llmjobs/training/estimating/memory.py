"""Memory and disk of a training, part by part, from sizes alone. Pure: no torch.

The parts are those of our own trainer: a frozen base in 4 or 16 bits, an adapter in float32 whose matrices are
multiplied in bfloat16 (autocast), activations as transformers' and peft's layers keep them for the backward pass.
What a layer keeps was read off with saved-tensor hooks; `tests/benchmarks/memory.py` holds every part against something
that this module does not compute. Storage of 4-bit weights: QLoRA (arXiv:2305.14314), section 3; what ZeRO shards:
arXiv:1910.02054.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llmjobs.contracts.recipe import Lora, Quantisation
from llmjobs.contracts.training import TrainConfig
from llmjobs.training.estimating.shapes import LinearShape, ModelShape
from llmjobs.training.sharding import Strategy

_BLOCK, _NESTED_BLOCK = 64, 256
_TABLES = 4 * 16 + 4 * 256 + 4
_FLOAT32 = 4
_ADAM_BYTES = {"adamw_torch": 8.0, "adamw_8bit": 2.0 + 2 * _FLOAT32 / 256, "paged_adamw_8bit": 2.0 + 2 * _FLOAT32 / 256}
_BUCKET_ELEMENTS = {True: 50_000_000, False: 1_000_000}

_FUSED_TILE_BYTES = 4096 * 8192 * 4
"""TRL 1.16 computes the head by tiles of 4,096 tokens, a part of the vocabulary wide (kernels/chunked_logprob.py)."""

CONTEXT_BYTES = 500_000_000
"""Of CUDA and cuBLAS on each GPU: 0.4 to 0.6 GB by driver and GPU. Not measured here."""

FRAGMENTATION = 0.05
"""Share of a GPU's other parts that the caching allocator cannot hand out. An allowance; not measured here."""

LIBRARIES_BYTES = 1_050_000_000
"""Resident memory of a training process on a CPU before the base is there: torch, transformers, trl, peft, datasets."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process: in a GPU's memory where it has one, else in main memory.

    Attributes:
        load: Part -> bytes while the base is loaded.
        training: Part -> bytes at the peak of a step.
        host_bytes: In main memory besides, of what is offloaded.
    """

    load: dict[str, int] = field(default_factory=dict)
    training: dict[str, int] = field(default_factory=dict)
    host_bytes: int = 0

    @property
    def load_peak_bytes(self) -> int:
        """All parts at load."""
        return sum(self.load.values())

    @property
    def training_peak_bytes(self) -> int:
        """All parts of a step."""
        return sum(self.training.values())


def memory_of(
    config: TrainConfig,
    shape: ModelShape,
    *,
    strategy: Strategy,
    processes: int,
    micro_batch_size: int,
    longest_tokens: int,
    on_gpu: bool,
    fused_head: bool | None = None,
) -> MemoryEstimate:
    """Return what one process of a training takes.

    Args:
        config: The recipe.
        shape: The base.
        strategy: How the processes share.
        processes: Over all machines.
        micro_batch_size: Rows, or packs, that a process computes at once.
        longest_tokens: Of a row; with packing the length of a pack counts, `data.max_length_tokens`.
        on_gpu: Whether each process has a GPU.
        fused_head: Whether the logits are never there as a whole; None: as our trainer has it, on a GPU they are not.
    """
    stage = int(strategy[-1]) if strategy.startswith("zero") else 0
    bf16 = config.model.dtype == "bfloat16"
    length = config.data.max_length_tokens if config.data.packing == "bfd" else longest_tokens
    tokens = micro_batch_size * length
    linear = linear_bytes(shape, config.quantisation, bf16=bf16)
    dense = (shape.embedding_parameters + shape.other_parameters) * _width(bf16)
    base = {"base, linear layers": linear, "base, embeddings, head and norms": dense}
    adapter = adapter_parameters(shape, config.lora)
    states, host = _states(config, adapter, stage, processes, on_gpu=on_gpu, bf16=bf16)
    shared = processes if stage == 3 else 1
    training = {part: size // shared for part, size in base.items()} | states
    if shared > 1:
        training["gathered layers"] = 2 * (linear // shape.layers) + shape.embedding_parameters * _width(bf16)
    training |= _activations(config, shape, tokens, length, on_gpu=on_gpu, bf16=bf16)
    training |= _head(shape, tokens, fused=on_gpu if fused_head is None else fused_head, bf16=bf16)
    load = base | {"a layer before it is quantised": _largest(shape.linears).parameters * _width(bf16)}
    return MemoryEstimate(_allowed(load, on_gpu=on_gpu), _allowed(training, on_gpu=on_gpu), host)


def disk_of(config: TrainConfig, shape: ModelShape) -> dict[str, int]:
    """Return what a training leaves on the disk: part -> bytes. The frozen base is in no checkpoint."""
    adapter = adapter_parameters(shape, config.lora)
    state = adapter * (_FLOAT32 + _ADAM_BYTES[config.train.optimizer])
    # One more is written aside before the oldest goes.
    kept = config.checkpoint.keep_last + 1 + config.publishes_best
    return {f"checkpoints ({kept})": int(kept * state), "adapter": adapter * _FLOAT32}


def linear_bytes(shape: ModelShape, quantisation: Quantisation, *, bf16: bool) -> int:
    """Return the bytes of the base's linear layers with the constants of their quantisation (bitsandbytes 0.50)."""
    if quantisation.type == "none":
        return shape.linear_parameters * _width(bf16)
    return sum(one.count * _quantised(one.inputs * one.outputs, double=quantisation.double) for one in shape.linears)


def _quantised(weights: int, *, double: bool) -> int:
    """Return the bytes of one layer in 4 bits: a constant for 64 weights, in 8 bits with constants of its own."""
    blocks = -(-weights // _BLOCK)
    if not double:
        return -(-weights // 2) + _FLOAT32 * blocks + _FLOAT32 * 16
    return -(-weights // 2) + blocks + _FLOAT32 * -(-blocks // _NESTED_BLOCK) + _TABLES


def adapted(shape: ModelShape, lora: Lora) -> list[LinearShape]:
    """Return the linear layers that the adapter is put on."""
    return [one for one in shape.linears if lora.target == "all-linear" or one.name in lora.target]


def adapter_parameters(shape: ModelShape, lora: Lora) -> int:
    """Return the weights of the adapter: r columns and rows for each layer; with DoRA a magnitude an output besides."""
    return sum(
        one.count * (lora.r * (one.inputs + one.outputs) + (one.outputs if lora.dora else 0))
        for one in adapted(shape, lora)
    )


def _states(
    config: TrainConfig, adapter: int, stage: int, processes: int, *, on_gpu: bool, bf16: bool
) -> tuple[dict[str, int], int]:
    """Return the parts of the adapter and its optimiser, and the bytes that are offloaded."""
    adam = _ADAM_BYTES[config.train.optimizer]
    if not stage:
        buckets = adapter * _FLOAT32 if processes > 1 else 0
        copies = adapter * 2 if bf16 else 0
        parts = {
            "adapter": adapter * _FLOAT32 + copies,
            "gradients": adapter * _FLOAT32 + buckets,
            "optimiser": int(adapter * adam),
        }
        return parts, 0
    # DeepSpeed keeps the adapter in the model's format and a float32 master of each process' share.
    width = _width(bf16)
    masters = adapter * (_FLOAT32 if bf16 else 0)
    state = int((masters + adapter * adam) / processes)
    bucket = min(adapter, _BUCKET_ELEMENTS[on_gpu]) * width
    parts = {
        "adapter": adapter * width // (processes if stage == 3 else 1),
        "gradients": adapter * width // (processes if stage > 1 else 1) + bucket,
    }
    if config.dist.offload == "cpu":
        return parts, state + adapter * _FLOAT32 // processes
    return parts | {"optimiser": state}, 0


def _layer_bytes_a_token(
    config: TrainConfig, shape: ModelShape, length: int, *, on_gpu: bool, bf16: bool = True
) -> float:
    """Return what one decoder layer keeps of each token for the backward pass."""
    width, lora = _width(bf16), config.lora
    queries, kept = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    norms = shape.norms * (shape.hidden + 1) * _FLOAT32
    if shape.normed_heads:
        norms += (queries + kept) * _FLOAT32
    attention = width * (2 * queries + 2 * kept) + _FLOAT32 * shape.heads
    if config.model.attention == "eager":
        attention += shape.heads * length * (width + _FLOAT32)
    gated = width * 3 * shape.intermediate
    layers = adapted(shape, lora)
    inputs = sum(one.inputs for one in layers)
    # Each adapted layer casts its input to the adapter's format and back; with dropout it keeps a mask, too.
    adapters = width * (inputs + lora.r * len(layers)) + (inputs * (1 if on_gpu else _FLOAT32) if lora.dropout else 0)
    if lora.dora:
        adapters += width * sum(one.outputs for one in layers)
    return norms + attention + gated + adapters


def _activations(
    config: TrainConfig, shape: ModelShape, tokens: int, length: int, *, on_gpu: bool, bf16: bool
) -> dict[str, int]:
    layer = _layer_bytes_a_token(config, shape, length, on_gpu=on_gpu, bf16=bf16)
    chosen = config.train.activation_checkpointing
    recomputed = on_gpu if chosen is None else chosen
    stream = shape.hidden * _width(bf16)
    kept = shape.layers * (stream if recomputed else layer)
    # The backward pass of one layer: it is computed again, and the gradients of its widest part are there at once.
    backward = (layer if recomputed else 0) + 3 * _width(bf16) * shape.intermediate + _FLOAT32 * shape.hidden
    whole = 0 if config.quantisation.type == "none" else _largest(shape.linears).parameters * _width(bf16)
    return {
        "activations": int(tokens * (kept + (shape.hidden + 1) * _FLOAT32)),
        "one layer's backward pass": int(tokens * backward) + whole,
    }


def _head(shape: ModelShape, tokens: int, *, fused: bool, bf16: bool) -> dict[str, int]:
    if fused:
        return {"logits": _FUSED_TILE_BYTES + tokens * shape.hidden * 2 * _FLOAT32}
    # As the model gives them, in float32, their logarithms, and the gradient of these.
    return {"logits": tokens * shape.vocabulary * (_width(bf16) + 3 * _FLOAT32)}


def _allowed(parts: dict[str, int], *, on_gpu: bool) -> dict[str, int]:
    if not on_gpu:
        return parts | {"libraries": LIBRARIES_BYTES}
    return parts | {
        "CUDA context": CONTEXT_BYTES,
        "fragmentation (allowance)": math.ceil(sum(parts.values()) * FRAGMENTATION),
    }


def _largest(linears: tuple[LinearShape, ...]) -> LinearShape:
    """Return the largest single layer."""
    one = max(linears, key=lambda linear: linear.inputs * linear.outputs)
    return LinearShape(one.name, one.inputs, one.outputs, 1)


def _width(bf16: bool) -> int:
    """Return the bytes of a number in the model's format."""
    return 2 if bf16 else _FLOAT32
