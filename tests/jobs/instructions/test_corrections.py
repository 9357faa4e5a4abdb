"""Rows that a person put right in a copy of the quarantine file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.instructions import corrections, prepare
from llmjobs.instructions.corrections import Corrections, record
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import Good, MakeConfig, Raw, audit_lines, prompts_of, rows_of

BROKEN = '{\n  "instruction": "Add one to 40.",\n  "output": 41 and that is it"\n }'


def edited(lake: Lake, audit: str, put_right: dict[str, Any]) -> list[str]:
    """Return the quarantine file, with the rows put right whose text contains one of the keys."""
    rows = audit_lines(lake, audit, "quarantine.jsonl")
    for row in rows:
        for part, right in put_right.items():
            if part in row["raw"]:
                row["raw"] = json.dumps(right)
    return [json.dumps(row) for row in rows]


def test_a_row_put_right_is_published_by_a_replay_and_every_later_night(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    rows = [json.dumps(good(number)) for number in range(10)]
    text = "[\n" + ",\n".join([*rows, BROKEN, json.dumps(good(50, output="")), json.dumps(good(60))]) + "\n]"
    raw("a.json", text.encode())
    first = prepare.run(config())
    assert (first.rows_in, first.published, first.quarantined) == (13, 11, 2)
    lines = edited(lake, first.audit_version, {"40.": good(40), "50": good(50)})
    assert record(lake, "rows", lines, who="me") == 2
    assert record(lake, "rows", lines, who="me") == 2  # twice is as once
    assert len(Corrections.of(lake, "rows").by_raw) == 2
    second = prepare.run(config().model_copy(update={"replay": "last"}))
    assert (second.rows_in, second.published, second.quarantined) == (13, 13, 0)
    found = rows_of(lake, second.version)
    assert {good(40)["instruction"], good(50)["instruction"]} <= set(prompts_of(found))
    assert found["licence"].null_count() == 13
    assert found["source"].unique().to_list() == ["rows"]
    fixes = audit_lines(lake, second.audit_version, "fixes.jsonl")
    assert [fix["rule"] for fix in fixes] == ["corrected", "corrected"]
    raw("b.json", [good(70)])
    third = prepare.run(config())
    assert (third.rows_in, third.published, third.quarantined, third.fixed) == (14, 14, 0, 2)


def test_a_correction_that_is_no_row_stays_in_quarantine(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(1), good(2, output="")])
    first = prepare.run(config())
    (line,) = audit_lines(lake, first.audit_version, "quarantine.jsonl")
    line["raw"] = f"{json.dumps(good(2))}\n{json.dumps(good(3))}"
    record(lake, "rows", [json.dumps(line)], who="me")
    second = prepare.run(config())
    assert (second.rows_in, second.published, second.quarantined) == (2, 1, 1)
    (left,) = audit_lines(lake, second.audit_version, "quarantine.jsonl")
    assert left["reasons"] == [{"rule": "unreadable", "detail": "the correction holds 2 rows, not one"}]


@pytest.fixture
def audited(lake: Lake, tmp_path: Path) -> None:
    """A dataset of which the lake has an audit."""
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "quarantine.jsonl").touch()
    lake.publish(folder, kind="audits", name="rows", version="a1")


def test_a_dataset_that_is_not_there_is_refused(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "edited.jsonl"
    path.write_text(json.dumps({"raw": "b", "raw_before": "a", "source_file": "a.json", "source_line": 1}))
    assert corrections.main(["--dataset", "typo", str(path)]) == 65
    assert "dataset typo: the lake has no audit and no version of it" in capsys.readouterr().err
    assert lake.read_text("corrections/typo.jsonl") is None


@pytest.mark.usefixtures("audited")
def test_what_is_no_quarantine_file_is_refused(lake: Lake) -> None:
    with pytest.raises(BadData, match="line 2: no line of a quarantine file"):
        record(lake, "rows", ["", '{"raw": "a"}'], who="me")
    assert Corrections.of(lake, "rows") == Corrections()


@pytest.mark.usefixtures("audited")
def test_rows_as_they_were_are_passed_over(lake: Lake) -> None:
    row = {"raw": "a", "raw_before": "a", "source_file": "a.json", "source_line": 1}
    assert record(lake, "rows", [json.dumps(row)], who="me") == 0
    assert lake.read_text("corrections/rows.jsonl") is None


def test_a_leak_is_corrected_in_its_file(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("held.jsonl", [good(number) for number in range(10)])
    raw("a.json", [good(number) for number in range(20)])
    leaks = config(leaks={"sets": [{"name": "held", "source": "raw/rows/held.jsonl"}]})
    result = prepare.run(leaks.model_copy(update={"source": "raw/rows/a.json"}))
    line = audit_lines(lake, result.audit_version, "quarantine.jsonl")[0]
    assert line["raw_is"] == "canonical"
    older = {key: value for key, value in line.items() if key != "raw_is"}
    for row in (line, older):
        with pytest.raises(BadData, match=r"line 1: the row of raw/rows/a.json, line \d+ leaks, .*in its source file"):
            record(lake, "rows", [json.dumps({**row, "raw": json.dumps(good(40))})], who="me")
    assert lake.read_text("corrections/rows.jsonl") is None


@pytest.mark.usefixtures("audited")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"raw": "b", "raw_before": "a", "source_file": "a.json", "source_line": 1}
    path = tmp_path / "edited.jsonl"
    path.write_text(json.dumps(row))
    assert corrections.main(["--dataset", "rows", "--who", "me", str(path)]) == 0
    assert "1 corrected row kept; a run with replay=last takes it in" in capsys.readouterr().out
    path.write_text("\n".join(json.dumps({**row, "raw_before": before}) for before in ("a", "c")))
    assert corrections.main(["--dataset", "rows", str(path)]) == 0
    assert "2 corrected rows kept; a run with replay=last takes them in" in capsys.readouterr().out
    path.write_text(json.dumps({**row, "raw_before": "b"}))
    assert corrections.main(["--dataset", "rows", str(path)]) == 0
    assert "no row is corrected" in capsys.readouterr().out
    path.write_text("oops")
    assert corrections.main(["--dataset", "rows", str(path)]) != 0
    assert "no line of a quarantine file" in capsys.readouterr().err
