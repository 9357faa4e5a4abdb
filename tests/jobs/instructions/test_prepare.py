"""The whole job on small files: what is published, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import json
import re
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.instructions import prepare
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.checking.trial import try_on
from llmjobs.instructions.night import Night
from llmjobs.instructions.published import COLUMNS
from llmjobs.instructions.raw.sources import Sources
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import (
    Good,
    MakeConfig,
    Raw,
    audit_file,
    audit_lines,
    current,
    killed,
    never,
    rows_of,
    side_of,
)


def mixed(good: Good) -> list[dict[str, str]]:
    """Return 40 good rows, of which 2 are repaired, 3 bad ones and 2 duplicates."""
    rows = [good(number) for number in range(40)]
    rows[3]["input"], rows[4]["output"] = "<noinput>", "The sum is\u0007 5."
    bad = [
        good(50, output=""),
        good(51, output="As an AI, I do not add."),
        good(52, output="", input="https://a.example"),
    ]
    return [*rows[:20], *bad, *rows[20:], good(7), good(8, output="the SUM  is 9.")]


def test_counts_files_and_pointer(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", mixed(good))
    result = prepare.run(config())
    assert (result.rows_in, result.published, result.quarantined, result.duplicates) == (45, 40, 3, 2)
    assert (result.fixed, result.left_out, result.base_version, result.verdict) == (2, 0, "", "accepted")
    assert result.reasons == {"empty_answer": 2, "speaks_as_ai": 1, "url_only_input": 1}
    assert result.changed
    assert current(lake) == result.version
    sides = {side: side_of(lake, result.version, side) for side in SIDES}
    assert {side: rows.height for side, rows in sides.items()} == {
        "train": result.train_rows, "validation": result.validation_rows, "test": result.test_rows,
    }  # fmt: skip
    for rows in sides.values():
        assert tuple(rows.columns) == COLUMNS
        assert rows["row_id"].is_sorted()
    everything = rows_of(lake, result.version)
    contents = [message["content"] for row in everything["messages"].to_list() for message in row]
    assert "The sum is 5." in contents
    assert not any("noinput" in content for content in contents)


def test_the_audit_says_where_every_refused_row_is(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    path = raw("a.json", mixed(good))
    result = prepare.run(config())
    lines = path.read_text().splitlines()
    refused = audit_lines(lake, result.audit_version, "quarantine.jsonl")
    assert len(refused) == 3
    for row in refused:
        assert row["source_file"] == "raw/rows/a.json"
        block = "\n".join(lines[row["source_line"] - 1 :])
        assert block.strip().startswith(row["raw"])
    assert [reason["rule"] for reason in refused[2]["reasons"]] == ["empty_answer", "url_only_input"]
    aside = pl.read_parquet(audit_file(lake, result.audit_version, "set_aside.parquet"))
    assert aside["end"].to_list() == ["duplicate", "duplicate"]
    assert (aside["kept_line"] != aside["source_line"]).all()
    assert aside["kept_file"].unique().to_list() == ["raw/rows/a.json"]
    fixes = audit_lines(lake, result.audit_version, "fixes.jsonl")
    assert [(fix["rule"], fix["before"], fix["after"]) for fix in fixes] == [
        ("no_input_marker", "<noinput>", ""),
        ("control_characters", "The sum is\u0007 5.", "The sum is 5."),
    ]
    verdict = json.loads(audit_file(lake, result.audit_version, "verdict.json").read_text())
    found = {
        outcome["expectation_config"]["meta"]["limit"]: outcome["result"].get("unexpected_count")
        for outcome in verdict["results"]
    }
    limits = ("rules.empty_answer", "rules.no_input_marker", "budgets.max_quarantined_share")
    assert [found[limit] for limit in limits] == [2, 1, 3]
    manifest = lake.manifest("audits", "rows", result.audit_version)
    assert manifest is not None
    assert manifest.metrics["dataset_version"] == result.version
    assert manifest.metrics["flags"]["refusal"] == 0


def test_a_second_run_does_nothing(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", mixed(good))
    first = prepare.run(config())
    before = {path: path.stat().st_mtime_ns for path in Path(lake.url[7:]).rglob("*")}
    monkeypatch.setattr(Night, "_prepared", never)
    second = prepare.run(config())
    assert second == first.model_copy(update={"changed": False, "added_rows": 0, "removed_rows": 0})
    assert {path: path.stat().st_mtime_ns for path in Path(lake.url[7:]).rglob("*")} == before


def test_the_version_follows_from_the_rows_alone(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    rows = mixed(good)
    paths = [raw("a.json", rows[:20]), raw("b.jsonl", rows[20:])]
    first = prepare.run(config())
    for path in paths:
        path.unlink()
    raw("1.jsonl", rows[30:][::-1])
    raw("2.json", [*rows[:30], good(99, output="")])
    second = prepare.run(config())
    assert second.version == first.version
    assert second.audit_version != first.audit_version
    assert not second.changed
    assert (second.added_rows, second.removed_rows) == (0, 0)
    assert second.quarantined == first.quarantined + 1


def test_prose_makes_no_other_version_and_no_other_audit(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", mixed(good))
    first = prepare.run(config())
    monkeypatch.setattr(Night, "_prepared", never)
    assert prepare.run(config(owner="others", description="words")).audit_version == first.audit_version


def test_other_limits_lead_to_the_same_version(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", mixed(good))
    first = prepare.run(config())
    second = prepare.run(config(budgets={"max_quarantined_share": 0.5, "min_rows": 2}))
    assert (second.version, second.changed) == (first.version, False)
    assert len(lake.versions("datasets", "rows")) == 1


def test_the_same_rows_give_the_same_bytes(
    raw: Raw, config: MakeConfig, good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = raw("a.json", mixed(good))
    hashes = []
    for name in ("one", "two"):
        monkeypatch.setenv("LLMJOBS_LAKE_URL", f"file://{tmp_path}/{name}")
        copy = tmp_path / name / "raw" / "rows" / "a.json"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
        result = prepare.run(config())
        other = Lake(f"file://{tmp_path}/{name}")
        manifests = [
            other.manifest("audits", "rows", result.audit_version),
            other.manifest("datasets", "rows", result.version),
        ]
        hashes.append([(entry.path, entry.sha256) for one in manifests if one for entry in one.files])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 8


def test_no_row_changes_sides_when_rows_come_and_go(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    def sides(version: str) -> dict[str, str]:
        return dict(rows_of(lake, version).select("row_id", "side").iter_rows())

    raw("a.json", [good(number) for number in range(60)])
    before = sides(prepare.run(config()).version)
    raw("a.json", [good(number) for number in range(20, 200)])
    after = sides(prepare.run(config()).version)
    assert len(before.keys() & after.keys()) == 40
    assert all(after[row] == side for row, side in before.items() if row in after)


def test_no_row_changes_sides_when_groups_merge(lake: Lake, raw: Raw, config: MakeConfig) -> None:
    """Night two brings rows that are near several groups of night one; night three takes their bridge away."""

    def row(number: int, words: int) -> dict[str, str]:
        text = " ".join(f"w{number}x{place}" for place in range(words))
        return {"instruction": f"{text}?", "output": f"Answer {number} is {text}."}

    def bridged(number: int) -> dict[str, str]:
        """Return a row that says nearly the same under another prompt, so it is of another group."""
        own = row(number, 40)
        return {"instruction": f"please {own['instruction']}", "output": own["output"]}

    ten_of_each = {"dedupe": {"near_threshold": None}, "split": {"train": 0.4, "validation": 0.3, "test": 0.3}}
    first = [row(number, 40) for number in range(40)]
    raw("a.json", first)
    sides = [dict(rows_of(lake, prepare.run(config(**ten_of_each)).version).select("row_id", "side").iter_rows())]
    raw("a.json", [*first, *(bridged(number) for number in range(40))])
    two = prepare.run(config(**ten_of_each))
    assert two.published == 80
    sides.append(dict(rows_of(lake, two.version).select("row_id", "side").iter_rows()))
    # The near row goes to the side of the row that was there, whatever its own prompt would say.
    by_answer: dict[str, set[str]] = {}
    for turns, side in rows_of(lake, two.version).select("messages", "side").iter_rows():
        by_answer.setdefault(turns[-1]["content"], set()).add(side)
    assert all(len(found) == 1 for found in by_answer.values())
    raw("a.json", [bridged(number) for number in range(40)])
    sides.append(dict(rows_of(lake, prepare.run(config(**ten_of_each)).version).select("row_id", "side").iter_rows()))
    for before, after in pairwise(sides):
        assert before.keys() & after.keys()
        assert all(after[key] == side for key, side in before.items() if key in after)
    assert set(sides[0].values()) == set(SIDES)


def test_no_prompt_of_the_test_side_is_trained_on(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    answers = ("The sum is one more.", "Count on.", "Ask a calculator.")
    raw("a.json", [good(number, output=answer) for number in range(60) for answer in answers])
    result = prepare.run(config())
    assert result.published == 180
    prompts = {side: {row[0]["content"] for row in side_of(lake, result.version, side)["messages"]} for side in SIDES}
    assert len(prompts["test"]) > 0
    assert prompts["train"].isdisjoint(prompts["test"] | prompts["validation"])


def test_over_budget_is_refused_in_one_sentence(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(number) for number in range(10)])
    first = prepare.run(config())
    raw("a.json", mixed(good))
    strict = config(budgets={"max_quarantined_share": 0.05, "min_rows": 41})
    with pytest.raises(BadData) as caught:
        prepare.run(strict)
    sentence, _, url = str(caught.value).partition("; report: ")
    assert sentence == (
        "dataset 'rows' is refused and its last version stays: 3 of 45 rows (6.67%) are quarantined and "
        "budgets.max_quarantined_share allows 5.00% (2 rows), so repair them, set their rule to warn or raise the "
        "budget; 40 rows could be published and budgets.min_rows asks for 41, so add rows or lower the budget "
        "(most frequent reasons: empty_answer 2, speaks_as_ai 1, url_only_input 1)"
    )
    report = Path(url.removeprefix("file://"))
    assert "allows 5.00% (2 rows)" in report.read_text()
    assert (report.parent / "quarantine.jsonl").read_text().count("\n") == 3
    assert current(lake) == first.version
    assert len(lake.versions("datasets", "rows")) == 1


def test_a_refused_input_is_refused_again_without_work(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", mixed(good))
    strict = config(budgets={"max_quarantined_share": 0.0})
    with pytest.raises(BadData) as first:
        prepare.run(strict)
    monkeypatch.setattr(Night, "_prepared", never)
    with pytest.raises(BadData) as second:
        prepare.run(strict)
    assert str(first.value) == str(second.value)


def test_the_budget_is_exact_at_its_border(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    rows = [good(number) for number in range(57)] + [good(number, output="") for number in range(57, 100)]
    raw("a.json", rows)
    assert prepare.run(config(budgets={"max_quarantined_share": 0.43})).published == 57
    with pytest.raises(BadData, match="43 of 100 rows"):
        prepare.run(config(budgets={"max_quarantined_share": 0.42}))


def test_a_rule_set_to_fail_refuses_the_dataset(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", mixed(good))
    with pytest.raises(BadData, match=r"1 rows break rules\.speaks_as_ai, which is set to fail"):
        prepare.run(config(rules={"speaks_as_ai": "fail"}))


def test_a_warning_publishes_the_row_and_counts_it(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", mixed(good))
    result = prepare.run(config(rules={"speaks_as_ai": "warn"}))
    assert (result.published, result.quarantined, result.warned) == (41, 2, 1)


@pytest.mark.parametrize("step", ["datasets", "audits", "pointer"])
def test_killed_between_the_steps(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, *, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    raw("a.json", mixed(good))
    publish = Lake.publish

    def until(self: Lake, folder: Path, **options: Any) -> Any:
        return killed() if options["kind"] == step else publish(self, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "publish", until)
        if step == "pointer":
            patch.setattr(Lake, "move_pointer", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(config())
    assert current(lake) == ""
    result = prepare.run(config())
    assert result.changed
    assert current(lake) == result.version
    assert (len(lake.versions("datasets", "rows")), len(lake.versions("audits", "rows"))) == (1, 1)
    assert result.published == 40


def test_a_version_whose_folder_is_gone_is_made_again(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    import shutil

    raw("a.json", mixed(good))
    first = prepare.run(config())
    shutil.rmtree(Path(lake.url[7:], "datasets"))
    second = prepare.run(config())
    assert (second.version, second.changed) == (first.version, True)
    assert rows_of(lake, second.version).height == 40


def test_two_runs_at_once_leave_one_whole_version(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", mixed(good))
    results: list[Any] = []
    barrier = threading.Barrier(2)

    def run() -> None:
        barrier.wait()
        results.append(prepare.run(config()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.version for result in results}) == 1
    assert len(results) == 2
    assert rows_of(lake, current(lake)).height == 40
    folders = [path.name for path in Path(lake.url[7:], "datasets", "rows", "versions").iterdir()]
    assert folders == [results[0].version]


def test_an_older_input_brings_its_version_back(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", mixed(good))
    first = prepare.run(config())
    raw("a.json", [good(1)])
    assert prepare.run(config()).version != first.version
    raw("a.json", mixed(good))
    again = prepare.run(config())
    assert (again.version, again.changed, current(lake)) == (first.version, True, first.version)
    assert (again.added_rows, again.removed_rows) == (39, 0)


def test_files_without_rows_are_refused(lake: Lake, raw: Raw, config: MakeConfig) -> None:
    raw("a.jsonl", b"")
    raw("b.json", b"[]")
    said = (
        "dataset rows: raw/rows/a.jsonl, raw/rows/b.json hold no row: an empty file, or only the head of a table; look"
    )
    with pytest.raises(BadData, match=said):
        prepare.run(config())
    for name in "cde":
        raw(f"{name}.jsonl", b"\n")
    with pytest.raises(BadData, match=r"a.jsonl, raw/rows/b.json, raw/rows/c.jsonl and 2 more hold no row"):
        prepare.run(config())


@pytest.mark.parametrize(("name", "content"), [("b.jsonl", b""), ("b.csv", b""), ("b.csv", b"instruction,output\n")])
def test_a_file_without_a_row_among_good_ones_is_told(  # noqa: PLR0917  fixtures
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, caplog: pytest.LogCaptureFixture, name: str, content: bytes
) -> None:
    raw("a.json", [good(1)])
    raw(name, content)
    result = prepare.run(config().model_copy(update={"source": "raw/rows/*"}))
    assert (result.rows_in, result.published) == (1, 1)
    assert f"rows: raw/rows/{name} holds no row: an empty file" in caplog.text
    report = audit_file(lake, result.audit_version, "report.html").read_text()
    assert f'<code>raw/rows/{name}</code><span class="about bad">holds no row</span>' in report
    assert report.count("holds no row") == 1


@pytest.mark.parametrize("report_on", ["prepare", "check"])
def test_a_wrong_mapping_is_quoted_with_its_file_line_and_columns(
    lake: Lake, raw: Raw, config: MakeConfig, report_on: str
) -> None:
    path = raw("a.jsonl", [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(12)])
    raw("b.jsonl", b'{"question": "Cut')
    wrong = config(mapping={"instruction": "ask", "output": "answer"}, budgets={"max_quarantined_share": 0.5})
    said = r"12 rows, the first at .*raw/rows/a\.jsonl, line 1: field `ask` is missing; its columns: question, answer\)"
    if report_on == "check":
        trial = try_on(wrong.contract, [str(path.parent / "*.jsonl")])
        assert re.search(said, trial.refusal)
        return
    with pytest.raises(BadData, match=said) as caught:
        prepare.run(wrong)
    assert "so mend what puts all rows aside, add rows or lower" in str(caught.value)


def test_only_broken_rows(lake: Lake, raw: Raw, config: MakeConfig) -> None:
    raw("a.jsonl", b"oops\n{\n\xff\n")
    with pytest.raises(BadData, match=r"most frequent reasons: unreadable 3"):
        prepare.run(config())


def test_a_glob_without_files_says_where_it_looked(lake: Lake, config: MakeConfig) -> None:
    with pytest.raises(BadData, match=r"source: 'raw/rows/\*.json\*' matches no file in file://.*/lake"):
        prepare.run(config())


@pytest.mark.parametrize("source", ["/etc/*", "raw/../../x/*"])
def test_a_glob_cannot_leave_the_lake(lake: Lake, config: MakeConfig, source: str) -> None:
    with pytest.raises(BadConfig, match="below the lake"):
        prepare.run(config().model_copy(update={"source": source}))


def test_files_outside_the_lake(lake: Lake, raw: Raw, config: MakeConfig, good: Good, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps(good(2)))
    raw("a.json", [good(1)])
    outside = f"file://{tmp_path}/*.jsonl"
    result = prepare.run(config().model_copy(update={"source": f"raw/rows/*.json\n\n  {outside}\n"}))
    assert result.published == 2
    assert sorted(rows_of(lake, result.version)["source_file"]) == [f"file://{tmp_path}/b.jsonl", "raw/rows/a.json"]


def test_a_file_that_changes_while_it_is_read_stops_the_run(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    path = raw("a.json", [good(1)])
    sources = Sources(lake, config().inputs)
    path.write_text("[]")
    with pytest.raises(JobError, match="changed while it was read"), sources.open(sources.files[0]) as stream:
        stream.read()
