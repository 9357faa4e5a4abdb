"""Every row has one end, and of rows that repeat or leak the right one stays."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmjobs.instructions import evaluation
from llmjobs.instructions.ends import Accounts, Past, refuse_lost_rows
from llmjobs.instructions.evaluation import evaluation_rows
from llmjobs.instructions.identity import identify, said
from tests.jobs.instructions.nights import accounts_of, config_of, lines, part_of

QUICK = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

TEXT = "the quick brown fox jumps over a lazy dog while seven old wizards boil green tea in tin cups by night"

PROMPTS = st.sampled_from(["Say hi", "say  HI", "Tell me of the fox", "Count to five", "Name a town"])
ANSWERS = st.sampled_from(
    ["Hi there.", "hi  THERE.", f"{TEXT}.", f"{TEXT} indeed.", "Bonn is a town.", "", "As an AI, I rest."]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"instruction": PROMPTS, "output": ANSWERS}, optional={"conversation": st.sampled_from(["1", "2"])}
    ),
    min_size=1,
    max_size=12,
)
CONTRACTS = st.fixed_dictionaries(
    {
        "dedupe": st.fixed_dictionaries({"exact": st.booleans(), "near_threshold": st.sampled_from([None, 0.7])}),
        "leaks": st.fixed_dictionaries({"severity": st.sampled_from(["off", "warn", "quarantine"])}),
        "split": st.just({"train": 0.6, "validation": 0.2, "test": 0.2}),
        "quality": st.sampled_from([{}, {"score": True}, {"score": True, "budget": {"rows": 2}}]),
    }
)


@QUICK
@given(rows=ROWS, contract=CONTRACTS, weights=st.booleans(), down=st.booleans())
def test_every_row_has_one_end(rows: list[Any], contract: dict[str, Any], weights: bool, down: bool) -> None:
    sources = [{"name": name, "files": f"{name}.jsonl", "weight": 1 if weights else None} for name in ("a", "b")]
    config = config_of(sources=sources, **contract)
    safe = [
        {"instruction": f"Keep {name} {number}.", "output": f"Kept {number} times."}
        for name in "ab"
        for number in range(20)
    ]
    files = {"a.jsonl": lines([*rows, *safe[:20]]), "b.jsonl": lines([*rows[:4], *safe[20:]])}
    with tempfile.TemporaryDirectory() as folder:
        first = accounts_of(files, Path(folder, "one"), config)
        taken = frozenset(pl.concat(first.part.in_order())["row_id"].bin.encode("hex")[:1]) if down else frozenset()
        accounts = accounts_of(files, Path(folder, "two"), config, Past(taken_down=taken))
        published = accounts.published("said_key", "prompt_key", "group_key")
    counts = accounts.counts
    assert counts["rows_in"] == len(rows) + len(rows[:4]) + 40
    assert counts["rows_in"] == sum(counts[end] for end in ("published", "quarantined", "duplicates", "left_out"))
    assert accounts.read["taken_down"].any() == down
    assert published["row"].to_list() == accounts.read["end"].eq("published").arg_true().to_list()
    assert published["side"].null_count() == 0
    assert (
        accounts.good.filter(pl.col("end") != "published")["side"].null_count()
        == accounts.good.height - published.height
    )
    # No group is on two sides; no text is published twice; what stays for a duplicate is never a duplicate for good.
    assert published.group_by("group_key").agg(pl.col("side").n_unique())["side"].max() == 1
    if config.contract.dedupe.exact:
        assert published["said_key"].is_unique().all()
    assert accounts.repeats["row"].is_unique().all()
    assert set(accounts.repeats["row"]) == set(accounts.read["end"].eq("duplicate").arg_true())
    kept = dict(accounts.repeats.select("row", "kept_row").iter_rows())
    for row in kept:
        place, steps = row, 0
        while place in kept:
            place, steps = kept[place], steps + 1
            assert steps <= len(kept)
        assert accounts.read["end"][place] != "duplicate"
    if config.contract.leaks.severity == "quarantine":
        sides = {
            side: set(published.filter(pl.col("side") == side)["prompt_key"])
            for side in ("train", "validation", "test")
        }
        assert sides["train"].isdisjoint(sides["validation"] | sides["test"])


def ends(accounts: Accounts) -> list[str]:
    return accounts.read["end"].to_list()


def row(prompt: str, answer: str) -> dict[str, str]:
    return {"instruction": prompt, "output": answer}


def test_of_equal_rows_the_smallest_id_stays_and_of_identical_ones_the_first(tmp_path: Path) -> None:
    rows = [row("Say hi", "Hi there."), row("say  HI", "Hi THERE."), row("Say hi", "Hi there.")]
    accounts = accounts_of({"a.jsonl": lines(rows)}, tmp_path / "part")
    frame = pl.concat(accounts.part.in_order())
    best = frame.filter(pl.col("row_id") == frame["row_id"].min())["row"].min()
    assert [number for number, end in enumerate(ends(accounts)) if end == "published"] == [best]
    assert set(accounts.repeats["kept_row"]) == {best}


def test_of_near_rows_the_longest_answer_stays(tmp_path: Path) -> None:
    rows = [row("Tell of it", TEXT), row("Tell of it", f"{TEXT} and day"), row("Another", "Not near at all.")]
    near = config_of(dedupe={"near_threshold": 0.7})
    accounts = accounts_of({"a.jsonl": lines(rows)}, tmp_path / "near", near)
    assert ends(accounts) == ["duplicate", "published", "published"]
    ((number, kept, dataset, similarity),) = accounts.repeats.rows()
    assert (number, kept, dataset) == (0, 1, None)
    assert 0.7 <= similarity < 1
    far = config_of(dedupe={"near_threshold": None})
    assert ends(accounts_of({"a.jsonl": lines(rows)}, tmp_path / "far", far)) == ["published"] * 3


def test_rows_of_other_datasets_go(tmp_path: Path) -> None:
    files = {"a.jsonl": lines([row("Say hi", "Hi."), row("Say ho", "Ho.")])}
    part = part_of(files, tmp_path / "before", config_of())
    keys = part.table("good")["said_key"][:1]
    accounts = accounts_of(files, tmp_path / "part", past=Past(elsewhere={"others": keys}))
    assert ends(accounts) == ["duplicate", "published"]
    assert accounts.repeats.rows() == [(0, None, "others", 1.0)]


def evaluated(folder: Path, rows: list[Any]) -> pl.DataFrame:
    """Return rows as those of an evaluation set named ``held``."""
    part = part_of({"held.jsonl": lines(rows)}, folder, config_of())
    frame = pl.concat(part.in_order())
    prompts = [turns[0]["content"] for turns in frame["messages"].to_list()]
    empty = pl.lit(None, dtype=pl.String)
    known = identify(frame.drop("row_id").with_columns(prompt=pl.Series(prompts), conversation=empty))
    table = known.select(
        row=-1 - pl.int_range(0, pl.len(), dtype=pl.Int64), name=pl.lit("held"), prompt_key="first_key"
    )
    return table.with_columns(said(frame).alias("text")).select(
        pl.col(name).cast(kind) for name, kind in evaluation.SCHEMA.items()
    )


@pytest.mark.parametrize(
    ("severity", "end"), [("quarantine", "quarantined"), ("warn", "published"), ("off", "published")]
)
def test_rows_of_an_evaluation_set_leak(tmp_path: Path, severity: str, end: str) -> None:
    rows = [row("Where is it?", "It is here."), row("A prompt", f"{TEXT}"), row("Other", "Nothing of that.")]
    held = evaluated(tmp_path / "held", [row("where IS it?", "Somewhere else."), row("A promptly", f"{TEXT}")])
    config = config_of(
        leaks={"severity": severity, "near_threshold": 0.8}, split={"train": 1, "validation": 0, "test": 0}
    )
    accounts = accounts_of({"a.jsonl": lines(rows)}, tmp_path / "part", config, Past(evaluation=held))
    assert ends(accounts) == [end, end, "published"]
    assert accounts.leaks.rows() == ([] if severity == "off" else [(0, ["held"]), (1, ["held"])])
    assert accounts.read["leak"].to_list() == [severity != "off"] * 2 + [False]


def test_test_rows_may_be_in_an_evaluation_set(tmp_path: Path) -> None:
    held = evaluated(tmp_path / "held", [row("Where is it?", "It is here.")])
    config = config_of(split={"train": 0.001, "validation": 0, "test": 0.999})
    rows = [row("Where is it?", "It is here.")]
    assert ends(accounts_of({"a.jsonl": lines(rows)}, tmp_path / "part", config, Past(evaluation=held))) == [
        "published"
    ]


def test_groups_that_were_held_apart_stay_apart_and_what_joins_them_goes(tmp_path: Path) -> None:
    """Two groups of the last version, on two sides, are near each other: the trained one is refused, none moves."""
    rows = [row("Tell one", TEXT), row("Tell two", TEXT)]
    config = config_of(leaks={"near_threshold": 0.8})
    files = {"a.jsonl": lines(rows)}
    keys = part_of(files, tmp_path / "before", config).table("good").select("row_key", "group_key")
    known = keys.with_columns(side=pl.Series(["test", "train"]))
    accounts = accounts_of(files, tmp_path / "part", config, Past(sides=known))
    assert ends(accounts) == ["published", "quarantined"]
    assert accounts.good["side"].to_list() == ["test", None]
    assert accounts.leaks["matches"].to_list() == [["test"]]


def test_a_lost_row_is_noticed(tmp_path: Path) -> None:
    accounts = accounts_of({"a.jsonl": lines([row("Say hi", "Hi."), row("Say ho", "Ho.")])}, tmp_path / "part")
    refuse_lost_rows(accounts)
    with pytest.raises(RuntimeError, match=r"of 2 rows 0 have no end, 1 are accounted for"):
        refuse_lost_rows(replace(accounts, read=accounts.read[:1]))
    nowhere = accounts.read.with_columns(end=pl.when(pl.int_range(pl.len()) > 0).then("end"))
    with pytest.raises(RuntimeError, match=r"of 2 rows 1 have no end"):
        refuse_lost_rows(replace(accounts, read=nowhere))
    unsided = accounts.good.with_columns(side=pl.lit(None, dtype=pl.String))
    with pytest.raises(RuntimeError, match=r"0 of 2 published ones have a side"):
        refuse_lost_rows(replace(accounts, good=unsided))


def test_an_empty_list_of_sets_is_no_row() -> None:
    assert evaluation_rows({}, config_of().contract).rows.height == 0
