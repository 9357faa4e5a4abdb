"""Job: what is left to do for one adapter tonight? Reads the lake only; takes a second.

python -m llmjobs.training.plan        (config as JSON in LLMJOBS_CONFIG)
"""

from __future__ import annotations

import logging
import sys

from llmjobs.contracts.training import PlanResult, TrainConfig
from llmjobs.lake import Lake
from llmjobs.results import main
from llmjobs.training.identity import (
    ADAPTERS,
    DECISIONS,
    EVALUATIONS,
    champion_version,
    evaluation_version,
    identify,
)
from llmjobs.training.registry import mirror

logger = logging.getLogger(__name__)


def run(config: TrainConfig) -> PlanResult:
    """Tell what `config` needs: training, evaluation, a decision, or nothing.

    When nothing is needed, MLflow is brought up to date with what an earlier night could not tell it.

    Raises:
        BadData: The dataset has no such version, or none yet.
        BadConfig: The base is not to be had.
    """
    lake = Lake.from_environment()
    adapter = identify(config, lake)
    name, version = adapter.config.name, adapter.version
    champion = champion_version(lake, name)
    evaluation = evaluation_version(lake, adapter)
    trained = lake.manifest(ADAPTERS, name, version) is not None
    is_champion = trained and champion == version
    evaluated = is_champion or lake.manifest(EVALUATIONS, name, evaluation) is not None
    decided = is_champion or lake.manifest(DECISIONS, name, adapter.config.decision_version(evaluation)) is not None
    needed = not (trained and evaluated and decided)
    sentence = _sentence(trained=trained, evaluated=evaluated, decided=decided, is_champion=is_champion)
    sentence = f"adapter {name}, version {version} on dataset version {adapter.config.dataset_version}: {sentence}"
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


def _sentence(*, trained: bool, evaluated: bool, decided: bool, is_champion: bool) -> str:
    if is_champion:
        return "it is the champion, so there is nothing to do"
    if trained and evaluated and decided:
        return "trained, measured and not promoted before, so there is nothing to do"
    if not trained:
        return "to be trained, measured and decided"
    return "trained; to be decided" if evaluated else "trained; to be measured and decided"


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
