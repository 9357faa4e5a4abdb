"""Writes the report of a run: one HTML file that needs nothing from outside and runs no script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmjobs.contracts.instructions import PrepareConfig, RowRules
from llmjobs.instructions.accounts import Accounts
from llmjobs.instructions.audit import dropped_rows, quarantined_rows, repaired_parts
from llmjobs.instructions.expectations import Verdict
from llmjobs.instructions.formats import WrongShape, parts_of

SAMPLES = 3
"""Rows shown of each kind."""

_LONGEST_TEXT = 600
_COLOURS = {"quarantine": "bad", "fail": "bad", "fix": "good", "warn": "same"}
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff]")


def write_report(
    path: Path, accounts: Accounts, verdict: Verdict, found: dict[str, Any], config: PrepareConfig
) -> None:
    """Write the report.

    Args:
        path: The HTML file.
        accounts: The rows.
        verdict: Of Great Expectations.
        found: What `audit.figures` returned.
        config: The dataset's config.
    """
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    severities = config.contract.rules.model_dump()
    text = pages.get_template("report.html.j2").render(
        style=Markup(style),  # noqa: S704  our own file
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
        config=config,
        found=found,
        verdict=verdict.record,
        n=lambda count: f"{count:,}",
        rules=_rules(found["rules"], severities),
        quiet=[rule for rule, count in found["rules"].items() if not count and severities[rule] != "off"],
        off=[rule for rule, severity in severities.items() if severity == "off"],
        budgets=_budgets(found, verdict, config),
        files=[{"name": file["source_file"], **file} for file in found["files"]],
        refused=_refused(accounts, found["reasons"], config),
        samples=SAMPLES,
        fixes=_fixes(accounts),
        duplicates=_duplicates(accounts),
    )
    path.write_text(text, encoding="utf-8")


def _rules(counts: dict[str, int], severities: dict[str, str]) -> list[dict[str, Any]]:
    hit = sorted(((rule, count) for rule, count in counts.items() if count), key=lambda item: (-item[1], item[0]))
    return [
        {
            "name": rule,
            "count": count,
            "severity": severities[rule],
            "colour": _COLOURS[severities[rule]],
            "description": RowRules.model_fields[rule].description,
        }
        for rule, count in hit
    ]


def _budgets(found: dict[str, Any], verdict: Verdict, config: PrepareConfig) -> list[dict[str, Any]]:
    broken = {breach.limit for breach in verdict.breaches}
    budgets = config.contract.budgets
    share = found["quarantined"] / found["rows_in"] if found["rows_in"] else 0
    rows = [
        ("max_quarantined_share", f"at most {budgets.max_quarantined_share:.2%}", f"{share:.2%}"),
        ("min_rows", f"at least {budgets.min_rows:,}", f"{found['published']:,}"),
    ]
    strict = [rule for rule, severity in config.contract.rules.model_dump().items() if severity == "fail"]
    rows += [(rule, "no row", f"{found['rules'][rule]:,}") for rule in strict]
    return [{"name": name, "limit": limit, "found": seen, "kept": name not in broken} for name, limit, seen in rows]


def _refused(accounts: Accounts, reasons: dict[str, int], config: PrepareConfig) -> list[dict[str, Any]]:
    """Return up to `SAMPLES` rows of each reason, the most frequent reason first."""
    groups: dict[str, list[dict[str, Any]]] = {rule: [] for rule in reasons}
    for row in quarantined_rows(accounts, config.contract):
        for reason in row["reasons"]:
            if len(groups[reason["rule"]]) < SAMPLES:
                shown = {
                    "place": _place(row),
                    "detail": shorten(reason.get("detail", "")),
                    "parts": _parts(row["raw"], config),
                }
                groups[reason["rule"]].append(shown)
    return [{"rule": rule, "count": reasons[rule], "samples": samples} for rule, samples in groups.items()]


def _fixes(accounts: Accounts) -> list[dict[str, Any]]:
    return [
        {**fix, "place": _place(fix), "before": shorten(fix["before"]), "after": shorten(fix["after"])}
        for fix in islice(repaired_parts(accounts), 2 * SAMPLES)
    ]


def _duplicates(accounts: Accounts) -> list[dict[str, Any]]:
    return [
        {
            "place": _place(row),
            "kept": _place(row["kept"]),
            "parts": [(message["role"], shorten(message["content"])) for message in row["messages"]],
        }
        for row in islice(dropped_rows(accounts), SAMPLES)
    ]


def _place(row: dict[str, Any]) -> str:
    return f"{row['source_file']}, line {row['source_line']}"


def _parts(raw: str, config: PrepareConfig) -> list[tuple[str, str]]:
    """Return a raw row as named texts; one that cannot be taken apart as it stands."""
    try:
        parts = parts_of(json.loads(raw), raw, config.contract.format)
    except (WrongShape, ValueError, RecursionError):
        return [("raw", shorten(raw))]
    return [
        (role if part == "content" else part, shorten(text)) for _, role, part, text in parts if text or part != "input"
    ]


def shorten(text: str, limit: int = _LONGEST_TEXT) -> str:
    """Return `text` as a person should see it: invisible characters by name, a long text's end by its length."""
    shown = text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", shown)
