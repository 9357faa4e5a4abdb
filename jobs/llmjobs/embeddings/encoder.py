"""Text to unit vectors on torch.

`BertEncoder` computes a BERT encoder with torch alone. Importing sentence-transformers 6.2 takes about 20 CPU seconds,
torch 2.13 about 4: every shard and every question would pay the difference. A test holds its vectors to those of
sentence-transformers. `SentenceTransformerEncoder` takes every other model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmjobs.embeddings.embedders.tokens import load_tokenizer
from llmjobs.embeddings.model import Layout, Usage, Vectors, checked

if TYPE_CHECKING:
    import torch

PROCESSOR_TOKENS = 512
"""Most tokens of a forward pass on a processor: what one layer leaves is still in the core's cache for the next.

Measured on MiniLM, bfloat16, one core of an AMD EPYC with 1 MiB of L2: the widest layer and its GELU reach 190 GFLOP/s
at 256 tokens, 170 at 512 and 127 at 1,024."""


def sorted_batches(lengths: list[int], texts: int, tokens: int) -> Iterator[list[int]]:
    """Yield the positions of `lengths` in batches, the longest first.

    Texts of like length share a batch, so little is padded; the longest first, so memory runs out at once or never.

    Args:
        lengths: Tokens of each text.
        texts: Most texts of a batch.
        tokens: Most tokens of a batch, padding included; a longer text is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        room = tokens // max(lengths[order[start]], 1)
        size = max(1, min(texts, room))
        yield order[start : start + size]
        start += size


