"""Which embedding model an index uses: what is known of it without loading it, and its fingerprint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from llmjobs.contracts.base import digest
from llmjobs.contracts.embeddings import EmbedderConfig
from llmjobs.contracts.errors import BadConfig
from llmjobs.embeddings.chunker import load_tokenizer
from llmjobs.models import resolve_model

Vectors = npt.NDArray[np.float32]
"""Unit vectors, (texts, dimensions)."""

Pooling = Literal["mean", "cls"]

ENCODER_VERSION = 1
"""Raise it when `llmjobs.embeddings.encoder` gives other vectors than before."""


class Encoder(Protocol):
    """A loaded model."""

    def encode(self, texts: list[str]) -> Vectors:
        """Return one unit vector a text, in the texts' order, (texts, dimensions)."""
        ...


class Model(Protocol):
    """An embedding model, loaded only when something must be encoded."""

    @property
    def settings(self) -> dict[str, Any]:
        """What builds the same model again; kept in the database for queries."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that changes a vector."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Most tokens that it reads, special tokens included."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, without truncation."""
        ...

    def load(self) -> Encoder:
        """Load the weights."""
        ...


@dataclass(frozen=True)
class Layout:
    """How a sentence-transformers folder is put together.

    Attributes:
        plain_bert: A BERT encoder, mean or CLS pooling, and nothing after it but normalisation: what
            `llmjobs.embeddings.encoder.BertEncoder` computes itself.
    """

    dimensions: int
    max_tokens: int
    pooling: Pooling
    plain_bert: bool


class SentenceModel:
    """A sentence-transformers model folder.

    Args:
        config: Name, revision, precision, prefixes.

    Raises:
        BadConfig: There is no such model, or the folder is no sentence-transformers model.
    """

    def __init__(self, config: EmbedderConfig) -> None:
        """Find the model's files and read their small ones."""
        resolved = resolve_model(config.name, config.revision)
        self.config = config
        self.path = Path(resolved.path)
        self.revision = resolved.revision
        self.layout = read_layout(self.path)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Model`; the revision is pinned, so a query meets the very weights of the index."""
        return {**self.config.model_dump(mode="json"), "revision": self.revision}

    @property
    def fingerprint(self) -> str:
        """See `Model`. The name and the query prefix are no part of it: neither changes a stored vector."""
        return digest(
            {
                "revision": self.revision,
                "encoder": "bert" if self.layout.plain_bert else "sentence-transformers",
                "encoder_version": ENCODER_VERSION,
                "dtype": self.config.dtype,
                "max_tokens": self.max_tokens,
            }
        )

    @property
    def dimensions(self) -> int:
        """See `Model`."""
        return self.layout.dimensions

    @property
    def max_tokens(self) -> int:
        """See `Model`."""
        return self.layout.max_tokens

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """See `Model`."""
        return load_tokenizer(str(self.path / "tokenizer.json"))

    def load(self) -> Encoder:
        """See `Model`. Imports torch, which takes seconds."""
        from llmjobs.embeddings.encoder import BertEncoder, SentenceTransformerEncoder

        kind = BertEncoder if self.layout.plain_bert else SentenceTransformerEncoder
        return kind(self.path, self.layout, dtype=self.config.dtype, batch_size=self.config.batch_size)


def read_layout(path: Path) -> Layout:
    """Read the JSON files of a sentence-transformers folder.

    Raises:
        BadConfig: A file is absent, so the length or size of a vector would be a guess.
    """
    modules = _json(path, "modules.json")
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    config = _json(path, "config.json")
    pooling = _json(path, f"{modules[kinds.index('Pooling')]['path']}/config.json") if "Pooling" in kinds else {}
    dense = [_json(path, f"{module['path']}/config.json") for module in modules if module["type"].endswith("Dense")]
    chosen: Pooling = "cls" if pooling.get("pooling_mode_cls_token") or pooling.get("pooling_mode") == "cls" else "mean"
    return Layout(
        dimensions=int(dense[-1]["out_features"] if dense else config["hidden_size"]),
        max_tokens=_max_tokens(path, config),
        pooling=chosen,
        plain_bert=_is_plain_bert(kinds, config, pooling),
    )


def _is_plain_bert(kinds: list[str], config: dict[str, Any], pooling: dict[str, Any]) -> bool:
    asked = {key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on}
    asked |= {pooling["pooling_mode"]} if "pooling_mode" in pooling else set()
    return (
        config.get("architectures") == ["BertModel"]
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        and asked in ({"mean_tokens"}, {"cls_token"}, {"mean"}, {"cls"})
    )


def _max_tokens(path: Path, config: dict[str, Any]) -> int:
    limits = [config.get("max_position_embeddings")]
    if (path / "sentence_bert_config.json").is_file():
        limits.append(_json(path, "sentence_bert_config.json").get("max_seq_length"))
    known = [int(limit) for limit in limits if limit]
    if not known:
        raise BadConfig(f"model {path}: neither config.json nor sentence_bert_config.json states how much it can read")
    return min(known)


def _json(path: Path, name: str) -> Any:
    try:
        return json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadConfig(f"model {path}: {name} is absent, so this is no sentence-transformers model") from None
