"""Puts what a run found into the report, and into the few lines for the person who is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.contracts.data_rules import PII_KINDS, RULES, RowRules
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.audit import breach_sentence, quarantined_rows, repaired_parts, rows_by_number
from llmjobs.instructions.ends import Accounts
from llmjobs.instructions.expectations import Verdict
from llmjobs.instructions.identity import key_of
from llmjobs.instructions.json_texts import value_of
from llmjobs.instructions.parts import UNANSWERED
from llmjobs.instructions.published import SCHEMA, Published
from llmjobs.instructions.report.data import (
    Comparison,
    EvaluationSet,
    File,
    Fraction,
    Lengths,
    Marks,
    Match,
    Matches,
    Mix,
    Outcome,
    PersonalData,
    QualityCurve,
    RefusedClass,
    Removal,
    Repair,
    ReportData,
    Row,
    Rule,
    SourceShare,
    Suite,
)
from llmjobs.instructions.report.diff import Diff, summary
from llmjobs.instructions.report.distributions import counts, histogram, quantiles
from llmjobs.instructions.report.limits import budget_limits, drift_limits, rule_limit
from llmjobs.instructions.report.page import write_report
from llmjobs.instructions.rules.library import RULES_VERSION

SAMPLES = 3
"""Rows shown of each kind."""

_FILES = 200
_BESIDE = {
    "quarantine.jsonl": "every row that was put aside, with its reasons and exact text",
    "set_aside.parquet": "every duplicate and every row that was left out",
    "fixes.jsonl": "every repaired part, before and after",
    "verdict.json": "the result of Great Expectations",
}


class Findings:
    """All that a run knows when it is over.

    Args:
        config: What was asked.
        base: The version that it was compared with.
        accounts: Where the rows went.
        verdict: Of Great Expectations.
        diff: Against the base.
        figures: What `audit.figures` returned, with ``dataset_version`` and ``evaluation_sets``.
        taken_down: ``row_id`` of rows whose text must not be shown, not even as rows that are gone.
    """

    def __init__(
        self,
        config: PrepareConfig,
        base: Published | None,
        accounts: Accounts,
        *,
        verdict: Verdict,
        diff: Diff,
        figures: dict[str, Any],
        taken_down: frozenset[str] = frozenset(),
    ) -> None:
        self.config, self.contract, self.base = config, config.contract, base
        self.accounts, self.verdict, self.diff, self.figures = accounts, verdict, diff, figures
        listed = pl.Series(sorted(taken_down), dtype=pl.String)
        self._hidden = dict(zip(key_of(listed), listed, strict=True))
        self.samples = self._samples()

    def summary(self) -> str:
        """Return the diff as Markdown, for the body of the question."""
        asked = [breach_sentence(breach, self.figures) for breach in self.verdict.breaches]
        added = [_text(row) for row in self.samples["added"]]
        removed = [_text(row) for row in self.samples["removed"]]
        return summary(self.diff, self.figures, asked, added=added, removed=removed)

    def write_report(self, path: Path) -> None:
        """Write the report."""
        write_report(path, self.data())

    def data(self) -> ReportData:
        """Return what the report says."""
        found, contract = self.figures, self.contract
        severities = contract.severities()
        flags = {flag: count for flag, count in found["flags"].items() if flag in RULES or flag == "leak"}
        return ReportData(
            name=self.config.name,
            owner=contract.owner,
            outcome=self.outcome,
            sentence=self.sentence,
            rows_in=found["rows_in"],
            published=found["published"],
            quarantined=found["quarantined"],
            duplicates=found["duplicates"],
            left_out=found["left_out"],
            description=contract.description,
            version=found["dataset_version"],
            base_version=self.base.manifest.version if self.base else "",
            interval_end=self.config.interval_end,
            fixed=found["fixed"],
            warned=found["warned"],
            masked=found["masked"],
            sides={side: found[f"{side}_rows"] for side in SIDES},
            limits=tuple(self._limits()),
            rules=tuple(self._rules()),
            quiet=tuple(flag for flag, count in flags.items() if not count and severities[flag] != "off"),
            off=tuple(flag for flag in RULES if severities[flag] == "off"),
            refused=tuple(self._refused()),
            comparison=self._comparison(),
            lengths=tuple(self._lengths()),
            mixes=tuple(self._mixes()),
            repeated=self._repeated(),
            leaks=self._leaks(),
            personal_data=tuple(self._personal_data()),
            repairs=tuple(self._repairs()),
            quality=self._quality(),
            sources=tuple(self._sources()),
            files=tuple(self._files()),
            removals=tuple(self._removals()),
            suite=Suite(
                self.verdict.record["great_expectations_version"],
                self.verdict.record["statistics"]["evaluated_expectations"],
                self.verdict.record["statistics"]["successful_expectations"],
            ),
            versions={"contract": contract.digest()[:12], "rules": str(RULES_VERSION), "schema": str(SCHEMA)},
            files_beside=_BESIDE,
        )

    @property
    def outcome(self) -> Outcome:
        """What became of the run."""
        if self.verdict.decision == "refused":
            return "refused"
        if self.config.dry_run:
            return "dry_run"
        if self.verdict.decision == "ask":
            return "ask"
        return (
            "unchanged" if self.base and self.base.manifest.version == self.figures["dataset_version"] else "published"
        )

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.figures["sentence"]:
            return str(self.figures["sentence"])
        rows = f"{self.figures['published']:,} of {self.figures['rows_in']:,} rows"
        if self.outcome == "unchanged":
            return f"{rows} are good, and they are those of the last version: nothing is published anew"
        if self.outcome == "dry_run":
            return f"{rows} would be published; this was a dry run"
        return f"{rows} are published, within every limit of the contract"

    def _limits(self) -> Iterator[Any]:
        found = self.figures
        counted = self.accounts.read.filter(~pl.col("taken_down"))  # as for the verdict
        yield from budget_limits(
            self.contract.budgets,
            rows_in=found["rows_in"],
            quarantined=int(counted["quarantined"].sum()),
            published=found["published"],
            diff=self.diff,
        )
        yield from drift_limits(self.diff, self.contract.drift)
        strict = [flag for flag, severity in self.contract.severities().items() if severity == "fail"]
        yield from (rule_limit(flag, int(counted[flag].sum())) for flag in strict)

    def _rules(self) -> Iterator[Rule]:
        severities = self.contract.severities()
        hit = {flag: count for flag, count in self.figures["flags"].items() if count and flag in RULES}
        for flag, count in sorted(hit.items(), key=lambda item: (-item[1], item[0])):
            yield Rule(flag, severities[flag], count, RowRules.model_fields[flag].description or "")

    def _refused(self) -> Iterator[RefusedClass]:
        reasons = self.figures["reasons"]
        groups: dict[str, list[Row]] = {reason: [] for reason in reasons}
        for row in quarantined_rows(self.accounts, self.contract):
            for reason in row["reasons"]:
                if len(groups[reason["rule"]]) < SAMPLES:
                    parts = _raw_parts(row["raw"])
                    groups[reason["rule"]].append(Row(_place(row), parts, str(reason.get("detail", ""))))
            if all(len(rows) >= SAMPLES for rows in groups.values()):
                break
        for reason, rows in groups.items():
            yield RefusedClass(reason, reasons[reason], tuple(rows))

    def _comparison(self) -> Comparison | None:
        if self.base is None:
            return None
        changed = [(old, new) for old, new in zip(self.samples["before"], self.samples["changed"], strict=True)]
        return Comparison(self.diff, tuple(self.samples["added"]), tuple(self.samples["removed"]), tuple(changed))

    def _samples(self) -> dict[str, list[Row]]:
        """Return sample rows of the diff; of the first version none."""
        found: dict[str, list[Row]] = {"added": [], "removed": [], "before": [], "changed": []}
        if self.base is None:
            return found
        added = self.diff.added_keys[:SAMPLES]
        removed = [key for key in self.diff.removed_keys if key not in self._hidden][:SAMPLES]
        changed = [pair for pair in self.diff.changed_keys if pair[0] not in self._hidden][:SAMPLES]
        old = self.base.messages([*removed, *(pair[0] for pair in changed)])
        new = self._rows_of_keys([*added, *(pair[1] for pair in changed)])
        found["added"] = [new[key] for key in added]
        found["removed"] = [Row("last version", _parts(old[key])) for key in removed]
        found["before"] = [Row("last version", _parts(old[pair[0]])) for pair in changed]
        found["changed"] = [new[pair[1]] for pair in changed]
        return found

    def _rows_of_keys(self, keys: Iterable[int]) -> dict[int, Row]:
        wanted = pl.Series(list(keys), dtype=pl.Int128)
        published = self.accounts.published("row_key")
        there = published.filter(pl.col("row_key").is_in(wanted.implode())).select("row", "row_key")
        rows = self._rows(there["row"])
        return {key: rows[row] for row, key in there.iter_rows()}

    def _rows(self, numbers: pl.Series) -> dict[int, Row]:
        table = rows_by_number(self.accounts, numbers)
        return {row["row"]: Row(_place(row), _parts(row["messages"])) for row in table.iter_rows(named=True)}

    def _lengths(self) -> Iterator[Lengths]:
        for unit in ("characters", "tokens"):
            rows = self.accounts.published(unit)
            sides = {side: rows.filter(pl.col("side") == side)[unit].drop_nulls() for side in SIDES}
            there = {side: values for side, values in sides.items() if len(values)}
            bins = histogram(there) if there else None
            if bins is not None:
                yield Lengths(unit, bins, {side: quantiles(values) for side, values in there.items()})

    def _mixes(self) -> Iterator[Mix]:
        for name in ("language", "topic", "label", "licence"):
            values = self.accounts.published(name)[name]
            if values.null_count() < values.len():
                yield Mix(name, counts(values))

    def _repeated(self) -> Matches | None:
        repeats = self.accounts.repeats
        if repeats.is_empty():
            return None
        near = repeats.filter(pl.col("similarity") < 1)
        shown = pl.concat([near.head(SAMPLES), repeats.filter(pl.col("similarity") == 1).head(SAMPLES)])
        shown = shown.filter(pl.col("kept_row").is_not_null())
        rows = self._rows(pl.concat([shown["row"], shown["kept_row"]]))
        samples = [
            Match(rows[line["row"]], rows[line["kept_row"]], None if line["similarity"] == 1 else line["similarity"])
            for line in shown.iter_rows(named=True)
        ]
        elsewhere = repeats.filter(pl.col("dataset").is_not_null())
        return Matches(
            exact=repeats.height - near.height,
            near=near.height,
            threshold=self.contract.dedupe.near_threshold,
            by_place=dict(elsewhere["dataset"].value_counts(sort=True).iter_rows()),
            samples=tuple(samples),
        )

    def _leaks(self) -> Matches | None:
        leaks, sets = self.accounts.leaks, self.figures["evaluation_sets"]
        if leaks.is_empty() and not sets:
            return None
        rows = self._rows(leaks["row"].head(SAMPLES))
        samples = [
            Match(rows[line["row"]], Row(f"a row of {where}", ()), where=where)
            for line in leaks.head(SAMPLES).iter_rows(named=True)
            for where in [", ".join(line["matches"])]
        ]
        places = dict(leaks["matches"].explode().value_counts(sort=True).iter_rows())
        return Matches(
            exact=leaks.height,
            threshold=self.contract.leaks.near_threshold,
            by_place={place: rows for place, rows in places.items() if place not in sets},
            sets=tuple(
                EvaluationSet(name, rows["read"], rows["usable"], places.get(name, 0)) for name, rows in sets.items()
            ),
            samples=tuple(samples),
        )

    def _personal_data(self) -> Iterator[PersonalData]:
        for kind in PII_KINDS:
            count = self.figures["flags"][f"pii_{kind}"]
            if count:
                yield PersonalData(kind, getattr(self.contract.pii, kind), count)

    def _repairs(self) -> Iterator[Repair]:
        for fix in islice(repaired_parts(self.accounts), 2 * SAMPLES):
            yield Repair(_place(fix), fix["rule"], fix["part"], fix["before"], fix["after"])

    def _quality(self) -> QualityCurve | None:
        fractions = tuple(Fraction.of(found) for found in self.accounts.fractions)
        if not fractions:
            return None
        budget = self.contract.quality.budget
        train = self.figures["train_rows"] + self.figures["left_out"]
        asked = "" if budget is None else f"{budget.rows:,} rows" if budget.rows else f"{budget.tokens:,} tokens"
        kept = self.figures["train_rows"] / train if train and self.figures["left_out"] else None
        return QualityCurve(fractions, asked, kept, self._marks())

    def _marks(self) -> Marks | None:
        judge = self.contract.quality.judge
        if judge is None:
            return None
        counts = dict(self.accounts.of_good("mark")["mark"].value_counts().iter_rows())
        rows = {mark: counts.get(mark, 0) for mark in range(5, 0, -1)}
        return Marks(judge.model, rows, counts.get(None, 0), counts.get(UNANSWERED, 0))

    def _sources(self) -> Iterator[SourceShare]:
        good = self.accounts.of_good("source", "licence")
        if good["source"].n_unique() < 2 and not self.config.sources and not good["licence"].drop_nulls().len():
            return
        weights = {source.name: source.weight for source in self.config.inputs}
        table = good.group_by(pl.col("source").cast(pl.String)).agg(
            rows=pl.len(),
            published=(pl.col("end") == "published").sum(),
            licences=pl.col("licence").cast(pl.String).drop_nulls().unique().sort(),
        )
        for line in table.sort("rows", "source", descending=[True, False]).head(_FILES).iter_rows(named=True):
            name = line["source"] or "(none)"
            yield SourceShare(name, line["rows"], line["published"], weights.get(name), tuple(line["licences"]))

    def _files(self) -> Iterator[File]:
        for line in self.figures["files"][:_FILES]:
            ends = {key: line[key] for key in ("rows", "published", "quarantined", "duplicates", "left_out")}
            # A replay takes the rows of some files only.
            empty = not line["rows"] and not self.config.replay
            yield File(line["source_file"], **ends, problem="holds no row" if empty else "")

    def _removals(self) -> Iterator[Removal]:
        taken = self.accounts.read.with_row_index("row").filter("taken_down")["row"]
        if taken.is_empty():
            return
        for table in (self.accounts.of_good("row_key"), self.accounts.part.table("refused", "row", "row_key")):
            for key in table.filter(pl.col("row").is_in(taken.implode()))["row_key"].drop_nulls():
                yield Removal(self._hidden[key], "on the takedown list")


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['source_file']}, line {row['source_line']}"


def _parts(messages: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"] or turn.get("tool_calls") or "") for turn in messages)


def _text(row: Row) -> str:
    return " / ".join(text for _, text in row.parts)


def _raw_parts(raw: str | None) -> tuple[tuple[str, str], ...]:
    """Return a raw row as named texts; one that cannot be taken apart as it stands."""
    if raw is None:
        return ()
    value = value_of(raw)
    if not isinstance(value, dict):
        return (("raw", raw),)
    try:
        texts = {
            key: text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for key, text in value.items()
        }
    except RecursionError:  # nested as deep as Python just reads, and writing takes a little more
        return (("raw", raw),)
    return tuple((key, text) for key, text in texts.items() if text)
