"""Job: an evaluation -> the champion's pointer moves, or stays with a sentence why.

    python -m llmjobs.training.promote        (config as JSON in LLMJOBS_CONFIG)

Each evaluation is decided once, and an adapter that was rolled back is withdrawn: no later night undoes what a person
did. Where the config asks for a person's approval, nothing moves without it.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.manifest import Manifest
from llmjobs.contracts.training import TrainConfig
from llmjobs.contracts.training_results import EvaluateResult, PromoteResult
from llmjobs.lake import Lake
from llmjobs.results import main
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
from llmjobs.training.measuring.gate import Decision, decide
from llmjobs.training.registry import mirror
from llmjobs.training.withdrawals import is_withdrawn

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
        report_url=result.report_url,
        notes=[note] if note else [],
    )


def _evaluation(lake: Lake, adapter: AdapterIdentity) -> Manifest:
    """Return the evaluation to decide: against today's champion, or the one that made this adapter champion.

    A regression set may have a new version since, while a person was asked: then it is the newest one against
    today's champion.
    """
    name = adapter.config.name
    found = lake.manifest(EVALUATIONS, name, evaluation_version(lake, adapter))
    if found is not None:
        return found
    champion = champion_version(lake, name)
    of_this = [one for one in lake.versions(EVALUATIONS, name) if one.inputs["adapter_version"] == adapter.version]
    if champion != adapter.version:
        wanted = {"champion_version": champion, "dataset_version": adapter.config.dataset_version}
        of_this = [one for one in of_this if wanted.items() <= one.inputs.items()]
    if not of_this:
        raise BadData(
            f"adapter {name}, version {adapter.version}: there is no evaluation against today's champion; "
            "run the evaluation first"
        )
    return of_this[-1]


def _decide(lake: Lake, adapter: AdapterIdentity, result: EvaluateResult, *, previous: str) -> Decision:
    name = adapter.config.name
    version = adapter.config.decision_version(result.version)
    recorded = lake.manifest(DECISIONS, name, version)
    if previous == adapter.version:
        # This try, or one before that died right after moving the pointer; or somebody went back to it.
        pointer = lake.pointer(ADAPTERS, name, CHAMPION)
        decision = Decision(promoted=True, sentence=f"champion already; {pointer.reason if pointer else ''}")
    elif withdrawn := is_withdrawn(lake, name, adapter.version):
        decision = Decision(promoted=False, sentence=f"not promoted: {withdrawn}")
    elif recorded is not None:
        decision = _repeated(recorded)
    else:
        decision = decide(adapter.config.evaluate, result)
        if decision.promoted and adapter.config.evaluate.approval:
            if not adapter.config.approved:
                # Not recorded: whoever is asked later decides.
                return Decision(
                    promoted=False, sentence=f"not promoted yet, a person has to approve: {decision.sentence}"
                )
            decision = Decision(promoted=True, sentence=f"{decision.sentence}; {adapter.config.approved}")
        if decision.promoted:
            lake.move_pointer(ADAPTERS, name, CHAMPION, adapter.version, reason=decision.sentence)
    _record(lake, name, version, result, decision)
    return decision


def _repeated(recorded: Manifest) -> Decision:
    """Return a decision of before: whoever moved the champion since then meant it."""
    since = " and another champion was set since, so it stays" if recorded.metrics["promoted"] else ""
    return Decision(promoted=False, sentence=f"decided before{since}: {recorded.metrics['sentence']}")


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
