"""Writes what an operator needs to follow a run: counts, quarantine, rows set aside, fixes and the verdict.

* ``quarantine.jsonl``: every refused row: source file, line, all reasons, rules' version, its exact text. To put a row
  right, edit ``raw`` in a copy (`llmjobs.instructions.corrections`); ``raw_before`` tells which row it was.
* ``set_aside.parquet``: every duplicate and every row that a budget or a mix had no room for, whole, with the row that
  stays in its place
* ``fixes.jsonl``: every repaired part, before and after; ``verdict.json``: what Great Expectations says
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import FLAGS, PII_FLAGS
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions.ends import COUNTS, Accounts
from llmjobs.instructions.expectations import Breach, Verdict
from llmjobs.instructions.problems import most_frequent
from llmjobs.instructions.published import parquet_writer
from llmjobs.instructions.quarantine import CANONICAL
from llmjobs.instructions.report.diff import Diff
from llmjobs.instructions.rules.library import RULES_VERSION

DETAILS = {
    "unreadable": "read_problem",
    "wrong_shape": "shape_problem",
    "duplicate_keys": "repeated_keys",
    "invalid_json_answer": "json_problem",
}
"""Flag -> the column of a refused row that says more."""

_SET_ASIDE = ("row_id", "messages", "tools", "source", "source_file", "source_line")
_MOST_DIGITS = 12
_UNREAD = {"unreadable", "wrong_shape"}
_OLDEST = pl.CompatLevel.oldest()


def figures(accounts: Accounts, verdict: Verdict, diff: Diff, config: PrepareConfig) -> dict[str, Any]:
    """Return the figures of a run, all of them: the metrics of its audit's manifest."""
    contract = config.contract
    severities = contract.severities()
    published = pl.col("end") == "published"
    read = accounts.read
    warned = [pl.col(flag) for flag in FLAGS if severities[flag] == "warn"]
    masked = [pl.col(flag) for flag in PII_FLAGS if severities[flag] == "mask"]
    fixed = accounts.part.table("fixes", "row")["row"].unique()
    found = {
        **accounts.counts,
        "fixed": int((read["end"].gather(fixed) == "published").sum()),
        "warned": read.select((published & pl.any_horizontal(warned)).sum()).item() if warned else 0,
        "masked": read.select((published & pl.any_horizontal(masked)).sum()).item() if masked else 0,
        "reasons": reasons(read, contract),
        "flags": {flag: int(read[flag].sum()) for flag in FLAGS},
        "files": files(accounts),
        "decision": verdict.decision,
        "added_rows": diff.changes.added + diff.changes.changed,
        "removed_rows": diff.changes.removed + diff.changes.changed,
        "shifts": {shift.kind: round(shift.value, 6) for shift in diff.shifts},
    }
    return {**found, "sentence": sentence(verdict.breaches, found, config, accounts)}


def reasons(read: pl.DataFrame, contract: DataContract) -> dict[str, int]:
    """Return flag -> quarantined rows that have it, the most frequent first; a row can have several."""
    refused = pl.col("end") == "quarantined"
    counts = read.select((pl.col(flag) & refused).sum() for flag in refusing(contract)).row(0, named=True)
    return dict(sorted(((r, n) for r, n in counts.items() if n), key=lambda item: (-item[1], item[0])))


def refusing(contract: DataContract) -> list[str]:
    """Return the flags that put a row aside."""
    return [flag for flag, severity in contract.severities().items() if severity in {"quarantine", "fail"}]


def files(accounts: Accounts) -> list[dict[str, Any]]:
    """Return where the rows of each file went."""
    counted = accounts.read.group_by("file").agg(
        pl.len().alias("rows"), *((pl.col("end") == end).sum().alias(name) for end, name in COUNTS.items())
    )
    rows = {row.pop("file"): row for row in counted.to_dicts()}
    none = dict.fromkeys(("rows", *COUNTS.values()), 0)
    return [{"source_file": label, **rows.get(number, none)} for number, label in enumerate(accounts.part.files)]


