"""Job: an evaluation -> the champion's pointer moves, or stays with a sentence why.

    python -m llmjobs.training.promote        (config as JSON in LLMJOBS_CONFIG)

Each evaluation is decided once: when somebody moves the champion back by hand, no later night undoes it.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.manifest import Manifest
from llmjobs.contracts.training import EvaluateResult, PromoteResult, TrainConfig
from llmjobs.lake import Lake
from llmjobs.results import main
from llmjobs.training.gate import Decision, decide
from llmjobs.training.identity import (
    ADAPTERS,
    CHAMPION,
    DECISIONS,
    EVALUATIONS,
    AdapterIdentity,
    champion_version,
    evaluation_version,
    identify,
)
from llmjobs.training.registry import mirror

logger = logging.getLogger(__name__)


def run(config: TrainConfig) -> PromoteResult:
    """Decide about the adapter that `config` means, and mirror the lake's champion in MLflow.

    Raises:
        BadData: The adapter has not been measured against today's champion.
    """
    lake = Lake.from_environment()
    adapter = identify(config, lake)
    name, previous = adapter.config.name, champion_version(lake, adapter.config.name)
    evaluation = _evaluation(lake, adapter)
    result = EvaluateResult.model_validate(evaluation.metrics)
    decision = _decide(lake, adapter, result, previous=previous)
    url, note = mirror(lake, name, [adapter.version])
    logger.info(decision.sentence)
    return PromoteResult(
        name=name,
        version=adapter.version,
        promoted=decision.promoted,
        previous_champion=result.champion_version,
        sentence=decision.sentence,
        adapter_url=lake.version_url(ADAPTERS, name, adapter.version),
        evaluation_version=evaluation.version,
        exact_match_base=result.base.exact_match,
        exact_match=result.adapter.exact_match,
        loss_base=result.base.loss,
        loss=result.adapter.loss,
        mlflow_model_url=url,
        notes=[note] if note else [],
    )


def _evaluation(lake: Lake, adapter: AdapterIdentity) -> Manifest:
    """Return the evaluation to decide: against today's champion, or the one that made this adapter champion."""
    name = adapter.config.name
    found = lake.manifest(EVALUATIONS, name, evaluation_version(lake, adapter))
    if found is None and champion_version(lake, name) == adapter.version:
        of_this = [one for one in lake.versions(EVALUATIONS, name) if one.inputs["adapter_version"] == adapter.version]
        found = of_this[-1] if of_this else None
    if found is None:
        raise BadData(
            f"adapter {name}, version {adapter.version}: there is no evaluation against today's champion; "
            "run the evaluation first"
        )
    return found


def _decide(lake: Lake, adapter: AdapterIdentity, result: EvaluateResult, *, previous: str) -> Decision:
    name = adapter.config.name
    decision = decide(adapter.config.evaluate, result)
    version = adapter.config.decision_version(result.version)
    recorded = lake.manifest(DECISIONS, name, version)
    if previous == adapter.version:
        # This try, or one before that died right after moving the pointer.
        decision = Decision(promoted=True, sentence=f"champion already; {decision.sentence}")
    elif recorded is not None:
        # Decided once: whoever moved the champion since then meant it.
        since = "and another champion was set since, so it stays" if recorded.metrics["promoted"] else ""
        decision = Decision(
            promoted=False,
            sentence=" ".join(part for part in ("decided before", since) if part) + f": {recorded.metrics['sentence']}",
        )
    elif decision.promoted:
        lake.move_pointer(ADAPTERS, name, CHAMPION, adapter.version, reason=decision.sentence)
    _record(lake, name, version, result, decision)
    return decision


def _record(lake: Lake, name: str, version: str, result: EvaluateResult, decision: Decision) -> None:
    """Keep the decision; an earlier record of the same evaluation under the same rules stays."""
    with TemporaryDirectory() as scratch:
        (Path(scratch) / "decision.txt").write_text(decision.sentence + "\n", encoding="utf-8")
        lake.publish(
            Path(scratch),
            kind=DECISIONS,
            name=name,
            version=version,
            metrics={"promoted": decision.promoted, "sentence": decision.sentence},
            inputs={"adapter_version": result.adapter_version, "champion_version": result.champion_version},
        )


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
