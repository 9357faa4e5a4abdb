"""A small client of Airflow's REST API, on the standard library: the commands must start fast."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from embedded.environment import airflow_url
from embedded.errors import StackError
from embedded.home import Home, Ports


class Unreachable(StackError):
    """Nothing answers at the address."""


class Refused(StackError):
    """The API answered with an error.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Api:
    """Airflow's API at `base_url`, as the user `admin`."""

    base_url: str
    password: str
    user: str = "admin"
    _token: str = field(default="", repr=False)

    @classmethod
    def of(cls, home: Home, ports: Ports | None = None) -> Api:
        """Return the API of the stack at `home`."""
        return cls(airflow_url(ports or home.ports()), home.secrets().admin_password)

    def get(self, path: str, **query: Any) -> Any:
        """Return what ``GET /api/v2/<path>`` answers."""
        values = [(name, value) for name, value in query.items() if value is not None]
        return self._call("GET", f"/api/v2/{path}" + (f"?{urlencode(values, doseq=True)}" if values else ""))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return what ``POST /api/v2/<path>`` answers."""
        return self._call("POST", f"/api/v2/{path}", body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Return what ``PATCH /api/v2/<path>`` answers."""
        return self._call("PATCH", f"/api/v2/{path}", body)

    def token(self) -> str:
        """Return a JWT; it is asked for once."""
        if not self._token:
            body = {"username": self.user, "password": self.password}
            self._token = str(fetch_json("POST", f"{self.base_url}/auth/token", body)["access_token"])
        return self._token

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            return fetch_json(method, self.base_url + path, body, token=self.token())
        except Refused as error:
            if error.status != 401:
                raise
        self._token = ""  # expired: a night is longer than a token's life
        return fetch_json(method, self.base_url + path, body, token=self.token())


def segment(text: str) -> str:
    """Return `text` as one segment of a path; run ids hold ``+`` and ``:``."""
    return quote(text, safe="")


def fetch_json(method: str, url: str, body: Any = None, *, token: str = "", patience_seconds: float = 30.0) -> Any:
    """Send one request and return the JSON of the answer, or None when it is empty.

    Raises:
        Unreachable: Nothing answers.
        Refused: The answer's status is an error.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    status, text = fetch(method, url, None if body is None else json.dumps(body).encode(), headers, patience_seconds)
    if status >= 400:
        raise Refused(f"{method} {url}: {status} {text.decode(errors='replace')[:500]}", status)
    return json.loads(text) if text else None


def fetch(
    method: str, url: str, body: bytes | None, headers: dict[str, str], patience_seconds: float
) -> tuple[int, bytes]:
    """Send one request to a server on this machine, past any proxy of the environment; return status and body.

    Raises:
        Unreachable: Nothing answers.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=patience_seconds)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{method} {url}: {error}") from None
    finally:
        connection.close()
