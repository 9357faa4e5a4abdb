"""How a job ends: its result, its exit code, its one sentence."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmjobs import results
from llmjobs.contracts.base import JobConfig, JobResult
from llmjobs.contracts.errors import BadConfig, BadData, Diverged, ExitCode, Interrupted, JobError, OutOfMemory


class Config(JobConfig):
    rows: int = 1


class Result(JobResult):
    rows: int


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """`main` takes over the root logger, as it should in a process of its own; give it back."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMJOBS_CONFIG", '{"rows": 3}')
    monkeypatch.setenv("LLMJOBS_RESULT", str(tmp_path / "return.json"))
    monkeypatch.setattr(results, "TERMINATION_LOG", tmp_path / "termination-log")
    return tmp_path / "return.json"


def failing(error: BaseException) -> Callable[[Config], Result]:
    def run(config: Config) -> Result:
        raise error

    return run


def test_a_result_is_written_and_nothing_beside_it(target: Path) -> None:
    assert results.main(Config, lambda config: Result(rows=config.rows)) == ExitCode.DONE
    assert json.loads(target.read_text()) == {"rows": 3}
    assert [path.name for path in target.parent.iterdir()] == ["return.json"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadData("d"), 65),
        (Diverged("d"), 70),
        (Interrupted("d"), 75),
        (OutOfMemory("d"), 77),
        (MemoryError(), 77),
        (BadConfig("d"), 78),
        (JobError("d"), 1),
        (ValueError("d"), 1),
    ],
)
def test_each_failure_has_its_exit_code_and_one_line(
    target: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert results.main(Config, failing(error)) == code
    lines = [line for line in capsys.readouterr().out.splitlines() if f"REFUSED {code} " in line]
    assert len(lines) == 1
    assert not target.exists()


def test_a_sentence_of_many_lines_is_still_one_line(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.main(Config, failing(BadData("first\nsecond")))
    assert "REFUSED 65 first | second" in capsys.readouterr().out


def test_a_pod_says_it_in_its_termination_message(target: Path) -> None:
    (target.parent / "termination-log").touch()
    results.main(Config, failing(BadData("too few rows: 3")))
    assert (target.parent / "termination-log").read_text() == "too few rows: 3"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "LLMJOBS_CONFIG is not set"),
        ("{", "is not valid JSON"),
        ("[]", "must hold a mapping"),
        ('{"row": 1}', "did you mean 'rows'?"),
    ],
)
def test_a_wrong_config_ends_in_78(
    target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: str | None, said: str
) -> None:
    monkeypatch.delenv("LLMJOBS_CONFIG")
    if config is not None:
        monkeypatch.setenv("LLMJOBS_CONFIG", config)
    assert results.main(Config, lambda config: Result(rows=1)) == ExitCode.BAD_CONFIG
    assert said in capsys.readouterr().out


def test_started_by_hand_the_job_prints_its_result(
    target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLMJOBS_RESULT")
    results.main(Config, lambda config: Result(rows=2))
    assert '{"rows":2}' in capsys.readouterr().out.splitlines()
