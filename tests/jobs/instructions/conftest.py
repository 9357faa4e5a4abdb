"""A lake of its own for each test, a config with one contract, and the rows that the tests are about."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.lake import Lake
from tests.jobs.instructions.grader import Endpoint

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    url = f"file://{tmp_path}/lake"
    monkeypatch.setenv("LLMJOBS_LAKE_URL", url)
    return Lake(url)


@pytest.fixture
def raw(lake: Lake, tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write a raw file: bytes as they are, rows as a JSON array or as lines, by the file's suffix."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / "lake" / "raw" / "rows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            lines = [json.dumps(row, ensure_ascii=False) for row in content]
            text = "\n".join(lines) if name.endswith("jsonl") else json.dumps(content, indent=2, ensure_ascii=False)
            content = text.encode()
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def config() -> Callable[..., PrepareConfig]:
    def build(**contract: Any) -> PrepareConfig:
        contract = {"owner": "tests", "budgets": {"max_quarantined_share": 1.0}, **contract}
        values = {"name": "rows", "source": "raw/rows/*.json*", "contract": contract}
        return PrepareConfig.from_mapping(values, origin="test")

    return build


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """Return the path of a real file, or skip: they lie beside the repository, not in it."""

    def find(name: str) -> Path:
        path = REPOSITORY.parent / "shared" / "data" / "instructions" / name
        if not path.is_file():
            pytest.skip("real data not beside the repository (../shared/data)")
        return path

    return find


def alpaca(number: int, **changes: str) -> dict[str, str]:
    """Return a good row, another for each number."""
    return {"instruction": f"Add one to {number}.", "input": "", "output": f"The sum is {number + 1}.", **changes}


@pytest.fixture
def good() -> Callable[..., dict[str, str]]:
    return alpaca


@pytest.fixture
def publish(lake: Lake, tmp_path: Path) -> Callable[..., str]:
    """Publish a version of the dataset ``rows`` that asks each text, without preparing it; return its version."""

    def make(version: str, texts: list[str]) -> str:
        folder = tmp_path / "published" / version
        folder.mkdir(parents=True)
        turns = [[{"role": "user", "content": t}, {"role": "assistant", "content": "An answer."}] for t in texts]
        ids = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        pl.DataFrame({"row_id": ids, "messages": turns}).write_parquet(folder / "train.parquet")
        lake.publish(folder, kind="datasets", name="rows", version=version, metrics={"published": len(texts)})
        return version

    return make


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
