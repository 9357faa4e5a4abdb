"""How each provider words a request, and where its answer holds the vectors."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llmjobs.contracts.errors import JobError
from llmjobs.embeddings.model import Purpose, Vectors


@dataclass(frozen=True)
class Answer:
    """What a request gave.

    Attributes:
        vectors: One row a text in the order of the request, (texts, dimensions), not normalised.
        tokens: What the provider charges for; None where it does not say.
    """

    vectors: Vectors
    tokens: int | None


class Dialect(Protocol):
    """A provider's form of requests and answers."""

    url: str
    key_env: str
    path: str
    most_texts: int

    def body(self, model: str, texts: list[str], purpose: Purpose, dimensions: int | None) -> dict[str, Any]:
        """Return the request."""
        ...

    def answer(self, found: dict[str, Any], texts: int) -> Answer:
        """Read an answer.

        Raises:
            JobError: It is not what was asked for.
        """
        ...


class OpenAi:
    """``POST /embeddings`` as OpenAI, vLLM, TEI and Ollama have it."""

    url = "https://api.openai.com/v1"
    key_env = "OPENAI_API_KEY"
    path = "/embeddings"
    most_texts = 2048

    def __init__(self, encoding: str = "float") -> None:
        """Choose what vectors travel as: base64 is a quarter of the bytes, but not every server has it."""
        self._encoding = encoding

    def body(self, model: str, texts: list[str], purpose: Purpose, dimensions: int | None) -> dict[str, Any]:
        """See `Dialect`; this form does not tell questions from documents, prefixes do."""
        del purpose
        asked = {} if dimensions is None else {"dimensions": dimensions}
        return {"model": model, "input": texts, "encoding_format": self._encoding, **asked}

    def answer(self, found: dict[str, Any], texts: int) -> Answer:
        """See `Dialect`. Vectors are put into the order that `index` gives, which need not be theirs."""
        rows = _list(found.get("data"), texts)
        if any(not isinstance(row, dict) for row in rows):
            raise JobError("the provider's answer holds something else than vectors: is embedder.url right?")
        order = [row.get("index", position) for position, row in enumerate(rows)]
        if sorted(map(str, order)) != sorted(map(str, range(texts))):
            raise JobError(f"the provider's answer numbers {texts} vectors otherwise than 0 to {texts - 1}")
        placed = {int(index): row.get("embedding") for index, row in zip(order, rows, strict=True)}
        usage = found.get("usage") or {}
        return Answer(
            _stacked([placed[index] for index in range(texts)]), _count(usage, "total_tokens", "prompt_tokens")
        )


class Cohere:
    """``POST /v2/embed`` of Cohere."""

    url = "https://api.cohere.com"
    key_env = "CO_API_KEY"
    path = "/v2/embed"
    most_texts = 96

    def body(self, model: str, texts: list[str], purpose: Purpose, dimensions: int | None) -> dict[str, Any]:
        """See `Dialect`. A text that is too long is refused rather than cut."""
        asked = {} if dimensions is None else {"output_dimension": dimensions}
        kinds = {"input_type": f"search_{purpose}", "embedding_types": ["float"], "truncate": "NONE"}
        return {"model": model, "texts": texts, **kinds, **asked}

    def answer(self, found: dict[str, Any], texts: int) -> Answer:
        """See `Dialect`."""
        kinds = found.get("embeddings")
        rows = (kinds.get("float") or kinds.get("base64")) if isinstance(kinds, dict) else kinds
        billed = (found.get("meta") or {}).get("billed_units") or {}
        return Answer(_stacked(_list(rows, texts)), _count(billed, "input_tokens"))


def _list(rows: Any, texts: int) -> list[Any]:
    if not isinstance(rows, list):
        raise JobError("the provider's answer holds no list of vectors: is embedder.url right?")
    if len(rows) != texts:
        raise JobError(f"the provider's answer has {len(rows)} vectors for {texts} texts")
    return rows


def _count(usage: Any, *names: str) -> int | None:
    counts = [usage.get(name) for name in names] if isinstance(usage, dict) else []
    return next((int(count) for count in counts if isinstance(count, int | float) and count > 0), None)


def _stacked(rows: list[Any]) -> Vectors:
    """Return vectors that came as lists of numbers or as base64 of little-endian float32."""
    vectors = [_vector(row) for row in rows]
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1:
        raise JobError(f"the provider's vectors have different dimensions: {sorted(lengths)}")
    return np.stack(vectors)


def _vector(row: Any) -> Vectors:
    try:
        if isinstance(row, str):
            return np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4").astype(np.float32)
        vector = np.asarray(row, dtype=np.float32)
    except (ValueError, TypeError, binascii.Error):
        raise JobError("the provider's answer holds a vector that is neither numbers nor base64") from None
    if vector.ndim != 1 or not len(vector):
        raise JobError("the provider's answer holds a vector that is no list of numbers")
    return vector
