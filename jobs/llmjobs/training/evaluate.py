"""Job: base, champion and candidate on the same held-out rows -> an evaluation in the lake.

    python -m llmjobs.training.evaluate        (config as JSON in LLMJOBS_CONFIG)

The rows are the dataset version's test split, and those of the regression sets, without any row that one of the models
was trained on. The base is loaded in the form in which the adapter was trained: what is compared is the adapter,
nothing else. The evaluation holds figures; what they mean by the config's rules (`judged`) is said anew each time.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import EVALUATION_SCHEMA, TrainConfig
from llmjobs.contracts.training_results import EvaluateResult, RegressionScore, Score
from llmjobs.lake import Lake
from llmjobs.mlflow_server import reach
from llmjobs.results import main
from llmjobs.training.data.rows import dataset_version
from llmjobs.training.identity import (
    ADAPTERS,
    EVALUATIONS,
    AdapterIdentity,
    champion_version,
    evaluation_version,
    identify,
)
from llmjobs.training.measuring.contestants import (
    Contestant,
    HeldOut,
    by_base,
    contestant,
    held_out,
    measure_sets,
    unseen,
)
from llmjobs.training.measuring.differences import gains
from llmjobs.training.measuring.gate import find, value
from llmjobs.training.measuring.scoring import RowScore, summarise
from llmjobs.training.reports.evaluation import examples, write_report
from llmjobs.training.reports.evaluation_table import markdown, metrics_of
from llmjobs.training.reports.page import REPORT
from llmjobs.training.sharding import wait_without_spinning
from llmjobs.training.stopping import StopSignal

logger = logging.getLogger(__name__)

ROWS = "rows.jsonl"
SUMMARY = "evaluation.json"

_HELD_OUT = "held-out"


def run(config: TrainConfig) -> EvaluateResult:
    """Measure the adapter that `config` means, unless that was done against today's champion.

    Raises:
        BadData: The adapter is not there, or no row is left to measure.
    """
    StopSignal().install()
    wait_without_spinning()
    lake = Lake.from_environment()
    adapter = identify(config, lake)
    name = adapter.config.name
    if lake.manifest(ADAPTERS, name, adapter.version) is None:
        raise BadData(f"adapter {name}, version {adapter.version}: not in the lake; train it first")
    version = evaluation_version(lake, adapter)
    existing = lake.manifest(EVALUATIONS, name, version)
    if existing is not None:
        logger.info("adapter %s was measured against this champion already", name)
        return judged(adapter.config, EvaluateResult.model_validate({**existing.metrics, "reused": True}))
    champion = champion_version(lake, name)
    rival = "" if champion == adapter.version else champion
    with tempfile.TemporaryDirectory() as scratch:
        return _evaluate(lake, adapter, version=version, rival=rival, scratch=Path(scratch))


def judged(config: TrainConfig, result: EvaluateResult) -> EvaluateResult:
    """Return an evaluation with what the config's rules say about it."""
    found = find(config.evaluate, result)
    better = "ask" if config.evaluate.approval else "accepted"
    said = {
        "verdict": better if found.better else "refused",
        "sentence": f"{'better' if found.better else 'not better'}: {found.why}",
    }
    return EvaluateResult.model_validate({**result.model_dump(), **said, "summary": markdown(result)})


@dataclass(frozen=True)
class _Measured:
    """All scores of one set of rows, by role."""

    rows: HeldOut
    scores: dict[str, list[RowScore]]

    def figures(self, versions: dict[str, str]) -> dict[str, object]:
        """Return what `EvaluateResult` and `RegressionScore` have in common."""
        mine = self.scores["adapter"]
        summaries = {role: summarise(versions.get(role, "base"), found) for role, found in self.scores.items()}
        over = [gains(mine, self.scores[role], role) for role in ("base", "champion") if role in self.scores]
        return {
            **{role: summaries.get(role) for role in ("base", "adapter", "champion")},
            "gains": [gain for some in over for gain in some],
            "rows": len(mine),
            "excluded_rows": self.rows.excluded,
            "over_long_rows": len(self.rows.kept) - len(mine),
        }


def _evaluate(lake: Lake, adapter: AdapterIdentity, *, version: str, rival: str, scratch: Path) -> EvaluateResult:
    versions = {"adapter": adapter.version} | ({"champion": rival} if rival else {})
    contestants = [contestant(lake, adapter.config.name, role, one, scratch) for role, one in versions.items()]
    sets = {_HELD_OUT: held_out(lake, adapter.config, contestants, "test")}
    pinned = [(rule, dataset_version(lake, rule.dataset, rule.version)) for rule in adapter.config.evaluate.regression]
    for rule, of in pinned:
        sets[f"{rule.dataset} {rule.split}"] = unseen(lake, rule.dataset, of, rule.split, contestants)
    measured = _measure(adapter.config, contestants, sets)
    regression = [
        RegressionScore.model_validate(
            {
                **measured[f"{rule.dataset} {rule.split}"].figures(versions),
                "dataset": rule.dataset,
                "version": of,
                "split": rule.split,
            }
        )
        for rule, of in pinned
    ]
    figures = measured[_HELD_OUT].figures(versions)
    result = judged(adapter.config, _result(lake, adapter, version, rival, {**figures, "regression": regression}))
    _publish(lake, adapter, result, measured, scratch / "evaluation")
    _mirror(lake, result)
    _say(result)
    return result


