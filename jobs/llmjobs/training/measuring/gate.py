"""The gate: does the candidate beat the base and the champion? A pure function of one evaluation.

It goes by one metric, stated beforehand, and by the 95% interval of its gain, not by the gain alone: on 50 rows a model
is easily 0.04 better by luck.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import Evaluate, Regression
from llmjobs.contracts.training_results import EvaluateResult, Gain, RegressionScore, Score


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and one sentence with the numbers."""

    promoted: bool
    sentence: str


@dataclass(frozen=True)
class Finding:
    """Whether the candidate is better by the rules, and why or why not."""

    better: bool
    why: str


def decide(rules: Evaluate, result: EvaluateResult) -> Decision:
    """Decide about the candidate of one evaluation, as `find` finds."""
    found = find(rules, result)
    return Decision(promoted=found.better, sentence=f"{'promoted' if found.better else 'not promoted'}: {found.why}")


def find(rules: Evaluate, result: EvaluateResult) -> Finding:
    """Find whether the candidate of one evaluation is better.

    Args:
        rules: Metric, gain, fewest rows and regression sets.
        result: Base, champion (if any) and candidate on the same rows.

    Raises:
        BadData: The evaluation lacks what the rules ask for.
    """
    refusal = _too_few(rules, result) or _too_little(rules, result) or _lost(rules, result)
    if refusal:
        return Finding(better=False, why=refusal)
    rivals = [_gain(result.gains, rules.metric, rival) for rival in _rivals(result)]
    shown = ", ".join(f"{_over(gain)} {_interval(gain)}" for gain in rivals)
    held = f"; within the margin of {len(rules.regression)} regression set(s)" if rules.regression else ""
    return Finding(better=True, why=f"{_figures(rules, result)}; the gain {shown}{held}")


def _too_few(rules: Evaluate, result: EvaluateResult) -> str:
    sets = {"held-out": result.rows} | {_called(one): _measured(one, result).rows for one in rules.regression}
    for name, rows in sets.items():
        if rows < rules.min_rows:
            return f"{rows} {name} rows are fewer than evaluate.min_rows ({rules.min_rows})"
    return ""


def _too_little(rules: Evaluate, result: EvaluateResult) -> str:
    for rival in _rivals(result):
        gain = _gain(result.gains, rules.metric, rival)
        # Written so that a figure that is no number is refused.
        if not gain.low > rules.min_gain:
            return (
                f"{_figures(rules, result)}; the gain {_over(gain)} {_interval(gain)}, which must lie above "
                f"{rules.min_gain:g}: its lower end missed that by {rules.min_gain - gain.low:.3g}"
            )
    return ""


def _lost(rules: Evaluate, result: EvaluateResult) -> str:
    for rule in rules.regression:
        metric, found = rule.metric or rules.metric, _measured(rule, result)
        for rival in _rivals(result):
            gain = _gain(found.gains, metric, rival)
            if not gain.low >= -rule.margin:
                return (
                    f"on the {found.rows} rows of the regression set {_called(rule)} the gain of the {_name(metric)} "
                    f"{_over(gain)} {_interval(gain)}, which must not reach below {-rule.margin:g} (its margin): it "
                    f"does by {-rule.margin - gain.low:.3g}"
                )
    return ""


def _measured(rule: Regression, result: EvaluateResult) -> RegressionScore:
    for found in result.regression:
        if (found.dataset, found.split) == (rule.dataset, rule.split):
            return found
    raise BadData(
        f"evaluation {result.name}, version {result.version}: regression set {_called(rule)} was not measured; run the "
        "evaluation again"
    )


def _gain(gains: list[Gain], metric: str, rival: str) -> Gain:
    for gain in gains:
        if (gain.metric, gain.against) == (metric, rival):
            return gain
    raise BadData(f"the evaluation holds no gain of the {_name(metric)} over the {rival}; run the evaluation again")


def _rivals(result: EvaluateResult) -> dict[str, Score]:
    return {"base": result.base} | ({"champion": result.champion} if result.champion else {})


def _figures(rules: Evaluate, result: EvaluateResult) -> str:
    """Return the metric of all on the held-out rows."""
    others = ", ".join(f"{name} {value(rival, rules.metric):.4g}" for name, rival in _rivals(result).items())
    rows = _gain(result.gains, rules.metric, "base").rows
    mine = value(result.adapter, rules.metric)
    return f"{_name(rules.metric)} {mine:.4g} on {rows} held-out rows ({others})"


def value(score: Score, metric: str) -> float:
    """Return a figure of a score by its name."""
    return float(getattr(score if metric in type(score).model_fields else score.generated, metric))


def _over(gain: Gain) -> str:
    return f"over the {gain.against} is"


def _interval(gain: Gain) -> str:
    return f"{gain.gain:+.3g} (95% interval {gain.low:+.3g} to {gain.high:+.3g})"


def _called(rule: Regression) -> str:
    return f"{rule.dataset} {rule.split}"


def _name(metric: str) -> str:
    return metric.replace("_", " ")
