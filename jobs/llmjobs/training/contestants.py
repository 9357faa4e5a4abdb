"""Adapters and their base on the same held-out rows: what evaluation and sweep measure with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.models import resolve_model
from llmjobs.rendering import ChatRow, load_tokenizer
from llmjobs.training.adapter_files import RECIPE
from llmjobs.training.identity import ADAPTERS
from llmjobs.training.rows import read_split, row_ids
from llmjobs.training.scoring import RowScore, score_rows
from llmjobs.training.sharding import visible_gpus
from llmjobs.training.tokenisation import TokenRow, tokenise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """The rows to measure, every row of the split accounted for."""

    kept: list[ChatRow]
    excluded: int


@dataclass(frozen=True)
class Contestant:
    """An adapter and the base that it was trained on."""

    role: str
    version: str
    folder: Path
    config: TrainConfig
    base_revision: str


def contestant(lake: Lake, name: str, role: str, version: str, scratch: Path) -> Contestant:
    """Return an adapter of the lake with the recipe that it was trained by."""
    folder = lake.fetch(ADAPTERS, name, version, scratch / role)
    recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    config = TrainConfig.from_mapping(recipe["config"], origin=str(folder / RECIPE))
    return Contestant(role, version, folder, config, recipe["base_revision"])


def held_out(lake: Lake, config: TrainConfig, contestants: list[Contestant], split: str) -> HeldOut:
    """Return the rows of a split that none of the models was trained on.

    Raises:
        BadData: None is left.
    """
    rows = read_split(lake, config.dataset, config.dataset_version, split)
    seen: set[str] = set()
    for dataset, version in {(one.config.dataset, one.config.dataset_version) for one in contestants}:
        seen |= row_ids(lake, dataset, version, "train")
    kept = [row for row in rows if row.row_id not in seen]
    if not kept:
        raise BadData(
            f"dataset {config.dataset}, version {config.dataset_version}: of {len(rows)} {split} rows none is "
            f"left that the models were not trained on, so nothing can be measured; raise split.{split} in the contract"
        )
    return HeldOut(kept, len(rows) - len(kept))


def by_base(contestants: list[Contestant]) -> list[list[Contestant]]:
    """Group adapters that stand on the same base in the same form, the candidate's group first."""
    groups: dict[Any, list[Contestant]] = {}
    for one in contestants:
        form = (one.base_revision, one.config.model.dtype, one.config.quantisation)
        groups.setdefault(form, []).append(one)
    return list(groups.values())


def measure(contestants: list[Contestant], rows: list[ChatRow], *, max_length_tokens: int) -> dict[str, list[RowScore]]:
    """Score one base and the adapters on it, on the rows that are short enough.

    Raises:
        BadData: No row is.
    """
    from llmjobs.training.base_model import load_base, quiet_libraries

    quiet_libraries()
    from peft import PeftModel

    config = contestants[0].config
    base = resolve_model(config.model.name, config.model.revision)
    device = "cuda:0" if visible_gpus() else "cpu"
    tokenizer = load_tokenizer(str(contestants[0].folder))
    tokenised = tokenise(rows, tokenizer, max_length_tokens=max_length_tokens, model=config.model.name)
    if not tokenised.rows:
        raise BadData(f"every one of the {len(rows)} held-out rows is longer than data.max_length_tokens")
    model = load_base(base.path, config.model, config.quantisation, device=device)

    def scored(which: Any, role: str) -> list[RowScore]:
        return _score(which, tokenised.rows, config, pad_token_id=tokenizer.pad_token_id, device=device, role=role)

    scores = {"base": scored(model, "base")}
    for one in contestants:
        if isinstance(model, PeftModel):
            model.load_adapter(str(one.folder), adapter_name=one.role)
        else:
            model = PeftModel.from_pretrained(model, str(one.folder), adapter_name=one.role)
        model.set_adapter(one.role)
        scores[one.role] = scored(model, one.role)
    return scores


def _score(
    model: Any, rows: list[TokenRow], config: TrainConfig, *, pad_token_id: int, device: str, role: str
) -> list[RowScore]:
    found = score_rows(
        model,
        rows,
        pad_token_id=pad_token_id,
        micro_batch_size=config.evaluate.micro_batch_size,
        device=device,
    )
    logger.info("%s: %d of %d answers exact", role, sum(score.exact for score in found), len(found))
    return found
