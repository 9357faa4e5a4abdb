"""A generation with what fills it: its chunker, and its model, loaded only when a text must be encoded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmjobs.contracts.embeddings import EmbedConfig, EmbedderConfig
from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection
from llmjobs.embeddings.chunker import Chunker
from llmjobs.embeddings.generations import Generation, generation
from llmjobs.embeddings.model import Encoder, Model, model_of
from llmjobs.embeddings.plan import chunker_of

logger = logging.getLogger(__name__)


@dataclass
class Target:
    """One generation that a shard fills."""

    generation: Generation
    model: Model
    chunker: Chunker

    @cached_property
    def encoder(self) -> Encoder:
        """Its loaded model."""
        return self.model.load()


Reopen = Callable[[dict[str, Any]], Model]
"""From a generation's stored settings to its model."""


def reopened(settings: dict[str, Any]) -> Model:
    """Return the model that a generation was made with.

    Raises:
        BadConfig: It is not there any more.
    """
    return model_of(EmbedderConfig.model_validate(settings))


def targets_of(
    connection: Connection, config: EmbedConfig, model: Model, reopen: Reopen
) -> dict[int, Target | BadConfig]:
    """Return what a shard fills, by generation: the one that the config asks for, and those beside it.

    In place of one whose own model is not there any more stands the reason: it answers as it is until the swap, and
    must not keep the new one from being filled.

    Raises:
        BadConfig: There is no such run, or model or chunks are not what it was planned with.
    """
    row = connection.execute("select generation_id from refresh_run where run_id = %s", [config.run_id]).fetchone()
    wanted = generation(connection, row[0]) if row else None
    if wanted is None:
        raise BadConfig(f"{config.name}: run {config.run_id} is not in the database or was replaced: start a new run")
    chunker = chunker_of(config, model)
    if wanted.fingerprint != model.fingerprint + chunker.fingerprint:
        raise BadConfig(f"{config.name}: model or chunks differ from those of run {config.run_id}: start a new run")
    found: dict[int, Target | BadConfig] = {wanted.generation_id: Target(wanted, model, chunker)}
    for generation_id in _beside(connection, config, wanted):
        found[generation_id] = _other(connection, generation_id, wanted, model, reopen)
    return found


def _beside(connection: Connection, config: EmbedConfig, wanted: Generation) -> list[int]:
    rows = connection.execute(
        "select distinct generation_id from refresh_plan where run_id = %s and shard = %s and generation_id <> %s",
        [config.run_id, config.shard, wanted.generation_id],
    ).fetchall()
    return [row[0] for row in rows]


def _other(
    connection: Connection, generation_id: int, wanted: Generation, model: Model, reopen: Reopen
) -> Target | BadConfig:
    other = generation(connection, generation_id)
    if other is None:
        return BadConfig(f"generation {generation_id} was dropped meanwhile")
    try:
        own = model if other.model_id == wanted.model_id else reopen(other.model_settings)
        return target_of(other, own)
    except BadConfig as error:
        logger.warning("generation %d is not kept up to date: %s", generation_id, error)
        return error


def target_of(of: Generation, model: Model) -> Target:
    """Return a generation with the model that it was made with.

    Raises:
        BadConfig: The model gives other vectors than the generation's.
    """
    if not of.fingerprint.startswith(model.fingerprint):
        raise BadConfig(f"the model of generation {of.generation_id} gives other vectors than it did")
    return Target(
        of,
        model,
        Chunker(
            model.tokens,
            # An older release may have cut otherwise: its passages stay, what changes is cut as today.
            max_tokens=min(int(of.chunker.get("max_tokens", model.max_tokens)), model.max_tokens),
            prefix=str(of.model_settings.get("document_prefix", "")),
        ),
    )
