"""A replay requeues the rows that were put aside, and no others, on top of what is published."""

from __future__ import annotations

import json

import polars as pl
import pytest

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import prepare, replay
from llmjobs.instructions.corrections import record
from llmjobs.instructions.published import Published
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import (
    Good,
    MakeConfig,
    Raw,
    audit_lines,
    config_of,
    current,
    killed,
    prompts_of,
    rows_of,
)


def replaying(config: PrepareConfig, audit: str = "last") -> PrepareConfig:
    return config.model_copy(update={"replay": audit})


def night(raw: Raw, good: Good) -> None:
    """Write 20 good rows, 2 that speak as an AI, 1 without an answer, and a broken one."""
    rows = [good(number) for number in range(20)]
    rows += [good(30, output="As an AI, I say 31."), good(31, output="As an AI, I say 32."), good(32, output="")]
    raw("a.json", rows)
    raw("b.jsonl", b'{"instruction": "Add one to 40.", "output": \n')


def test_after_a_loosened_rule_just_these_rows_come_in(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    night(raw, good)
    first = prepare.run(config())
    assert (first.published, first.quarantined) == (20, 4)
    loose = config(rules={"speaks_as_ai": "warn"})
    second = prepare.run(replaying(loose))
    assert (second.rows_in, second.published, second.quarantined, second.duplicates) == (24, 22, 2, 0)
    assert (second.added_rows, second.removed_rows, second.changed) == (2, 0, True)
    left = audit_lines(lake, second.audit_version, "quarantine.jsonl")
    before = audit_lines(lake, first.audit_version, "quarantine.jsonl")
    kept = {(row["source_file"], row["source_line"], row["raw"]) for row in before}
    assert {(row["source_file"], row["source_line"], row["raw"]) for row in left} <= kept
    # A full night under the new rules finds the very same rows.
    third = prepare.run(loose)
    assert (third.version, third.changed, third.rows_in) == (second.version, False, 24)


def test_a_replay_that_was_killed_is_finished_by_the_next(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(raw, good)
    prepare.run(config())
    loose = replaying(config(rules={"speaks_as_ai": "warn"}))
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "move_pointer", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(loose)
    result = prepare.run(loose)
    assert (result.published, result.changed) == (22, True)
    assert rows_of(lake, current(lake)).height == 22


def test_the_last_audit_is_not_that_of_a_dry_run(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    night(raw, good)
    prepare.run(config())
    loose = config(rules={"speaks_as_ai": "warn"})
    tried = prepare.run(loose.model_copy(update={"dry_run": True}))
    assert tried.published == 22
    assert prepare.run(replaying(loose)).published == 22


def test_sources_and_licences_are_those_of_a_full_night(lake: Lake, raw: Raw, good: Good) -> None:
    raw("one.json", [good(number) for number in range(10)])
    raw("two.json", [good(20, output="As an AI, I say 21."), *(good(number) for number in range(30, 40))])

    def config(**contract: object) -> PrepareConfig:
        sources = [
            {"name": name, "files": f"raw/rows/{name}.json", "licence": licence}
            for name, licence in (("one", "MIT"), ("two", "CC-BY-4.0"))
        ]
        values = {"owner": "tests", "budgets": {"max_quarantined_share": 1.0}, **contract}
        return PrepareConfig.from_mapping({"name": "rows", "sources": sources, "contract": values}, origin="test")

    prepare.run(config())
    loose = config(rules={"speaks_as_ai": "warn"})
    replayed = prepare.run(replaying(loose))
    rows = rows_of(lake, replayed.version)
    added = rows.filter(pl.Series([turns[0]["content"] == "Add one to 20." for turns in rows["messages"].to_list()]))
    assert added.select("source", "licence").rows() == [("two", "CC-BY-4.0")]
    assert prepare.run(loose).version == replayed.version


def test_a_leak_is_requeued_whatever_the_form_of_the_file(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(number) for number in range(10)])
    raw("held.jsonl", [good(3)])
    sets = [{"name": "held", "source": "raw/rows/held.jsonl"}]
    plain = config(format="alpaca").model_copy(update={"source": "raw/rows/a.json"})
    leaks = config(format="alpaca", leaks={"sets": sets}).model_copy(update={"source": "raw/rows/a.json"})
    first = prepare.run(leaks)
    assert first.reasons.get("leak") == (1 if first.published == 9 else None)
    second = prepare.run(replaying(plain))
    assert (second.published, second.quarantined) == (10, 0)
    assert sorted(prompts_of(rows_of(lake, second.version))) == sorted(good(n)["instruction"] for n in range(10))


def test_without_a_version_or_an_audit_it_says_so(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(1)])
    with pytest.raises(BadConfig, match=r"replay: 'last' names 0 of the 0 audits of dataset rows"):
        prepare.run(replaying(config()))
    with pytest.raises(BadData, match="min_rows asks for 5"):
        prepare.run(config(budgets={"min_rows": 5}))
    with pytest.raises(BadData, match="has no published version; run it without replay first"):
        prepare.run(replaying(config()))


def test_rows_of_a_table_are_read_again_from_their_file(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.tsv", b"output\tinstruction\nHi there\tSay hi\nAs an AI, I say 3.\tSay three\n")
    raw("b.json", [good(1), good(2, output="As an AI, I say 3.")])
    both = {"source": "raw/rows/*"}
    assert prepare.run(config().model_copy(update=both)).quarantined == 2
    loose = replaying(config(rules={"speaks_as_ai": "warn"}).model_copy(update=both))
    replayed = prepare.run(loose)
    assert (replayed.rows_in, replayed.published, replayed.quarantined) == (4, 4, 0)
    added = rows_of(lake, replayed.version).filter(pl.col("source_file") == "raw/rows/a.tsv").sort("source_line")
    assert list(zip(prompts_of(added), added["source_line"], strict=True)) == [("Say hi", 2), ("Say three", 3)]
    # A full night under the new rules finds the very same rows.
    assert prepare.run(loose.model_copy(update={"replay": ""})).version == replayed.version


@pytest.mark.parametrize("moved", [False, True])
def test_rows_of_a_table_that_is_gone_or_changed_do_not_keep_others_back(  # noqa: PLR0917  fixtures
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, caplog: pytest.LogCaptureFixture, moved: bool
) -> None:
    head, row = b"instruction,output\nSay hi,Hi there\n", b'Say ho,"As an AI, I say ho."\n'
    table = raw("a.csv", head + row)
    raw("b.json", [good(1), good(2, output="As an AI, I say 3.")])
    both = {"source": "raw/rows/*"}
    prepare.run(config().model_copy(update=both))
    table.unlink()
    if moved:
        raw("a.csv", head + b"Say he,\n" + row)
    replayed = prepare.run(replaying(config(rules={"speaks_as_ai": "warn"}).model_copy(update=both)))
    assert (replayed.rows_in, replayed.published) == (3, 3)
    assert "rows: 1 rows of tables are left out of the replay" in caplog.text


def test_two_sources_with_a_mapping_of_their_own(lake: Lake, raw: Raw) -> None:
    raw("one.jsonl", [{"q": f"Ask {n}?", "a": f"It is {n}."} for n in range(8)] + [{"q": "Say 1", "a": "As an AI, 1."}])
    raw("two.jsonl", [{"x": "Say 2", "y": "As an AI, I say 2."}])
    mappings = {"one": {"instruction": "q", "output": "a"}, "two": {"instruction": "x", "output": "y"}}
    sources = [
        {"name": name, "files": f"raw/rows/{name}.jsonl", "mapping": fields} for name, fields in mappings.items()
    ]
    prepare.run(config_of(sources=sources))
    replayed = prepare.run(replaying(config_of(sources=sources, rules={"speaks_as_ai": "warn"})))
    assert (replayed.published, replayed.quarantined) == (10, 0)
    added = rows_of(lake, replayed.version)
    assert {"Say 1", "Say 2"} <= set(prompts_of(added))
    assert sorted(added["source"].unique()) == ["one", "two"]


def test_the_same_replay_again_does_nothing(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    night(raw, good)
    prepare.run(config())
    loose = replaying(config(rules={"speaks_as_ai": "warn"}))
    first, second, third = (prepare.run(loose) for _ in range(3))
    assert (first.changed, second.changed, third.changed) == (True, False, False)
    assert first.audit_version == second.audit_version == third.audit_version
    assert first.version == third.version == current(lake)
    assert len(lake.versions("audits", "rows")) == 2


@pytest.mark.parametrize("exact", [True, False])
def test_what_a_replay_left_is_replayed_after_a_correction(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, exact: bool
) -> None:
    night(raw, good)
    dedupe = {"exact": exact}
    prepare.run(config(dedupe=dedupe))
    loose = replaying(config(dedupe=dedupe, rules={"speaks_as_ai": "warn"}))
    first = prepare.run(loose)
    lines = audit_lines(lake, first.audit_version, "quarantine.jsonl")
    for line in lines:
        line["raw"] = json.dumps(good(32 if "32" in line["raw"] else 40))
    assert record(lake, "rows", [json.dumps(line) for line in lines], who="me") == 2
    second = prepare.run(loose)
    # The two rows that the first replay published are no duplicates of themselves.
    assert (second.rows_in, second.published, second.quarantined, second.duplicates) == (24, 24, 0, 0)
    assert (second.added_rows, second.changed) == (2, True)
    assert not prepare.run(loose).changed


def test_the_published_version_is_read_once_for_all_requeued_rows(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(raw, good)
    prepare.run(config())
    monkeypatch.setattr(replay, "CHUNK_ROWS", 1)
    reads = []
    keys = Published.keys

    def counted(version: Published) -> pl.DataFrame:
        reads.append(version.manifest.version)
        return keys(version)

    monkeypatch.setattr(Published, "keys", counted)
    assert prepare.run(replaying(config(rules={"speaks_as_ai": "warn"}))).published == 22
    assert len(reads) == 2  # once to know what is published already, once to compare with
