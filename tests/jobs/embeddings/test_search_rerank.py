from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.database.connection import connect
from llmjobs.embeddings.search import search_with_plan
from llmjobs.embeddings.search.rerank import HttpReranker
from tests.jobs.embeddings.night import CountingModel
from tests.jobs.embeddings.shelf import BOOKS, INDEX, put, rows_of


@dataclass
class Endpoint:
    """A rerank server on loopback: answers what it was told to, then scores a passage by its length."""

    url: str = ""
    queue: list[tuple[int, dict[str, str], str]] = field(default_factory=list)
    seen: list[tuple[dict[str, Any], str | None]] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.seen.append((body, self.headers.get("Authorization")))
            status, headers, text = state.queue.pop(0) if state.queue else (200, {}, self.scored(body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def scored(self, body: dict[str, Any]) -> str:
            if "documents" in body:
                rows = [{"index": at, "relevance_score": -len(text)} for at, text in enumerate(body["documents"])]
                return json.dumps({"results": rows[::-1]})
            return json.dumps([{"index": at, "score": len(text)} for at, text in enumerate(body["texts"])][::-1])

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/rerank"
        yield state
        server.shutdown()
        thread.join()


def test_cohere_and_tei_are_asked_in_their_form(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_KEY", "k")
    assert HttpReranker(endpoint.url, model="m", key_env="RERANK_KEY").scores("q", ["aaa", "b"]) == [-3, -1]
    assert HttpReranker(endpoint.url, "tei").scores("q", ["aaa", "b"]) == [3, 1]
    (cohere, key), (tei, none) = endpoint.seen
    assert (cohere, key) == ({"query": "q", "documents": ["aaa", "b"], "top_n": 2, "model": "m"}, "Bearer k")
    assert (tei["texts"], none) == (["aaa", "b"], None)


def test_a_busy_endpoint_is_asked_again_when_it_says(endpoint: Endpoint) -> None:
    waits: list[float] = []
    endpoint.queue = [(429, {"Retry-After": "3"}, ""), (503, {"Retry-After": "9999"}, "")]
    assert HttpReranker(endpoint.url, wait=waits.append).scores("q", ["a"]) == [-1]
    assert waits == [3.0, 10.0]


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (400, "", "refused: HTTP 400"),
        (200, "<html>", "gave no answer"),
        (200, '{"rows": []}', "answered in another form than cohere's"),
        (200, '{"results": [{"index": 0, "relevance_score": 1}]}', "gave 1 scores for 2 passages"),
        (200, '{"results": [{"index": 0, "relevance_score": 1}, {"index": 1, "relevance_score": NaN}]}', "gave 2"),
    ],
)
def test_what_is_no_answer_is_an_error(endpoint: Endpoint, status: int, text: str, message: str) -> None:
    endpoint.queue = [(status, {}, text)]
    with pytest.raises(JobError, match=message):
        HttpReranker(endpoint.url, wait=lambda _: None).scores("q", ["a", "b"])


def test_an_endpoint_needs_its_url_and_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RERANK_KEY", raising=False)
    with pytest.raises(BadConfig, match="RERANK_KEY with its key is not set"):
        HttpReranker("http://x", key_env="RERANK_KEY")
    with pytest.raises(BadConfig, match="must begin with http"):
        HttpReranker("file:///etc/passwd")


class Backwards:
    """Likes most what came last."""

    def scores(self, question: str, passages: Sequence[str]) -> list[float]:
        return [float(at) for at in range(len(passages))]


def test_a_reranker_orders_more_than_it_returns(postgres_url: str) -> None:
    with connect(postgres_url) as connection:
        put(connection, rows_of(BOOKS))
        arguments: dict[str, Any] = {"tenants": ["public"], "encoder": CountingModel()}
        plain, _ = search_with_plan(connection, INDEX, "trees in the north", 5, **arguments)
        hits, plan = search_with_plan(connection, INDEX, "trees in the north", 2, rerank=Backwards(), **arguments)
    assert [hit.document for hit in hits] == [hit.document for hit in plain[::-1][:2]]
    assert (hits[0].score, hits[0].fused_score) == (4.0, plain[-1].score)
    assert "rerank" in plan.seconds
