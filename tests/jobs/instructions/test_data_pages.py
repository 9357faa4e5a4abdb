"""The pages about data are true: their YAML is valid, the worked mapping does what it says, every column is named."""

import io
import re
from typing import Any

import polars as pl
import pytest
import yaml

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.contracts.sweeping import Sweep
from llmjobs.instructions.checking.lint import warnings
from llmjobs.instructions.choice.quality import WEIGHTS
from llmjobs.instructions.published import COLUMNS
from llmjobs.instructions.raw.reading import SUFFIXES, read_frames
from tests.jobs.instructions.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/guide/data-contracts.md").read_text(encoding="utf-8")
QUALITY = (REPOSITORY / "docs/guide/data-quality.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE + QUALITY, re.MULTILINE | re.DOTALL)
CONFIGS = [block for block in BLOCKS if block.startswith("# dags/configs/")]
SWEEPS = [block for block in BLOCKS if block.startswith("sweep:")]
CONTRACTS = [block for block in BLOCKS if block not in (*CONFIGS, *SWEEPS)]


def contract_of(block: str) -> DataContract:
    return DataContract.from_mapping({"owner": "tests", **yaml.safe_load(block)}, origin="page")


@pytest.mark.parametrize("block", CONTRACTS)
def test_each_part_of_a_contract_is_valid_and_not_in_vain(block: str) -> None:
    assert warnings(contract_of(block)) == []


@pytest.mark.parametrize("block", CONFIGS)
def test_each_config_is_valid_and_its_contract_is_there(block: str) -> None:
    values: dict[str, Any] = yaml.safe_load(block)
    contract = REPOSITORY / "dags/contracts" / f"{values['contract']}.yaml"
    values["contract"] = DataContract.from_yaml(contract).model_dump()
    assert PrepareConfig.from_mapping(values, origin="page").globs


def test_the_sweep_is_valid() -> None:
    (block,) = SWEEPS
    assert len(Sweep(**yaml.safe_load(block)["sweep"]).fractions) == 4


def test_the_weights_of_the_signals_are_those_of_the_score() -> None:
    shown = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", QUALITY, re.MULTILINE)
    assert {name: float(weight) for name, weight in shown} == WEIGHTS


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


def test_all_columns_of_a_version_are_on_its_page() -> None:
    page = (REPOSITORY / "docs/guide/dataset-versions.md").read_text(encoding="utf-8")
    assert [column for column in COLUMNS if f"`{column}`" not in page] == []
