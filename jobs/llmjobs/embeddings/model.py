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
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.embeddings.embedders.tokens import TokenizerTokens, Tokens, load_tokenizer
from llmjobs.models import resolve_model

Vectors = npt.NDArray[np.float32]
"""Unit vectors, (texts, dimensions)."""

Pooling = Literal["mean", "cls"]

Purpose = Literal["document", "query"]
"""What a text is: some providers encode questions otherwise than what answers them."""

ENCODER_VERSION = 2
"""Raise it when `llmjobs.embeddings.encoder` gives other vectors than before."""


@dataclass(frozen=True)
class Usage:
    """What an encoder has done since it was loaded.

    Attributes:
        requests: Requests that were answered; of a model on this machine forward passes.
        tokens: As the provider counts them; on this machine without padding.
        cost: In the currency of the config.
        forward_seconds: Wall time inside forward passes or requests, waiting for a rate limit apart.
    """

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0
    forward_seconds: float = 0.0

    def plus(self, requests: int, tokens: int, cost: float, seconds: float) -> Usage:
        """Return the sum of both."""
        return Usage(self.requests + requests, self.tokens + tokens, self.cost + cost, self.forward_seconds + seconds)


class BrokenOff(JobError):
    """An encoder stopped in the middle of a call; what it had is kept, so nothing is paid twice.

    Store the vectors at `done`, then raise it again: its text and exit code are those of its cause.

    Attributes:
        done: Positions in the call's texts that have a vector.
        vectors: One row a text of the call, (texts, dimensions); zeros where there is none.
    """

    def __init__(self, cause: JobError, done: list[int], vectors: Vectors) -> None:
        """Take over what the cause says."""
        super().__init__(str(cause))
        self.exit_code = cause.exit_code
        self.done = done
        self.vectors = vectors


class TextRefused(BadData):
    """The model cannot encode some of the texts; all the others it did encode, so nothing is paid twice.

    Attributes:
        reasons: Position in the call's texts -> why, one sentence without the text.
        vectors: One row a text of the call, (texts, dimensions); the refused ones' rows are zeros.
    """

    def __init__(self, reasons: dict[int, str], vectors: Vectors) -> None:
        """Say how many were refused, and why the first one was."""
        super().__init__(f"{len(reasons)} of {len(vectors)} texts cannot be embedded: {next(iter(reasons.values()))}")
        self.reasons = reasons
        self.vectors = vectors


class Encoder(Protocol):
    """A loaded model."""

    @property
    def usage(self) -> Usage:
        """What it has done so far."""
        ...

    def encode(self, texts: list[str]) -> Vectors:
        """Return one unit vector a text, in the texts' order, (texts, dimensions).

        Raises:
            TextRefused: Some of the texts cannot be encoded. The fault is theirs.
            BrokenOff: As the next two, after some of the texts were encoded.
            BadConfig: Key, model or address are wrong; or the run would cost more than it may.
            JobError: The provider is in trouble, which is no text's fault.
        """
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
    def tokens(self) -> Tokens:
        """Counts tokens as it does, without truncation."""
        ...

    def load(self, purpose: Purpose = "document") -> Encoder:
        """Load the weights, or make ready to ask the provider."""
        ...


def checked(vectors: Vectors, reasons: dict[int, str] | None = None) -> Vectors:
    """Return `vectors`, (texts, dimensions), at length one.

    Args:
        vectors: As the model gave them.
        reasons: Position -> why, of texts that were refused already.

    Raises:
        TextRefused: Some are refused, or have a vector without a direction: not finite, or all zeros.
    """
    refused = dict(reasons or {})
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    for position in np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)).tolist():
        refused.setdefault(position, "the model gave a vector that is not finite, or all zeros")
    lengths[list(refused)] = np.inf
    unit = np.nan_to_num(vectors, posinf=0.0, neginf=0.0) / lengths if refused else vectors / lengths
    unit = np.asarray(unit, dtype=np.float32)
    if refused:
        raise TextRefused(dict(sorted(refused.items())), unit)
    return unit


@dataclass(frozen=True)
class Share:
    """What part of the config's rate and cost limits this process may use up.

    Providers limit an account, and a run's shards share it. Each shard gets an equal part of rates and cost, so no
    process needs to ask another before a request, and a limit holds even when a shard is killed.

    Attributes:
        shards: Shards of the run.
        spent: What earlier tries of this very shard cost.
    """

    shards: int = 1
    spent: float = 0.0


