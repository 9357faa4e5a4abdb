"""Rerankers: a second, slower look at the best passages."""

from __future__ import annotations

import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.models import resolve_model

ATTEMPTS = 3
MOST_WAIT_SECONDS = 10.0
"""A question is not worth waiting longer, whatever Retry-After says."""

_BUSY = {429, 502, 503, 504}


class Reranker(Protocol):
    """Says how well passages answer a question."""

    def scores(self, question: str, passages: Sequence[str]) -> list[float]:
        """Return one number a passage, in their order; higher is better.

        Raises:
            JobError: It could not be asked.
        """
        ...


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers on this machine; remote code stays off.

    Args:
        name: Hub id or folder, for example ``cross-encoder/ms-marco-MiniLM-L6-v2``.
        revision: Commit of the hub; None: the newest that is at hand.
        batch_size: Pairs of one forward pass.

    Raises:
        BadConfig: There is no such model.
    """

    def __init__(self, name: str, revision: str | None = None, *, batch_size: int = 16) -> None:
        """Load the weights; importing the library alone takes seconds."""
        from sentence_transformers import CrossEncoder

        self._model = CrossEncoder(resolve_model(name, revision).path, trust_remote_code=False)
        self._batch_size = batch_size

    def scores(self, question: str, passages: Sequence[str]) -> list[float]:
        """See `Reranker`."""
        pairs = [(question, passage) for passage in passages]
        return [float(one) for one in self._model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False)]


class HttpReranker:
    """A rerank endpoint.

    Args:
        url: Of the endpoint itself, such as ``https://api.cohere.com/v2/rerank`` or ``http://tei:8080/rerank``.
        form: ``cohere``: Cohere's, and vLLM's and Jina's, which are alike; ``tei``: Text Embeddings Inference's.
        model: The model's name; ``tei`` serves one and needs none.
        key_env: Environment variable that holds the API key; "" where none is needed.
        timeout_seconds: For each try.
        wait: Sleeps; tests give one that does not.

    Raises:
        BadConfig: The variable is not set, or the URL is none.
    """

    def __init__(
        self,
        url: str,
        form: Literal["cohere", "tei"] = "cohere",
        *,
        model: str = "",
        key_env: str = "",
        timeout_seconds: float = 10.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look at the settings; nothing is sent yet."""
        if not url.startswith(("http://", "https://")):
            raise BadConfig(f"reranker: its URL must begin with http:// or https://, got {url!r}")
        self._key = os.environ.get(key_env, "") if key_env else ""
        if key_env and not self._key:
            raise BadConfig(f"reranker {url}: the environment variable {key_env} with its key is not set")
        self._url, self._form, self._model = url, form, model
        self._timeout_seconds, self._wait = timeout_seconds, wait

    def scores(self, question: str, passages: Sequence[str]) -> list[float]:
        """See `Reranker`. Tries again where the endpoint is busy; Retry-After is honoured up to `MOST_WAIT_SECONDS`."""
        body: dict[str, Any] = {"query": question}
        if self._form == "cohere":
            body |= {"documents": list(passages), "top_n": len(passages), "model": self._model}
        else:
            body |= {"texts": list(passages), "raw_scores": False, "truncate": True}
        answer = self._asked(json.dumps(body).encode())
        return self._read(answer, len(passages))

    def _asked(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - the scheme was looked at above
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_seconds) as response:  # noqa: S310
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or attempt == ATTEMPTS:
                    raise JobError(f"The reranker {self._url} refused: HTTP {error.code}") from error
                self._wait(_seconds(error.headers.get("Retry-After"), attempt))
            except (OSError, ValueError) as error:
                if attempt == ATTEMPTS or isinstance(error, ValueError):
                    raise JobError(f"The reranker {self._url} gave no answer: {error}") from error
                self._wait(_seconds(None, attempt))
        raise AssertionError("unreachable")

    def _read(self, answer: Any, count: int) -> list[float]:
        """Return the scores in the passages' order."""
        score = "relevance_score" if self._form == "cohere" else "score"
        try:
            rows = answer["results"] if self._form == "cohere" else answer
            found = {int(row["index"]): float(row[score]) for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise JobError(f"The reranker {self._url} answered in another form than {self._form}'s") from error
        if sorted(found) != list(range(count)) or not all(math.isfinite(one) for one in found.values()):
            raise JobError(f"The reranker {self._url} gave {len(found)} scores for {count} passages")
        return [found[number] for number in range(count)]


def _seconds(retry_after: str | None, attempt: int) -> float:
    try:
        wanted = float(retry_after) if retry_after else 0.5 * 2**attempt
    except ValueError:  # a date
        wanted = MOST_WAIT_SECONDS
    return min(max(wanted, 0.0), MOST_WAIT_SECONDS)
