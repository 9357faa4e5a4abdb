"""Nights after one another: what is asked, withdrawn, taken down, masked, mixed and compared."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig, PublishConfig
from llmjobs.instructions import prepare, publish, versions
from llmjobs.instructions.takedown import take_down
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import (
    Good,
    MakeConfig,
    Raw,
    audit_file,
    audit_lines,
    current,
    never,
    prompts_of,
    rows_of,
    sides_of,
)

ASK = {"budgets": {"max_quarantined_share": 1.0, "warn_quarantined_share": 0.01}}


def with_bad(good: Good, number: int) -> list[dict[str, str]]:
    return [*(good(row) for row in range(number)), good(99, output="")]


def test_beyond_a_warn_limit_a_person_is_asked_and_the_approval_publishes(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    raw("a.json", [good(row) for row in range(10)])
    first = prepare.run(config(**ASK))
    assert first.verdict == "accepted"
    raw("a.json", with_bad(good, 12))
    second = prepare.run(config(**ASK))
    assert (second.verdict, second.changed, second.base_version) == ("ask", False, first.version)
    assert current(lake) == first.version
    assert rows_of(lake, second.version).height == 12
    assert "1 of 13 rows (7.69%) are quarantined and budgets.warn_quarantined_share allows 1.00%" in second.summary
    assert "- added: " in second.summary
    assert "waits for a person" in audit_file(lake, second.audit_version, "report.html").read_text()
    # Nobody has answered: the same is asked again, without a second version.
    assert prepare.run(config(**ASK)) == second
    publish.run(PublishConfig(name="rows", version=second.version, reason="approved by admin"))
    third = prepare.run(config(**ASK))
    assert (third.verdict, third.changed, third.version) == ("accepted", False, second.version)
    assert len(lake.versions("datasets", "rows")) == 2


def test_a_dry_run_publishes_no_dataset(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", with_bad(good, 5))
    dry = config().model_copy(update={"dry_run": True})
    first = prepare.run(dry)
    assert (first.verdict, first.changed, first.published) == ("dry_run", False, 5)
    assert (lake.versions("datasets", "rows"), current(lake)) == ([], "")
    assert prepare.run(dry).audit_version == first.audit_version
    second = prepare.run(config())
    assert (second.version, second.changed) == (first.version, True)


def test_a_withdrawn_version_does_not_come_back(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row) for row in range(10)])
    first = prepare.run(config())
    raw("a.json", [good(row) for row in range(5, 20)])
    second = prepare.run(config())
    back = prepare.run(config().model_copy(update={"rollback_to": first.version[:8]}))
    assert (back.version, back.changed, back.published) == (first.version, True, 10)
    assert versions.is_withdrawn(lake, "rows", second.version)
    for _ in range(2):
        night = prepare.run(config())
        assert (night.version, night.changed, current(lake)) == (first.version, False, first.version)
        assert (night.published, night.added_rows, night.removed_rows) == (10, 0, 0)
        assert (night.audit_version, night.quarantine_url) == (first.audit_version, first.quarantine_url)
    raw("a.json", [good(row) for row in range(5, 21)])
    assert prepare.run(config()).changed


def test_a_backfilled_night_does_not_become_current_over_a_later_one(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    for day in (1, 2, 3):
        raw(f"2026-11-0{day}/a.json", [good(10 * day + row) for row in range(5)])

    def night(day: int) -> Any:
        where = {"source": "raw/rows/{date}/*.json", "interval_end": f"2026-11-0{day}T00:00:00+00:00"}
        return prepare.run(config().model_copy(update=where))

    third = night(4)
    assert third.published == 15
    second = night(3)
    # Its rows are in the lake, but what it says is of the version that is current.
    assert (second.version, second.changed, current(lake)) == (third.version, False, third.version)
    assert (second.published, second.audit_version, second.report_url) == (15, third.audit_version, third.report_url)
    assert len(lake.versions("datasets", "rows")) == 2
    raw("2026-11-04/a.json", [good(90)])
    assert night(5).changed


def test_the_night_after_a_rollback_goes_on_where_its_audit_was_deleted(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    raw("a.json", [good(row) for row in range(10)])
    first = prepare.run(config())
    raw("a.json", [good(row) for row in range(5, 20)])
    prepare.run(config())
    versions.roll_back(lake, "rows", first.version, "asked")
    shutil.rmtree(audit_file(lake, first.audit_version, ""))
    night = prepare.run(config())
    assert (night.version, night.published, night.train_rows) == (first.version, 10, first.train_rows)
    assert (night.audit_version, night.reasons, night.changed) == (first.audit_version, {}, False)


def test_an_unchanged_night_adds_and_removes_nothing(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row) for row in range(10)])
    first = prepare.run(config())
    second = prepare.run(config())
    assert (first.added_rows, second.added_rows, second.removed_rows) == (10, 0, 0)
    assert (second.published, second.changed) == (10, False)


def test_a_row_taken_down_is_gone_with_its_text(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    secret = "Quillfeather Zoltan of Blackmoor"
    rows = [good(row) for row in range(10)]
    raw("a.json", [*rows, good(50, output=f"The sum\u0007 is known to {secret}.")])
    first = prepare.run(config())
    assert first.published == 11
    take_down(lake, "rows", texts=[secret], reason="asked")
    second = prepare.run(config(budgets={"max_quarantined_share": 0.0}))
    assert (second.published, second.quarantined, second.removed_rows) == (10, 1, 1)
    (row,) = audit_lines(lake, second.audit_version, "quarantine.jsonl")
    assert (row["reasons"], row["raw"]) == ([{"rule": "taken_down"}], None)
    for kind, version in (("datasets", second.version), ("audits", second.audit_version)):
        _refuse(Path(lake.fetch(kind, "rows", version, Path())), "Quillfeather")
    assert "Quillfeather" not in second.model_dump_json()
    # Its source file loses the row too, and the report says nothing of it either.
    raw("a.json", rows[:-1])
    assert prepare.run(config(rules={"refusal": "warn"})).published == 9


def test_the_report_does_not_show_a_row_taken_down_that_is_gone(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    rows = [good(row) for row in range(10)]
    raw("a.json", [*rows, good(50, output="Known to Quillfeather."), good(51, output="Known to nobody.")])
    prepare.run(config())
    take_down(lake, "rows", texts=["Quillfeather"], reason="asked")
    raw("a.json", rows)
    result = prepare.run(config())
    assert result.removed_rows == 2
    assert "Known to nobody." in audit_file(lake, result.audit_version, "report.html").read_text()
    _refuse(Path(lake.fetch("audits", "rows", result.audit_version, Path())), "Quillfeather")


EMAIL, CARD, KEY = (
    "jane.roe@secret-mail.org",
    "4111 1111 1111 1111",
    "sk-" + "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9fG1hJ3",
)


def test_personal_data_is_masked_and_never_told(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [good(row) for row in range(20)]
    bad = [
        good(30, output=f"Write to {EMAIL}, she has card {CARD}."),
        good(31, output=f"The key is {KEY} and works."),
        good(32, output=f"As an AI, I write to {EMAIL}."),
        good(33, input="<noinput>", output=f"Mail\u0007 {EMAIL} now."),
        good(34, output=f"Mail {EMAIL} now, dear reader, and wait for an answer."),
        good(34, output=f"Mail  {EMAIL} now, dear reader, and wait for an answer."),
    ]
    raw("a.json", rows)
    prepare.run(config(**ASK))
    raw("a.json", [*rows, *bad])
    raw("b.jsonl", f'{{"instruction": "Mail {EMAIL}", "{EMAIL}": 1, "{EMAIL}": 2, "output": "x"}}\n{EMAIL}'.encode())
    with caplog.at_level(logging.DEBUG):
        result = prepare.run(config(**ASK))
    assert result.verdict == "ask"
    assert result.masked >= 3
    for text in (EMAIL, CARD, KEY):
        assert text not in caplog.text
        assert text not in result.summary
        assert text not in result.model_dump_json()
        _refuse(Path(lake.fetch("datasets", "rows", result.version, Path())), text)
        # The quarantine holds the exact text: it is what a person has to put right.
        _refuse(Path(lake.fetch("audits", "rows", result.audit_version, Path())), text, but="quarantine.jsonl")
    assert EMAIL in audit_file(lake, result.audit_version, "quarantine.jsonl").read_text()


def _refuse(folder: Path, text: str, *, but: str = "") -> None:
    """Fail where a file of a folder holds a text, Parquet files unpacked."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name == but:
            continue
        content = str(pl.read_parquet(path).to_dicts()) if path.suffix == ".parquet" else path.read_text()
        assert text not in content, path.name


