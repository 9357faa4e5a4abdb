"""Job: what is left to do for one adapter tonight? Reads the lake only; takes a second.

python -m llmjobs.training.plan        (config as JSON in LLMJOBS_CONFIG)
"""

from __future__ import annotations

import logging
import sys

from llmjobs.contracts.sweeping import told
from llmjobs.contracts.training import TrainConfig
from llmjobs.contracts.training_results import PlanResult
from llmjobs.lake import Lake
from llmjobs.results import main
from llmjobs.training.exporting.versions import all_there
from llmjobs.training.identity import (
    ADAPTERS,
    DECISIONS,
    EVALUATIONS,
    SWEEPS,
    SweepIdentity,
    champion_version,
    evaluation_version,
    identify,
    identify_sweep,
)
from llmjobs.training.registry import mirror
from llmjobs.training.rollback import roll_back
from llmjobs.training.withdrawals import is_withdrawn

logger = logging.getLogger(__name__)


def run(config: TrainConfig) -> PlanResult:
    """Tell what `config` needs: training, evaluation, a decision, or nothing.

    When nothing is needed, MLflow is brought up to date with what an earlier night could not tell it. Where an older
    adapter is to be champion again, that is done, and nothing else.

    Raises:
        BadData: The dataset has no such version, or none yet; or the lake has no adapter to roll back to.
        BadConfig: The base is not to be had.
    """
    lake = Lake.from_environment()
    if config.rollback_to:
        return _rolled_back(lake, config)
    sweep = identify_sweep(config, lake) if config.sweep else None
    swept = lake.manifest(SWEEPS, config.name, sweep.version) if sweep else None
    if sweep and swept is None:
        return _sweep_to_do(lake, sweep)
    adapter = identify(config.candidate(swept.metrics["settings"]) if swept else config, lake)
    name, version = adapter.config.name, adapter.version
    champion = champion_version(lake, name)
    evaluation = evaluation_version(lake, adapter)
    trained = lake.manifest(ADAPTERS, name, version) is not None
    is_champion = trained and champion == version
    evaluated = is_champion or lake.manifest(EVALUATIONS, name, evaluation) is not None
    decided = is_champion or lake.manifest(DECISIONS, name, adapter.config.decision_version(evaluation)) is not None
    withdrawn = is_withdrawn(lake, name, version) if trained and not is_champion else ""
    exported = not is_champion or all_there(lake, name, version, config.export)
    needed = not (trained and evaluated and decided and exported) and not withdrawn
    sentence = withdrawn or _sentence(
        trained=trained, evaluated=evaluated, decided=decided, is_champion=is_champion, exported=exported
    )
    best = f", the best of a sweep ({told(swept.metrics['settings'])})," if swept else ""
    on = f"on dataset version {adapter.config.dataset_version}"
    sentence = f"adapter {name}, version {version}{best} {on}: {sentence}"
    logger.info(sentence)
    if not needed:
        mirror(lake, name, [version])
    return PlanResult(
        name=name,
        dataset=adapter.config.dataset,
        dataset_version=adapter.config.dataset_version,
        adapter_version=version,
        champion_version=champion,
        base_model=adapter.config.model.name,
        base_revision=adapter.base_revision,
        trained=trained,
        evaluated=evaluated,
        decided=decided,
        needed=needed,
        sentence=sentence,
    )


def _rolled_back(lake: Lake, config: TrainConfig) -> PlanResult:
    done = roll_back(lake, config.name, config.rollback_to, reason="rolled back by a run's parameter")
    logger.info(done.sentence)
    inputs = done.adapter.inputs
    return PlanResult(
        name=config.name,
        dataset=inputs["dataset"],
        dataset_version=inputs["dataset_version"],
        adapter_version=done.adapter.version,
        champion_version=done.adapter.version,
        base_model=inputs["base_model"],
        base_revision=inputs["base_revision"],
        trained=True,
        evaluated=True,
        decided=True,
        needed=False,
        sentence=done.sentence,
    )


def _sweep_to_do(lake: Lake, sweep: SweepIdentity) -> PlanResult:
    """Return the plan of a sweep whose best candidate is not known yet; the last one stands for it."""
    last = sweep.candidates[-1]
    config, name = last.config, last.config.name
    trained = [lake.manifest(ADAPTERS, name, one.version) is not None for one in sweep.candidates]
    sentence = (
        f"adapter {name}, a sweep of {len(trained)} candidates on dataset version {config.dataset_version}: "
        f"{sum(trained)} of them trained; to be compared, measured and decided"
    )
    logger.info(sentence)
    return PlanResult(
        name=name,
        dataset=config.dataset,
        dataset_version=config.dataset_version,
        adapter_version=last.version,
        champion_version=champion_version(lake, name),
        base_model=config.model.name,
        base_revision=last.base_revision,
        trained=all(trained),
        evaluated=False,
        decided=False,
        needed=True,
        sentence=sentence,
    )


def _sentence(*, trained: bool, evaluated: bool, decided: bool, is_champion: bool, exported: bool) -> str:
    if not exported:
        return "it is the champion; to be exported"
    if is_champion:
        return "it is the champion, so there is nothing to do"
    if trained and evaluated and decided:
        return "trained, measured and not promoted before, so there is nothing to do"
    if not trained:
        return "to be trained, measured and decided"
    return "trained; to be decided" if evaluated else "trained; to be measured and decided"


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
