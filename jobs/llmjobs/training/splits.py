"""One split of a dataset version as audited tokens: what the training takes, and what the audit reports."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.rendering import ChatRow
from llmjobs.training.rows import read_split
from llmjobs.training.tokenisation import Tokenised, audit, tokenise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Rows of one side, and their tokens.

    Attributes:
        rows: As the dataset version has them, over-long ones included.
        tokenised: As the trainer takes them.
    """

    rows: list[ChatRow]
    tokenised: Tokenised


def load_split(config: TrainConfig, tokenizer: Any, lake: Lake, split: str) -> Split:
    """Read and tokenise one split; every row is accounted for in the log.

    Raises:
        BadConfig: The tokenizer cannot mask.
        BadData: No row is left, too many are over-long for what the config allows, or a label is wrong.
    """
    fraction = config.data.fraction if split == "train" else 1.0
    rows = read_split(lake, config.dataset, config.dataset_version, split, fraction=fraction)
    tokenised = tokenise(
        rows,
        tokenizer,
        max_length_tokens=config.data.max_length_tokens,
        model=config.model.name,
        truncate_prompt=config.data.on_overflow == "truncate_prompt",
    )
    check_overflow(config, tokenised, split)
    audit(tokenised, rows, tokenizer)
    logger.info(
        "%s: %d rows, %d over-long rows left out, %d questions cut, %d tokens, %d of them answers",
        split, len(tokenised.rows), len(tokenised.over_long), len(tokenised.truncated), tokenised.tokens,
        tokenised.trainable_tokens,
    )  # fmt: skip
    return Split(rows, tokenised)


def check_overflow(config: TrainConfig, tokenised: Tokenised, split: str) -> None:
    """Refuse what the config does not allow to be left out.

    Raises:
        BadData: With the counts, and what to change.
    """
    count = len(tokenised.over_long)
    total = count + len(tokenised.rows)
    limit, longest = config.data.max_length_tokens, max(tokenised.over_long.values(), default=0)
    share = count / total if total else 0.0
    longer = f"dataset {config.dataset}, {split}: {count} of {total} rows are longer than data.max_length_tokens"
    if count and config.data.on_overflow == "refuse":
        raise BadData(
            f"{longer} ({limit}), the longest has {longest}; raise it, or set data.on_overflow to drop or "
            "truncate_prompt"
        )
    if count and config.data.on_overflow == "truncate_prompt":
        raise BadData(
            f"{longer} ({limit}) even without their first question, the longest has {longest}; raise it, or set "
            "data.on_overflow to drop"
        )
    if share > config.data.max_dropped_share:
        raise BadData(
            f"dataset {config.dataset}, {split}: {count} of {total} rows ({share:.1%}) are longer than "
            f"data.max_length_tokens ({limit}), more than data.max_dropped_share ({config.data.max_dropped_share:.1%}) "
            f"allows; the longest has {longest}"
        )
    if not tokenised.rows:
        raise BadData(f"dataset {config.dataset}, version {config.dataset_version}: the {split} split has no rows")
