"""The page about data contracts is true: its YAML examples are valid, and the worked mapping does what it says."""

import io
import re
from typing import Any

import polars as pl
import pytest
import yaml

from llmjobs.contracts.instructions import DataContract, PrepareConfig
from llmjobs.instructions.lint import warnings
from llmjobs.instructions.reading import SUFFIXES, read_frames
from tests.jobs.instructions.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/guide/data-contracts.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def contract_of(block: str) -> DataContract:
    return DataContract.from_mapping({"owner": "tests", **yaml.safe_load(block)}, origin="page")


@pytest.mark.parametrize("block", [block for block in BLOCKS if "# dags/configs/" not in block])
def test_each_part_of_a_contract_is_valid_and_not_in_vain(block: str) -> None:
    assert warnings(contract_of(block)) == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if "# dags/configs/" in block])
def test_each_config_is_valid_and_its_contract_is_there(block: str) -> None:
    values: dict[str, Any] = yaml.safe_load(block)
    contract = REPOSITORY / "dags/contracts" / f"{values['contract']}.yaml"
    values["contract"] = DataContract.from_yaml(contract).model_dump()
    assert PrepareConfig.from_mapping(values, origin="page").globs


def test_the_worked_mapping_does_what_the_page_says() -> None:
    row = re.search(r'`(\{"payload".*?\}\}?.*?)`', PAGE)
    assert row is not None
    block = next(block for block in BLOCKS if "payload.question" in block)
    read = pl.concat(
        read_frames(io.BytesIO(row[1].encode()), name="row.jsonl", mapping=contract_of(block).mapping)
    ).row(0, named=True)
    assert [read[name] for name in ("instruction", "output", "topic", "licence")] == [
        "Is it open?", "Until six.", "shop", "CC0",
    ]  # fmt: skip


def test_all_kinds_of_files_are_named() -> None:
    assert [suffix for suffix in SUFFIXES if suffix[1:].lower() not in PAGE.lower()] == []
