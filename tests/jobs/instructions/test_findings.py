"""What a run found, as the report and the person who is asked are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import prepare
from llmjobs.instructions.report import findings
from llmjobs.instructions.report import page as report_page
from llmjobs.instructions.report.data import ReportData
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import Good, MakeConfig, Raw


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[ReportData]:
    """Return the list that each run's report is added to."""
    found: list[ReportData] = []
    write = report_page.write_report

    def keep(path: Path, data: ReportData) -> Any:
        found.append(data)
        return write(path, data)

    monkeypatch.setattr(findings, "write_report", keep)
    return found


def test_the_report_tells_what_the_result_tells(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, told: list[ReportData]
) -> None:
    rows = [good(row) for row in range(30)]
    raw("a.json", rows)
    prepare.run(config())
    bad = [
        good(50, output=""),
        good(51, output="As an AI, I rest."),
        good(52, input="<noinput>"),
        good(53, output="Mail a@b-mail.org now."),
    ]
    raw("a.json", [*rows[2:], *bad, good(7), good(4, output="It is five.")])
    result = prepare.run(config())
    first, data = told
    assert (first.comparison, first.outcome, data.outcome) == (None, "published", "published")
    assert data.version == result.version
    counts = ("rows_in", "published", "quarantined", "duplicates", "left_out", "fixed", "warned", "masked")
    assert [getattr(data, name) for name in counts] == [getattr(result, name) for name in counts]
    assert sum(data.sides.values()) == data.published
    assert {group.rule: group.count for group in data.refused} == {"empty_answer": 1, "speaks_as_ai": 1}
    assert data.comparison is not None
    assert len(data.comparison.added) > 0
    assert len(data.comparison.removed) > 0
    assert data.repeated is not None
    assert (data.repeated.exact, data.repeated.near, len(data.repeated.samples)) == (1, 0, 1)
    assert [one.kind for one in data.personal_data] == ["email"]
    assert all("a@b-mail.org" not in str(repair) for repair in data.repairs)
    assert "refusal" in data.quiet
    assert data.suite is not None
    assert data.suite.evaluated > data.suite.met > 0


def test_each_outcome_has_its_sentence(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, told: list[ReportData]
) -> None:
    raw("a.json", [good(row) for row in range(10)])
    prepare.run(config().model_copy(update={"dry_run": True}))
    prepare.run(config())
    raw("a.json", [good(row) for row in range(9, -1, -1)])
    prepare.run(config())
    assert [data.outcome for data in told] == ["dry_run", "published", "unchanged"]
    assert "this was a dry run" in told[0].sentence
    assert "within every limit" in told[1].sentence
    assert "nothing is published anew" in told[2].sentence


def test_a_mix_and_a_curve_are_told(lake: Lake, raw: Raw, good: Good, told: list[ReportData]) -> None:
    raw("big.json", [good(row) for row in range(40)])
    raw("small.json", [good(100 + row) for row in range(8)])
    sources = [
        {"name": name, "files": f"raw/rows/{name}.json", "weight": 1, "licence": "MIT"} for name in ("big", "small")
    ]
    contract = {"owner": "tests", "quality": {"score": True, "budget": {"rows": 6}}}
    result = prepare.run(
        PrepareConfig.from_mapping({"name": "rows", "sources": sources, "contract": contract}, origin="t")
    )
    (data,) = told
    assert data.quality is not None
    assert data.left_out == result.left_out > 0
    assert {share.name for share in data.sources} == {"big", "small"}