def sentence(breaches: list[Breach], found: dict[str, Any], config: PrepareConfig, accounts: Accounts) -> str:
    """Return why a dataset is refused or a person asked: what broke, by how much, what to change; or nothing."""
    if not breaches:
        return ""
    level = breaches[0].level
    broken = "; ".join(breach_sentence(breach, found) for breach in breaches if breach.level == level)
    frequent = dict(list(found["reasons"].items())[:3])
    said = [", ".join(f"{rule} {count}" for rule, count in frequent.items()) or "none"]
    if _UNREAD & frequent.keys():
        said += filter(None, [most_frequent(accounts.part.table("refused"), accounts.read, accounts.part.files)])
    ending = "is refused and its last version stays" if level == "fail" else "waits for a person"
    return f"dataset {config.name!r} {ending}: {broken} (most frequent reasons: {'; '.join(said)})"


def breach_sentence(breach: Breach, found: dict[str, Any]) -> str:
    """Return one broken limit as part of a sentence: what was found, what is allowed, what to change."""
    section, _, name = breach.limit.partition(".")
    rows = found["rows_in"]
    if name.endswith("quarantined_share"):
        return (
            f"{breach.found:g} of {rows} rows ({breach.found / rows:.2%}) are quarantined and {breach.limit} allows "
            f"{breach.allowed:.2%} ({int(breach.allowed * rows)} rows), so repair them, set their rule to warn or "
            "raise the budget"
        )
    if name.endswith("lost_share"):
        return (
            f"{_apart(breach, '%', 2)} of the last version's rows are lost and {breach.limit} allows "
            f"{breach.allowed:.2%}: "
            "look for a missing file or raise the budget"
        )
    if name == "min_rows":
        mend = "mend what puts all rows aside, " if not breach.found and found["quarantined"] else ""
        return (
            f"{breach.found:g} rows could be published and budgets.min_rows asks for {breach.allowed:g}, so "
            f"{mend}add rows or lower the budget"
        )
    if name == "train_rows":
        return (
            f"none of {found['published']} published rows is on the train side ({found['validation_rows']} validation, "
            f"{found['test_rows']} test), so add rows, raise split.train or choose another split.salt"
        )
    if section == "drift":
        kind = name.partition(".")[0]
        return (
            f"{kind} moved by {_apart(breach, 'f', 3)} and {breach.limit} allows {breach.allowed:g}, so look at the "
            "report's comparison, then raise the limit or mend the source"
        )
    return f"{breach.found:g} rows break {breach.limit}, which is set to fail, so repair them or set it to quarantine"


def _apart(breach: Breach, form: str, digits: int) -> str:
    """Return what was found with as many digits as tell it from what is allowed."""
    while f"{breach.found:.{digits}{form}}" == f"{breach.allowed:.{digits}{form}}" and digits < _MOST_DIGITS:
        digits += 1
    return f"{breach.found:.{digits}{form}}"


def write_audit(folder: Path, accounts: Accounts, verdict: Verdict, contract: DataContract) -> None:
    """Write the audit's files but the report and the rows set aside."""
    _write_lines(folder / "quarantine.jsonl", quarantined_rows(accounts, contract))
    _write_lines(folder / "fixes.jsonl", repaired_parts(accounts))
    text = json.dumps(verdict.record, ensure_ascii=False, indent=1)
    (folder / "verdict.json").write_text(text + "\n", encoding="utf-8")


def quarantined_rows(accounts: Accounts, contract: DataContract) -> Iterator[dict[str, Any]]:
    """Yield every quarantined row, in reading order: where it is from, all reasons, and its exact text.

    Of a row that only the run as a whole refused (a leak) the text is that of its messages, and ``raw_is`` says so; of
    one that was taken down there is none.
    """
    flags = refusing(contract)
    late = dict(accounts.leaks.with_columns(pl.col("matches").list.join(", ")).iter_rows())
    for row in _refused(accounts).iter_rows(named=True):
        details = {**{flag: row[column] for flag, column in DETAILS.items()}, "leak": late.get(row["row"])}
        details = {} if row["taken_down"] else details  # they quote the row
        broken = [{"rule": flag, "detail": details.get(flag)} for flag in flags if row[flag]]
        raw = None if row["taken_down"] else row["raw"]
        of_raw = {"raw_is": CANONICAL} if row["canonical"] and raw is not None else {}
        yield {
            "row": row["row"],
            "source_file": accounts.part.files[row["file"]],
            "source_line": row["source_line"],
            "reasons": [{key: value for key, value in reason.items() if value} for reason in broken],
            "rules_version": RULES_VERSION,
            "raw": raw,
            "raw_before": raw,
            **of_raw,
        }