def test_drift_beyond_fail_refuses(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    strict = {"drift": {"length": {"warn": 0.1, "fail": 0.5}}}
    raw("a.json", [good(row) for row in range(20)])
    first = prepare.run(config(**strict))
    raw(
        "a.json", [good(row, output=f"The sum is {row + 1}, " + "as everybody knows by now, " * 5) for row in range(20)]
    )
    with pytest.raises(BadData, match=r"length moved by 1\.000 and drift\.length\.fail allows 0\.5"):
        prepare.run(config(**strict))
    assert current(lake) == first.version


def test_lost_rows_ask_and_refuse(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    limits = {"budgets": {"max_quarantined_share": 1.0, "warn_lost_share": 0.1, "max_lost_share": 0.5}}
    raw("a.json", [good(row) for row in range(20)])
    prepare.run(config(**limits))
    raw("a.json", [good(row) for row in range(15)])
    asked = prepare.run(config(**limits))
    assert asked.verdict == "ask"
    assert "25.00% of the last version's rows are lost" in asked.summary
    raw("a.json", [good(row) for row in range(9)])
    with pytest.raises(BadData, match=r"55\.00% of the last version's rows are lost and budgets\.max_lost_share"):
        prepare.run(config(**limits))
    raw("a.json", [good(row) for row in range(18)])
    assert prepare.run(config(**limits)).verdict == "accepted"


def sources(**contract: Any) -> PrepareConfig:
    parts = [
        {"name": "big", "files": "raw/rows/big.json", "weight": 1, "licence": "MIT"},
        {"name": "small", "files": "raw/rows/small.json", "weight": 1},
    ]
    values: dict[str, Any] = {
        "owner": "tests",
        "budgets": {"max_quarantined_share": 1.0},
        "split": {"train": 1, "validation": 0},
    }
    values["split"]["test"] = 0
    return PrepareConfig.from_mapping(
        {"name": "rows", "sources": parts, "contract": {**values, **contract}}, origin="test"
    )


def test_sources_are_mixed_by_weight_and_rows_know_theirs(lake: Lake, raw: Raw, good: Good) -> None:
    raw("big.json", [good(row) for row in range(50)])
    raw("small.json", [good(100 + row, licence="CC0-1.0" if row < 4 else "") for row in range(10)])
    result = prepare.run(sources())
    assert (result.rows_in, result.published, result.left_out) == (60, 20, 40)
    rows = rows_of(lake, result.version)
    assert dict(rows["source"].value_counts().iter_rows()) == {"big": 10, "small": 10}
    assert rows.filter(pl.col("source") == "big")["licence"].unique().to_list() == ["MIT"]
    assert rows.filter(pl.col("source") == "small")["licence"].to_list().count("CC0-1.0") == 4
    aside = pl.read_parquet(audit_file(lake, result.audit_version, "set_aside.parquet"))
    assert (aside["end"].unique().to_list(), aside.height) == (["left_out"], 40)
    # A source that grows adds rows and takes none away.
    raw("small.json", [good(100 + row) for row in range(12)])
    grown = rows_of(lake, prepare.run(sources()).version)
    assert grown.height == 24
    assert set(prompts_of(rows)) <= set(prompts_of(grown))


def test_a_budget_keeps_the_best_rows_and_ranks_them(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw(
        "a.json",
        [good(row, output=f"The sum is {row + 1}" + " because one more comes." * (row % 4)) for row in range(60)],
    )
    result = prepare.run(config(quality={"score": True, "budget": {"rows": 12}}))
    assert (result.train_rows, result.rows_in) == (12, 60)
    assert result.left_out == 60 - result.published
    rows = rows_of(lake, result.version)
    ranks = rows.filter(pl.col("side") == "train")["rank"]
    assert sorted(ranks) == list(range(12))
    assert rows.filter(pl.col("side") != "train")["rank"].null_count() == result.validation_rows + result.test_rows
    assert rows["score"].null_count() == 0
    assert rows["score"].is_between(0, 1).all()


def test_rows_of_other_datasets_are_duplicates(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row) for row in range(10)])
    prepare.run(config())
    other = config(dedupe={"across": ["rows"]}).model_copy(update={"name": "others"})
    raw("a.json", [good(row) for row in range(7, 13)])
    result = prepare.run(other)
    assert (result.published, result.duplicates) == (3, 3)
    path = Path(lake.fetch("audits", "others", result.audit_version, Path()), "set_aside.parquet")
    assert pl.read_parquet(path)["kept_in_dataset"].to_list() == ["rows"] * 3
    with pytest.raises(BadData, match=r"dedupe\.across: dataset absent has no published version"):
        prepare.run(config(dedupe={"across": ["absent"]}))


def test_a_version_without_a_train_row_is_refused(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row) for row in range(3)])
    said = r"none of 3 published rows is on the train side \(0 validation, 3 test\), so add rows, raise split.train or"
    with pytest.raises(BadData, match=said):
        prepare.run(config(split={"train": 0.001, "validation": 0, "test": 0.999}))
    assert lake.versions("datasets", "rows") == []


