"""The gate: does the candidate beat the base and the champion? A pure function of one evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from llmjobs.contracts.training import Evaluate, EvaluateResult, Score


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and one sentence with the numbers."""

    promoted: bool
    sentence: str


def decide(rules: Evaluate, result: EvaluateResult) -> Decision:
    """Decide about the candidate of one evaluation.

    Args:
        rules: Metric, gain and fewest rows.
        result: Base, champion (if any) and candidate on the same rows.
    """
    if result.rows < rules.min_rows:
        return Decision(
            promoted=False,
            sentence=f"not promoted: {result.rows} held-out rows are fewer than evaluate.min_rows ({rules.min_rows})",
        )
    rivals = {"base": result.base} | ({"champion": result.champion} if result.champion else {})
    mine = _value(rules, result.adapter)
    shown = ", ".join(f"{name} {_value(rules, rival):.4g}" for name, rival in rivals.items())
    for name, rival in rivals.items():
        if not _gain(rules, result.adapter, rival) > rules.min_gain:
            by = f" by more than {rules.min_gain:g}" if rules.min_gain else ""
            return Decision(
                promoted=False,
                sentence=f"not promoted: {_name(rules)} {mine:.4g} on {result.rows} held-out rows does not beat "
                f"the {name}{by} ({shown})",
            )
    return Decision(
        promoted=True, sentence=f"promoted: {_name(rules)} {mine:.4g} on {result.rows} held-out rows ({shown})"
    )


def _name(rules: Evaluate) -> str:
    return rules.metric.replace("_", " ")


def _value(rules: Evaluate, score: Score) -> float:
    return score.exact_match if rules.metric == "exact_match" else score.loss


def _gain(rules: Evaluate, mine: Score, other: Score) -> float:
    difference = _value(rules, mine) - _value(rules, other)
    return difference if rules.metric == "exact_match" else -difference
