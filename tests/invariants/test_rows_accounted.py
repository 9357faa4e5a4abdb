"""Every row is accounted for: whatever the files hold, each row read has exactly one end."""

import json
from typing import Any

import fsspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmjobs.contracts.instructions import DataContract
from llmjobs.instructions.accounts import Accounts, account_for, refuse_lost_rows
from llmjobs.instructions.formats import is_row
from llmjobs.instructions.reading import read_rows
from llmjobs.instructions.sources import Sources
from llmjobs.lake import Lake

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

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


def account(files: dict[str, bytes], **contract: Any) -> Accounts:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    for name, content in files.items():
        filesystem.pipe_file(f"/lake/{name}", content)
    sources = Sources(Lake("memory://lake"), ["*"])
    return account_for(sources, DataContract.model_validate({"owner": "tests", **contract}))


def check(accounts: Accounts) -> None:
    counts = accounts.counts
    assert counts["rows_in"] == counts["published"] + counts["quarantined"] + counts["duplicates"]
    published = pl.concat(accounts.sides.values())
    assert published.height == counts["published"]
    places = list(published.select("source_file", "source_line").rows())
    places += accounts.table.filter(~pl.col("published")).select("source_file", "source_line").rows()
    assert sorted(places) == sorted(accounts.table.select("source_file", "source_line").rows())
    kept = set(accounts.table.filter("published")["row"])
    assert set(accounts.duplicates["kept_row"]) <= kept
    for row in accounts.table.filter("quarantined").iter_rows(named=True):
        assert row["raw"] is not None


@QUICK
@given(rows=ROWS, more=ROWS, indent=st.sampled_from([None, 1]), exact=st.booleans())
def test_rows_in_are_rows_out(rows: list[Any], more: list[Any], indent: int | None, exact: bool) -> None:
    array = json.dumps(rows, indent=indent).encode()
    lines = "\n".join(json.dumps(row) for row in more).encode()
    accounts = account({"a.json": array, "b.jsonl": lines}, dedupe={"exact": exact})
    check(accounts)
    # The number of rows is known from what was written, not from what was read.
    assert accounts.counts["rows_in"] == len(rows) + len(_rows_of_lines(more))
    if not exact:
        assert accounts.counts["duplicates"] == 0


@QUICK
@given(rows=st.lists(ALPACA, min_size=1, max_size=8), cut=st.floats(0, 1), junk=st.binary(max_size=6))
def test_a_damaged_file_loses_nothing_silently(rows: list[Any], cut: float, junk: bytes) -> None:
    whole = json.dumps(rows, indent=1).encode()
    at = int(cut * len(whole))
    check(account({"a.json": whole[:at] + junk + whole[at + len(junk) :], "b.json": whole[:at]}))


@QUICK
@given(content=st.binary(max_size=200) | st.text('[]{}",:\\ \n\r\t0aé\ufeff', max_size=200).map(str.encode))
def test_the_reader_survives_any_bytes(content: bytes) -> None:
    rows = list(read_rows(content, is_row=is_row))
    lines = [row.line for row in rows]
    assert lines == sorted(lines)
    check(account({"a.json": content}))


@QUICK
@given(rows=st.lists(ALPACA | CHAT, max_size=10), seed=st.randoms(use_true_random=False))
def test_order_and_files_do_not_matter(rows: list[Any], seed: Any) -> None:
    shuffled = list(rows)
    seed.shuffle(shuffled)
    half = len(rows) // 2
    one = account({"a.jsonl": _lines(rows)})
    other = account({"x.jsonl": _lines(shuffled[:half]), "y.jsonl": _lines(shuffled[half:])})
    for side in one.sides:
        assert one.sides[side]["row_id"].to_list() == other.sides[side]["row_id"].to_list()


def test_a_lost_row_is_noticed() -> None:
    accounts = account({"a.jsonl": _lines([{"instruction": "Say hi", "output": "Hi"}] * 2)})
    lost = accounts.table.with_columns(duplicate=pl.lit(value=False))
    with pytest.raises(RuntimeError, match="1 of 2 rows do not have exactly one end"):
        refuse_lost_rows(Accounts(lost, accounts.sides, accounts.duplicates, accounts.fixes))
    unwritten = {side: rows.clear() for side, rows in accounts.sides.items()}
    with pytest.raises(RuntimeError, match="0 rows for 1 published ones"):
        refuse_lost_rows(Accounts(accounts.table, unwritten, accounts.duplicates, accounts.fixes))


def _lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _rows_of_lines(values: list[Any]) -> list[Any]:
    """Return what a file of these lines holds: one that begins with an array holds its elements as rows."""
    if not values or not isinstance(values[0], list):
        return values
    return [row for value in values for row in (value if isinstance(value, list) else [value])]
