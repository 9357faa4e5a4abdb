"""Real files, as teams publish them: each read whole, with counts that add up."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from llmjobs.contracts.instructions import DataContract, PrepareConfig
from llmjobs.instructions import prepare
from llmjobs.instructions.accounts import Accounts, account_for
from llmjobs.instructions.sources import Sources
from llmjobs.lake import Lake

Real = Callable[[str], Path]


def accounts_of(path: Path, **contract: object) -> Accounts:
    sources = Sources(Lake("memory://nowhere"), [f"file://{path}"])
    return account_for(sources, DataContract.model_validate({"owner": "tests", **contract}))


def test_alpaca_en_demo(real: Real, lake: Lake, config: Callable[..., PrepareConfig]) -> None:
    """Counted by hand in the file: 8 rows that spell "no input", 9 with only a URL, 14 repeated rows, 14 refusals."""
    path = real("alpaca_en_demo.json")
    result = prepare.run(config().model_copy(update={"source": f"file://{path}"}))
    assert (result.rows_in, result.published, result.quarantined, result.duplicates) == (999, 944, 42, 13)
    assert result.fixed == 8
    assert result.reasons == {"speaks_as_ai": 27, "refusal": 14, "url_only_input": 9, "image_request": 6}
    assert result.train_rows + result.validation_rows + result.test_rows == 944


def test_alpaca_en_demo_has_every_known_defect(real: Real) -> None:
    path = real("alpaca_en_demo.json")
    rows = json.loads(path.read_text())
    accounts = accounts_of(path)
    spelt = [row["input"] for row in rows if "noinput" in row["input"].lower().replace(" ", "")]
    assert sorted(accounts.fixes["before"]) == sorted(spelt)
    urls = accounts.table.filter("url_only_input")["row"].to_list()
    assert urls == [number for number, row in enumerate(rows) if row["input"].startswith(("http", "www."))]
    # 14 rows repeat an earlier one; of one pair both are quarantined, as they speak as an AI.
    first: dict[str, int] = {}
    repeated = [number for number, row in enumerate(rows) if first.setdefault(json.dumps(row), number) != number]
    assert len(repeated) == 14
    ended = accounts.table.filter(pl.col("row").is_in(repeated))
    assert (ended["duplicate"].sum(), ended["quarantined"].sum()) == (13, 1)


def test_line_numbers_are_those_of_the_file(real: Real) -> None:
    path = real("alpaca_en_demo.json")
    lines = path.read_text().splitlines()
    table = accounts_of(path).table
    assert all(lines[line - 1] == "  {" for line in table["source_line"])
    assert table["source_line"].is_sorted()
    assert table["source_line"].n_unique() == 999


def test_malformed_and_mended_are_two_nights(real: Real) -> None:
    broken, mended = (accounts_of(real(name)) for name in ("alpaca_v1_malformed.json", "alpaca_v2.json"))
    assert broken.counts["rows_in"] == mended.counts["rows_in"] == 8
    row = broken.table.filter("unreadable").row(0, named=True)
    assert row["source_line"] == 2
    assert row["read_problem"] == "line 5, column 19: Expecting value"
    assert row["raw"].startswith('{\n        "instruction": "What is SMBX?"')
    assert row["raw"].endswith('fixed interest rate."\n    }')
    assert mended.table["unreadable"].sum() == 0
    assert mended.counts["published"] == broken.counts["published"] + 1
    assert broken.table["merged_instructions"].sum() == mended.table["merged_instructions"].sum() == 1


def test_chats(real: Real) -> None:
    accounts = accounts_of(real("chatml_messages.jsonl"))
    assert accounts.counts["rows_in"] == accounts.counts["published"] == 4
    messages = pl.concat(accounts.sides.values()).sort("source_line")["messages"][0]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("name", "rows", "published"),
    [("alpaca_zh_demo.json", 1000, 991), ("gsm8k_train.jsonl", 7473, 0), ("sharegpt_toolcall_demo.json", 300, 0)],
)
def test_counts_add_up_on_other_files(real: Real, name: str, rows: int, published: int) -> None:
    """Formats that this job does not know yet are put aside whole, each row with its reason."""
    counts = accounts_of(real(name)).counts
    assert (counts["rows_in"], counts["published"]) == (rows, published)
    assert counts["rows_in"] == counts["published"] + counts["quarantined"] + counts["duplicates"]
