"""Writes an evaluation as one HTML file that needs nothing from outside and runs no script: the verdict first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmjobs.contracts.training import Evaluate
from llmjobs.contracts.training_results import EvaluateResult
from llmjobs.rendering import ChatRow
from llmjobs.training.measuring.differences import LESS_IS_BETTER
from llmjobs.training.measuring.scoring import RowScore, share
from llmjobs.training.reports.evaluation_table import headings, lines
from llmjobs.training.reports.page import write_page

_EXAMPLES = 10
_PROMPT_CHARACTERS = 400
_ANSWER_CHARACTERS = 800

_TITLES = {"accepted": "Better", "ask": "Better: a person decides", "refused": "Not better"}


@dataclass(frozen=True)
class Example:
    """A row on which candidate and base differ.

    Attributes:
        gain: By how much the candidate is better on this row; of the loss, per token.
        prompt: What was asked last, shortened; ``reference``: what should be said.
        candidate: What it said; empty where nothing was generated. ``base`` too.
    """

    origin: str
    gain: float
    prompt: str
    reference: str
    candidate: str
    base: str
    candidate_loss: float
    base_loss: float


def examples(rows: list[ChatRow], mine: list[RowScore], base: list[RowScore], metric: str) -> list[Example]:
    """Return the rows where candidate and base differ most, the candidate's losses first.

    They are chosen by the metric, where it ranges over more than right and wrong; else by the loss per token.

    Args:
        rows: At least those that were scored.
        mine: The candidate's scores; where some have answers, only those rows are shown.
        base: The base's, in the same order.
        metric: What promotion goes by.
    """
    by_id = {row.row_id: row for row in rows}
    pairs = list(zip(mine, base, strict=True))
    pairs = [pair for pair in pairs if pair[0].answer and pair[1].answer] or pairs
    by = "loss" if metric == "exact_match" else metric
    found = [_example(by_id[one.row_id], one, other, by) for one, other in pairs]
    most = sorted(found, key=lambda example: -abs(example.gain))[:_EXAMPLES]
    return sorted(most, key=lambda example: example.gain)


def _example(row: ChatRow, mine: RowScore, base: RowScore, metric: str) -> Example:
    turns = list(row.messages)
    last = max(place for place, turn in enumerate(turns) if turn["role"] == "assistant")
    asked = turns[last - 1]["content"] if last else ""
    return Example(
        origin=row.origin or row.row_id,
        gain=(_value(base, metric) - _value(mine, metric)) * (1 if metric in LESS_IS_BETTER else -1),
        prompt=_short(asked, _PROMPT_CHARACTERS),
        reference=_short(turns[last]["content"], _ANSWER_CHARACTERS),
        candidate=_short(mine.answer.text if mine.answer else "", _ANSWER_CHARACTERS),
        base=_short(base.answer.text if base.answer else "", _ANSWER_CHARACTERS),
        candidate_loss=_value(mine, "loss"),
        base_loss=_value(base, "loss"),
    )


def _value(score: RowScore, metric: str) -> float:
    above, below = share(score, metric)
    return above / below


def _short(text: str | None, limit: int) -> str:
    text = (text or "").strip()
    return text if len(text) <= limit else f"{text[:limit]} …"


def write_report(path: Path, result: EvaluateResult, rules: Evaluate, shown: list[Example]) -> None:
    """Write the report of an evaluation.

    Args:
        path: The HTML file.
        result: Base, champion and candidate on the test rows and the regression sets, judged.
        rules: What it was judged by.
        shown: Rows to show.
    """
    write_page(
        path,
        "evaluation",
        result=result,
        rules=rules,
        title=_TITLES[result.verdict],
        metric=rules.metric.replace("_", " "),
        headings=headings(result),
        held_out=lines(result),
        regression=[(found, lines(found)) for found in result.regression],
        margins={(rule.dataset, rule.split): rule for rule in rules.regression},
        examples=shown,
    )
