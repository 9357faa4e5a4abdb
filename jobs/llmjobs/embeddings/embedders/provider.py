"""Models that a provider serves: OpenAI and whatever speaks its language, Cohere.

Texts leave this cluster only where a config says so: ``backend`` names the provider, or ``url`` an address.
"""

from __future__ import annotations

import logging
import os
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from llmjobs.contracts.base import digest
from llmjobs.contracts.embeddings import EmbedderConfig
from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.embeddings.embedders.dialects import Answer, Cohere, Dialect, OpenAi
from llmjobs.embeddings.embedders.limits import Clock, Meter, SystemClock
from llmjobs.embeddings.embedders.tokens import Tokens, tokens_of
from llmjobs.embeddings.embedders.transport import InputRefused, Timeouts, Transport
from llmjobs.embeddings.encoder import sorted_batches
from llmjobs.embeddings.model import BrokenOff, Purpose, Share, TextRefused, Usage, Vectors, checked

logger = logging.getLogger(__name__)

PROVIDER_VERSION = 1
"""Raise it when the same answer gives other vectors than before."""

_PROBE = "dimensions"
"""A text that nobody can refuse: shows that key, model and fields are right, and how long a vector is."""

_KNOWN = {
    "text-embedding-3-small": (1536, 8191),
    "text-embedding-3-large": (3072, 8191),
    "text-embedding-ada-002": (1536, 8191),
    "embed-english-v3.0": (1024, 512),
    "embed-multilingual-v3.0": (1024, 512),
    "embed-english-light-v3.0": (384, 512),
    "embed-multilingual-light-v3.0": (384, 512),
    "embed-v4.0": (1536, 128_000),
}
"""Dimensions and most tokens of models whose providers publish them; some were checked in 2026-11, none is probed."""


class ProviderModel:
    """A model behind an address.

    Args:
        config: Backend, name, address, variable of the key, limits.
        share: This process's part of the limits.
        clock: Time, for limits and pauses.
        timeouts: Of a request.

    Raises:
        BadConfig: A field is absent that this backend needs.
    """

    def __init__(
        self,
        config: EmbedderConfig,
        share: Share | None = None,
        *,
        clock: Clock | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Check the fields; nothing is asked yet."""
        self.config = config
        self._share = share or Share()
        self._clock = clock or SystemClock()
        self._timeouts = timeouts or Timeouts()
        self._dialect = _dialect(config)
        self._url = _checked_url(config.url or self._dialect.url)
        self._asked = Usage()
        self.max_tokens = _max_tokens(config)
        _check_limits(config)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Model`; names the key's variable, never the key."""
        return self.config.model_dump(mode="json")

    @property
    def fingerprint(self) -> str:
        """See `Model`. The address is no part of it: the same model may move to another one."""
        return digest(
            {
                "backend": self.config.backend,
                "name": self.config.name,
                "revision": self.config.revision,
                "version": PROVIDER_VERSION,
                "dimensions": self.config.dimensions,
                "max_tokens": self.max_tokens,
                "document_prefix": self.config.document_prefix,
            }
        )

    @cached_property
    def dimensions(self) -> int:
        """See `Model`; of a model that we do not know, one short request tells.

        Raises:
            BadConfig: Key, model or address are wrong.
            JobError: The provider is in trouble.
        """
        known = _KNOWN.get(self.config.name)
        return self.config.dimensions or (known[0] if known else self._probed)

    @cached_property
    def tokens(self) -> Tokens:
        """See `Model`."""
        return tokens_of(self.config.tokenizer)

    def load(self, purpose: Purpose = "document") -> ProviderEncoder:
        """See `Model`. Documents' encoders send one short text first, so a wrong field blames no document.

        Raises:
            BadConfig: Key, model, address or dimensions are wrong.
            JobError: The provider is in trouble.
        """
        if purpose == "document" and self._probed != self.dimensions:
            raise BadConfig(
                f"embedder.dimensions: {self.config.name} gives vectors of {self._probed}, not {self.dimensions}: "
                "correct dimensions, or leave it out where the model has only one size"
            )
        encoder = self._encoder(purpose, self.dimensions)
        encoder.usage, self._asked = self._asked, Usage()
        return encoder

    @cached_property
    def _probed(self) -> int:
        """How long a vector is, by asking."""
        encoder = self._encoder("document", None)
        try:
            found = encoder.ask([_PROBE]).vectors.shape[1]
        except InputRefused as refused:
            raise BadConfig(
                f"{self._url} refuses even the word {_PROBE!r} with {refused}: check embedder.name "
                f"{self.config.name} and embedder.dimensions {self.config.dimensions}"
            ) from None
        self._asked = encoder.usage
        return int(found)

    def _encoder(self, purpose: Purpose, dimensions: int | None) -> ProviderEncoder:
        return ProviderEncoder(
            self.config,
            dialect=self._dialect,
            transport=self._transport,
            meter=self._meter,
            tokens=self.tokens,
            purpose=purpose,
            dimensions=dimensions,
        )

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self.config.limits, self._share, self._clock)

    @cached_property
    def _transport(self) -> Transport:
        variable = self.config.key_env or ("" if self.config.url else self._dialect.key_env)
        key = os.environ.get(variable, "") if variable else ""
        if variable and not key:
            raise BadConfig(
                f"{variable} is not set: it holds the key for {self._url}; name it in [nightshift] local_environment "
                "or in the pods' Secret"
            )
        logger.info("texts are sent to %s (%s, %s)", urlsplit(self._url).netloc, self.config.backend, self.config.name)
        return Transport(self._url, key, variable, self.config.name, self._timeouts, self._clock)


