"""Requests to a provider over HTTP: what is tried again, what is waited for, and whose fault a refusal is."""

from __future__ import annotations

import json
import logging
import random
import re
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.embeddings.embedders.limits import Clock, SystemClock

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Failed tries of one request until the task fails; Airflow's own retry comes after that."""

FIRST_PAUSE_SECONDS = 1.0
"""Before the second try; doubled with each further one, times a random 0.5 to 1.5, so shards come back one by one."""

MOST_WAITING_SECONDS = 900.0
"""How long one request follows a provider that says "later"; then the task gives its place in the pool to another."""

MOST_ANSWER_BYTES = 256 * 2**20

_LATER = {429, 503}
_INPUT = {400, 413, 422}
_CODE = re.compile(r"^[\w.:-]{1,64}$", re.ASCII)


class InputRefused(Exception):
    """The provider refuses what was sent (400, 413, 422).

    Its text names the status and the provider's code. The provider's own words are left out: they may quote the text.
    """


class _Failed(Exception):
    """One try failed for a reason that may pass."""


class _Later(Exception):
    """The provider asks to come back in `seconds`, which is no failure."""

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(why)
        self.seconds = seconds


@dataclass(frozen=True)
class Timeouts:
    """Seconds: until a connection stands, between two pieces of an answer, and for a whole answer."""

    connect: float = 10.0
    read: float = 60.0
    whole: float = 180.0


@dataclass
class Transport:
    """A provider's address, and how patiently it is asked.

    Args:
        url: Base URL.
        key: Sent as a bearer token where there is one; never logged.
        key_env: Environment variable of the key, for messages.
        model: The model's name, for messages.
    """

    url: str
    key: str
    key_env: str
    model: str
    timeouts: Timeouts = Timeouts()
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        """Make a client; connections are opened as they are needed, and closed when this is no longer used."""
        self.host = urlsplit(self.url).netloc
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = httpx.Timeout(self.timeouts.read, connect=self.timeouts.connect)
        # No redirects: another host is nothing that anybody configured.
        self._client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False)
        weakref.finalize(self, self._client.close)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object that answers a request.

        429, and 503 with Retry-After, are waited for and are no failed tries. Other 5xx, timeouts, broken connections
        and answers that are no JSON are tried again, `ATTEMPTS` times in all.

        Raises:
            InputRefused: The input is refused.
            BadConfig: Key, model or address are wrong.
            JobError: The provider is in trouble, or asks for more patience than we have.
        """
        failures, waited, pause = 0, 0.0, FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._once(path, body)
            except _Later as later:
                seconds = later.seconds if later.seconds >= 0 else pause * random.uniform(0.5, 1.5)  # noqa: S311
                waited += seconds
                if waited > MOST_WAITING_SECONDS:
                    raise JobError(
                        f"{self.host} answers {later} for {waited:.0f} s and more: lower embedder.limits, or ask the "
                        "provider for a higher rate; the next try goes on where this one stopped"
                    ) from None
                logger.info("%s: %s; waiting %.1f s", self.host, later, seconds)
            except _Failed as failed:
                failures += 1
                if failures == ATTEMPTS:
                    raise JobError(
                        f"{self.host} failed {failures} times, last with {failed}: no text is to blame; the next try "
                        "goes on where this one stopped"
                    ) from None
                seconds = pause * random.uniform(0.5, 1.5)  # noqa: S311 (no secret depends on it)
                logger.warning("%s: %s; try %d of %d in %.1f s", self.host, failed, failures + 1, ATTEMPTS, seconds)
            self.clock.sleep(seconds)
            pause = min(2 * pause, 60.0)

    def _once(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            with self._client.stream("POST", f"{self.url.rstrip('/')}{path}", json=body) as response:
                content = self._read(response)
        except httpx.TimeoutException as error:
            raise _Failed(f"a timeout ({type(error).__name__})") from None
        except httpx.TransportError as error:
            raise _Failed(f"a broken connection ({type(error).__name__})") from None
        except httpx.HTTPError as error:  # compressed garbage, for example
            raise _Failed(f"an answer that cannot be read ({type(error).__name__})") from None
        answer = _object(content)
        if response.status_code == 200:
            if answer is None:
                raise _Failed("an answer that is no JSON object")
            return answer
        raise self._refusal(response, answer or {})

    def _read(self, response: httpx.Response) -> bytes:
        """Return the body; httpx limits the time between two pieces of it, not their number."""
        until = self.clock.now() + self.timeouts.whole
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if self.clock.now() > until:
                raise _Failed(f"an answer that took longer than {self.timeouts.whole:g} s")
            if len(content) > MOST_ANSWER_BYTES:
                raise _Failed(f"an answer of more than {MOST_ANSWER_BYTES} bytes")
        return bytes(content)

    def _refusal(self, response: httpx.Response, answer: dict[str, Any]) -> Exception:
        status, code = response.status_code, _code(answer)
        if code.encode() in response.request.content:
            code = ""  # it quotes what we sent
        said = f"HTTP {status}" + (f" ({code})" if code else "")
        if code == "insufficient_quota":
            return JobError(f"{self.host} says {said}: the account's quota is used up; pay it up or wait for the next")
        after = _retry_after(response)
        if status == 429 or (status in _LATER and after is not None):
            return _Later(-1.0 if after is None else after, said)
        if status in {401, 403}:
            variable = self.key_env or "embedder.key_env, which is empty"
            return BadConfig(f"{self.host} says {said} to our key: put a valid one into {variable}")
        if status in {404, 405} or 300 <= status < 400:
            return BadConfig(f"{self.host} says {said}: it has no model {self.model} there, or embedder.url is wrong")
        if status in _INPUT:
            return InputRefused(said)
        return _Failed(said)


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _code(answer: dict[str, Any]) -> str:
    """Return the provider's word for an error, where it is a word and not a sentence that may quote us."""
    inner = answer.get("error")
    places = [inner, answer] if isinstance(inner, dict) else [answer]
    words = [str(place.get(name) or "") for place in places for name in ("code", "type", "error_type")]
    return next((word for word in words if _CODE.match(word)), "")


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of the header Retry-After (a number or an HTTP date, RFC 9110 10.2.3), if it has any."""
    value = response.headers.get("retry-after", "")
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
