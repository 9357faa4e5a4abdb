"""Job: candidates of a sweep, trained -> a comparison, and the best of them.

    python -m llmjobs.training.sweep        (config with `sweep` as JSON in LLMJOBS_CONFIG)

They are compared on the validation split; the test split stays unseen until the best is measured. Each candidate is
trained once, so the intervals hold the chance of the rows, not that of another seed. One whose training diverged is
told and left out.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.sweeping import FRACTION, LEARNING_RATE, RANK, Settings, told
from llmjobs.contracts.training import SWEEP_SCHEMA, Evaluate, Metric, TrainConfig
from llmjobs.contracts.training_results import DivergedPoint, SweepPoint, SweepResult
from llmjobs.lake import Lake
from llmjobs.results import main
from llmjobs.training.identity import ADAPTERS, SWEEPS, AdapterIdentity, SweepIdentity, identify_sweep
from llmjobs.training.measuring.contestants import HeldOut, contestant, held_out, measure
from llmjobs.training.measuring.differences import paired_difference
from llmjobs.training.measuring.scoring import RowScore, summarise
from llmjobs.training.publication.divergence import divergence_of
from llmjobs.training.reports.page import REPORT
from llmjobs.training.reports.sweep import write_report
from llmjobs.training.sharding import wait_without_spinning
from llmjobs.training.stopping import StopSignal

logger = logging.getLogger(__name__)

ROWS = "rows.jsonl"
SUMMARY = "sweep.json"

_NAMED = 3
"""So many candidates that are as good as the best are named, not counted alone."""


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
    trained, diverged = _found(lake, sweep)
    with tempfile.TemporaryDirectory() as scratch:
        return _compare(lake, _Compared(sweep, trained, diverged), Path(scratch))


@dataclass(frozen=True)
class _Compared:
    """What is compared: `trained` holds at least one adapter."""

    sweep: SweepIdentity
    trained: list[AdapterIdentity]
    diverged: list[DivergedPoint]


def _found(lake: Lake, sweep: SweepIdentity) -> tuple[list[AdapterIdentity], list[DivergedPoint]]:
    """Return the candidates that are in the lake, and those that diverged.

    Raises:
        BadData: One is neither, or none is left.
    """
    trained, diverged = [], []
    for one in sweep.candidates:
        settings = sweep.settings[one.version]
        if lake.manifest(ADAPTERS, one.config.name, one.version) is not None:
            trained.append(one)
        elif sentence := divergence_of(lake, one):
            diverged.append(DivergedPoint(settings=settings, adapter_version=one.version, sentence=sentence))
        else:
            raise BadData(
                f"adapter {one.config.name}, version {one.version} ({told(settings)}): not in the lake; train it first"
            )
    if not trained:
        raise BadData(f"every candidate diverged; {told(diverged[0].settings)}: {diverged[0].sentence}")
    return trained, diverged


def _compare(lake: Lake, compared: _Compared, scratch: Path) -> SweepResult:
    config = compared.trained[-1].config
    contestants = [contestant(lake, config.name, one.version, one.version, scratch) for one in compared.trained]
    rows = held_out(lake, config, contestants, "validation")
    scores = measure(contestants, rows.kept, max_length_tokens=config.data.max_length_tokens)
    result = _result(lake, compared, rows, scores)
    folder = scratch / "sweep"
    folder.mkdir()
    _write(folder, result, scores)
    lake.publish(
        folder,
        kind=SWEEPS,
        name=config.name,
        version=compared.sweep.version,
        metrics=result.model_dump(mode="json"),
        inputs={
            "adapter_versions": [one.version for one in compared.trained],
            "dataset": config.dataset,
            "dataset_version": config.dataset_version,
            "base_revision": compared.trained[-1].base_revision,
            "job_schema": SWEEP_SCHEMA,
        },
    )
    _say(result)
    return result


def _result(lake: Lake, compared: _Compared, rows: HeldOut, scores: dict[str, list[RowScore]]) -> SweepResult:
    config = compared.trained[-1].config
    measured = [
        _point(lake, one, compared.sweep.settings[one.version], scores[one.version]) for one in compared.trained
    ]
    best = _best(measured, config.evaluate.metric)
    reference = measured[-1] if _by_fraction_alone(best.settings) else best
    curve = [_against(point, reference, scores, config.evaluate.metric) for point in measured]
    return SweepResult(
        name=config.name,
        version=compared.sweep.version,
        reused=False,
        dataset=config.dataset,
        dataset_version=config.dataset_version,
        metric=config.evaluate.metric,
        rows=reference.score.rows,
        excluded_rows=rows.excluded,
        over_long_rows=len(rows.kept) - reference.score.rows,
        base=summarise("base", scores["base"]),
        curve=curve,
        diverged=compared.diverged,
        reference_version=reference.adapter_version,
        settings=best.settings,
        adapter_version=best.adapter_version,
        sentence=sentence(curve, config.evaluate, compared.diverged),
        report_url=lake.version_url(SWEEPS, config.name, compared.sweep.version, REPORT),
    )


def _point(lake: Lake, one: AdapterIdentity, settings: Settings, scores: list[RowScore]) -> SweepPoint:
    manifest = lake.manifest(ADAPTERS, one.config.name, one.version)
    figures: dict[str, Any] = manifest.metrics if manifest else {}
    return SweepPoint(
        settings=settings,
        adapter_version=one.version,
        rows=figures["train_rows"],
        tokens=figures["tokens"],
        score=summarise(one.version, scores),
    )


def _against(point: SweepPoint, reference: SweepPoint, scores: dict[str, list[RowScore]], metric: Metric) -> SweepPoint:
    if point is reference:
        return point
    found = paired_difference(scores[point.adapter_version], scores[reference.adapter_version], metric)
    return point.model_copy(update={"gain": found.gain, "low": found.low, "high": found.high, "p_value": found.p_value})


def _best(curve: list[SweepPoint], metric: str) -> SweepPoint:
    """Return the best point by the metric; of equal ones that with the lower loss, then the one with smaller values."""
    if metric == "loss":
        return min(curve, key=lambda point: point.score.loss)
    return min(curve, key=lambda point: (-point.score.exact_match, point.score.loss))


def sentence(curve: list[SweepPoint], rules: Evaluate, diverged: list[DivergedPoint]) -> str:
    """Return what the sweep has found.

    Of fractions alone: whether fewer rows would do, which is the smallest from which on none is measurably worse. Else:
    the best candidate, how many are as good as far as the rows can tell, and whether the lists end too early.

    Args:
        curve: The candidates, the smallest values first.
        rules: What they are compared by, and how many rows it takes to say something.
        diverged: Those that are not on the curve.
    """
    rows = curve[-1].score.rows
    by_fraction = _by_fraction_alone(curve[0].settings) and len(curve) > 1
    said = _enough_rows(curve, rules.metric) if by_fraction else _best_values(curve, rules.metric, diverged)
    lost = f"; diverged: {'; '.join(told(one.settings) for one in diverged)}" if diverged else ""
    few = f"; that is fewer than evaluate.min_rows ({rules.min_rows}) and says little" if rows < rules.min_rows else ""
    return f"{said} on {rows} validation rows{lost}{few}"


def _enough_rows(curve: list[SweepPoint], metric: str) -> str:
    *smaller, full = curve
    enough = full
    for point in reversed(smaller):
        if point.high < 0:
            break
        enough = point
    shown = enough if enough is not full else smaller[-1]
    said = f"{told(shown.settings)} loses nothing measurable" if shown is enough else "more rows still help"
    return (
        f"{said}: {_name(metric)} {value(shown, metric):.4g} with {shown.rows} rows against {value(full, metric):.4g} "
        f"with {full.rows}; the gain is {shown.gain:+.3g} (95% interval {shown.low:+.3g} to {shown.high:+.3g})"
    )


def _best_values(curve: list[SweepPoint], metric: str, diverged: list[DivergedPoint]) -> str:
    best = _best(curve, metric)
    others = [point for point in curve if point is not best]
    alike = [told(point.settings) for point in others if point.high >= 0]
    said = f"{told(best.settings)} is best: {_name(metric)} {value(best, metric):.4g}"
    if others:
        named = f" ({'; '.join(alike)})" if 0 < len(alike) <= _NAMED else ""
        said += f"; {len(alike)} of {len(others)} others are not measurably worse{named}"
    settings = [*(point.settings for point in curve), *(one.settings for one in diverged)]
    ends = "".join(f"; {one}" for path in (LEARNING_RATE, RANK) if (one := _at_an_end(path, best.settings, settings)))
    return said + ends


def _at_an_end(path: str, best: Settings, tried: list[Settings]) -> str:
    """Return that a list may end too early, where its best value is its first or last."""
    if path not in best:
        return ""
    values = sorted({settings[path] for settings in tried})
    value = told({path: best[path]})
    if best[path] == values[-1]:
        return f"{value} is the highest that was tried, a higher one may be better"
    return f"{value} is the lowest that was tried, a lower one may be better" if best[path] == values[0] else ""


def value(point: SweepPoint, metric: str) -> float:
    """Return a candidate's metric."""
    return point.score.loss if metric == "loss" else point.score.exact_match


