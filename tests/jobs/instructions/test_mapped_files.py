"""Each file in a task of its own: the same dataset, and an unchanged file costs nothing."""

from __future__ import annotations

from typing import Any

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import examine, examined_files, files, prepare
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import Good, MakeConfig, Raw, audit_lines, never


def mapped(config: PrepareConfig, only_file: str = "") -> PrepareConfig:
    return config.model_copy(update={"map_files": True, "only_file": only_file})


def examine_all(config: PrepareConfig) -> list[Any]:
    return [examine.run(mapped(config, label)) for label in files.run(config).files]


def write(raw: Raw, good: Good) -> None:
    raw("a.json", [*(good(row) for row in range(10)), good(50, output="")])
    raw("b.jsonl", [*(good(row, output=f"It is\u0007 {row + 1}.") for row in range(5, 20)), good(3)])
    raw("c.json", b"[]")


def test_the_dataset_is_that_of_one_task(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    write(raw, good)
    first = prepare.run(config())
    one = {name: audit_lines(lake, first.audit_version, name) for name in ("quarantine.jsonl", "fixes.jsonl")}
    examined = examine_all(config())
    assert [(part.rows_in, part.quarantined, part.cached) for part in examined] == [
        (11, 1, False),
        (16, 0, False),
        (0, 0, False),
    ]
    # Other budgets are another question, so the run does its work, on the parts.
    second = prepare.run(mapped(config(budgets={"max_quarantined_share": 0.9})))
    assert (second.version, second.rows_in, second.fixed) == (first.version, first.rows_in, first.fixed)
    assert one == {name: audit_lines(lake, second.audit_version, name) for name in one}


def test_an_unchanged_file_is_examined_once(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(raw, good)
    parts = [part.part for part in examine_all(config())]
    raw("b.jsonl", [good(90)])
    again = examine_all(config(budgets={"min_rows": 2}, split={"train": 1, "validation": 0, "test": 0}))
    assert [part.cached for part in again] == [True, False, True]
    assert [part.part for part in again][::2] == parts[::2]
    assert [part.cached for part in examine_all(config(rules={"refusal": "warn"}))] == [False] * 3
    monkeypatch.setattr(examined_files, "take_in", never)
    assert prepare.run(mapped(config())).published == 11


def test_parts_that_are_gone_are_made_again(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    write(raw, good)
    examine.run(mapped(config(), "raw/rows/a.json"))
    assert prepare.run(mapped(config())).rows_in == 27


def test_a_file_that_is_gone_says_so(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    write(raw, good)
    with pytest.raises(BadData, match=r"only_file: 'raw/rows/x.json' is none of the 3 files"):
        examine.run(mapped(config(), "raw/rows/x.json"))


def test_nothing_is_examined_for_a_rollback_or_a_replay(lake: Lake, config: MakeConfig) -> None:
    for field in ("rollback_to", "replay"):
        assert files.run(config().model_copy(update={field: "x"})).files == []
