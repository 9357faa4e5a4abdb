"""Evaluation sets: read in their own format, with the contract's repairs, and part of what a night asks."""

from __future__ import annotations

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.instructions import prepare
from llmjobs.instructions.evaluation import evaluation_rows, sources_of
from llmjobs.instructions.identity import normalised
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import Good, MakeConfig, Raw, audit_lines, config_of, prompts_of, rows_of


def test_rows_of_all_sets_in_any_format(lake: Lake, raw: Raw) -> None:
    raw("one.jsonl", [{"q": "Where is  IT?", "a": ""}, {"q": "And\u0007 now?", "a": "N/A"}])
    raw("two.json", [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}])
    raw("three.jsonl", b"oops\n")
    sets = [
        {"name": "one", "source": "raw/rows/one.jsonl", "mapping": {"instruction": "q", "output": "a"}},
        {"name": "two", "source": "raw/rows/two.json\nraw/rows/three.jsonl"},
    ]
    contract = config_of(leaks={"sets": sets}).contract
    found = evaluation_rows(sources_of(lake, contract, None), contract)
    assert found["row"].to_list() == [-1, -2, -3]
    assert found["name"].to_list() == ["one", "one", "two"]
    assert "and now?" in found["text"][1]
    assert found["text"].to_list() == normalised(found["text"]).to_list()


def test_a_set_without_files_is_an_error(lake: Lake, raw: Raw, good: Good) -> None:
    contract = config_of(leaks={"sets": [{"name": "held", "source": "raw/held/*"}]}).contract
    with pytest.raises(BadData, match=r"'raw/held/\*' matches no file"):
        sources_of(lake, contract, None)


def test_another_set_is_another_question(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row) for row in range(20)])
    held = [{"name": "held", "source": "raw/held/*.jsonl"}]
    raw("../held/a.jsonl", [good(100)])
    asked = config(leaks={"sets": held}, split={"train": 1, "validation": 0, "test": 0})
    assert prepare.run(asked).published == 20
    raw("../held/a.jsonl", [good(3, output="Another answer.")])
    second = prepare.run(asked)
    assert (second.published, second.reasons) == (19, {"leak": 1})
    (row,) = audit_lines(lake, second.audit_version, "quarantine.jsonl")
    assert row["reasons"] == [{"rule": "leak", "detail": "held"}]
    assert good(3)["instruction"] not in prompts_of(rows_of(lake, second.version))
