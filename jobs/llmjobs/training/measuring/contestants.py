"""Adapters and their base on the same held-out rows: what evaluation and sweep measure with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import Generation, TrainConfig
from llmjobs.lake import Lake
from llmjobs.models import resolve_model
from llmjobs.rendering import ChatRow, load_tokenizer
from llmjobs.training.adapter_files import RECIPE
from llmjobs.training.data.rows import read_split, row_ids
from llmjobs.training.data.tokenisation import TokenRow, tokenise
from llmjobs.training.identity import ADAPTERS
from llmjobs.training.measuring.generation import generate_answers, questions
from llmjobs.training.measuring.scoring import RowScore, same_precision_as_training, score_rows
from llmjobs.training.sharding import visible_gpus

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
    """Return the rows of a split of the config's dataset that none of the models was trained on.

    Raises:
        BadData: None is left.
    """
    return unseen(lake, config.dataset, config.dataset_version, split, contestants)


def unseen(lake: Lake, dataset: str, version: str, split: str, contestants: list[Contestant]) -> HeldOut:
    """Return the rows of any dataset's split that none of the models was trained on.

    Raises:
        BadData: None is left.
    """
    rows = read_split(lake, dataset, version, split)
    seen: set[str] = set()
    for one in {(one.config.dataset, one.config.dataset_version) for one in contestants}:
        seen |= row_ids(lake, *one, "train")
    kept = [row for row in rows if row.row_id not in seen]
    if not kept:
        raise BadData(
            f"dataset {dataset}, version {version}: of {len(rows)} {split} rows none is "
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
    """Score one base and the adapters on it, on the rows that are short enough; nothing is generated.

    Raises:
        BadData: No row is.
    """
    return measure_sets(contestants, {"held-out": rows}, max_length_tokens=max_length_tokens)["held-out"]


def measure_sets(
    contestants: list[Contestant],
    sets: Mapping[str, list[ChatRow]],
    *,
    max_length_tokens: int,
    generation: Generation | None = None,
) -> dict[str, dict[str, list[RowScore]]]:
    """Score one base and the adapters on it on several sets of rows; everything is loaded once.

    Args:
        contestants: Adapters of one base in one form.
        sets: Name -> rows.
        max_length_tokens: Longer rows are left out.
        generation: How many answers are generated for each set; None for none.

    Returns:
        For each set and each role, ``base`` among them, the scores of the rows that are short enough.

    Raises:
        BadData: No row of a set is.
    """
    from llmjobs.training.base_model import load_base, quiet_libraries

    quiet_libraries()
    config = contestants[0].config
    base = resolve_model(config.model.name, config.model.revision)
    device = "cuda:0" if visible_gpus() else "cpu"
    tokenizer = load_tokenizer(str(contestants[0].folder))
    tokenised = {
        name: _fitting(name, rows, tokenizer, max_length_tokens, config.model.name) for name, rows in sets.items()
    }
    model = load_base(base.path, config.model, config.quantisation, device=device)
    scores: dict[str, dict[str, list[RowScore]]] = {name: {} for name in sets}
    for role, which in _in_turn(model, contestants):
        for name, rows in tokenised.items():
            found = _score(which, rows, config, tokenizer, device=device, generation=generation or Generation())
            logger.info("%s: %d of %d %s answers exact", role, sum(one.exact for one in found), len(found), name)
            scores[name][role] = found
    return scores


def _fitting(name: str, rows: list[ChatRow], tokenizer: Any, max_length_tokens: int, model: str) -> list[TokenRow]:
    tokenised = tokenise(rows, tokenizer, max_length_tokens=max_length_tokens, model=model)
    if not tokenised.rows:
        raise BadData(f"every one of the {len(rows)} {name} rows is longer than data.max_length_tokens")
    return tokenised.rows


def _in_turn(model: Any, contestants: list[Contestant]) -> Iterator[tuple[str, Any]]:
    """Yield the base, then each adapter on it; a model is as yielded until the next is asked for."""
    from peft import PeftModel

    yield "base", model
    for one in contestants:
        if isinstance(model, PeftModel):
            model.load_adapter(str(one.folder), adapter_name=one.role)
        else:
            model = PeftModel.from_pretrained(model, str(one.folder), adapter_name=one.role)
        model.set_adapter(one.role)
        yield one.role, model


def _score(
    model: Any, rows: list[TokenRow], config: TrainConfig, tokenizer: Any, *, device: str, generation: Generation
) -> list[RowScore]:
    at_once = config.evaluate.micro_batch_size
    scores = score_rows(model, rows, pad_token_id=tokenizer.pad_token_id, micro_batch_size=at_once, device=device)
    asked = questions(rows, generation.rows)
    if not asked:
        return scores
    with same_precision_as_training(model, device):
        answers = generate_answers(
            model, asked, tokenizer, max_new_tokens=generation.max_new_tokens, micro_batch_size=at_once
        )
    return [replace(one, answer=answers.get(one.row_id)) for one in scores]
