"""A judge on loopback: a real HTTP server that answers, or misbehaves, by a question's first word."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SAID = {
    "good": "4",
    "wordy": "Mark: 5/5",
    "thinks": "<think>Is it 3? Perhaps.</think>\n2.",
    "prose": "A great answer!",
    "beyond": "7",
    "undecided": "3 or 4",
    "silent": None,
}


class Endpoint(ThreadingHTTPServer):
    """Answers by the question's first word; `trouble` says what the first requests about a row get instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.trouble: dict[str, list[Callable[[Handler], None]]] = {}
        self.always: Callable[[Handler], None] | None = None
        self.lock = threading.Lock()
        self.inside = self.most_inside = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """Say nothing of connections that a test breaks off."""


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        word = re.search(r"<instruction>\n(\w*)", body["messages"][0]["content"]).group(1)  # type: ignore[union-attr]
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.inside += 1
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
            waiting = self.server.trouble.get(word, [])
            trouble = self.server.always or (waiting.pop(0) if waiting else None)
        try:
            if trouble:
                trouble(self)
            else:
                message = {"role": "assistant", "content": SAID.get(word, "3")}
                self.reply(200, {"choices": [{"message": message}]})
        finally:
            with self.server.lock:
                self.server.inside -= 1

    def reply(self, status: int, document: Any, **headers: str) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def status(code: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(code, {"error": "no"}, **headers)


def broken_off(handler: Handler) -> None:
    handler.close_connection = True
