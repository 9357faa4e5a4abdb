"""The page of the rule library is true: each rule with its default, and each example does what the page says."""

import io
import re
from typing import Any, NamedTuple

import polars as pl
import pytest
import yaml

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import FLAGS, PII_KINDS, RULES
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.rules.examination import examine
from tests.jobs.instructions.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/guide/rule-library.md").read_text(encoding="utf-8")


class Example(NamedTuple):
    name: str
    verdict: str
    row: str

    @property
    def flag(self) -> str:
        return f"pii_{self.name}" if self.name in PII_KINDS else self.name


def cells() -> list[list[str]]:
    """Return the cells of all lines of tables whose first cell is a name in backticks."""
    lines = [line.strip().strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines]


EXAMPLES = [
    Example(name.strip("`"), verdict, row.strip("`"))
    for name, verdict, row in (line for line in cells() if len(line) == 3 and line[1] in {"breaks", "passes"})
]
DEFAULTS = {line[0].strip("`"): line[1] for line in cells() if len(line) == 3 and line[1] not in {"breaks", "passes"}}
NEEDS: dict[str, Any] = {line[0].strip("`"): yaml.safe_load(line[1].strip("`")) for line in cells() if len(line) == 2}


def words(frame: pl.DataFrame) -> pl.Series:
    return frame["messages"].list.eval(pl.element().struct.field("content")).list.join(" ").str.count_matches(r"\S+")


def flags_of(example: Example) -> set[str]:
    """Return the flags that the example has, under the default severities."""
    contract = DataContract(owner="tests", **NEEDS.get(example.name, {}))
    frame = pl.concat(read_frames(io.BytesIO(example.row.encode()), name="row.jsonl"))
    assert frame.height == 1
    count_tokens = words if contract.limits.max_tokens else None
    rows = examine(frame, contract, count_tokens=count_tokens).rows
    return {flag for flag in FLAGS if flag in rows.columns and rows[flag].item()}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.name}-{example.verdict}")
def test_each_example_breaks_its_rule_alone_or_nothing(example: Example) -> None:
    assert flags_of(example) == ({example.flag} if example.verdict == "breaks" else set())


def test_every_rule_and_kind_has_both_examples() -> None:
    for verdict in ("breaks", "passes"):
        shown = [example.name for example in EXAMPLES if example.verdict == verdict]
        assert sorted(shown) == sorted([*RULES, *PII_KINDS])


def test_the_defaults_are_those_of_the_contract() -> None:
    severities = DataContract(owner="tests").severities()
    assert {flag.removeprefix("pii_"): severity for flag, severity in severities.items()} == DEFAULTS


def test_rules_that_need_a_line_of_the_contract_are_silent_without_it() -> None:
    for example in EXAMPLES:
        if example.name in NEEDS:
            bare = example._replace(name="bare")
            assert flags_of(bare) == set()


def test_the_page_says_how_long_a_row_may_be_by_default() -> None:
    limit = re.search(r"`limits.max_characters` \(([\d,]+) unless", PAGE)
    assert limit is not None
    assert int(limit[1].replace(",", "")) == DataContract(owner="tests").limits.max_characters