def _by_fraction_alone(settings: Settings) -> bool:
    return settings.keys() == {FRACTION}


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
    candidates = [*(point.settings for point in result.curve), *(one.settings for one in result.diverged)]
    width = max(len(told(settings)) for settings in candidates)
    row = "%s %7s %10s %12.3f %7.4f  %-36s %6s%s"
    against = "the largest" if _by_fraction_alone(result.settings) else "the best"
    logger.info(
        "%s    rows     tokens  exact match    loss  %-36s      p", "candidate".ljust(width),
        f"gain against {against} (95%)",
    )  # fmt: skip
    logger.info(row, "base".ljust(width), "", "", result.base.exact_match, result.base.loss, "", "", "")
    for point in result.curve:
        compared = point.adapter_version != result.reference_version
        logger.info(
            row, told(point.settings).ljust(width), point.rows, point.tokens, point.score.exact_match,
            point.score.loss, f"{point.gain:+.4f} ({point.low:+.4f} to {point.high:+.4f})" if compared else "",
            "" if point.p_value is None else f"{point.p_value:.3g}",
            "  best" if point.adapter_version == result.adapter_version else "",
        )  # fmt: skip
    for one in result.diverged:
        logger.info("%s diverged: %s", told(one.settings).ljust(width), one.sentence)
    logger.info("%d rows were left out as trained on, %d as over-long", result.excluded_rows, result.over_long_rows)
    logger.info(result.sentence)


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