def _refused(accounts: Accounts) -> pl.DataFrame:
    read = accounts.read.with_row_index("row").filter(pl.col("end") == "quarantined")
    texts = accounts.part.table("refused").cast({"row": pl.UInt32})
    table = read.join(texts, on="row", how="left", maintain_order="left")
    late = table.filter(pl.col("leak") | pl.col("taken_down"))["row"]
    if late.is_empty():
        return table.with_columns(canonical=False)
    raws = [(row["row"], as_raw(row)) for row in rows_by_number(accounts, late).iter_rows(named=True)]
    found = pl.DataFrame(raws, schema={"row": pl.UInt32, "late_raw": pl.String}, orient="row")
    joined = table.join(found, on="row", how="left", maintain_order="left")
    canonical = pl.col("late_raw").is_not_null()
    return joined.with_columns(raw=pl.coalesce("raw", "late_raw"), canonical=canonical).drop("late_raw")


def as_raw(row: dict[str, Any]) -> str:
    """Return a row that was read well as the text of a messages row, which the reader takes again."""
    value: dict[str, Any] = {"messages": row["messages"]}
    for message in value["messages"]:
        calls = message.pop("tool_calls", None)
        if calls:
            message["tool_calls"] = json.loads(calls)
    if row["tools"]:
        value["tools"] = json.loads(row["tools"])
    return json.dumps(value, ensure_ascii=False)


def rows_by_number(accounts: Accounts, numbers: pl.Series) -> pl.DataFrame:
    """Return some of the rows that no rule refused, with `parts.ROW_COLUMNS`."""
    there = accounts.of_good("chunk").filter(pl.col("row").is_in(numbers.cast(pl.UInt32).implode()))
    found = [
        accounts.part.chunk_rows(int(str(chunk))).filter(pl.col("row").is_in(table["row"].implode()))
        for (chunk,), table in there.group_by("chunk")
    ]
    return pl.concat(found).sort("row") if found else accounts.part.chunk_rows(0).clear()


class SetAside:
    """Writes every row that is a duplicate or was left out, with what stays in its place.

    Args:
        path: The Parquet file; there is none where there is no such row.
        accounts: Where the rows went.
    """

    def __init__(self, path: Path, accounts: Accounts) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        names = pl.Series("kept_file", accounts.part.files, dtype=pl.String)
        places = accounts.read.select("file", kept_line="source_line")[accounts.repeats["kept_row"]]
        kept = accounts.repeats.with_columns(places["kept_line"], names.gather(places["file"]))
        gone = accounts.good.filter(pl.col("end").is_in(["duplicate", "left_out"])).select("row", "end")
        self._gone = gone.join(kept.rename({"dataset": "kept_in_dataset"}), on="row", how="left")

    def add(self, rows: pl.DataFrame) -> None:
        """Write those of `rows` (`parts.ROW_COLUMNS`, in the order of ``row_id``) that are set aside."""
        found = rows.select("row", *_SET_ASIDE).join(self._gone, on="row", maintain_order="left")
        if found.is_empty():
            return
        found = found.with_columns(pl.col("row_id").bin.encode("hex"), pl.col("end", "source").cast(pl.String))
        table = found.drop("row", "kept_row").to_arrow(compat_level=_OLDEST)
        if self._writer is None:
            self._writer = parquet_writer(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


def repaired_parts(accounts: Accounts) -> Iterator[dict[str, Any]]:
    """Yield every repaired part with its text before and after, in reading order; of rows taken down none."""
    fixes = accounts.part.table("fixes").cast({"row": pl.UInt32})
    places = accounts.read.select("file", "source_line", "taken_down")[fixes["row"]]
    for fix in fixes.hstack(places).filter(~pl.col("taken_down")).drop("taken_down").iter_rows(named=True):
        yield {**fix, "source_file": accounts.part.files[fix.pop("file")]}


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
