"""Every row is accounted for: whatever the files hold, each row read has exactly one end."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmjobs.instructions.audit import quarantined_rows
from llmjobs.instructions.ends import Accounts, Past, account_for
from tests.jobs.instructions.nights import accounts_of, config_of, part_of

QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

# Few different texts, so that rows repeat; some that rules look for, some that no rule expects.
TEXTS = st.sampled_from(
    [
        "",
        " ",
        "Say hi",
        "say  HI",
        "Hi",
        "No input",
        "As an AI, I",
        "https://a.example",
        "\u200b\u0007",
        "{{ x }}",
        "\ud800",
    ]
) | st.text(max_size=12)
ALPACA = st.fixed_dictionaries({"instruction": TEXTS, "output": TEXTS}, optional={"input": TEXTS, "system": TEXTS})
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXTS})
CHAT = st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=4)})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["instruction", "messages", "a"]), inner)
    ),
    max_leaves=6,
)
ROWS = st.lists(ALPACA | CHAT | JSON, max_size=12)


def account(files: dict[str, bytes], **contract: Any) -> Accounts | None:
    """Return where the rows went, None where there was none."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(**contract)
        part = part_of(files, Path(folder, "part"), config)
        if not part.chunks:
            return None
        accounts = account_for(part, config, Past())
        check(accounts)
        return accounts


def check(accounts: Accounts) -> None:
    counts = accounts.counts
    ends = ("published", "quarantined", "duplicates", "left_out")
    assert counts["rows_in"] == sum(counts[end] for end in ends) == accounts.read.height == accounts.part.rows
    assert accounts.read["end"].null_count() == 0
    assert accounts.good.filter(pl.col("end") == "published").height == counts["published"]
    assert set(accounts.repeats["kept_row"]) <= set(accounts.good["row"])
    refused = list(quarantined_rows(accounts, config_of().contract))
    assert len(refused) == counts["quarantined"]
    assert all(row["raw"] is not None and row["reasons"] for row in refused)


def published(accounts: Accounts) -> list[list[str]]:
    """Return ``(row_id, side)`` of the published rows, in the order in which they are written."""
    places = accounts.good.filter(pl.col("end") == "published").select("row", "side")
    rows = pl.concat(accounts.part.in_order()).join(places, on="row", maintain_order="left")
    return [list(row) for row in rows.select(pl.col("row_id").bin.encode("hex"), "side").iter_rows()]


@QUICK
@given(rows=ROWS, more=ROWS, indent=st.sampled_from([None, 1]), exact=st.booleans())
def test_rows_in_are_rows_out(rows: list[Any], more: list[Any], indent: int | None, exact: bool) -> None:
    array = json.dumps(rows, indent=indent).encode()
    lines = "\n".join(json.dumps(row) for row in more).encode()
    accounts = account({"a.json": array, "b.jsonl": lines}, dedupe={"exact": exact})
    # The number of rows is known from what was written, not from what was read.
    assert (accounts.counts["rows_in"] if accounts else 0) == len(rows) + len(_rows_of_lines(more))
    if accounts and not exact:
        assert accounts.counts["duplicates"] == 0


@QUICK
@given(rows=st.lists(ALPACA, min_size=1, max_size=8), cut=st.floats(0, 1), junk=st.binary(max_size=6))
def test_a_damaged_file_loses_nothing_silently(rows: list[Any], cut: float, junk: bytes) -> None:
    whole = json.dumps(rows, indent=1).encode()
    at = int(cut * len(whole))
    account({"a.json": whole[:at] + junk + whole[at + len(junk) :], "b.json": whole[:at]})


@QUICK
@given(content=st.binary(max_size=200) | st.text('[]{}",:\\ \n\r\t0aé\ufeff', max_size=200).map(str.encode))
def test_any_bytes_are_accounted_for(content: bytes) -> None:
    accounts = account({"a.json": content})
    if accounts:
        assert accounts.read["source_line"].is_sorted()


@QUICK
@given(rows=st.lists(ALPACA | CHAT, min_size=1, max_size=10), seed=st.randoms(use_true_random=False))
def test_order_and_files_do_not_matter(rows: list[Any], seed: Any) -> None:
    shuffled = list(rows)
    seed.shuffle(shuffled)
    half = len(rows) // 2
    with tempfile.TemporaryDirectory() as folder:
        one = accounts_of({"a.jsonl": _lines(rows)}, Path(folder, "one"))
        both = {"x.jsonl": _lines(shuffled[:half]), "y.jsonl": _lines(shuffled[half:])}
        other = accounts_of(both, Path(folder, "other"))
        assert published(one) == published(other)


def _lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _rows_of_lines(values: list[Any]) -> list[Any]:
    """Return what a file of these lines holds: one that begins with an array holds its elements as rows."""
    if not values or not isinstance(values[0], list):
        return values
    return [row for value in values for row in (value if isinstance(value, list) else [value])]
