"""Looks at a data contract, and tries it on files: from the command line, without Airflow and without publishing.

    python -m llmjobs.instructions.check dags/contracts/tickets.yaml
    python -m llmjobs.instructions.check dags/contracts/tickets.yaml raw/2026-11-*.jsonl

Prints what can never happen, the counts, each rule that fired with two rows, and the verdict. Ends with 0; with 78 when
the contract is wrong (each wrong field with its fix); with 65 when these files would be refused. Where
``LLMJOBS_LAKE_URL`` is set, evaluation sets and other datasets are looked for there.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.environment import LAKE_URL
from llmjobs.contracts.errors import ExitCode, JobError
from llmjobs.instructions.checking.lint import warnings
from llmjobs.instructions.checking.trial import Trial, try_on
from llmjobs.lake import Lake


def main(arguments: list[str]) -> int:
    """Check the contract that the arguments name, and try it on their files."""
    given = _parser().parse_args(arguments)
    try:
        contract = DataContract.from_yaml(given.contract)
        lake = Lake.from_environment() if os.environ.get(LAKE_URL) else None
        _say([f"{given.contract}: fits", *(f"warning: {sentence}" for sentence in warnings(contract, lake))])
        if not given.files:
            return ExitCode.DONE
        trial = try_on(contract, given.files, lake=lake)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    _say(lines_of(trial, contract))
    return ExitCode.BAD_DATA if trial.refusal else ExitCode.DONE


def lines_of(trial: Trial, contract: DataContract) -> list[str]:
    """Return what a person wants to read: counts, rules with samples, budgets, verdict."""
    return ["", *_counts(trial), "", *_rules(trial, contract), *_budgets(trial, contract), *_verdict(trial)]


def _counts(trial: Trial) -> Iterator[str]:
    found = trial.figures
    ends = ("published", "quarantined", "duplicates", "left_out")
    parts = [f"{found[end]:,} {end.replace('_', ' ')}" for end in ends if end in found]
    yield f"{found['rows_in']:,} rows in = {' + '.join(parts)}"
    beside = [f"{found[name]:,} {name}" for name in ("fixed", "warned", "masked") if name in found]
    yield f"among the published: {', '.join(beside)}"
    for name, rows in found.get("evaluation_sets", {}).items():
        yield f"evaluation set {name}: {rows['usable']:,} of {rows['read']:,} rows can be compared with"


def _rules(trial: Trial, contract: DataContract) -> Iterator[str]:
    severities = contract.severities()
    fired = trial.figures.get("flags") or trial.figures.get("rules") or {}
    for rule, count in sorted(fired.items(), key=lambda item: (-item[1], item[0])):
        if not count:
            continue
        yield f"{rule:<24} {count:>9,}  {severities.get(rule, '')}"
        yield from (f"    {sample}" for sample in trial.samples.get(rule, []))
    if any(fired.values()):
        yield ""


def _budgets(trial: Trial, contract: DataContract) -> Iterator[str]:
    found, budgets = trial.figures, contract.budgets
    share = found["quarantined"] / found["rows_in"] if found["rows_in"] else 0.0
    asked = "" if budgets.warn_quarantined_share is None else f", asked about from {budgets.warn_quarantined_share:.2%}"
    yield f"quarantined share {share:.2%} of at most {budgets.max_quarantined_share:.2%}{asked}"
    yield f"published rows {found['published']:,} of at least {budgets.min_rows:,}"


def _verdict(trial: Trial) -> Iterator[str]:
    if trial.refusal:
        yield f"verdict: these files would be refused: {trial.refusal}"
    else:
        yield "verdict: a person would be asked" if trial.question else "verdict: accepted"


def _say(lines: list[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmjobs.instructions.check",
        description="Check a data contract; with files, try it on them. Publishes nothing.",
    )
    parser.add_argument("contract", type=Path, help="a YAML file of dags/contracts/")
    parser.add_argument("files", nargs="*", help="files, globs or URLs")
    return parser


if __name__ == "__main__":
    logging.getLogger("llmjobs").setLevel(logging.WARNING)
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    sys.exit(main(sys.argv[1:]))
