"""A contract is looked at, and tried on files, without Airflow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmjobs.contracts.data_contract import DataContract
from llmjobs.instructions import check
from llmjobs.instructions.checking.lint import warnings
from llmjobs.lake import Lake

REPOSITORY = Path(__file__).parents[3]


def contract(**values: Any) -> DataContract:
    return DataContract.from_mapping({"owner": "tests", **values}, origin="test")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "dags" / "contracts").glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_contracts_ask_for_nothing_in_vain(path: Path) -> None:
    assert warnings(DataContract.from_yaml(path)) == []


def test_defaults_are_asked_for_by_nobody() -> None:
    assert warnings(contract()) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rules": {"invalid_json_answer": "fail"}},
         "rules.invalid_json_answer: fail can never fire, since answer.format is text"),
        ({"rules": {"too_many_tokens": "warn"}},
         "rules.too_many_tokens: warn can never fire, since limits.max_tokens is not set"),
        ({"rules": {"url_only_input": "warn"}, "format": "messages"},
         "rules.url_only_input: warn can never fire, since format messages has no input"),
        ({"rules": {"no_input_marker": "fix"}, "mapping": {"instruction": "q", "output": "a"}},
         "rules.no_input_marker: fix can never fire, since mapping names no `input`"),
        ({"rules": {"broken_tools": "warn"}, "format": "alpaca"},
         "rules.broken_tools: warn can never fire, since format alpaca has no tools"),
        ({"rules": {"role_order": "fail"}, "mapping": {"instruction": "q", "output": "a"}},
         "rules.role_order: fail can never fire, since mapping makes one question and one answer of a row"),
        ({"limits": {"max_characters": 9}, "rules": {"too_long": "off"}},
         "limits.max_characters: 9 is compared with nothing, since rules.too_long is off"),
        ({"limits": {"languages": ["en"]}, "rules": {"language_mismatch": "off"}},
         "limits.languages is compared with nothing, since rules.language_mismatch is off"),
        ({"leaks": {"severity": "off", "sets": [{"name": "gsm", "source": "x"}]}},
         "leaks.sets names 1 sets that nothing is compared with, since leaks.severity is off"),
        ({"leaks": {"severity": "fail"}, "split": {"train": 1, "validation": 0, "test": 0}},
         "leaks.severity: fail can never fire, since there is no set, no validation and no test"),
        ({"drift": {"topic": {"warn": 0.1}}, "format": "alpaca"},
         "drift.topic can never be exceeded, since no row has a topic; name mapping.topic"),
        ({"drift": {"label": {"fail": 0.1}}, "mapping": {"messages": "m"}},
         "drift.label can never be exceeded, since no row has a label; name answer.label or mapping.label"),
        ({"budgets": {"max_quarantined_share": 1}},
         "budgets.max_quarantined_share: 1 refuses nothing, whatever the data is like"),
        ({"answer": {"format": "json", "fields": {"run": {"type": "integer", "enum": [1, "two"]}}}},
         "answer.fields.run: 'two' of its enum is no integer, so no answer can hold it"),
        ({"quality": {"score": True, "budget": {"tokens": 5}}},
         "quality.budget.tokens is counted from characters, roughly, since limits.tokenizer is not set"),
    ],
)  # fmt: skip
def test_what_can_never_happen_is_said(values: dict[str, Any], said: str) -> None:
    assert warnings(contract(**values)) == [said]


@pytest.mark.parametrize(
    "values",
    [
        {"rules": {"invalid_json_answer": "fail"}, "answer": {"format": "json"}},
        {"rules": {"url_only_input": "off"}, "format": "messages"},
        {"rules": {"broken_tools": "warn"}, "mapping": {"messages": "m"}},
        {"drift": {"topic": {"warn": 0.1}}, "format": "dolly"},
        {"leaks": {"severity": "fail"}},
    ],
)
def test_what_can_happen_is_not(values: dict[str, Any]) -> None:
    assert warnings(contract(**values)) == []


def test_sets_and_datasets_are_looked_for_in_the_lake(lake: Lake, raw: Callable[[str, Any], Path]) -> None:
    raw("there.jsonl", b"{}")
    sets = [{"name": "eval", "source": "raw/rows/there.jsonl\nraw/rows/absent.jsonl"}]
    asked = contract(leaks={"sets": sets}, dedupe={"across": ["others"]})
    assert warnings(asked, lake) == [
        "leaks.sets eval: 'raw/rows/absent.jsonl' matches no file, so a run would be refused",
        "dedupe.across: the dataset others has no published version, so a run would be refused",
    ]
    assert warnings(asked) == []


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a contract beside no lake, and return its path."""
    monkeypatch.delenv("LLMJOBS_LAKE_URL", raising=False)

    def write(**values: Any) -> str:
        path = tmp_path / "contract.yaml"
        path.write_text(yaml.safe_dump({"owner": "tests", **values}), encoding="utf-8")
        return str(path)

    return write


