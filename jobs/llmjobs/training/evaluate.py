"""Job: base, champion and candidate on the same held-out rows -> an evaluation in the lake.

    python -m llmjobs.training.evaluate        (config as JSON in LLMJOBS_CONFIG)

The rows are the dataset version's test split without any row that one of the models was trained on. The base is loaded
in the form in which the adapter was trained: what is compared is the adapter, nothing else.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.manifest import Manifest
from llmjobs.contracts.training import EVALUATION_SCHEMA, EvaluateResult, Score, TrainConfig
from llmjobs.lake import Lake
from llmjobs.mlflow_server import reach
from llmjobs.results import main
from llmjobs.training.contestants import by_base, contestant, held_out, measure
from llmjobs.training.identity import (
    ADAPTERS,
    EVALUATIONS,
    AdapterIdentity,
    champion_version,
    evaluation_version,
    identify,
)
from llmjobs.training.scoring import RowScore, summarise
from llmjobs.training.sharding import wait_without_spinning
from llmjobs.training.stopping import StopSignal

logger = logging.getLogger(__name__)

ROWS = "rows.jsonl"
SUMMARY = "evaluation.json"


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
        return EvaluateResult.model_validate({**existing.metrics, "reused": True})
    champion = champion_version(lake, name)
    rival = "" if champion == adapter.version else champion
    with tempfile.TemporaryDirectory() as scratch:
        return _evaluate(lake, adapter, version=version, rival=rival, scratch=Path(scratch))


def _evaluate(lake: Lake, adapter: AdapterIdentity, *, version: str, rival: str, scratch: Path) -> EvaluateResult:
    name = adapter.config.name
    versions = {"adapter": adapter.version} | ({"champion": rival} if rival else {})
    contestants = [contestant(lake, name, role, one, scratch) for role, one in versions.items()]
    rows = held_out(lake, adapter.config, contestants, "test")
    measured, *others = by_base(contestants)
    scores = measure(measured, rows.kept, max_length_tokens=adapter.config.data.max_length_tokens)
    fitting = {score.row_id for score in scores["adapter"]}
    over_long = len(rows.kept) - len(fitting)
    for same_base in others:  # a champion on another base: on exactly the candidate's rows, whatever their length there
        found = measure(same_base, [row for row in rows.kept if row.row_id in fitting], max_length_tokens=sys.maxsize)
        scores = {**found, **scores}
    summaries = {role: summarise(versions.get(role, "base"), found) for role, found in scores.items()}
    result = _result(lake, adapter, version=version, rival=rival, summaries=summaries,
                     excluded=rows.excluded, over_long=over_long)  # fmt: skip
    _publish(lake, adapter, result, scores, scratch / "evaluation")
    _mirror(lake, result)
    _say(result)
    return result


def _result(
    lake: Lake,
    adapter: AdapterIdentity,
    *,
    version: str,
    rival: str,
    summaries: dict[str, Score],
    excluded: int,
    over_long: int,
) -> EvaluateResult:
    config = adapter.config
    manifest = lake.manifest(ADAPTERS, config.name, adapter.version)
    double = "double-quantised " if config.quantisation.double else ""
    form = "unquantised" if config.quantisation.type == "none" else f"{double}{config.quantisation.type}"
    return EvaluateResult(
        name=config.name,
        version=version,
        evaluation_url=lake.version_url(EVALUATIONS, config.name, version),
        reused=False,
        adapter_version=adapter.version,
        champion_version=rival,
        dataset=config.dataset,
        dataset_version=config.dataset_version,
        rows=summaries["adapter"].rows,
        excluded_rows=excluded,
        over_long_rows=over_long,
        base=summaries["base"],
        adapter=summaries["adapter"],
        champion=summaries.get("champion"),
        conditions=f"{form} base in {config.model.dtype}, as trained",
        mlflow_run_url=manifest.inputs.get("mlflow_run_url", "") if manifest else "",
    )


def _publish(
    lake: Lake, adapter: AdapterIdentity, result: EvaluateResult, scores: dict[str, list[RowScore]], folder: Path
) -> Manifest:
    folder.mkdir()
    (folder / SUMMARY).write_text(result.model_dump_json(indent=1), encoding="utf-8")
    with (folder / ROWS).open("w", encoding="utf-8") as file:
        for role, found in scores.items():
            for one in found:
                line = {"model": role, "row_id": one.row_id, "exact": one.exact, "nats": one.nats, "tokens": one.tokens}
                file.write(json.dumps(line) + "\n")
    return lake.publish(
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
            "base_revision": adapter.base_revision,
            "job_schema": EVALUATION_SCHEMA,
        },
    )


def _mirror(lake: Lake, result: EvaluateResult) -> None:
    """Add the figures to the training's MLflow run; without MLflow say so."""
    manifest = lake.manifest(ADAPTERS, result.name, result.adapter_version)
    run_id = manifest.inputs.get("mlflow_run_id", "") if manifest else ""
    mlflow, why = reach() if run_id else (None, "the training has no MLflow run: the evaluation is in the lake only")
    if mlflow is None:
        logger.warning(why)
        return
    try:
        for role, score in (("base", result.base), ("adapter", result.adapter), ("champion", result.champion)):
            if score is not None:
                mlflow.client.log_metric(run_id, f"test_exact_match_{role}", score.exact_match)
                mlflow.client.log_metric(run_id, f"test_loss_{role}", score.loss)
    except Exception as error:
        logger.warning("MLflow did not take the evaluation (%s); it is in the lake", type(error).__name__)


def _say(result: EvaluateResult) -> None:
    for role, score in (("base", result.base), ("champion", result.champion), ("candidate", result.adapter)):
        if score is not None:
            logger.info("%-9s exact match %.3f  loss %.4f  rows %d", role, score.exact_match, score.loss, score.rows)
    logger.info("%d rows were left out as trained on, %d as over-long", result.excluded_rows, result.over_long_rows)


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
