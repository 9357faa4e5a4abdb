"""Rate and cost limits of a provider, as far as one process may use them up."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from llmjobs.contracts.embeddings import RateLimits
from llmjobs.contracts.errors import BadConfig
from llmjobs.embeddings.model import Share

BURST_SECONDS = 10.0
"""How much of its rate a process may have saved up: a provider counts within a minute, often within less."""


class Clock(Protocol):
    """Time that passes."""

    def now(self) -> float:
        """Return seconds since some moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        time.sleep(seconds)


class Bucket:
    """A token bucket: `per_minute` flow in evenly, at most `BURST_SECONDS` worth of them are kept.

    Whoever takes more than there is waits until the debt is paid, so one request may be larger than the bucket.
    """

    def __init__(self, per_minute: float, clock: Clock) -> None:
        """Start full."""
        self._per_second = per_minute / 60
        self._most = max(self._per_second * BURST_SECONDS, 1.0)
        self._clock = clock
        self._level = self._most
        self._at = clock.now()

    def take(self, amount: float) -> None:
        """Wait until nothing is owed, then take `amount`."""
        self._refill()
        wanted = min(amount, self._most)
        if self._level < wanted:
            self._clock.sleep((wanted - self._level) / self._per_second)
            self._refill()
        self._level -= amount

    def _refill(self) -> None:
        now = self._clock.now()
        self._level = min(self._most, self._level + (now - self._at) * self._per_second)
        self._at = now


@dataclass
class Meter:
    """What this process may still do, and what it did cost.

    Args:
        limits: Of all shards of a run together.
        share: This process's part of them.
        clock: Time.
    """

    limits: RateLimits
    share: Share
    clock: Clock
    cost: float = 0.0

    def __post_init__(self) -> None:
        """Divide the rates."""
        self._buckets = {
            kind: Bucket(rate / self.share.shards, self.clock)
            for kind, rate in (
                ("requests", self.limits.requests_per_minute),
                ("tokens", self.limits.tokens_per_minute),
            )
            if rate is not None
        }

    def before(self, tokens: int) -> None:
        """Wait as long as the rates ask for.

        Args:
            tokens: Of the request, by our count, which is not below the provider's.

        Raises:
            BadConfig: The request could cost more than is left.
        """
        self._check_cost(tokens)
        for kind, bucket in self._buckets.items():
            bucket.take(1 if kind == "requests" else tokens)

    def after(self, tokens: int) -> float:
        """Note what an answered request used; return its cost."""
        cost = self._cost_of(tokens)
        self.cost += cost
        return cost

    def _cost_of(self, tokens: int) -> float:
        return tokens * self.limits.price_per_million_tokens / 1e6

    def _check_cost(self, tokens: int) -> None:
        if self.limits.max_cost is None:
            return
        most = self.limits.max_cost / self.share.shards
        spent = self.share.spent + self.cost
        if spent + self._cost_of(tokens) > most:
            raise BadConfig(
                f"embedder.limits.max_cost: this shard may spend {most:.4g} of {self.limits.max_cost:g} "
                f"{self.limits.currency}, has spent {spent:.4g} and the next request could cost "
                f"{self._cost_of(tokens):.2g}: what is embedded is kept; raise the limit or wait for the next run"
            )
