"""What one night leaves for the next: rows taken down, rows put right, what stays for a duplicate, and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig, PrepareResult, PublishConfig
from llmjobs.instructions import prepare, publish
from llmjobs.instructions.corrections import record
from llmjobs.instructions.takedown import take_down
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import (
    Good,
    MakeConfig,
    Raw,
    accounts_of,
    audit_file,
    audit_lines,
    config_of,
    current,
    lines,
    prompts_of,
    rows_of,
)

TEXT = "the quick brown fox jumps over a lazy dog while seven old wizards boil green tea in tin cups by night"


@pytest.mark.parametrize("map_files", [False, True])
def test_a_row_taken_down_that_a_rule_refuses_too_leaves_no_text(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, map_files: bool
) -> None:
    rows = [good(row) for row in range(10)]
    raw("a.json", [*rows, good(50, output="As an AI, I know Quillfeather."), good(51, output="As an AI, I rest.")])
    how = {"map_files": map_files}
    assert prepare.run(config(rules={"speaks_as_ai": "warn"}).model_copy(update=how)).published == 12
    take_down(lake, "rows", texts=["Quillfeather"], reason="asked")
    result = prepare.run(config(rules={"speaks_as_ai": "quarantine"}).model_copy(update=how))
    assert (result.published, result.quarantined) == (10, 2)
    gone, kept = audit_lines(lake, result.audit_version, "quarantine.jsonl")
    assert (gone["raw"], gone["reasons"]) == (None, [{"rule": "speaks_as_ai"}, {"rule": "taken_down"}])
    assert "I rest" in kept["raw"]
    report = audit_file(lake, result.audit_version, "report.html")
    for path in Path(report).parent.iterdir():
        assert b"Quillfeather" not in path.read_bytes(), path.name
    (entry,) = (lake.read_text("takedowns/rows.jsonl") or "").splitlines()
    assert json.loads(entry)["row_id"] in report.read_text()


def test_a_row_taken_down_that_breaks_a_rule_set_to_fail_refuses_nothing(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    raw("a.json", [*(good(row) for row in range(10)), good(50, output="As an AI, I know Quillfeather.")])
    prepare.run(config(rules={"speaks_as_ai": "warn"}))
    strict = config(rules={"speaks_as_ai": "fail"}, budgets={"max_quarantined_share": 0.05})
    with pytest.raises(BadData, match=r"1 rows break rules\.speaks_as_ai"):
        prepare.run(strict)
    take_down(lake, "rows", texts=["Quillfeather"], reason="asked")
    result = prepare.run(strict)
    assert (result.verdict, result.published, result.quarantined) == ("accepted", 10, 1)
    report = audit_file(lake, result.audit_version, "report.html").read_text()
    assert 'class="state good"' in report
    assert 'class="state bad"' not in report


def test_a_backfill_does_not_become_current_over_a_version_that_came_back(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    def night(day: int, first: int) -> PrepareResult:
        raw("a.json", [good(row) for row in range(first, first + 10)])
        return prepare.run(config().model_copy(update={"interval_end": f"2026-11-0{day}T00:00:00+00:00"}))

    first = night(1, 0)
    assert night(2, 50).changed
    assert night(4, 0).version == first.version
    late = night(3, 80)
    assert (late.version, late.changed, current(lake)) == (first.version, False, first.version)
    assert not night(6, 0).changed
    assert not night(5, 80).changed
    assert night(7, 80).changed


def test_a_version_approved_again_is_of_the_interval_it_was_approved_for(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    def night(day: int, first: int, warn: float | None = None) -> PrepareResult:
        raw("a.json", [*(good(row) for row in range(first, first + 10)), good(99, output="")])
        budgets = {"max_quarantined_share": 1.0, "warn_quarantined_share": warn}
        return prepare.run(config(budgets=budgets).model_copy(update={"interval_end": f"2026-11-0{day}"}))

    first = night(1, 0)
    assert night(2, 50).changed
    asked = night(4, 0, warn=0.01)
    assert (asked.verdict, asked.version) == ("ask", first.version)
    publish.run(PublishConfig(name="rows", version=asked.version, reason="agreed", interval_end="2026-11-04"))
    assert not night(3, 80).changed
    assert current(lake) == first.version


def test_a_dry_run_names_no_folder_that_is_not_there(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row) for row in range(5)])
    dry = prepare.run(config().model_copy(update={"dry_run": True}))
    assert dry.dataset_url == ""
    night = prepare.run(config())
    assert (night.version, Path(night.dataset_url.removeprefix("file://")).is_dir()) == (dry.version, True)


@pytest.mark.parametrize("names", [{}, {"site": "example.org"}], ids=["of its source", "names another source"])
def test_a_correction_is_read_as_its_source_is(lake: Lake, raw: Raw, good: Good, names: dict[str, str]) -> None:
    raw("own.jsonl", [good(row) for row in range(5)])
    raw("web.jsonl", [{"q": "Who?", "a": "Me, of course.", **names}, {"q": "Where?", "a": "", **names}])
    mapping = {"instruction": "q", "output": "a"} | ({"source": "site"} if names else {})
    sources = [
        {"name": "own", "files": "raw/rows/own.jsonl"},
        {"name": "web", "files": "raw/rows/web.jsonl", "mapping": mapping},
    ]
    contract = {"owner": "tests", "format": "alpaca", "budgets": {"max_quarantined_share": 1.0}}
    config = PrepareConfig.from_mapping({"name": "rows", "sources": sources, "contract": contract}, origin="test")
    first = prepare.run(config)
    (line,) = audit_lines(lake, first.audit_version, "quarantine.jsonl")
    line["raw"] = json.dumps({"q": "Where?", "a": "Here it is.", **names})
    assert record(lake, "rows", [json.dumps(line)], who="me") == 1
    second = prepare.run(config)
    assert (second.published, second.quarantined) == (7, 0)
    assert "Where?" in prompts_of(rows_of(lake, second.version))


def test_what_is_kept_for_an_equal_row_is_the_row_that_stays(tmp_path: Path) -> None:
    def row(answer: str) -> dict[str, str]:
        return {"instruction": "Tell of it", "output": answer}

    rows = [row(TEXT), row(TEXT.upper()), row(f"{TEXT} and day")]
    accounts = accounts_of({"a.jsonl": lines(rows)}, tmp_path / "part", config_of(dedupe={"near_threshold": 0.7}))
    assert accounts.read["end"].to_list() == ["duplicate", "duplicate", "published"]
    assert accounts.repeats["kept_row"].to_list() == [2, 2]
    assert all(0.7 <= similarity < 1 for similarity in accounts.repeats["similarity"])