def _measure(config: TrainConfig, contestants: list[Contestant], sets: dict[str, HeldOut]) -> dict[str, _Measured]:
    first, *others = by_base(contestants)
    longest, budget = config.data.max_length_tokens, config.evaluate.generation
    found = measure_sets(
        first, {name: rows.kept for name, rows in sets.items()}, max_length_tokens=longest, generation=budget
    )
    fitting = {name: {score.row_id for score in scores["adapter"]} for name, scores in found.items()}
    same = {name: [row for row in rows.kept if row.row_id in fitting[name]] for name, rows in sets.items()}
    for group in others:  # a champion on another base: on exactly the candidate's rows, whatever their length there
        more = measure_sets(group, same, max_length_tokens=sys.maxsize, generation=budget)
        found = {name: {**more[name], **scores} for name, scores in found.items()}
    return {name: _Measured(rows, found[name]) for name, rows in sets.items()}


def _result(
    lake: Lake, adapter: AdapterIdentity, version: str, rival: str, figures: dict[str, object]
) -> EvaluateResult:
    config = adapter.config
    manifest = lake.manifest(ADAPTERS, config.name, adapter.version)
    double = "double-quantised " if config.quantisation.double else ""
    form = "unquantised" if config.quantisation.type == "none" else f"{double}{config.quantisation.type}"
    said = {
        "name": config.name,
        "version": version,
        "evaluation_url": lake.version_url(EVALUATIONS, config.name, version),
        "report_url": lake.version_url(EVALUATIONS, config.name, version, REPORT),
        "reused": False,
        "adapter_version": adapter.version,
        "champion_version": rival,
        "dataset": config.dataset,
        "dataset_version": config.dataset_version,
        "conditions": f"{form} base in {config.model.dtype}, as trained",
        "mlflow_run_url": manifest.inputs.get("mlflow_run_url", "") if manifest else "",
    }
    return EvaluateResult.model_validate({**said, **figures})


def _publish(
    lake: Lake, adapter: AdapterIdentity, result: EvaluateResult, measured: dict[str, _Measured], folder: Path
) -> None:
    folder.mkdir()
    (folder / SUMMARY).write_text(result.model_dump_json(indent=1), encoding="utf-8")
    held = measured[_HELD_OUT]
    shown = examples(held.rows.kept, held.scores["adapter"], held.scores["base"], adapter.config.evaluate.metric)
    write_report(folder / REPORT, result, adapter.config.evaluate, shown)
    _write_rows(folder / ROWS, measured)
    lake.publish(
        folder,
        kind=EVALUATIONS,
        name=result.name,
        version=result.version,
        metrics=result.model_dump(mode="json"),
        inputs={
            "adapter_version": result.adapter_version,
            "champion_version": result.champion_version,
            "dataset": result.dataset,
            "dataset_version": result.dataset_version,
            "regression": {f"{one.dataset} {one.split}": one.version for one in result.regression},
            "base_revision": adapter.base_revision,
            "job_schema": EVALUATION_SCHEMA,
        },
    )


def _write_rows(path: Path, measured: dict[str, _Measured]) -> None:
    """Write one line for each set, model and row."""
    with path.open("w", encoding="utf-8") as file:
        for name, one in measured.items():
            for role, found in one.scores.items():
                for score in found:
                    line = {"set": name, "model": role, **asdict(score)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _mirror(lake: Lake, result: EvaluateResult) -> None:
    """Add the figures to the training's MLflow run; without MLflow say so."""
    manifest = lake.manifest(ADAPTERS, result.name, result.adapter_version)
    run_id = manifest.inputs.get("mlflow_run_id", "") if manifest else ""
    mlflow, why = reach() if run_id else (None, "the training has no MLflow run: the evaluation is in the lake only")
    if mlflow is None:
        logger.warning(why)
        return
    try:
        for role, score in _scores(result).items():
            for metric in metrics_of(result):
                mlflow.client.log_metric(run_id, f"test_{metric}_{role}", value(score, metric))
    except Exception as error:
        logger.warning("MLflow did not take the evaluation (%s); it is in the lake", type(error).__name__)


def _scores(result: EvaluateResult) -> dict[str, Score]:
    of = {"base": result.base, "adapter": result.adapter, "champion": result.champion}
    return {role: score for role, score in of.items() if score is not None}


def _say(result: EvaluateResult) -> None:
    for line in result.summary.splitlines():
        logger.info(line)
    logger.info("%d rows were left out as trained on, %d as over-long", result.excluded_rows, result.over_long_rows)
    logger.info("by the rules of the config: %s", result.sentence)


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