class ProviderEncoder:
    """Asks a provider batch by batch; made by `ProviderModel.load`."""

    def __init__(
        self,
        config: EmbedderConfig,
        *,
        dialect: Dialect,
        transport: Transport,
        meter: Meter,
        tokens: Tokens,
        purpose: Purpose,
        dimensions: int | None,
    ) -> None:
        """Keep the parts."""
        self._config = config
        self._dialect = dialect
        self._transport = transport
        self._meter = meter
        self._tokens = tokens
        self._purpose: Purpose = purpose
        self._dimensions = dimensions
        self.usage = Usage()

    def encode(self, texts: list[str]) -> Vectors:
        """See `Encoder`. A batch that is refused is halved until the text at fault stands alone."""
        assert self._dimensions is not None
        vectors = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        reasons = {position: "the text is empty" for position, text in enumerate(texts) if not text.strip()}
        rest = [position for position in range(len(texts)) if position not in reasons]
        lengths = self._tokens.count([texts[position] for position in rest])
        try:
            for batch in sorted_batches(lengths, self._most_texts, self._config.batch_tokens):
                self._encode([rest[one] for one in batch], texts, vectors, reasons)
        except JobError as error:
            raise _broken_off(error, vectors) from None
        return checked(vectors, reasons)

    def ask(self, texts: list[str]) -> Answer:
        """Send one request and note what it used.

        Raises:
            InputRefused: The provider refuses the texts.
            BadConfig: Key, model or address are wrong, or the request could cost more than is left.
            JobError: The provider is in trouble.
        """
        counted = sum(self._tokens.count(texts))
        self._meter.before(counted)
        started = self._transport.clock.now()
        body = self._dialect.body(self._config.name, texts, self._purpose, self._config.dimensions)
        answer = self._dialect.answer(self._transport.post(self._dialect.path, body), len(texts))
        used = counted if answer.tokens is None else answer.tokens
        seconds = self._transport.clock.now() - started
        self.usage = self.usage.plus(1, used, self._meter.after(used), seconds)
        return answer

    @property
    def _most_texts(self) -> int:
        return min(self._config.batch_size or 96, self._dialect.most_texts)

    def _encode(self, batch: list[int], texts: list[str], vectors: Vectors, reasons: dict[int, str]) -> None:
        """Put the vectors of the texts at `batch` into their rows, or why not into `reasons`."""
        try:
            found = self.ask([texts[position] for position in batch]).vectors
        except InputRefused as refused:
            if len(batch) == 1:
                reasons[batch[0]] = f"{self._transport.host} refuses it with {refused}"
                return
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                self._encode(half, texts, vectors, reasons)
            return
        if found.shape[1] != self._dimensions:
            raise JobError(
                f"{self._transport.host} gave vectors of {found.shape[1]} dimensions, where {self._config.name} had "
                f"{self._dimensions}: did the model behind this name change?"
            )
        vectors[batch] = found


def _broken_off(error: JobError, vectors: Vectors) -> JobError:
    """Return the error with the vectors that were paid for before it, if any."""
    try:
        unit = checked(vectors)
    except TextRefused as refused:
        unit = refused.vectors
    done = np.flatnonzero(unit.any(axis=1)).tolist()
    return BrokenOff(error, done, unit) if done else error


def _dialect(config: EmbedderConfig) -> Dialect:
    if config.backend == "cohere":
        return Cohere()
    # base64 where we know that it is understood; either is read.
    return OpenAi("float" if config.url else "base64")


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadConfig("embedder.url must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query:
        raise BadConfig(
            "embedder.url must hold neither a password nor a query: it is stored with the index; put the key into an "
            "environment variable and name that in embedder.key_env"
        )
    return url


def _max_tokens(config: EmbedderConfig) -> int:
    known = _KNOWN.get(config.name)
    found = config.max_tokens or (known[1] if known else None)
    if found is None:
        raise BadConfig(
            f"embedder.max_tokens: say how many tokens {config.name} reads; it is not known here, and a provider may "
            "cut a longer text without a word"
        )
    return found


def _check_limits(config: EmbedderConfig) -> None:
    if config.limits.max_cost is not None and not config.limits.price_per_million_tokens:
        raise BadConfig("embedder.limits.max_cost needs price_per_million_tokens: without it nothing seems to cost")
