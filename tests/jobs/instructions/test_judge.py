"""The judge against a real server on loopback that is slow to answer, wrong, overloaded or gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.data_contract import Judge
from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.instructions.choice import judge as judging
from tests.jobs.instructions.grader import SAID, Endpoint, Handler, broken_off, status


class Ask:
    """Asks about questions; `waits` holds the pauses that nobody waits for."""

    def __init__(self, url: str, cache: Path) -> None:
        self._url, self._cache = url, cache
        self.waits: list[float] = []

    def __call__(self, *questions: str, **changes: Any) -> judging.Marked:
        config = Judge.model_validate({"url": self._url, "model": "grader", **changes})
        return judging.judged(rows(*questions), config, cache=self._cache, sleep=self.waits.append)


@pytest.fixture
def ask(endpoint: Endpoint, tmp_path: Path) -> Ask:
    return Ask(endpoint.url, tmp_path / "marks")


def rows(*questions: str) -> pl.DataFrame:
    return pl.DataFrame({"prompt": questions, "answer": [f"About {question}." for question in questions]})


def test_marks_come_in_the_rows_order_and_what_is_no_mark_is_null_and_counted(
    ask: Ask,
) -> None:
    found = ask(*SAID)
    assert found.marks.to_list() == [4, 5, 2, None, None, None, None]
    assert found.marks.dtype == pl.UInt8
    assert (found.asked, found.known, found.broken, found.not_sent) == (7, 0, 4, 0)


def test_the_request_is_as_documented(ask: Ask, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_KEY", "k-123")
    ask("good day", key_variable="GRADER_KEY")
    (request,) = endpoint.requests
    assert (request["model"], request["temperature"]) == ("grader", 0)
    assert "<response>\nAbout good day.\n</response>" in request["messages"][0]["content"]
    assert endpoint.headers[0]["Authorization"] == "Bearer k-123"


def test_a_second_night_asks_only_about_new_rows(ask: Ask, endpoint: Endpoint) -> None:
    ask("good", "prose")
    endpoint.requests.clear()
    again = ask("prose", "good", "good", "wordy")
    assert len(endpoint.requests) == 1
    assert again.marks.to_list() == [None, 4, 4, 5]
    assert (again.asked, again.known, again.broken) == (1, 3, 1)
    ask("good", model="another")
    assert len(endpoint.requests) == 2


def test_equal_rows_are_asked_about_once(ask: Ask, endpoint: Endpoint) -> None:
    assert ask("good", "good", "good").marks.to_list() == [4, 4, 4]
    assert len(endpoint.requests) == 1


def test_an_overloaded_endpoint_is_asked_again_when_it_says(ask: Ask, endpoint: Endpoint) -> None:
    endpoint.trouble["good"] = [status(429, Retry_After="7"), status(503), status(429, Retry_After="86400")]
    assert ask("good").marks.to_list() == [4]
    assert ask.waits == [7.0, 2.0, judging.LONGEST_WAIT_SECONDS]


def test_retry_after_may_be_a_date(ask: Ask, endpoint: Endpoint) -> None:
    in_30_seconds = formatdate(time() + 30, usegmt=True)
    endpoint.trouble["good"] = [status(429, Retry_After=in_30_seconds), status(429, Retry_After="soon")]
    assert ask("good").marks.to_list() == [4]
    first, second = ask.waits
    assert 20 < first <= 30
    assert second == 2


@pytest.mark.parametrize(
    "trouble",
    [
        broken_off,
        lambda handler: handler.reply(200, b"<html>Bad gateway</html>"),
        lambda handler: handler.reply(200, b'{"choices": [', Content_Length="500"),
        status(408),
    ],
)
def test_a_connection_that_breaks_is_tried_again(
    ask: Ask, endpoint: Endpoint, trouble: Callable[[Handler], None]
) -> None:
    endpoint.trouble["good"] = [trouble, trouble]
    assert ask("good").marks.to_list() == [4]
    assert len(endpoint.requests) == 3


def test_a_row_that_the_endpoint_refuses_has_no_mark_and_the_others_do(ask: Ask, endpoint: Endpoint) -> None:
    endpoint.trouble["long"] = [status(400)]
    found = ask("good", "long", "wordy")
    assert found.marks.to_list() == [4, None, 5]
    assert found.broken == 1
    assert len(endpoint.requests) == 3


def test_a_row_without_any_answer_is_null_and_asked_again_another_night(ask: Ask, endpoint: Endpoint) -> None:
    endpoint.trouble["good"] = [status(500)] * judging.TRIES
    found = ask("good", "wordy")
    assert (found.marks.to_list(), found.unanswered) == ([None, 5], [0])
    assert ask("good", "wordy").marks.to_list() == [4, 5]
    assert len(endpoint.requests) == judging.TRIES + 2


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_every_row_would_meet_ends_the_run_at_once(ask: Ask, endpoint: Endpoint, code: int) -> None:
    endpoint.always = status(code)
    with pytest.raises(BadConfig, match=f"chat/completions answers {code} for model grader: correct url, model or"):
        ask(*(f"row {number}" for number in range(200)))
    assert len(endpoint.requests) <= judging.PARALLEL


def test_a_redirect_gets_neither_the_rows_nor_the_key(
    ask: Ask, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADER_KEY", "k-123")
    with Endpoint() as elsewhere:
        endpoint.always = status(307, Location=f"{elsewhere.url}/chat/completions")
        with pytest.raises(BadConfig, match="answers 307"):
            ask("good", key_variable="GRADER_KEY")
        assert elsewhere.requests == []


def test_an_endpoint_that_is_down_ends_the_run_and_keeps_the_marks(ask: Ask, endpoint: Endpoint) -> None:
    ask("good")
    endpoint.always = status(502)
    with pytest.raises(JobError, match=r"gave no answer for \d\d rows one after another, 5 tries each; marks so far"):
        ask("good", *(f"row {number}" for number in range(200)))
    assert len(endpoint.requests) <= 1 + judging.TRIES * (judging.GIVEN_UP_IN_A_ROW + judging.PARALLEL)
    endpoint.always = None
    assert ask("good").known == 1


def test_no_more_requests_at_a_time_than_stated(ask: Ask, endpoint: Endpoint) -> None:
    together = threading.Barrier(judging.PARALLEL)

    def meet(handler: Handler) -> None:
        together.wait(60)
        handler.reply(200, {"choices": [{"message": {"content": "3"}}]})

    endpoint.trouble["row"] = [meet] * judging.PARALLEL
    assert ask(*(f"row {number}" for number in range(40))).broken == 0
    assert endpoint.most_inside == judging.PARALLEL


def test_the_best_rows_are_sent_where_there_are_too_many(endpoint: Endpoint, tmp_path: Path, ask: Ask) -> None:
    assert ask("good", "wordy", "thinks", max_rows=2).marks.to_list() == [4, 5, None]
    table = rows("good", "wordy", "thinks").with_columns(score=pl.Series([0.1, 0.9, 0.8]), row_key=pl.Series([1, 2, 3]))
    config = Judge(url=endpoint.url, model="grader", max_rows=2)
    found = judging.judged(table, config, cache=tmp_path / "others")
    assert found.marks.to_list() == [None, 5, 2]
    assert found.not_sent == 1


def test_a_torn_line_on_disk_is_passed_over(ask: Ask, tmp_path: Path, endpoint: Endpoint) -> None:
    ask("good")
    (file,) = (tmp_path / "marks").glob("*.jsonl")
    whole = file.read_text()
    file.write_text(whole + whole[: len(whole) // 2])
    (tmp_path / "marks" / "marks-other.jsonl").write_text(whole.replace('"mark": 4', '"mark": 9'))
    assert ask("good").marks.to_list() == [4]
    assert len(endpoint.requests) == 1


def test_texts_beyond_the_limit_are_cut_and_say_so(ask: Ask, endpoint: Endpoint) -> None:
    ask("x" * (judging.MAX_CHARACTERS + 5))
    assert "[5 more characters]" in endpoint.requests[0]["messages"][0]["content"]


def test_a_missing_key_and_a_url_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="key_variable NO_SUCH_KEY is not set"):
        judging.judge(rows("q"), Judge(url="http://x/v1", model="m", key_variable="NO_SUCH_KEY"), cache=tmp_path)
    with pytest.raises(BadConfig, match="must begin with http"):
        judging.judge(rows("q"), Judge(url="file:///etc", model="m"), cache=tmp_path)
