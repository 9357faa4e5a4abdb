"""A polite reader of one web site: one host, robots.txt, a pace, and no way into the network behind it."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import httpx

from llmjobs.contracts.errors import BadData, JobError
from llmjobs.embeddings.documents.making import LARGEST_DOCUMENT

_MOST_REDIRECTS = 5
_TRIES = 3
_LONGEST_WAIT = 60.0
"""Seconds that a site may ask us to wait; more is for the next run."""
_BUSY = {429, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}


@dataclass(frozen=True)
class Answer:
    """What a site sent.

    Attributes:
        url: Where it was found, redirects followed.
        headers: Names in small letters.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


class Site:
    """One host, that of `url`.

    Args:
        url: Any page of it; whether its address is private decides whether private addresses are allowed at all.
        user_agent: How we present ourselves, and whose lines in robots.txt we follow.
        requests_per_second: At most; robots.txt may ask for fewer.
        wait: Sleeps; for tests.
    """

    def __init__(
        self, url: str, *, user_agent: str, requests_per_second: float, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Open a client; nothing is asked yet."""
        self._home = _host(url)
        self._agent = user_agent
        self._pause = 1 / requests_per_second
        self._wait = wait
        self._next = 0.0
        self._private: bool | None = None
        self._robots: RobotFileParser | None = None
        self._client = httpx.Client(headers={"user-agent": user_agent}, timeout=30.0, follow_redirects=False)
        self._root = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def holds(self, url: str) -> bool:
        """Return whether a URL is on this host."""
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and _host(url) == self._home

    def allows(self, url: str) -> bool:
        """Return whether robots.txt lets us read a page.

        Raises:
            JobError: The site cannot say; then nothing may be read.
        """
        if self._robots is None:
            answer = self.get(f"{self._root}/robots.txt")
            if answer.status >= 500:
                raise JobError(f"{self._root}/robots.txt answers {answer.status}, so nothing may be read: try later")
            self._robots = RobotFileParser()
            self._robots.parse(answer.body.decode(errors="replace").split("\n") if answer.status < 400 else [])
            self._pause = max(self._pause, float(self._robots.crawl_delay(self._agent) or 0))
        return self._robots.can_fetch(self._agent, url)

    def get(self, url: str, *, method: str = "GET") -> Answer:
        """Return what a URL of this host answers.

        Raises:
            BadData: It leads to another host or into a private network, or is too large.
            JobError: The site cannot be reached, or stays busy.
        """
        for _ in range(_MOST_REDIRECTS):
            answer = self._patient(method, url)
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return answer
            target = urljoin(url, answer.headers["location"])
            if not self.holds(target):
                raise BadData(f"{url} leads to another host, {urlsplit(target).hostname}: give that its own source")
            url = target
        raise BadData(f"{url} leads on and on: more than {_MOST_REDIRECTS} redirects")

    def _patient(self, method: str, url: str) -> Answer:
        for _ in range(_TRIES):
            answer = self._once(method, url)
            if answer.status not in _BUSY:
                return answer
            self._wait(min(_retry_after(answer.headers), _LONGEST_WAIT))
        raise JobError(f"{url} still answers {answer.status} after {_TRIES} tries: the site is busy, try later")

    def _once(self, method: str, url: str) -> Answer:
        self._wait(max(self._next - time.monotonic(), 0.0))
        self._next = time.monotonic() + self._pause
        try:
            with self._client.stream(method, url) as response:
                self._check_address(response, url)
                body = bytearray()
                for block in response.iter_bytes():
                    body += block
                    if len(body) > LARGEST_DOCUMENT:
                        raise BadData(f"{url} has more than {LARGEST_DOCUMENT:,} bytes: exclude it")
                return Answer(url, response.status_code, response.headers, bytes(body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise JobError(f"{url} cannot be read: {error or type(error).__name__}") from error

    def _check_address(self, response: Any, url: str) -> None:
        """Refuse a host that turned from a public address to a private one (DNS rebinding)."""
        stream = response.extensions.get("network_stream")
        address = stream.get_extra_info("server_addr") if stream else None
        if not address:
            return
        private = not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global
        if self._private is None:
            self._private = private
        if private and not self._private:
            raise BadData(f"{url} is at {address[0]} now, an address of a private network, and was not: refused")


def _host(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    return (parts.hostname or "").lower(), parts.port


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a site asks us to wait; a few where it does not say."""
    stated = headers.get("retry-after", "")
    if stated.isdigit():
        return float(stated)
    try:
        return max(parsedate_to_datetime(stated).timestamp() - time.time(), 0.0)
    except ValueError:
        return 5.0
