"""Whole nights with the real embedding model and a judge on loopback that misbehaves."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.instructions import examine, files, prepare
from llmjobs.instructions.choice import judge as judging
from llmjobs.lake import Lake
from tests.jobs.instructions.grader import Endpoint, status
from tests.jobs.instructions.nights import MakeConfig, Raw, audit_file, prompts_of, rows_of, side_of

ALL_TRAIN = {"train": 1, "validation": 0, "test": 0}
TOPICS = ("glaciers", "bread", "violins", "ferries", "tulips", "comets", "bridges", "bees", "clocks", "rivers")


def row(number: int, word: str = "Explain", **changes: str) -> dict[str, str]:
    """Return a row whose answer is about its question; the judge of `Endpoint` goes by the first word."""
    topic = TOPICS[number % len(TOPICS)]
    question = f"{word} how {topic} come about, in case {number}."
    return {"instruction": question, "output": f"Case {number}: {topic} come about slowly, in many steps.", **changes}


def scores_of(lake: Lake, version: str) -> dict[str, float]:
    """Return first word of the question -> score of its row."""
    rows = rows_of(lake, version)
    return {prompt.split()[0]: score for prompt, score in zip(prompts_of(rows), rows["score"], strict=True)}


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited."""
    waits: list[float] = []
    monkeypatch.setattr(
        judging.judged, "__kwdefaults__", {**(judging.judged.__kwdefaults__ or {}), "sleep": waits.append}
    )
    return waits


def test_a_misbehaving_judge_costs_marks_and_no_row(
    lake: Lake,
    raw: Raw,
    config: MakeConfig,
    endpoint: Endpoint,
    *,
    no_waiting: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.trouble = {
        "good": [status(429, Retry_After="7"), status(503)],
        "wordy": [lambda handler: handler.reply(200, b"<html>Bad gateway</html>")],
        "long": [status(400)],
    }
    words = ("good", "wordy", "thinks", "prose", "beyond", "long")  # marks 4, 5, 2, and three that are none
    raw("a.jsonl", [row(0, word) for word in words])
    plain = scores_of(lake, prepare.run(config(quality={"score": True})).version)
    quality = {"score": True, "judge": {"url": endpoint.url, "model": "grader"}}
    with caplog.at_level(logging.INFO):
        result = prepare.run(config(quality=quality))
    assert "6 rows asked, 0 known, 3 without a mark, 0 not sent" in caplog.text
    assert sorted(no_waiting) == [1.0, 2.0, 7.0]
    assert (result.published, result.quarantined) == (6, 0)
    judged = scores_of(lake, result.version)
    assert {word for word in words if judged[word] == plain[word]} == {"prose", "beyond", "long"}
    assert judged["wordy"] > judged["good"] > judged["thinks"]

    endpoint.requests.clear()
    raw("b.jsonl", [row(1, "wordy")])
    assert prepare.run(config(quality=quality)).published == 7
    assert len(endpoint.requests) == 1  # the others were marked, or were no mark, in the first night


@pytest.mark.parametrize("map_files", [False, True])
def test_a_row_without_an_answer_is_asked_about_again_in_the_next_night(
    lake: Lake,
    raw: Raw,
    config: MakeConfig,
    endpoint: Endpoint,
    *,
    no_waiting: list[float],
    map_files: bool,
) -> None:
    endpoint.trouble = {"good": [status(503)] * judging.TRIES}
    raw("a.jsonl", [row(number, word) for number, word in enumerate(("good", "wordy", "prose"))])
    quality = {"score": True, "judge": {"url": endpoint.url, "model": "grader"}}
    asked = config(quality=quality, split=ALL_TRAIN).model_copy(update={"map_files": map_files})
    label = files.run(asked).files[0]

    def night() -> tuple[str, str, bool]:
        cached = map_files and examine.run(asked.model_copy(update={"only_file": label})).cached
        result = prepare.run(asked)
        return result.audit_version, audit_file(lake, result.audit_version, "report.html").read_text(), cached

    first, page, _ = night()
    assert "1 row got no answer in all tries" in page
    assert "1 row had no mark" in page
    assert len(no_waiting) == judging.TRIES - 1
    endpoint.requests.clear()
    second, page, cached = night()
    assert (second != first, cached, len(endpoint.requests)) == (True, False, 1)
    assert "no answer" not in page
    assert "Marks by the judge grader" in page
    third, _, cached = night()
    assert (third, cached, len(endpoint.requests)) == (second, map_files, 1)


def test_a_judge_that_is_down_ends_the_night_and_publishes_nothing(
    lake: Lake,
    raw: Raw,
    config: MakeConfig,
    endpoint: Endpoint,
    no_waiting: list[float],
) -> None:
    raw("a.jsonl", [row(number) for number in range(60)])
    quality = {"score": True, "judge": {"url": endpoint.url, "model": "grader"}}
    endpoint.always = status(502)
    with pytest.raises(JobError, match=r"run again when it is up, or take quality\.judge out of the contract"):
        prepare.run(config(quality=quality))
    endpoint.always = status(401)
    with pytest.raises(BadConfig, match="answers 401 for model grader"):
        prepare.run(config(quality=quality))
    assert lake.versions("datasets", "rows") == lake.versions("audits", "rows") == []
    endpoint.always = None
    assert prepare.run(config(quality=quality)).published == 60


def test_a_budget_takes_what_the_judge_likes(lake: Lake, raw: Raw, config: MakeConfig, endpoint: Endpoint) -> None:
    raw("a.jsonl", [row(number, "wordy" if number % 2 else "thinks") for number in range(20)])  # marks 5 and 2
    quality = {"score": True, "diversity": 0, "judge": {"url": endpoint.url, "model": "grader"}, "budget": {"rows": 10}}
    result = prepare.run(config(quality=quality, split=ALL_TRAIN))
    assert (result.published, result.left_out) == (10, 10)
    assert {prompt.split()[0] for prompt in prompts_of(side_of(lake, result.version, "train"))} == {"wordy"}
    page = audit_file(lake, result.audit_version, "report.html").read_text()
    assert "Quality and quantity" in page


@pytest.mark.long  # a whole night with the real model: a minute of CPU
def test_the_embedding_model_decides_what_a_budget_leaves_out(
    lake: Lake, raw: Raw, config: MakeConfig, tmp_path: Path
) -> None:
    rows = [row(number) for number in range(20)]
    other = [one["output"] for one in rows[10:]]
    strayed = [{**one, "output": answer} for one, answer in zip(rows[:10], [*other[3:], *other[:3]], strict=True)]
    raw("a.jsonl", [*strayed, *rows[10:]])
    quality = {"score": True, "similarity": True, "diversity": 0, "budget": {"rows": 10}}
    result = prepare.run(config(quality=quality, split=ALL_TRAIN))
    assert (result.published, result.left_out) == (10, 10)
    kept = prompts_of(side_of(lake, result.version, "train"))
    assert {int(re.findall(r"\d+", prompt)[-1]) for prompt in kept} == set(range(10, 20))