def test_a_wrong_contract_ends_with_78_and_says_field_and_fix(
    written: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(rules={"refusl": "warn", "too_long": "fix"})
    assert check.main([path]) == 78
    said = capsys.readouterr().err
    assert f"{path}: rules.refusl: unknown field; did you mean 'refusal'?" in said
    assert f"{path}: rules.too_long: Input should be 'off', 'warn', 'quarantine' or 'fail'" in said


def test_a_contract_alone_is_looked_at(written: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([written(budgets={"max_quarantined_share": 1})]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("contract.yaml: fits")
    assert said[1].startswith("warning: budgets.max_quarantined_share: 1 refuses nothing")


@pytest.fixture
def file(tmp_path: Path, good: Callable[..., dict[str, str]]) -> str:
    """Ten good rows and two refusals, one of them with an address."""
    said = "I'm sorry, but I can't help with that."
    refused = [good(20, output=said), good(21, output=f"{said} Write to jane.roe@example.org.")]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*map(good, range(10)), *refused]), encoding="utf-8")
    return str(path)


def test_a_contract_is_tried_on_files(
    written: Callable[..., str], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([written(budgets={"max_quarantined_share": 0.5, "min_rows": 10}), file]) == 0
    said = capsys.readouterr().out
    assert "12 rows in = 10 published + 2 quarantined + 0 duplicates" in said
    assert "rows.jsonl line 11: Add one to 20. -> I'm sorry, but I can't help with that." in said
    assert "quarantined share 16.67% of at most 50.00%" in said
    assert said.rstrip().endswith("verdict: accepted")
    assert "[EMAIL]" in said
    assert "jane.roe" not in said
    assert "LLMJOBS_LAKE_URL" not in os.environ


def test_files_that_would_be_refused_end_with_65(
    written: Callable[..., str], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([written(budgets={"max_quarantined_share": 0.1}), file]) == 65
    said = capsys.readouterr().out
    assert "verdict: these files would be refused: 2 of 12 rows (16.67%) are quarantined" in said
    assert "last version" not in said
    assert "report.html" not in said


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_row_nested_too_deeply_is_shown_as_it_stands(
    written: Callable[..., str], file: str, depth: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(file).open("a", encoding="utf-8") as rows:
        rows.write(f'\n{{"instruction": "a", "output": {"[" * depth}{"]" * depth}}}')
    assert check.main([written(budgets={"max_quarantined_share": 0.5, "min_rows": 10}), file]) == 0
    said = capsys.readouterr().out
    assert "13 rows in = 10 published + 3 quarantined" in said
    assert "rows.jsonl line 13" in said


def test_a_person_would_be_asked(written: Callable[..., str], file: str, capsys: pytest.CaptureFixture[str]) -> None:
    budgets = {"max_quarantined_share": 0.5, "warn_quarantined_share": 0.1}
    assert check.main([written(budgets=budgets), file]) == 0
    assert capsys.readouterr().out.rstrip().endswith("verdict: a person would be asked")


def test_a_file_that_is_not_there_is_named(
    written: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([written(), f"{tmp_path}/absent*.jsonl"]) == 65
    assert "absent*.jsonl' matches no file" in capsys.readouterr().err