class BertEncoder:
    """A BERT encoder (Devlin et al. 2018, post-norm, learnt positions, exact GELU) with mean or CLS pooling.

    Args:
        path: Folder with config.json, tokenizer.json and model.safetensors.
        layout: See `Layout`.
        dtype: ``float32`` or ``bfloat16``; pooling is float32 either way.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        batch_size: Most texts of one forward pass.
        batch_tokens: Most tokens of one forward pass; on a processor `PROCESSOR_TOKENS` where that is less.
        dimensions: First so many of a vector's.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        dtype: str,
        device: str,
        batch_size: int,
        batch_tokens: int,
        dimensions: int,
    ) -> None:
        """Load the weights."""
        import torch

        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        self._device = torch.device(device_of(device))
        self._dtype = getattr(torch, dtype)
        # Only products of matrices are rounded. What passes from layer to layer stays float32: it costs nothing that
        # can be measured, and of the distance to float32's vectors a third is gone.
        weights = {
            name.removeprefix("bert."): tensor.to(self._device, self._dtype if _is_product(name) else torch.float32)
            for name, tensor in _read_weights(path).items()
            if tensor.is_floating_point()
        }
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]
        self._weights = _fused(weights, self._layers)
        self._tokenizer = load_tokenizer(str(path / "tokenizer.json"))
        self._tokenizer.enable_truncation(layout.max_tokens)
        self._layout = layout
        self._batch_size = batch_size
        on_processor = self._device.type == "cpu"
        self._batch_tokens = min(batch_tokens, PROCESSOR_TOKENS) if on_processor else batch_tokens
        self._dimensions = dimensions
        self._attention_dtype = torch.float32 if on_processor else self._dtype
        self._packed = _packed(self._weights, self._batch_tokens) if on_processor and dtype == "bfloat16" else {}
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """See `Encoder`."""
        return self._usage

    def encode(self, texts: list[str]) -> Vectors:
        """See `Encoder`."""
        import torch

        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        batches = list(sorted_batches([len(one) for one in ids], self._batch_size, self._batch_tokens))
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                vectors[batch] = self._forward([ids[position] for position in batch]).cpu().numpy()
        seconds = time.perf_counter() - started
        self._usage = self._usage.plus(len(batches), sum(len(one) for one in ids), 0.0, seconds)
        return checked(vectors)

    def _forward(self, ids: list[list[int]]) -> torch.Tensor:
        """Return unit vectors, (texts, dimensions), of token ids whose first text is the longest."""
        import torch
        from torch.nn import functional

        longest = len(ids[0])
        tokens = torch.tensor([one + [0] * (longest - len(one)) for one in ids], device=self._device)
        lengths = torch.tensor([len(one) for one in ids], device=self._device)
        mask = torch.arange(longest, device=self._device)[None] < lengths[:, None]  # (texts, tokens)
        hidden = self._embed(tokens)
        # Texts of one length need no mask, and attention without one takes a faster kernel.
        hide = None if len(ids[-1]) == longest else self._hiding(mask)
        for layer in range(self._layers):
            hidden = self._layer(hidden, hide, f"encoder.layer.{layer}.")
        pooled = self._pool(hidden.float(), mask)[:, : self._dimensions]
        return functional.normalize(pooled, dim=-1)

    def _hiding(self, mask: torch.Tensor) -> torch.Tensor:
        """Return what is added to the attention's scores, (texts, 1, 1, tokens): 0, or -inf at padding."""
        import torch

        zeros = torch.zeros(mask.shape, dtype=self._attention_dtype, device=self._device)
        return zeros.masked_fill_(~mask, float("-inf"))[:, None, None]

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Reduce (texts, tokens, dimensions) to (texts, dimensions)."""
        if self._layout.pooling == "cls":
            return hidden[:, 0]
        shown = mask[..., None].to(hidden.dtype)
        return (hidden * shown).sum(1) / shown.sum(1)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the first hidden states, (texts, tokens, dimensions)."""
        from torch.nn import functional

        words = functional.embedding(tokens, self._weights["embeddings.word_embeddings.weight"])
        positions = self._weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        kind = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + positions + kind, "embeddings.LayerNorm")

    def _layer(self, hidden: torch.Tensor, hide: torch.Tensor | None, name: str) -> torch.Tensor:
        from torch.nn import functional

        # On a processor torch's attention is slower in bfloat16 than in float32 (2.13, AVX512-BF16; 8% of the whole).
        parts = self._linear(hidden, f"{name}attention.self.qkv").to(self._attention_dtype)
        parts = parts.unflatten(-1, (3, self._heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (texts, heads, tokens, dimensions of a head)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=hide).transpose(1, 2).flatten(2)
        hidden = self._norm(
            hidden + self._linear(mixed, f"{name}attention.output.dense"), f"{name}attention.output.LayerNorm"
        )
        wide = self._linear(hidden, f"{name}intermediate.dense", gelu=True)
        return self._norm(hidden + self._linear(wide, f"{name}output.dense"), f"{name}output.LayerNorm")

    def _linear(self, hidden: torch.Tensor, name: str, *, gelu: bool = False) -> torch.Tensor:
        import torch
        from torch.nn import functional

        hidden, bias = hidden.to(self._dtype), self._weights[f"{name}.bias"]
        if name in self._packed:
            after = "gelu" if gelu else "none"
            return torch.ops.mkldnn._linear_pointwise(hidden, self._packed[name], bias, after, [], "none")  # noqa: SLF001
        product = functional.linear(hidden, self._weights[f"{name}.weight"], bias)
        return functional.gelu(product) if gelu else product

    def _norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(hidden.float(), weight.shape, weight, bias, self._epsilon)


class SentenceTransformerEncoder:
    """Any other model, through sentence-transformers; remote code stays off.

    Args:
        path: Model folder.
        layout: See `Layout`.
        dtype: ``float32`` or ``bfloat16``.
        device: ``cpu``, ``cuda``, or ``auto`` for the library's choice.
        batch_size: Texts of one forward pass; the library sorts by length itself.
        batch_tokens: Most tokens of a forward pass: fewer texts share one where they may be long.
        dimensions: First so many of a vector's.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        dtype: str,
        device: str,
        batch_size: int,
        batch_tokens: int,
        dimensions: int,
    ) -> None:
        """Load the weights."""
        import torch
        from sentence_transformers import SentenceTransformer

        options: dict[str, Any] = {"torch_dtype": getattr(torch, dtype)}
        self._model = SentenceTransformer(
            str(path), device=device_of(device), trust_remote_code=False, model_kwargs=options
        )
        self._model.max_seq_length = layout.max_tokens
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._dimensions = dimensions
        self._tokenizer = load_tokenizer(str(path / "tokenizer.json"))
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """See `Encoder`."""
        return self._usage

    def encode(self, texts: list[str]) -> Vectors:
        """See `Encoder`."""
        lengths = [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        started = time.perf_counter()
        batches = list(sorted_batches(lengths, self._batch_size, self._batch_tokens))
        for batch in batches:
            found = self._model.encode(
                [texts[position] for position in batch], batch_size=len(batch), show_progress_bar=False
            )
            vectors[batch] = np.asarray(found, dtype=np.float32)[:, : self._dimensions]
        self._usage = self._usage.plus(len(batches), sum(lengths), 0.0, time.perf_counter() - started)
        return checked(vectors)


def device_of(wanted: str) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises:
        BadConfig: A GPU is asked for and there is none.
    """
    import torch

    from llmjobs.contracts.errors import BadConfig

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise BadConfig("embedder.device is cuda, but torch finds no GPU here: set it to auto or cpu")
    return "cuda" if there and wanted != "cpu" else "cpu"


def _packed(weights: dict[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
    """Return the layers' matrices in the order that oneDNN wants them in, or nothing where torch lacks the operator.

    `functional.linear` brings them into that order in every call, and GELU would pass over memory once more: 14 to
    19% less throughput (torch 2.13, which is pinned; its compiler emits the same operators).
    """
    import torch

    operators = torch.ops.mkldnn
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    if not all(hasattr(operators, name) for name in names) or not operators._is_mkldnn_bf16_supported():  # noqa: SLF001
        return {}
    return {
        name.removesuffix(".weight"): operators._reorder_linear_weight(tensor.contiguous(), tokens)  # noqa: SLF001
        for name, tensor in weights.items()
        if name.startswith("encoder.") and name.endswith(".weight") and tensor.ndim == 2
    }


def _is_product(name: str) -> bool:
    return "LayerNorm" not in name and ".embeddings." not in f".{name}"


def _fused(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Return the weights with query, key and value of each layer as one product, ``attention.self.qkv``."""
    import torch

    for layer in range(layers):
        name = f"encoder.layer.{layer}.attention.self."
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"{name}{part}.{kind}") for part in ("query", "key", "value")]
            weights[f"{name}qkv.{kind}"] = torch.cat(parts)
    return weights


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")