def test_an_absent_dataset_is_told_before_a_file_is_read(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", [good(1)])
    monkeypatch.setattr("llmjobs.instructions.night.examined", never)
    with pytest.raises(BadData, match=r"dedupe\.across: dataset nope has no published version; prepare it first"):
        prepare.run(config(dedupe={"across": ["nope"]}))


def test_chats_that_open_with_a_greeting_keep_the_shares_of_the_split(lake: Lake, raw: Raw, config: MakeConfig) -> None:
    def chat(number: int) -> dict[str, Any]:
        asked = ["Hello, can you help me?", f"What do I make of {number} kilos of the fruit that is called {number}?"]
        said = [
            "With what?",
            f"Make {number} pots of jam, then sell them on day {number} of the year for {number} cents.",
        ]
        roles = ("user", "assistant")
        turns = [
            {"role": r, "content": t}
            for pair in zip(asked, said, strict=True)
            for r, t in zip(roles, pair, strict=True)
        ]
        return {"id": f"chat-{number}", "messages": turns}

    raw("a.jsonl", [chat(number) for number in range(200)])
    asked = config(leaks={"near_threshold": None})
    result = prepare.run(asked)
    assert (result.published, result.quarantined) == (200, 0)
    assert 140 <= result.train_rows <= 180
    assert min(result.validation_rows, result.test_rows) >= 8
    raw("a.jsonl", [chat(number) for number in range(250)])
    second = prepare.run(asked)
    assert second.published == 250
    first, after = sides_of(lake, result.version), sides_of(lake, second.version)
    assert first.items() <= after.items()
