"""The sizes of a base, read from its folder without loading it. Pure: no torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadConfig

NORMS = {
    "llama": 2, "mistral": 2, "qwen2": 2, "qwen3": 2, "phi3": 2, "smollm3": 2, "olmo2": 2, "gemma": 2, "gemma2": 4,
    "gemma3_text": 4,
}  # fmt: skip
"""Family -> norms of the width of the model in each layer. These are the families that are known well enough."""

_NORMED_HEADS = {"qwen3", "olmo2", "gemma3_text"}
_BIASED_QUERIES = {"qwen2"}
_FUSED = {"phi3"}
_ENTRY_BYTES = 8
_SHARDS = "model.safetensors.index.json"


@dataclass(frozen=True)
class LinearShape:
    """Linear layers of one name and size: ``count`` of them, each ``outputs x inputs``."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def parameters(self) -> int:
        """Weights of all of them."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class ModelShape:
    """The sizes that memory and operations follow from.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream.
        intermediate: Width inside the feed-forward part.
        heads: Of the queries; ``key_value_heads`` those of keys and values, each ``head_dim`` wide.
        vocabulary: Rows of the embedding.
        tied_embeddings: Whether the output head is the embedding.
        linears: The layers that are quantised and adapted; the output head is none of them.
        parameters: All of them.
        norms: Norms of the width `hidden` in each layer.
        normed_heads: Whether queries and keys have norms of their own.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    tied_embeddings: bool
    linears: tuple[LinearShape, ...]
    parameters: int
    norms: int = 2
    normed_heads: bool = False

    @property
    def linear_parameters(self) -> int:
        """Weights of `linears`."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Embedding and, where it is not the same, the output head."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def other_parameters(self) -> int:
        """Norms and biases."""
        return self.parameters - self.linear_parameters - self.embedding_parameters


def shape_of(folder: Path) -> ModelShape:
    """Return the sizes of a model: widths from ``config.json``, weights from the headers of its safetensors.

    Raises:
        BadConfig: The family is not known well enough, or the folder holds no such files.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise BadConfig(f"{folder}: no config.json is there, so its size cannot be told")
    derived = shape_from(json.loads(path.read_text(encoding="utf-8")), origin=str(path))
    tensors = _tensors(folder)
    counted = sum(math.prod(size) for size in tensors.values())
    if tensors and abs(counted / derived.parameters - 1) > 0.01:
        raise BadConfig(
            f"{path}: a {derived.layers}-layer model of these widths has {derived.parameters:,} weights, the "
            f"safetensors beside it have {counted:,}: the model is of another form than its family's, and its memory "
            "cannot be told"
        )
    return derived


def shape_from(config: Mapping[str, Any], *, origin: str) -> ModelShape:
    """Return the sizes that a ``config.json`` means.

    Args:
        config: Its values; of a model with a vision part those of the text part are taken.
        origin: For the sentence of an error.

    Raises:
        BadConfig: The family is not known well enough.
    """
    values = config.get("text_config", config)
    family = values.get("model_type", "")
    if family not in NORMS:
        raise BadConfig(
            f"{origin}: how a model of the type {family or 'unknown'!r} is built is not known here, so its memory "
            f"cannot be told; known are {', '.join(NORMS)}"
        )
    hidden, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
    layers, inner = int(values["num_hidden_layers"]), int(values["intermediate_size"])
    kept = int(values.get("num_key_value_heads") or heads)
    width = int(values.get("head_dim") or hidden // heads)
    vocabulary, tied = int(values["vocab_size"]), bool(values.get("tie_word_embeddings", family.startswith("gemma")))
    linears = _linears(family, hidden, inner, queries=heads * width, kept=kept * width, layers=layers)
    norms = hidden * (NORMS[family] * layers + 1)
    if family in _NORMED_HEADS:
        norms += layers * ((heads + kept) * width if family == "olmo2" else 2 * width)
    biases = layers * (heads + 2 * kept) * width if family in _BIASED_QUERIES or values.get("attention_bias") else 0
    total = sum(linear.parameters for linear in linears) + vocabulary * hidden * (1 if tied else 2) + norms + biases
    return ModelShape(
        layers=layers, hidden=hidden, intermediate=inner, heads=heads, key_value_heads=kept, head_dim=width,
        vocabulary=vocabulary, tied_embeddings=tied, linears=linears, parameters=total, norms=NORMS[family],
        normed_heads=family in _NORMED_HEADS,
    )  # fmt: skip


def _linears(family: str, hidden: int, inner: int, *, queries: int, kept: int, layers: int) -> tuple[LinearShape, ...]:
    if family in _FUSED:
        sizes = [("qkv_proj", hidden, queries + 2 * kept), ("o_proj", queries, hidden)]
        sizes += [("gate_up_proj", hidden, 2 * inner), ("down_proj", inner, hidden)]
    else:
        sizes = [("q_proj", hidden, queries), ("k_proj", hidden, kept), ("v_proj", hidden, kept)]
        sizes += [("o_proj", queries, hidden), ("gate_proj", hidden, inner), ("up_proj", hidden, inner)]
        sizes += [("down_proj", inner, hidden)]
    return tuple(LinearShape(name, inputs, outputs, layers) for name, inputs, outputs in sizes)


def _tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return tensor -> size of all safetensors of a folder, from the headers alone; a tied head is not counted."""
    index = folder / _SHARDS
    names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    if index.is_file():
        names = sorted(Counter(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        with (folder / name).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(_ENTRY_BYTES), "little")))
        header.pop("__metadata__", None)
        found |= {tensor: tuple(entry["shape"]) for tensor, entry in header.items()}
    return {tensor: size for tensor, size in found.items() if not tensor.startswith(("vision", "model.vision"))}