def keep_precision(config: EmbedderConfig, held: dict[str, Any]) -> EmbedderConfig:
    """Return `config` with the precision of an index that is there already, where the config leaves it open.

    Machines of another kind choose another precision, and an index must not be built anew because one of them took
    the night.

    Args:
        config: Of this run.
        held: `Model.settings` of the generation that answers.
    """
    same = all(held.get(name) == getattr(config, name) for name in ("backend", "name"))
    if config.dtype == "auto" and same and held.get("dtype") in {"float32", "bfloat16"}:
        return config.model_copy(update={"dtype": held["dtype"]})
    return config


def model_of(config: EmbedderConfig, share: Share | None = None) -> Model:
    """Return the model that a config names. Nothing is loaded and no provider is asked.

    Args:
        config: Backend, name, precision, prefixes. What `Model.settings` gave builds the same model again.
        share: This process's part of the limits, by default all; only providers have limits.

    Raises:
        BadConfig: There is no such model, or its backend needs a field or a package that is absent.
    """
    if config.backend == "local":
        return SentenceModel(config)
    if config.backend == "onnx":
        from llmjobs.embeddings.embedders.onnx import OnnxModel

        return OnnxModel(config)
    from llmjobs.embeddings.embedders.provider import ProviderModel

    return ProviderModel(config, share or Share())


@dataclass(frozen=True)
class Layout:
    """How a sentence-transformers folder is put together.

    Attributes:
        only_pooled: Nothing comes after mean or CLS pooling but normalisation.
        plain_bert: A BERT encoder, mean or CLS pooling, and nothing after it but normalisation: what
            `llmjobs.embeddings.encoder.BertEncoder` computes itself.
    """

    dimensions: int
    max_tokens: int
    pooling: Pooling
    only_pooled: bool
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
        if config.dimensions and config.dimensions > self.layout.dimensions:
            raise BadConfig(
                f"embedder.dimensions: {config.name} has {self.layout.dimensions}, so it cannot give the first "
                f"{config.dimensions}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """See `Model`; revision and precision are pinned, so a query meets the very weights of the index."""
        return {**self.config.model_dump(mode="json"), "revision": self.revision, "dtype": self.dtype}

    @property
    def fingerprint(self) -> str:
        """See `Model`. The name and the query prefix are no part of it: neither changes a stored vector."""
        return digest(
            {
                "revision": self.revision,
                "encoder": "bert" if self.layout.plain_bert else "sentence-transformers",
                "encoder_version": ENCODER_VERSION,
                "pooling": self.layout.pooling,
                "dtype": self.dtype,
                "max_tokens": self.max_tokens,
                "document_prefix": self.config.document_prefix,
                "dimensions": self.dimensions,
            }
        )

    @cached_property
    def dtype(self) -> str:
        """The config's precision; of ``auto`` what a probe of this machine found, once for all its processes."""
        if self.config.dtype != "auto":
            return self.config.dtype
        from llmjobs.embeddings.embedders.probe import fastest_dtype

        return fastest_dtype(self)

    @property
    def dimensions(self) -> int:
        """See `Model`."""
        return self.config.dimensions or self.layout.dimensions

    @property
    def max_tokens(self) -> int:
        """See `Model`."""
        return self.layout.max_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, without truncation."""
        return self.tokens.tokenizer

    @cached_property
    def tokens(self) -> TokenizerTokens:
        """See `Model`."""
        return TokenizerTokens(load_tokenizer(str(self.path / "tokenizer.json")))

    def load(self, purpose: Purpose = "document") -> Encoder:
        """See `Model`. Imports torch, which takes seconds."""
        del purpose  # the prefixes of the config tell the two apart
        return self.load_as(self.dtype)

    def load_as(self, dtype: str) -> Encoder:
        """Load the weights in a precision: ``float32`` or ``bfloat16``."""
        from llmjobs.embeddings.encoder import BertEncoder, SentenceTransformerEncoder

        kind = BertEncoder if self.layout.plain_bert else SentenceTransformerEncoder
        return kind(
            self.path,
            self.layout,
            dtype=dtype,
            device=self.config.device,
            batch_size=self.config.batch_size or 64,
            batch_tokens=self.config.batch_tokens,
            dimensions=self.dimensions,
        )


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
        only_pooled=_is_only_pooled(kinds, pooling),
        plain_bert=_is_only_pooled(kinds, pooling) and _is_bert(config),
    )


def _is_only_pooled(kinds: list[str], pooling: dict[str, Any]) -> bool:
    asked = {key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on}
    asked |= {pooling["pooling_mode"]} if "pooling_mode" in pooling else set()
    known = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    return known and asked in ({"mean_tokens"}, {"cls_token"}, {"mean"}, {"cls"})


def _is_bert(config: dict[str, Any]) -> bool:
    return (
        config.get("architectures") == ["BertModel"]
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
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
