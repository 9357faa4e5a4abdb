"""Compiles a contract to a Great Expectations suite, and lets its checkpoint decide.

The suite looks at one table with a row for each row read and a boolean column for each rule, plus ``quarantined`` and
``published``. Flags are computed once, in polars, for Great Expectations cuts its lists of rows at 20 on SQL engines
and needs ten times the time on text (1.24.1). The expectations of severity ``critical`` decide, the others are on
record.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any

import polars as pl

from llmjobs.contracts.instructions import DataContract
from llmjobs.instructions.examination import RULES

_SEVERITY = {"fail": "critical", "quarantine": "warning", "warn": "warning", "fix": "info"}


@dataclass(frozen=True)
class Breach:
    """One broken limit of the contract.

    Attributes:
        limit: ``max_quarantined_share``, ``min_rows``, or the name of a rule of severity ``fail``.
        found: Rows counted: quarantined, published, or breaking the rule.
    """

    limit: str
    found: int


@dataclass(frozen=True)
class Verdict:
    """What Great Expectations says.

    Attributes:
        accepted: No critical expectation failed.
        breaches: Those that did.
        record: The checkpoint's result as JSON, without run ids and times: the same rows give the same record.
    """

    accepted: bool
    breaches: list[Breach]
    record: dict[str, Any]


def judge(table: pl.DataFrame, contract: DataContract, name: str) -> Verdict:
    """Run the contract's suite over the flags.

    Args:
        table: Boolean columns: every rule, ``quarantined``, ``published``; one row per row read.
        contract: Where severities and budgets are from.
        name: The dataset's name, which the record shows.
    """
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=_expectations(gx, contract)))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=name, validation_definitions=[definition], result_format="SUMMARY")
    )
    columns = [*RULES, "quarantined", "published"]
    result = checkpoint.run(batch_parameters={"dataframe": table.select(columns).to_pandas()})
    record = _record(next(iter(result.run_results.values())).to_json_dict())
    breaches = [breach for outcome in record["results"] if (breach := _breach(outcome))]
    return Verdict(accepted=not breaches, breaches=breaches, record=record)


def _expectations(gx: Any, contract: DataContract) -> list[Any]:
    in_set, total = gx.expectations.ExpectColumnValuesToBeInSet, gx.expectations.ExpectColumnSumToBeBetween
    severities = contract.rules.model_dump()
    rules = [
        in_set(column=rule, value_set=[False], severity=_SEVERITY[severity], meta={"limit": rule, "severity": severity})
        for rule, severity in severities.items()
        if severity != "off"
    ]
    budgets = contract.budgets
    # Rounded, or 1 - 0.07 is less strict than 0.93 and 1 - 0.43 stricter than 0.57.
    good_share = round(1 - budgets.max_quarantined_share, 9)
    quarantined = in_set(
        column="quarantined",
        value_set=[False],
        mostly=good_share,
        severity="critical",
        meta={"limit": "max_quarantined_share"},
    )
    enough = total(column="published", min_value=budgets.min_rows, severity="critical", meta={"limit": "min_rows"})
    return [*rules, quarantined, enough]


def _record(result: dict[str, Any]) -> dict[str, Any]:
    """Return a validation result without its random ids and its times."""
    for outcome in result["results"]:
        outcome["expectation_config"].pop("id", None)
    return {
        "success": result["success"],
        "suite_name": result["suite_name"],
        "statistics": result["statistics"],
        "results": result["results"],
        "great_expectations_version": result["meta"]["great_expectations_version"],
    }


def _breach(outcome: dict[str, Any]) -> Breach | None:
    config = outcome["expectation_config"]
    if outcome["success"] or config["severity"] != "critical":
        return None
    raised = outcome["exception_info"]
    if "unexpected_count" not in outcome["result"] and "observed_value" not in outcome["result"]:
        raise RuntimeError(f"Great Expectations could not compute {config['meta']['limit']}: {raised}")
    found = outcome["result"].get("unexpected_count", outcome["result"].get("observed_value"))
    return Breach(limit=config["meta"]["limit"], found=int(found))


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        # Its import of `sre_constants` warns (GX 1.24.1 on Python 3.11).
        warnings.filterwarnings("ignore", message="module 'sre_.*' is deprecated", category=DeprecationWarning)
        import great_expectations as gx
    # This module sets its own logger to INFO (GX 1.24.1), to speak about its temporary folders.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return gx
