"""Writes what an operator needs to follow a run: counts, quarantine, duplicates, fixes and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.contracts.instructions import DataContract, PrepareConfig
from llmjobs.instructions.accounts import Accounts
from llmjobs.instructions.examination import RULES
from llmjobs.instructions.expectations import Breach, Verdict
from llmjobs.instructions.rules import RULES_VERSION

_DETAILS = {
    "unreadable": "read_problem",
    "wrong_shape": "shape_problem",
    "duplicate_keys": "repeated_keys",
    "invalid_json_answer": "json_problem",
}


def figures(accounts: Accounts, verdict: Verdict, config: PrepareConfig, dataset_version: str) -> dict[str, Any]:
    """Return the figures of a run, all of them: the metrics of its audit's manifest."""
    published = accounts.table.filter("published")
    severities = config.contract.rules.model_dump()
    warned = [pl.col(rule) for rule in RULES if severities[rule] == "warn"]
    fixed = set(accounts.fixes["row"]) & set(published["row"])
    found = {
        **accounts.counts,
        "fixed": len(fixed),
        "warned": published.filter(pl.any_horizontal(warned)).height if warned else 0,
        "reasons": reasons(accounts.table, config.contract),
        "rules": {rule: int(accounts.table[rule].sum()) for rule in RULES},
        "files": _files(accounts.table),
        "accepted": verdict.accepted,
        "dataset_version": dataset_version if verdict.accepted else "",
    }
    return {**found, "sentence": sentence(verdict.breaches, found, config)}


def reasons(table: pl.DataFrame, contract: DataContract) -> dict[str, int]:
    """Return rule -> quarantined rows that broke it, the most frequent first; a row can break several."""
    refusing = _refusing(contract)
    counts = {rule: int(table[rule].sum()) for rule in refusing}
    return dict(sorted(((r, n) for r, n in counts.items() if n), key=lambda item: (-item[1], item[0])))


def sentence(breaches: list[Breach], found: dict[str, Any], config: PrepareConfig) -> str:
    """Return why a dataset is refused: what broke, by how much, the frequent reasons, what to change; or nothing."""
    if not breaches:
        return ""
    frequent = ", ".join(f"{rule} {count}" for rule, count in list(found["reasons"].items())[:3]) or "none"
    broken = "; ".join(_breach(breach, found["rows_in"], config.contract) for breach in breaches)
    return (
        f"dataset {config.name!r} is refused and its last version stays: {broken} (most frequent reasons: {frequent})"
    )


def write_audit(folder: Path, accounts: Accounts, verdict: Verdict, contract: DataContract) -> None:
    """Write the audit's files but the report: ``quarantine``, ``duplicates`` and ``fixes.jsonl``, ``verdict.json``."""
    _write_lines(folder / "quarantine.jsonl", quarantined_rows(accounts, contract))
    _write_lines(folder / "duplicates.jsonl", dropped_rows(accounts))
    _write_lines(folder / "fixes.jsonl", repaired_parts(accounts))
    text = json.dumps(verdict.record, ensure_ascii=False, indent=1)
    (folder / "verdict.json").write_text(text + "\n", encoding="utf-8")


def quarantined_rows(accounts: Accounts, contract: DataContract) -> Iterator[dict[str, Any]]:
    """Yield every quarantined row: where it is from, all reasons, and its exact text."""
    refusing = _refusing(contract)
    for row in accounts.table.filter("quarantined").iter_rows(named=True):
        broken = [{"rule": rule, "detail": row.get(_DETAILS.get(rule, ""))} for rule in refusing if row[rule]]
        yield {
            "row": row["row"],
            "source_file": row["source_file"],
            "source_line": row["source_line"],
            "reasons": [{key: value for key, value in reason.items() if value} for reason in broken],
            "rules_version": RULES_VERSION,
            "raw": row["raw"],
        }


def dropped_rows(accounts: Accounts) -> Iterator[dict[str, Any]]:
    """Yield every dropped duplicate with the place of the row that stays."""
    places = accounts.table.select("row", "source_file", "source_line")
    joined = accounts.duplicates.join(places, left_on="kept_row", right_on="row", how="left", suffix="_kept")
    for row in joined.sort("row").iter_rows(named=True):
        yield {
            "row": row["row"],
            "source_file": row["source_file"],
            "source_line": row["source_line"],
            "kept": {
                "row": row["kept_row"],
                "source_file": row["source_file_kept"],
                "source_line": row["source_line_kept"],
            },
            "row_id": row["row_id"],
            "messages": row["messages"],
        }


def repaired_parts(accounts: Accounts) -> Iterator[dict[str, Any]]:
    """Yield every repaired part with its text before and after."""
    places = accounts.table.select("row", "source_file", "source_line")
    yield from accounts.fixes.join(places, on="row", how="left", maintain_order="left").iter_rows(named=True)


def _refusing(contract: DataContract) -> list[str]:
    return [rule for rule in RULES if getattr(contract.rules, rule) in {"quarantine", "fail"}]


def _files(table: pl.DataFrame) -> list[dict[str, Any]]:
    ends = ("published", "quarantined", "duplicate")
    counted = table.group_by("source_file").agg(pl.len().alias("rows"), *(pl.col(end).sum() for end in ends))
    return counted.sort("source_file").to_dicts()


def _breach(breach: Breach, rows_in: int, contract: DataContract) -> str:
    budgets = contract.budgets
    if breach.limit == "max_quarantined_share":
        allowed = f"{budgets.max_quarantined_share:.2%} ({int(budgets.max_quarantined_share * rows_in)} rows)"
        return (
            f"{breach.found} of {rows_in} rows ({breach.found / rows_in:.2%}) are quarantined and "
            f"budgets.max_quarantined_share allows {allowed}, so repair these rows, set their rule to warn, "
            "or raise the budget"
        )
    if breach.limit == "min_rows":
        return (
            f"{breach.found} rows could be published and budgets.min_rows asks for {budgets.min_rows}, so add rows "
            "or lower the budget"
        )
    return (
        f"{breach.found} rows break rules.{breach.limit}, which is set to fail, so repair them or set it to quarantine"
    )


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
