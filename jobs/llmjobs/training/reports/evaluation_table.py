"""The figures of an evaluation as a table: for a person who is asked, for the log and for the report."""

from __future__ import annotations

from dataclasses import dataclass

from llmjobs.contracts.training_results import EvaluateResult, Gain, RegressionScore, Score
from llmjobs.training.measuring.gate import value
from llmjobs.training.measuring.scoring import ANSWER_METRICS

LABELS = {
    "exact_match": "exact match",
    "loss": "loss (less is better)",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "length_ratio": "length (answer to reference)",
    "ended": "ended by itself",
    "repeated": "runs in circles (less is better)",
}


@dataclass(frozen=True)
class Line:
    """One metric on one set of rows, as text.

    Attributes:
        cells: Rows, candidate, base, gain over the base; then champion and gain over it, where there is one.
    """

    label: str
    cells: list[str]


def metrics_of(result: EvaluateResult | RegressionScore) -> tuple[str, ...]:
    """Return the metrics that were measured."""
    return ("exact_match", "loss", *(ANSWER_METRICS if result.adapter.generated else ()))


def headings(result: EvaluateResult) -> list[str]:
    """Return the columns of the table, the label's first."""
    champion = ["champion", "gain (95% interval)"] if result.champion else []
    return ["", "rows", "candidate", "base", "gain (95% interval)", *champion]


def lines(result: EvaluateResult | RegressionScore) -> list[Line]:
    """Return one line for each metric of the held-out rows, or of a regression set."""
    return [_line(result, metric) for metric in metrics_of(result)]


def _line(result: EvaluateResult | RegressionScore, metric: str) -> Line:
    over: dict[str, Gain] = {gain.against: gain for gain in result.gains if gain.metric == metric}
    rivals: dict[str, Score] = {"base": result.base} | ({"champion": result.champion} if result.champion else {})
    cells = [f"{over['base'].rows:,}", _shown(value(result.adapter, metric))]
    for name, rival in rivals.items():
        cells += [_shown(value(rival, metric)), interval(over.get(name))]
    return Line(LABELS[metric], cells)


def interval(gain: Gain | None) -> str:
    """Return a gain with its interval."""
    return f"{gain.gain:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" if gain else ""


def _shown(number: float) -> str:
    return f"{number:.4f}"


def markdown(result: EvaluateResult) -> str:
    """Return the whole table in Markdown, the regression sets below."""
    columns = headings(result)
    written = [_row(columns), _row(["---"] * len(columns)), *(_row([one.label, *one.cells]) for one in lines(result))]
    for found in result.regression:
        name = f"{found.dataset} {found.split}"
        written += [_row([f"{name}: {one.label}", *one.cells]) for one in lines(found)]
    return "\n".join(written)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
