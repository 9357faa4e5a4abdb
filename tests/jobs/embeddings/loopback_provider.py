"""A provider on loopback that misbehaves as it is told."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DIMENSIONS = 8

Behaviour = Callable[["Handler", dict[str, Any]], None]


@dataclass
class Provider:
    """What it was asked, and how it answers: each request takes the next of `script`, then it behaves well."""

    script: list[Behaviour] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    dimensions: int = DIMENSIONS


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: Provider

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.provider.bodies.append(body)
        self.provider.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.provider.paths.append(self.path)
        behave = self.provider.script.pop(0) if self.provider.script else well
        with contextlib.suppress(ConnectionError):
            behave(self, body)

    def reply(self, status: int, content: bytes | dict[str, Any], **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: Any) -> None:
        pass


def vector(text: str, dimensions: int) -> list[float]:
    """Return a vector that follows from the text, not of length one."""
    values = np.random.default_rng(list(text.encode())).standard_normal(dimensions)
    return [float(value) for value in values.astype(np.float32)]


def answer(handler: Handler, body: dict[str, Any]) -> dict[str, Any]:
    """Return the right answer to a request of either form."""
    texts = body.get("input") or body["texts"]
    size = body.get("dimensions") or body.get("output_dimension") or handler.provider.dimensions
    vectors = [vector(text, size) for text in texts]
    if "texts" in body:
        return {"embeddings": {"float": vectors}, "meta": {"billed_units": {"input_tokens": 10 * len(texts)}}}
    rows: list[Any] = vectors
    if body["encoding_format"] == "base64":
        rows = [base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode() for row in vectors]
    data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    return {"data": data, "usage": {"prompt_tokens": 10 * len(texts), "total_tokens": 10 * len(texts)}}


def well(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, answer(handler, body))


def status(code: int, content: bytes | dict[str, Any] = b"", **headers: str) -> Behaviour:
    return lambda handler, _: handler.reply(code, content, **headers)


def altered(change: Callable[[dict[str, Any]], Any]) -> Behaviour:
    """Answer well but for a change of the answer."""

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        found = answer(handler, body)
        change(found)
        handler.reply(200, found)

    return behave


def poison(text: str, code: int = 400) -> Behaviour:
    """Refuse every request that holds `text`, and quote it as some servers do."""

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.provider.script.append(behave)
        if text in (body.get("input") or body["texts"]):
            handler.reply(code, {"error": {"message": f"bad input: {text}", "code": text, "type": "invalid_input"}})
        else:
            well(handler, body)

    return behave


def reset(handler: Handler, body: dict[str, Any]) -> None:
    """Break the connection with a TCP reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RD)
    handler.connection.close()


def silent(handler: Handler, body: dict[str, Any]) -> None:
    """Say nothing until the client goes."""
    handler.close_connection = True
    handler.connection.recv(1)


def dripping(handler: Handler, body: dict[str, Any]) -> None:
    """Send the right answer in pieces of a byte."""
    raw = json.dumps(answer(handler, body)).encode()
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    for byte in raw:
        handler.wfile.write(b"1\r\n%c\r\n" % byte)
    handler.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def serving() -> Iterator[Provider]:
    """Start a provider on a free port."""
    provider = Provider()
    handler = type("BoundHandler", (Handler,), {"provider": provider})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    provider.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
