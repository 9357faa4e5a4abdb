"""Going back to an older version, the mark of the one that was left, and what the command prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmjobs.contracts.environment import DAG_ID, RUN_ID
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.instructions import takedown, versions
from llmjobs.lake import Lake

Publish = Callable[..., str]


@pytest.fixture
def three(publish: Publish, lake: Lake) -> list[str]:
    """Three versions, the oldest first; the newest is current."""
    found = [publish(version, [f"row {version}"]) for version in ("aa11", "ab22", "cc33")]
    lake.move_pointer("datasets", "rows", "current", found[-1])
    return found


def current(lake: Lake) -> str:
    pointer = lake.pointer("datasets", "rows", "current")
    assert pointer is not None
    return pointer.version


def test_going_back_moves_the_pointer_and_withdraws_what_was_left(lake: Lake, three: list[str]) -> None:
    result = versions.roll_back(lake, "rows", "aa", "labels of May are wrong")
    assert (result.version, result.previous, result.changed) == ("aa11", "cc33", True)
    assert current(lake) == "aa11"
    said = versions.is_withdrawn(lake, "rows", "cc33")
    assert said is not None
    assert "cc33 was withdrawn by" in said
    assert "labels of May are wrong" in said
    assert "`python -m llmjobs.instructions.versions --dataset rows publish cc33`" in said
    assert versions.is_withdrawn(lake, "rows", "aa11") is None
    assert versions.is_withdrawn(lake, "rows", "ab22") is None


def test_the_mark_says_which_run_it_was(lake: Lake, three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DAG_ID, "prepare_instructions_rows")
    monkeypatch.setenv(RUN_ID, "manual__1")
    versions.roll_back(lake, "rows", "ab22", "")
    (mark,) = json.loads(Path(lake.url.removeprefix("file://"), "datasets/rows/withdrawn.json").read_text()).values()
    assert mark["by"] == "prepare_instructions_rows manual__1"
    assert mark["instead"] == "ab22"
    assert mark["at"]


def test_going_back_twice_is_as_once(lake: Lake, three: list[str]) -> None:
    versions.roll_back(lake, "rows", "ab22", "first")
    again = versions.roll_back(lake, "rows", "ab22", "second")
    assert (again.previous, again.changed) == ("ab22", False)
    assert versions.is_withdrawn(lake, "rows", "ab22") is None
    assert "first" in (versions.is_withdrawn(lake, "rows", "cc33") or "")


def test_killed_between_the_mark_and_the_pointer_the_next_call_does_the_rest(
    lake: Lake, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "move_pointer", killed)
        with pytest.raises(KeyboardInterrupt):
            versions.roll_back(lake, "rows", "ab22", "wrong")
    assert current(lake) == "cc33"
    assert versions.roll_back(lake, "rows", "ab22", "wrong").changed is True
    assert current(lake) == "ab22"
    assert versions.is_withdrawn(lake, "rows", "cc33") is not None


def test_going_back_to_a_withdrawn_version_undoes_its_withdrawal(lake: Lake, three: list[str]) -> None:
    versions.roll_back(lake, "rows", "ab22", "wrong")
    versions.roll_back(lake, "rows", "cc33", "right after all")
    assert current(lake) == "cc33"
    assert [versions.is_withdrawn(lake, "rows", version) for version in three] == [None, None, None]


def test_publishing_by_hand_takes_the_mark_away_and_sets_none(lake: Lake, three: list[str]) -> None:
    versions.roll_back(lake, "rows", "aa11", "wrong")
    result = versions.make_current(lake, "rows", "cc33", "approved")
    assert (result.previous, result.changed) == ("aa11", True)
    assert [versions.is_withdrawn(lake, "rows", version) for version in three] == [None, None, None]


@pytest.mark.parametrize(
    ("version", "error", "said"),
    [
        ("a", BadConfig, "2 versions begin with a: aa11, ab22"),
        ("", BadConfig, "name a version"),
        ("zz", BadData, "no version zz; the newest are: cc33, ab22, aa11"),
    ],
)
def test_a_version_that_is_not_one_is_refused(
    lake: Lake, three: list[str], version: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        versions.roll_back(lake, "rows", version, "wrong")
    assert current(lake) == "cc33"


def test_a_version_with_rows_that_were_taken_down_stays_away(lake: Lake, three: list[str]) -> None:
    takedown.take_down(lake, "rows", texts=["row ab22"], reason="asked")
    with pytest.raises(BadData, match=r"version ab22 holds 1 row\(s\) that were taken down"):
        versions.roll_back(lake, "rows", "ab22", "wrong")
    assert current(lake) == "cc33"
    assert versions.is_withdrawn(lake, "rows", "cc33") is None
    assert versions.roll_back(lake, "rows", "aa11", "wrong").changed


def test_the_command_lists_rolls_back_and_names_adapters(
    lake: Lake, three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    inputs = {"dataset": "rows", "dataset_version": "cc33"}
    lake.publish(weights, kind="adapters", name="small", version="one", inputs=inputs)
    lake.publish(weights, kind="adapters", name="small", version="two", inputs={**inputs, "dataset_version": "aa11"})
    lake.move_pointer("adapters", "small", "champion", "one")
    command = ["--dataset", "rows"]
    assert versions.main([*command, "rollback", "ab", "--reason", "labels are wrong"]) == 0
    assert "version ab22 is current, it was cc33" in capsys.readouterr().out
    assert versions.main([*command, "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["cc33", "ab22", "aa11"]
    assert "withdrawn" in lines[0]
    assert lines[0].endswith("labels are wrong")
    assert lines[1].endswith("1 rows  current")
    assert versions.main([*command, "adapters", "cc"]) == 0
    assert capsys.readouterr().out.split()[:2] == ["small", "one"]
    assert versions.main([*command, "publish", "cc33"]) == 0
    assert current(lake) == "cc33"


def test_the_command_ends_with_the_code_of_its_refusal(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert versions.main(["--dataset", "rows", "rollback", "aa"]) == 65
    assert "no version aa; the newest are: none" in capsys.readouterr().err
