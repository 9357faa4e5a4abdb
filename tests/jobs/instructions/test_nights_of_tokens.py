"""Whole nights that count tokens: with a real tokenizer, for a limit, for a budget, and for rendered targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import prepare
from llmjobs.instructions.rendered.targets import KIND
from llmjobs.instructions.rendered.tokens import token_counter
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import Good, MakeConfig, Raw, audit_lines, rows_of, side_of

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_rows_of_too_many_tokens_are_put_aside(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    long = good(90, output="The sum of both numbers is known to everybody. " * 20)
    raw("a.json", [*(good(row) for row in range(10)), long])
    result = prepare.run(config(limits={"tokenizer": MODEL, "max_tokens": 100}))
    assert (result.published, result.reasons) == (10, {"too_many_tokens": 1})
    (line,) = audit_lines(lake, result.audit_version, "quarantine.jsonl")
    assert line["source_line"] > 1
    rows = rows_of(lake, result.version)
    assert rows["tokens"].to_list() == token_counter(MODEL)(rows).to_list()
    assert 20 < rows["tokens"].min() < 100  # type: ignore[operator]


def test_a_budget_in_tokens_takes_the_first_ranks(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row, output=f"The sum is {row + 1}. " + "Count on. " * (row % 7)) for row in range(60)])
    how: dict[str, Any] = {"limits": {"tokenizer": MODEL}, "split": {"train": 1, "validation": 0, "test": 0}}
    everything = prepare.run(config(**how, quality={"score": True}))
    tokens = side_of(lake, everything.version, "train").sort("rank")["tokens"]
    budget = int(tokens.sum()) // 2
    result = prepare.run(config(**how, quality={"score": True, "budget": {"tokens": budget}}))
    train = side_of(lake, result.version, "train")
    assert (result.published + result.left_out, result.published) == (60, train.height)
    assert budget - tokens.max() < train["tokens"].sum() <= budget  # type: ignore[operator]
    assert train["score"].is_between(0, 1).all()
    assert train["rank"].null_count() == 0


def test_targets_lie_beside_a_version_and_do_not_change_its_id(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    raw("a.json", [good(row, input="With care." if row % 3 else "") for row in range(30)])
    plain = prepare.run(config())
    targets = [{"name": "chat", "model": MODEL}, {"name": "alpaca", "template": "alpaca", "model": MODEL}]
    values = {**config().model_dump(), "targets": targets}
    both = PrepareConfig.from_mapping(values, origin="test")
    result = prepare.run(both)
    assert (result.version, result.changed) == (plain.version, False)
    found = {manifest.inputs["target"]["name"]: manifest for manifest in lake.versions(KIND, "rows")}
    assert set(found) == {"chat", "alpaca"}
    rows = rows_of(lake, result.version)
    for name, manifest in found.items():
        assert manifest.inputs["dataset_version"] == result.version
        folder = lake.fetch(KIND, "rows", manifest.version, Path())
        texts = pl.concat(pl.read_parquet(path) for path in sorted(folder.glob(f"{name}.*.parquet")))
        assert set(texts["row_id"]) == set(rows["row_id"])
        counts = texts.select("tokens", "trainable_tokens")
        assert counts.filter(pl.col("trainable_tokens").is_between(1, pl.col("tokens") - 1)).height == 30
        alpaca = texts["text"].str.contains("### Instruction:", literal=True)
        assert alpaca.all() if name == "alpaca" else not alpaca.any()
    assert prepare.run(both) == result
    assert len(lake.versions(KIND, "rows")) == 2
