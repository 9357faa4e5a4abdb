"""The whole job on small files: what is published, what is refused, and what a kill leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import prepare
from llmjobs.instructions.sources import Sources
from llmjobs.lake import Lake

Row = dict[str, str]
Raw = Callable[[str, Any], Path]
MakeConfig = Callable[..., PrepareConfig]
Good = Callable[..., Row]


def rows_of(lake: Lake, version: str, side: str) -> pl.DataFrame:
    return pl.read_parquet(Path(lake.fetch("datasets", "rows", version, Path()), f"{side}.parquet"))


def audit_lines(lake: Lake, version: str, name: str) -> list[dict[str, Any]]:
    text = Path(lake.fetch("audits", "rows", version, Path()), name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def mixed(good: Good) -> list[Row]:
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
    assert result.fixed == 2
    assert result.reasons == {"empty_answer": 2, "speaks_as_ai": 1, "url_only_input": 1}
    assert result.changed
    pointer = lake.pointer("datasets", "rows", "current")
    assert pointer is not None
    assert pointer.version == result.version
    sides = {side: rows_of(lake, result.version, side) for side in ("train", "validation", "test")}
    assert {side: rows.height for side, rows in sides.items()} == {
        "train": result.train_rows, "validation": result.validation_rows, "test": result.test_rows,
    }  # fmt: skip
    assert dict(sides["train"].schema) == {
        "row_id": pl.String,
        "group_id": pl.String,
        "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
        "source_file": pl.String,
        "source_line": pl.Int64,
    }
    everything = pl.concat(sides.values())
    contents = [message["content"] for row in everything["messages"] for message in row]
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
    for row in audit_lines(lake, result.audit_version, "duplicates.jsonl"):
        assert row["kept"]["source_line"] != row["source_line"]
    fixes = audit_lines(lake, result.audit_version, "fixes.jsonl")
    assert [(fix["rule"], fix["before"], fix["after"]) for fix in fixes] == [
        ("no_input_marker", "<noinput>", ""),
        ("control_characters", "The sum is\u0007 5.", "The sum is 5."),
    ]
    verdict = json.loads(Path(lake.fetch("audits", "rows", result.audit_version, Path()), "verdict.json").read_text())
    found = {
        outcome["expectation_config"]["meta"]["limit"]: outcome["result"].get("unexpected_count")
        for outcome in verdict["results"]
    }
    assert (found["empty_answer"], found["no_input_marker"], found["max_quarantined_share"]) == (2, 1, 3)
    manifest = lake.manifest("audits", "rows", result.audit_version)
    assert manifest is not None
    assert manifest.metrics["dataset_version"] == result.version
    assert manifest.metrics["rules"]["refusal"] == 0


def test_a_second_run_does_nothing(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", mixed(good))
    first = prepare.run(config())
    before = {path: path.stat().st_mtime_ns for path in Path(lake.url[7:]).rglob("*")}
    monkeypatch.setattr(prepare, "_prepare", _never)
    second = prepare.run(config())
    assert second == first.model_copy(update={"changed": False})
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
    assert second.quarantined == first.quarantined + 1


def test_the_same_rows_give_the_same_bytes(raw: Raw, config: MakeConfig, good: Good, tmp_path: Path) -> None:
    raw("a.json", mixed(good))
    hashes = []
    for name in ("one", "two"):
        lake = Lake(f"file://{tmp_path}/{name}")
        sources = Sources(Lake(f"file://{tmp_path}/lake"), config().globs)
        audit = prepare._prepare(lake, sources, config(), "a")
        dataset = lake.manifest("datasets", "rows", audit.metrics["dataset_version"])
        assert dataset is not None
        hashes.append([entry.sha256 for entry in [*audit.files, *dataset.files]])
    assert hashes[0] == hashes[1]


def test_no_row_changes_sides_when_rows_come_and_go(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    def sides(version: str) -> dict[str, str]:
        return {row: side for side in ("train", "validation", "test") for row in rows_of(lake, version, side)["row_id"]}

    raw("a.json", [good(number) for number in range(60)])
    before = sides(prepare.run(config()).version)
    raw("a.json", [good(number) for number in range(20, 200)])
    after = sides(prepare.run(config()).version)
    assert len(before.keys() & after.keys()) == 40
    assert all(after[row] == side for row, side in before.items() if row in after)


def test_no_prompt_of_the_test_side_is_trained_on(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    answers = ("The sum is one more.", "Count on.", "Ask a calculator.")
    raw("a.json", [good(number, output=answer) for number in range(60) for answer in answers])
    result = prepare.run(config())
    assert result.published == 180
    prompts = {
        side: {row[0]["content"] for row in rows_of(lake, result.version, side)["messages"]}
        for side in ("train", "validation", "test")
    }
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
        "budgets.max_quarantined_share allows 5.00% (2 rows), so repair these rows, set their rule to warn, or raise "
        "the budget; 40 rows could be published and budgets.min_rows asks for 41, so add rows or lower the budget "
        "(most frequent reasons: empty_answer 2, speaks_as_ai 1, url_only_input 1)"
    )
    report = Path(url.removeprefix("file://"))
    assert "Refused: nothing was published" in report.read_text()
    assert (report.parent / "quarantine.jsonl").read_text().count("\n") == 3
    pointer = lake.pointer("datasets", "rows", "current")
    assert pointer is not None
    assert pointer.version == first.version
    assert len(lake.versions("datasets", "rows")) == 1


def test_a_refused_input_is_refused_again_without_work(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", mixed(good))
    strict = config(budgets={"max_quarantined_share": 0.0})
    with pytest.raises(BadData) as first:
        prepare.run(strict)
    monkeypatch.setattr(prepare, "_prepare", _never)
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


def test_killed_before_the_pointer_moved(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", mixed(good))
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "move_pointer", _killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(config())
    assert lake.pointer("datasets", "rows", "current") is None
    assert len(lake.versions("datasets", "rows")) == 1
    result = prepare.run(config())
    assert result.changed
    pointer = lake.pointer("datasets", "rows", "current")
    assert pointer is not None
    assert pointer.version == result.version


def test_killed_between_audit_and_dataset(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw("a.json", mixed(good))
    publish = Lake.publish

    def only_audits(self: Lake, folder: Path, **options: Any) -> Any:
        return publish(self, folder, **options) if options["kind"] == "audits" else _killed()

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "publish", only_audits)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(config())
    assert lake.versions("datasets", "rows") == []
    assert prepare.run(config()).published == 40
    assert len(lake.versions("datasets", "rows")) == 1


def test_an_older_input_brings_its_version_back(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", mixed(good))
    first = prepare.run(config())
    raw("a.json", [good(1)])
    assert prepare.run(config()).version != first.version
    raw("a.json", mixed(good))
    assert prepare.run(config()) == first


def test_files_without_rows_are_refused_by_the_budget(lake: Lake, raw: Raw, config: MakeConfig) -> None:
    raw("a.json", b"")
    raw("b.json", b"[]")
    with pytest.raises(BadData, match=r"0 rows could be published and budgets\.min_rows asks for 1"):
        prepare.run(config())


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
    files = pl.concat(rows_of(lake, result.version, side) for side in ("train", "validation", "test"))["source_file"]
    assert sorted(files) == [f"file://{tmp_path}/b.jsonl", "raw/rows/a.json"]


def test_a_file_that_changes_while_it_is_read_stops_the_run(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    path = raw("a.json", [good(1)])
    sources = Sources(lake, config().globs)
    path.write_text("[]")
    with pytest.raises(Exception, match="changed while it was read"):
        sources.read(sources.files[0])


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("the job did its work again")


def _killed(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt
