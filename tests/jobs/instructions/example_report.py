"""A report with something in every section, of rows that nobody has written: what a night of a mixed dataset gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from llmjobs.contracts.data_contract import Budgets, Drift
from llmjobs.contracts.data_rules import RowRules
from llmjobs.instructions.report.data import (
    Comparison,
    EvaluationSet,
    File,
    Fraction,
    Lengths,
    Match,
    Matches,
    Mix,
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
from llmjobs.instructions.report.diff import Changes, Diff, diff
from llmjobs.instructions.report.distributions import histogram, quantiles
from llmjobs.instructions.report.limits import budget_limits, drift_limits, rule_limit

Say = Callable[[str], str]
"""What is written wherever the text of a row, a file or a person stands; the tests plant things here."""

FOUND = {
    "refusal": 1_412, "near": 0, "truncated_answer": 986, "control_characters": 871, "no_input_marker": 640,
    "speaks_as_ai": 388, "url_only_input": 301, "language_mismatch": 144, "empty_answer": 97, "merged_instructions": 41,
    "unreadable": 12, "duplicate_keys": 3,
}  # fmt: skip
SEVERITIES = RowRules().model_dump()


def lengths(seed: int, rows: int, middle: float) -> pl.Series:
    return pl.Series(np.random.default_rng(seed).lognormal(middle, 0.85, rows).astype(np.int64) + 8)


def compared() -> Diff:
    """Return a real diff for the shifts, with the counts of a larger dataset."""
    topics = ["billing", "delivery", "returns", "account", "small talk", "recipes", "arithmetic", "translation", None]
    generator = np.random.default_rng(5)

    def version(seed: int, middle: float, shares: list[float]) -> pl.DataFrame:
        rows = 6_000
        keys = pl.int_range(rows, eager=True)
        return (
            pl.DataFrame({"row_key": keys * 5 + seed, "group_key": keys})
            .cast(pl.Int128)
            .with_columns(
                side=pl.lit("train"),
                characters=lengths(seed, rows, middle),
                topic=pl.Series(
                    generator.choice(np.array(topics, dtype=object), rows, p=shares).tolist(), dtype=pl.String
                ),
                language=pl.Series(
                    generator.choice(["en", "de", "fr", "zh"], rows, p=[0.86, 0.07, 0.04, 0.03]).tolist()
                ),
                source=pl.lit("tickets"),
            )
        )

    found = diff(
        version(0, 5.4, [0.22, 0.2, 0.14, 0.12, 0.1, 0.08, 0.06, 0.05, 0.03]),
        version(1, 5.55, [0.18, 0.19, 0.12, 0.11, 0.16, 0.06, 0.09, 0.06, 0.03]),
    )
    return Diff(
        base_rows=44_230, new_rows=46_873, changes=Changes(3_105, 462, 388, 43_380),
        sides={
            "train": Changes(2_496, 371, 305, 34_690),
            "validation": Changes(301, 44, 42, 4_362),
            "test": Changes(308, 47, 41, 4_328),
        },
        shifts=found.shifts, not_compared=found.not_compared,
    )  # fmt: skip


def example(say: Say = str) -> ReportData:
    """Return the report of 52,002 rows that a person is asked about."""
    found = compared()
    budgets = Budgets(
        max_quarantined_share=0.1,
        warn_quarantined_share=0.05,
        min_rows=20_000,
        warn_lost_share=0.02,
        max_lost_share=0.1,
    )
    drift = Drift.model_validate(
        {"length": {"warn": 0.15, "fail": 0.3}, "topic": {"warn": 0.1, "fail": 0.25}, "language": {"fail": 0.2}}
    )
    limits = budget_limits(budgets, rows_in=52_002, quarantined=2_254, published=46_873, diff=found)
    limits += [*drift_limits(found, drift), rule_limit("invalid_json_answer", 0)]
    return ReportData(
        name="support-tickets",
        owner="data platform",
        outcome="ask",
        sentence="topic moved by 0.12 (Jensen-Shannon), drift.topic.warn allows 0.10; approve the run to publish it, "
        "or reject it and the last version stays",
        description=say("Answered tickets of the shop, mixed with a little of what everybody can ask."),
        rows_in=52_002, published=46_873, quarantined=2_254, duplicates=1_875, left_out=1_000,
        version="7c1f0f2b94d85a53e0c5b1d42af0973e", base_version="0b9ad1c7e2f64c18a3d6720e5f4b8861",
        interval_end="2026-11-22T00:00:00Z", fixed=1_391, warned=1_130, masked=212,
        sides={"train": 37_491, "validation": 4_705, "test": 4_677},
        limits=tuple(limits),
        rules=tuple(
            Rule(rule, SEVERITIES[rule], count, RowRules.model_fields[rule].description or "")
            for rule, count in FOUND.items()
            if count
        ),
        quiet=("wrong_shape", "broken_encoding", "role_order", "image_request", "too_long"), off=("too_many_tokens",),
        refused=_refused(say), comparison=_comparison(found, say), lengths=_lengths(), mixes=_mixes(say),
        repeated=_duplicates(say), leaks=_leaks(say), personal_data=_personal_data(), repairs=_repairs(say),
        quality=_quality(), sources=_sources(say), files=_files(say),
        removals=(Removal("9f2c61d0a4b7e853c1d2f6a0b94e7758", say("Asked for by the customer on 2026-11-19.")),),
        suite=Suite("1.24.1", 29, 24),
        versions={"rules": "2", "contract": "5d0c8a1b2e4f", "code": "c0ffee12ab34"},
        files_beside={"quarantine.parquet": "every row put aside, whole", "verdict.json": "of Great Expectations"},
    )  # fmt: skip


def ticket(say: Say, number: int, question: str, answer: str, detail: str = "") -> Row:
    parts = (("instruction", say(question)), ("input", say("")), ("output", say(answer)))
    return Row(say(f"raw/tickets/2026-11-{number % 20 + 1:02}.jsonl, line {number * 37:,}"), parts, say(detail))


def _refused(say: Say) -> tuple[RefusedClass, ...]:
    refusals = (
        ticket(say, 4, "Draft a reply to a customer whose parcel is three days late.",
               "I'm sorry, but I cannot help with that request as I do not have access to the parcel's data."),
        ticket(say, 9, "Which of our plans includes international calls?",
               "Unfortunately, I am unable to look up plans. Please provide more information."),
        ticket(say, 23, "Summarise the complaint below in one sentence.", "I can't access the complaint."),
    )  # fmt: skip
    broken = Row(
        say("raw/tickets/2026-11-21.jsonl, line 8,114"),
        (("raw", say('{"instruction": "Cancel my order", "output": "Your order has been canc')),),
        say("line 8114, column 63: the string is not closed"),
    )
    link = ticket(say, 31, "Summarise this article.\nhttps://shop.example/help/returns", "The article says that …")
    return (
        RefusedClass("refusal", 1_412, refusals),
        RefusedClass("speaks_as_ai", 388, (ticket(say, 12, "How do I feel today?", "As an AI, I do not feel."),)),
        RefusedClass("url_only_input", 301, (link,)),
        RefusedClass("unreadable", 12, (broken,)),
    )


def _comparison(found: Diff, say: Say) -> Comparison:
    old = ticket(
        say,
        7,
        "How long do I have to return a pair of shoes?",
        "You have 14 days from the day of delivery to return them. Put the shoes in their box, print the label "
        "from your account and bring the parcel to any shop. The money is back on your card within five days.",
    )
    new = ticket(say, 8, "How long do I have to return a pair of shoes?",
                 "You have 30 days from the day of delivery to return them. Put the shoes in their box, show the code "
                 "from your account in any shop. The money is back on your card within five days.")  # fmt: skip
    return Comparison(
        found,
        added=(
            ticket(say, 1, "Translate to German: Where is my parcel?", "Wo ist mein Paket?"),
            ticket(say, 2, "What is 15 % of 80?", "15 % of 80 is 12."),
        ),
        removed=(ticket(say, 3, "Is the shop on Main Street open on Sundays?", "Yes, from ten to four."),),
        changed=((old, new),),
    )


def _lengths() -> tuple[Lengths, ...]:
    sides = {"train": lengths(1, 9_000, 5.55), "validation": lengths(2, 1_100, 5.5), "test": lengths(3, 1_150, 5.6)}
    both = []
    for unit, divisor in (("characters", 1), ("tokens", 4)):
        scaled = {side: of_side // divisor for side, of_side in sides.items()}
        bins = histogram(scaled)
        assert bins is not None
        both.append(Lengths(unit, bins, {side: quantiles(of_side) for side, of_side in scaled.items()}))
    return tuple(both)


def _mixes(say: Say) -> tuple[Mix, ...]:
    topics = ["billing", "delivery", "small talk", "returns", "account", "arithmetic", "recipes", "translation",
              "opening hours", "vouchers", "complaints", "press"]  # fmt: skip
    return (
        Mix("topics", {say(topic): 9_000 // (place + 1) for place, topic in enumerate(topics)}),
        Mix("languages", {say("en"): 40_311, say("de"): 3_282, say("fr"): 1_874, say("zh"): 1_406}),
        Mix("labels", {say("answered"): 38_020, say("handed over"): 8_853}),
    )


def _duplicates(say: Say) -> Matches:
    twice = ticket(say, 15, "Name three fruits.", "Apple, pear and plum.")
    like = ticket(say, 16, "Name three  FRUITS.", "apple, pear and plum.")
    longer = ticket(say, 18, "Please name three fruits that you like.", "Apple, pear, and plum.")
    samples = (Match(like, twice), Match(longer, twice, 0.87))
    return Matches(1_203, 672, 0.85, {say("general-chat"): 118}, samples)


def _leaks(say: Say) -> Matches:
    row = ticket(say, 40, "A train leaves at nine and …", "At noon.")
    matched = Row(say("evaluation/gsm8k.jsonl, line 77"), (("question", say("A train leaves at nine and ...")),))
    sets = (EvaluationSet(say("gsm8k"), 1_319, 1_319, 11), EvaluationSet(say("our own questions"), 240, 237, 0))
    return Matches(13, 0, 0.9, {"test": 2}, (Match(row, matched, 0.94, say("gsm8k")),), sets)


def _personal_data() -> tuple[PersonalData, ...]:
    found = {"email": ("mask", 131), "phone": ("mask", 64), "iban": ("mask", 17), "card": ("mask", 0),
             "ip": ("warn", 29), "api_key": ("quarantine", 3), "private_key": ("quarantine", 0)}  # fmt: skip
    return tuple(PersonalData(kind, policy, rows) for kind, (policy, rows) in found.items())


def _repairs(say: Say) -> tuple[Repair, ...]:
    return (
        Repair(say("raw/tickets/2026-11-02.jsonl, line 12"), "no_input_marker", "input", say("<No Input>"), say("")),
        Repair(
            say("raw/tickets/2026-11-02.jsonl, line 91"), "control_characters", "output",
            say("Done.\x1b[0m\x07 Anything else?\u200b"), say("Done. Anything else?"),
        ),
    )  # fmt: skip


def _quality() -> QualityCurve:
    kept = [
        {
            "fraction": share, "rows": int(38_491 * share), "tokens": int(38_491 * share * (140 + 40 * share)),
            "mean_score": 0.93 - 0.31 * share**1.6, "lowest_score": 0.9 - 0.82 * share**2.2,
            "mean_characters": 700.0, "clusters": min(1.0, 0.31 + 0.75 * share**0.55), "topics": min(1.0, 0.6 + share),
            "random": {"clusters": min(1.0, 0.2 + 0.8 * share**0.7), "topics": min(1.0, 0.5 + share)},
        }
        for share in (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
    ]  # fmt: skip
    return QualityCurve(tuple(map(Fraction.of, kept)), "37,491 rows", 37_491 / 38_491)


def _sources(say: Say) -> tuple[SourceShare, ...]:
    return (
        SourceShare(say("tickets"), 41_800, 38_102, 4, (say("proprietary"),)),
        SourceShare(say("general"), 8_402, 7_498, 1, (say("CC-BY-4.0"), say("Apache-2.0"))),
        SourceShare(say("handwritten"), 1_800, 1_273),
    )


def _files(say: Say) -> tuple[File, ...]:
    return (
        File(say("raw/tickets/2026-11-20.jsonl"), 20_911, 19_004, 806, 700, 401),
        File(say("raw/tickets/2026-11-21.jsonl.gz"), 20_889, 19_098, 892, 600, 299,
             say("ends in the middle of a row, at line 8,114: the rows before it were read")),
        File(say("raw/general/part-0000.parquet"), 8_402, 7_498, 404, 500),
        File(say("raw/handwritten/*.csv"), 1_800, 1_273, 152, 75, 300),
    )  # fmt: skip
