"""Text to unit vectors on torch.

`BertEncoder` computes a BERT encoder with torch alone. Importing sentence-transformers 6.2 takes about 20 CPU seconds,
torch 2.13 about 4: every shard and every question would pay the difference. A test holds its vectors to those of
sentence-transformers. `SentenceTransformerEncoder` takes every other model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmjobs.embeddings.model import Layout, Vectors

if TYPE_CHECKING:
    import torch


def sorted_batches(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Yield the positions of `lengths` in batches of `size`, the longest first.

    Texts of like length share a batch, so little is padded; the longest first, so memory runs out at once or never.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    for start in range(0, len(order), size):
        yield order[start : start + size]


class BertEncoder:
    """A BERT encoder (Devlin et al. 2018, post-norm, learnt positions, exact GELU) with mean or CLS pooling.

    Args:
        path: Folder with config.json, tokenizer.json and model.safetensors.
        layout: See `Layout`.
        dtype: ``float32`` or ``bfloat16``; pooling is float32 either way.
        batch_size: Texts of one forward pass.
    """

    def __init__(self, path: Path, layout: Layout, *, dtype: str, batch_size: int) -> None:
        """Load the weights onto the GPU when there is one, else the processor."""
        import torch

        from llmjobs.embeddings.chunker import load_tokenizer

        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = getattr(torch, dtype)
        self._weights = {
            name.removeprefix("bert."): tensor.to(self._device, self._dtype)
            for name, tensor in _read_weights(path).items()
            if tensor.is_floating_point()
        }
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]
        self._tokenizer = load_tokenizer(str(path / "tokenizer.json"))
        self._tokenizer.enable_truncation(layout.max_tokens)
        self._layout = layout
        self._batch_size = batch_size

    def encode(self, texts: list[str]) -> Vectors:
        """Return one unit vector a text, (texts, dimensions)."""
        import torch

        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        vectors = np.empty((len(texts), self._layout.dimensions), dtype=np.float32)
        with torch.inference_mode():
            for batch in sorted_batches([len(one) for one in ids], self._batch_size):
                vectors[batch] = self._forward([ids[position] for position in batch]).cpu().numpy()
        return vectors

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
        attend = None if bool(mask.all()) else mask[:, None, None]  # (texts, 1, 1, tokens)
        for layer in range(self._layers):
            hidden = self._layer(hidden, attend, f"encoder.layer.{layer}.")
        return functional.normalize(self._pool(hidden.float(), mask), dim=-1)

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

    def _layer(self, hidden: torch.Tensor, attend: torch.Tensor | None, name: str) -> torch.Tensor:
        from torch.nn import functional

        query, key, value = (
            self._linear(hidden, f"{name}attention.self.{part}").unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        mixed = self._linear(mixed.transpose(1, 2).flatten(2), f"{name}attention.output.dense")
        hidden = self._norm(hidden + mixed, f"{name}attention.output.LayerNorm")
        wide = functional.gelu(self._linear(hidden, f"{name}intermediate.dense"))
        return self._norm(hidden + self._linear(wide, f"{name}output.dense"), f"{name}output.LayerNorm")

    def _linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional

        return functional.linear(hidden, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(hidden, weight.shape, weight, bias, self._epsilon)


class SentenceTransformerEncoder:
    """Any other model, through sentence-transformers; remote code stays off.

    Args:
        path: Model folder.
        layout: See `Layout`.
        dtype: ``float32`` or ``bfloat16``.
        batch_size: Texts of one forward pass; the library sorts by length itself.
    """

    def __init__(self, path: Path, layout: Layout, *, dtype: str, batch_size: int) -> None:
        """Load the weights; the device is the library's choice."""
        import torch
        from sentence_transformers import SentenceTransformer

        options: dict[str, Any] = {"torch_dtype": getattr(torch, dtype)}
        self._model = SentenceTransformer(str(path), trust_remote_code=False, model_kwargs=options)
        self._model.max_seq_length = layout.max_tokens
        self._batch_size = batch_size

    def encode(self, texts: list[str]) -> Vectors:
        """Return one unit vector a text, (texts, dimensions)."""
        vectors = self._model.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")
