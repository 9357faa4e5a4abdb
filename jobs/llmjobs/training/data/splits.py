"""One split of a dataset version as audited tokens: what the training takes, and what the audit reports."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.rendering import ChatRow
from llmjobs.training.data.rows import read_split
from llmjobs.training.data.tokenisation import Tokenised, audit, tokenise

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
    return tokenised_split(config, tokenizer, read_rows(config, lake, split), split)


def read_rows(config: TrainConfig, lake: Lake, split: str) -> list[ChatRow]:
    """Return the rows of one split that the config means: of the train rows its fraction, of the others all."""
    fraction = config.data.fraction if split == "train" else 1.0
    return read_split(lake, config.dataset, config.dataset_version, split, fraction=fraction)


def tokenised_split(config: TrainConfig, tokenizer: Any, rows: list[ChatRow], split: str) -> Split:
    """Tokenise and check the rows of one split.

    The test split is taken as the evaluation takes it: nothing is cut, and over-long rows are left out and counted.

    Raises:
        BadConfig: As `load_split`.
        BadData: As `load_split`.
    """
    trained = split != "test"
    tokenised = tokenise(
        rows,
        tokenizer,
        max_length_tokens=config.data.max_length_tokens,
        model=config.model.name,
        truncate_prompt=trained and config.data.on_overflow == "truncate_prompt",
    )
    if trained:
        check_overflow(config, Split(rows, tokenised), split)
    _refuse_empty(config, tokenised, split)
    audit(tokenised, rows, tokenizer)
    logger.info(
        "%s: %d rows, %d over-long rows left out, %d questions cut, %d tokens, %d of them answers",
        split, len(tokenised.rows), len(tokenised.over_long), len(tokenised.truncated), tokenised.tokens,
        tokenised.trainable_tokens,
    )  # fmt: skip
    return Split(rows, tokenised)


def check_overflow(config: TrainConfig, found: Split, split: str) -> None:
    """Refuse what the config does not allow to be left out.

    Raises:
        BadData: With the counts, and what to change.
    """
    over_long, limit = found.tokenised.over_long, config.data.max_length_tokens
    if not over_long:
        return
    count, total = len(over_long), len(over_long) + len(found.tokenised.rows)
    where = f"dataset {config.dataset}, {split}: {count} of {total} rows"
    longer, longest = "longer than data.max_length_tokens", _longest(found)
    if config.data.on_overflow == "refuse":
        raise BadData(
            f"{where} are {longer} ({limit}), {longest}; raise it, or set data.on_overflow to drop or truncate_prompt"
        )
    if config.data.on_overflow == "truncate_prompt":
        raise BadData(
            f"{where} are {longer} ({limit}) even without their first question, {longest}; raise it, or set "
            "data.on_overflow to drop"
        )
    if count / total > config.data.max_dropped_share:
        raise BadData(
            f"{where} ({count / total:.1%}) are {longer} ({limit}), more than data.max_dropped_share "
            f"({config.data.max_dropped_share:.1%}) allows; {longest}; raise one of the two"
        )


def _longest(found: Split) -> str:
    over_long = found.tokenised.over_long
    row = max((row for row in found.rows if row.row_id in over_long), key=lambda row: over_long[row.row_id])
    return f"the longest has {over_long[row.row_id]} ({row.origin or row.row_id})"


def _refuse_empty(config: TrainConfig, tokenised: Tokenised, split: str) -> None:
    if not tokenised.rows:
        over_long = f"; {len(tokenised.over_long)} are over-long" if tokenised.over_long else ""
        raise BadData(
            f"dataset {config.dataset}, version {config.dataset_version}: the {split} split has no rows{over_long}"
        )
