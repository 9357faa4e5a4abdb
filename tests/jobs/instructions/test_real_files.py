"""Real files, as teams publish them: each read whole, with counts that add up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from llmjobs.instructions import prepare
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import MakeConfig, accounts_of, audit_lines, prompts_of, rows_of

Real = Callable[[str], Path]


def test_alpaca_en_demo(real: Real, tmp_path: Path) -> None:
    """Counted by hand: 8 rows that spell "no input", each otherwise, 9 URLs, 14 repeated rows, 14 refusals."""
    content = real("alpaca_en_demo.json").read_bytes()
    rows = json.loads(content)
    accounts = accounts_of({"a.json": content}, tmp_path / "part")
    counts, read = accounts.counts, accounts.read
    assert (
        counts["rows_in"] == 999 == sum(counts[end] for end in ("published", "quarantined", "duplicates", "left_out"))
    )
    fixes = accounts.part.table("fixes").filter(pl.col("rule") == "no_input_marker")
    spelt = [row["input"] for row in rows if "noinput" in row["input"].lower().replace(" ", "")]
    assert len(spelt) == len(set(spelt)) == 8
    assert set(spelt) <= set(fixes["before"])
    urls = read["url_only_input"].arg_true().to_list()
    assert urls == [number for number, row in enumerate(rows) if row["input"].startswith(("http", "www."))]
    assert len(urls) == 9
    assert read["refusal"].sum() >= 14
    first: dict[str, int] = {}
    repeated = [number for number, row in enumerate(rows) if first.setdefault(json.dumps(row), number) != number]
    assert len(repeated) == 14
    # A repeated row is a duplicate, or refused with its twin.
    assert set(read["end"].gather(repeated)) <= {"duplicate", "quarantined"}


def test_line_numbers_are_those_of_the_file(real: Real, tmp_path: Path) -> None:
    content = real("alpaca_en_demo.json").read_bytes()
    lines = content.decode().splitlines()
    places = accounts_of({"a.json": content}, tmp_path / "part").read["source_line"]
    assert all(lines[line - 1] == "  {" for line in places)
    assert places.is_sorted()
    assert places.n_unique() == 999


def test_malformed_and_mended_are_two_nights(real: Real, lake: Lake, config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    where = {"source": f"file://{path}"}
    path.write_bytes(real("alpaca_v1_malformed.json").read_bytes())
    one = prepare.run(config().model_copy(update=where))
    path.write_bytes(real("alpaca_v2.json").read_bytes())
    two = prepare.run(config().model_copy(update=where))
    assert one.rows_in == two.rows_in == 8
    broken = [row for row in audit_lines(lake, one.audit_version, "quarantine.jsonl") if row["source_line"] == 2]
    assert broken[0]["reasons"] == [{"rule": "unreadable", "detail": "line 5, column 19: Expecting value"}]
    assert broken[0]["raw"].startswith('{\n        "instruction": "What is SMBX?"')
    assert broken[0]["raw"].endswith('fixed interest rate."\n    }')
    # The mended row is what came: no other moved.
    assert (two.base_version, two.published) == (one.version, one.published + 1)
    assert (two.added_rows, two.removed_rows) == (1, 0)
    before, after = (set(prompts_of(rows_of(lake, result.version))) for result in (one, two))
    (added,) = after - before
    assert added.startswith("What is SMBX?")
    sides = [dict(rows_of(lake, result.version).select("row_id", "side").iter_rows()) for result in (one, two)]
    assert sides[0].items() <= sides[1].items()


def test_chats(real: Real, tmp_path: Path) -> None:
    accounts = accounts_of({"a.jsonl": real("chatml_messages.jsonl").read_bytes()}, tmp_path / "part")
    assert accounts.counts["rows_in"] == accounts.counts["published"] == 4
    messages = pl.concat(accounts.part.in_order()).sort("source_line")["messages"][0].to_list()
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]


def test_chats_that_share_an_opening_line_are_no_leaks_of_each_other(real: Real, tmp_path: Path) -> None:
    content = real("sharegpt_dummy_conversation.json").read_bytes()
    accounts = accounts_of({"a.json": content}, tmp_path / "part")
    assert accounts.read["leak"].sum() == 0
    assert accounts.counts["published"] >= 300
    assert min(accounts.counts[f"{side}_rows"] for side in ("train", "validation", "test")) > 0


@pytest.mark.parametrize(
    ("name", "rows", "least"),
    [
        ("alpaca_zh_demo.json", 1000, 900),
        ("gsm8k_train.jsonl", 7473, 0),
        ("sharegpt_toolcall_demo.json", 300, 200),
        ("sharegpt_conversation.json", None, 1),
        ("sharegpt_conversation_missing_turns.json", None, 0),
        ("sharegpt_dummy_conversation.json", None, 1),
        ("self_instruct_seed_tasks.jsonl", 175, 0),
        ("alpaca_v1_malformed.json", 8, 1),
        ("alpaca_v2.json", 8, 1),
    ],
)
def test_counts_add_up(real: Real, tmp_path: Path, name: str, rows: int | None, least: int) -> None:
    """A format that nobody told is put aside whole, each row with its reason."""
    content = real(name).read_bytes()
    accounts = accounts_of({name: content}, tmp_path / "part")
    counts = accounts.counts
    assert counts["rows_in"] == (rows or len(json.loads(content)))
    assert counts["rows_in"] == sum(counts[end] for end in ("published", "quarantined", "duplicates", "left_out"))
    assert counts["published"] >= least
