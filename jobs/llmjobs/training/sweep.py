"""Job: candidates that were trained on fractions of the rows -> a curve, and the best of them.

    python -m llmjobs.training.sweep        (config with `sweep` as JSON in LLMJOBS_CONFIG)

They are compared on the validation split; the test split stays unseen until the best is measured. Each fraction is
trained once, so the intervals hold the chance of the rows, not that of another seed.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.training import SWEEP_SCHEMA, Evaluate, TrainConfig
from llmjobs.contracts.training_results import SweepPoint, SweepResult
from llmjobs.lake import Lake
from llmjobs.results import main
from llmjobs.training.identity import ADAPTERS, SWEEPS, AdapterIdentity, SweepIdentity, identify_sweep
from llmjobs.training.measuring.contestants import HeldOut, contestant, held_out, measure
from llmjobs.training.measuring.differences import paired_difference
from llmjobs.training.measuring.scoring import RowScore, summarise
from llmjobs.training.reports.page import REPORT
from llmjobs.training.reports.sweep import write_report
from llmjobs.training.sharding import wait_without_spinning
from llmjobs.training.stopping import StopSignal

logger = logging.getLogger(__name__)

ROWS = "rows.jsonl"
SUMMARY = "sweep.json"


def run(config: TrainConfig) -> SweepResult:
    """Compare the candidates of the sweep that `config` means, unless that was done.

    Raises:
        BadConfig: There is no sweep in the config.
        BadData: A candidate is not there, or no validation row is left to measure.
    """
    StopSignal().install()
    wait_without_spinning()
    if config.sweep is None:
        raise BadConfig(f"adapter {config.name}: there is no sweep in the config, so there is nothing to compare")
    lake = Lake.from_environment()
    sweep = identify_sweep(config, lake)
    existing = lake.manifest(SWEEPS, config.name, sweep.version)
    if existing is not None:
        logger.info("this sweep of adapter %s was compared already", config.name)
        return SweepResult.model_validate({**existing.metrics, "reused": True})
    _refuse_untrained(lake, sweep)
    with tempfile.TemporaryDirectory() as scratch:
        return _compare(lake, sweep, Path(scratch))


def _refuse_untrained(lake: Lake, sweep: SweepIdentity) -> None:
    for one in sweep.candidates:
        if lake.manifest(ADAPTERS, one.config.name, one.version) is None:
            raise BadData(
                f"adapter {one.config.name}, version {one.version} (fraction {one.config.data.fraction:g}): not in the "
                "lake; train it first"
            )


def _compare(lake: Lake, sweep: SweepIdentity, scratch: Path) -> SweepResult:
    config = sweep.candidates[-1].config
    contestants = [contestant(lake, config.name, one.version, one.version, scratch) for one in sweep.candidates]
    rows = held_out(lake, config, contestants, "validation")
    scores = measure(contestants, rows.kept, max_length_tokens=config.data.max_length_tokens)
    result = _result(lake, sweep, rows, scores)
    folder = scratch / "sweep"
    folder.mkdir()
    _write(folder, result, scores)
    lake.publish(
        folder,
        kind=SWEEPS,
        name=config.name,
        version=sweep.version,
        metrics=result.model_dump(mode="json"),
        inputs={
            "adapter_versions": [one.version for one in sweep.candidates],
            "dataset": config.dataset,
            "dataset_version": config.dataset_version,
            "base_revision": sweep.candidates[-1].base_revision,
            "job_schema": SWEEP_SCHEMA,
        },
    )
    _say(result)
    return result


def _result(lake: Lake, sweep: SweepIdentity, rows: HeldOut, scores: dict[str, list[RowScore]]) -> SweepResult:
    config = sweep.candidates[-1].config
    curve = [_point(lake, one, scores, sweep.candidates[-1].version) for one in sweep.candidates]
    best = _best(curve, config.evaluate.metric)
    return SweepResult(
        name=config.name,
        version=sweep.version,
        reused=False,
        dataset=config.dataset,
        dataset_version=config.dataset_version,
        metric=config.evaluate.metric,
        rows=curve[-1].score.rows,
        excluded_rows=rows.excluded,
        over_long_rows=len(rows.kept) - curve[-1].score.rows,
        base=summarise("base", scores["base"]),
        curve=curve,
        fraction=best.fraction,
        adapter_version=best.adapter_version,
        sentence=sentence(curve, config.evaluate),
        report_url=lake.version_url(SWEEPS, config.name, sweep.version, REPORT),
    )


def _point(lake: Lake, one: AdapterIdentity, scores: dict[str, list[RowScore]], largest: str) -> SweepPoint:
    manifest = lake.manifest(ADAPTERS, one.config.name, one.version)
    figures: dict[str, Any] = manifest.metrics if manifest else {}
    point = SweepPoint(
        fraction=one.config.data.fraction,
        adapter_version=one.version,
        rows=figures["train_rows"],
        tokens=figures["tokens"],
        score=summarise(one.version, scores[one.version]),
    )
    if one.version == largest:
        return point
    found = paired_difference(scores[one.version], scores[largest], one.config.evaluate.metric)
    return point.model_copy(update={"gain": found.gain, "low": found.low, "high": found.high, "p_value": found.p_value})


def _best(curve: list[SweepPoint], metric: str) -> SweepPoint:
    """Return the best point by the metric; of equal ones that with the lower loss, then that with fewer rows."""
    if metric == "loss":
        return min(curve, key=lambda point: (point.score.loss, point.fraction))
    return min(curve, key=lambda point: (-point.score.exact_match, point.score.loss, point.fraction))


def sentence(curve: list[SweepPoint], rules: Evaluate) -> str:
    """Return whether fewer rows would do: the smallest fraction from which on none is measurably worse.

    Args:
        curve: The candidates, the smallest fraction first.
        rules: What they are compared by, and how many rows it takes to say something.
    """
    *smaller, full = curve
    metric, rows = rules.metric, full.score.rows
    enough = full
    for point in reversed(smaller):
        if point.high < 0:
            break
        enough = point
    shown = enough if enough is not full else smaller[-1]
    said = f"{shown.fraction:g} of the rows loses nothing measurable" if shown is enough else "more rows still help"
    few = f"; that is fewer than evaluate.min_rows ({rules.min_rows}) and says little" if rows < rules.min_rows else ""
    return (
        f"{said}: {_name(metric)} {value(shown, metric):.4g} with {shown.rows} rows against {value(full, metric):.4g} "
        f"with {full.rows}; the gain is {shown.gain:+.3g} (95% interval {shown.low:+.3g} to {shown.high:+.3g}) on "
        f"{rows} validation rows{few}"
    )


def value(point: SweepPoint, metric: str) -> float:
    """Return a candidate's metric."""
    return point.score.loss if metric == "loss" else point.score.exact_match


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _write(folder: Path, result: SweepResult, scores: dict[str, list[RowScore]]) -> None:
    (folder / SUMMARY).write_text(result.model_dump_json(indent=1), encoding="utf-8")
    write_report(folder / REPORT, result)
    with (folder / ROWS).open("w", encoding="utf-8") as file:
        for role, found in scores.items():
            for one in found:
                line = {"model": role, "row_id": one.row_id, "exact": one.exact, "nats": one.nats, "tokens": one.tokens}
                file.write(json.dumps(line) + "\n")


def _say(result: SweepResult) -> None:
    logger.info("fraction    rows     tokens  exact match    loss  gain against the largest (95%)      p")
    logger.info("%8s %7s %10s %12.3f %7.4f", "base", "", "", result.base.exact_match, result.base.loss)
    for point in result.curve:
        against = f"{point.gain:+.4f} ({point.low:+.4f} to {point.high:+.4f})" if point is not result.curve[-1] else ""
        p_value = "" if point.p_value is None else f"{point.p_value:.3g}"
        logger.info(
            "%8g %7d %10d %12.3f %7.4f  %-32s %6s%s", point.fraction, point.rows, point.tokens,
            point.score.exact_match, point.score.loss, against, p_value,
            "  best" if point.adapter_version == result.adapter_version else "",
        )  # fmt: skip
    logger.info("%d rows were left out as trained on, %d as over-long", result.excluded_rows, result.over_long_rows)
    logger.info(result.sentence)


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
