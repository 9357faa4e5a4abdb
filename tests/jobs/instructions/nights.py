"""What tests of whole runs and of their steps share: parts without a lake, and what a run left in the lake."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import polars as pl

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.ends import Accounts, Past, account_for
from llmjobs.instructions.intake import Instruments, take_in
from llmjobs.instructions.parts import Part
from llmjobs.instructions.raw.sources import Sources
from llmjobs.lake import Lake

Row = dict[str, Any]
Raw = Callable[[str, Any], Path]
MakeConfig = Callable[..., PrepareConfig]
Good = Callable[..., dict[str, str]]


def config_of(*, sources: list[dict[str, Any]] | None = None, **contract: Any) -> PrepareConfig:
    """Return a config whose budgets refuse nothing, over all files of the lake or over `sources`."""
    contract = {"owner": "tests", "budgets": {"max_quarantined_share": 1.0}, **contract}
    where: dict[str, Any] = {"sources": sources} if sources else {"source": "*"}
    return PrepareConfig.from_mapping({"name": "rows", **where, "contract": contract}, origin="test")


def part_of(files: Mapping[str, bytes], folder: Path, config: PrepareConfig) -> Part:
    """Return the examined rows of files in a lake in memory."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    for name, content in files.items():
        filesystem.pipe_file(f"/lake/{name}", content)
    sources = Sources(Lake("memory://lake"), config.inputs)
    folder.mkdir(parents=True)
    return take_in(sources, sources.files, config, folder, Instruments())


def accounts_of(
    files: Mapping[str, bytes], folder: Path, config: PrepareConfig | None = None, past: Past | None = None
) -> Accounts:
    """Return where the rows of files go."""
    config = config or config_of()
    return account_for(part_of(files, folder, config), config, past or Past())


def lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def side_of(lake: Lake, version: str, side: str) -> pl.DataFrame:
    return pl.read_parquet(Path(lake.fetch("datasets", "rows", version, Path()), f"{side}.parquet"))


def rows_of(lake: Lake, version: str) -> pl.DataFrame:
    """Return the rows of all sides, with ``side``."""
    return pl.concat(side_of(lake, version, side).with_columns(side=pl.lit(side)) for side in SIDES)


def sides_of(lake: Lake, version: str) -> dict[str, str]:
    """Return ``row_id`` -> side."""
    return dict(rows_of(lake, version).select("row_id", "side").iter_rows())


def prompts_of(rows: pl.DataFrame) -> list[str]:
    return [turns[0]["content"] for turns in rows["messages"].to_list()]


def audit_file(lake: Lake, version: str, name: str) -> Path:
    return Path(lake.fetch("audits", "rows", version, Path()), name)


def audit_lines(lake: Lake, version: str, name: str) -> list[Row]:
    return [json.loads(line) for line in audit_file(lake, version, name).read_text().splitlines()]


def current(lake: Lake) -> str:
    pointer = lake.pointer("datasets", "rows", "current")
    return pointer.version if pointer else ""


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("the job did its work again")


def killed(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt
