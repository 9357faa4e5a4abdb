"""The adapter, loaded back from the files that are to be published onto its base, as a consumer would."""

from __future__ import annotations

import gc
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import JobError
from llmjobs.contracts.training import TrainConfig
from llmjobs.models import ResolvedModel
from llmjobs.rendering import load_tokenizer
from llmjobs.training.adapter_files import SETTINGS, WEIGHTS, read_header
from llmjobs.training.publication.serving import Serving, serving_of
from llmjobs.training.publication.witness import WITNESS, Witness, loss_on
from llmjobs.training.sharding import Layout

logger = logging.getLogger(__name__)

RELATIVE_TOLERANCE = 0.005
TOLERANCE_NATS = 0.002
"""The loss may differ by the greater of both. The same process on a CPU gives the same number; other kernels, and an
adapter that ZeRO kept in bfloat16, round otherwise."""

_SPARE_TOKENS = 16
_MOST_TOKENS = 256


@dataclass(frozen=True)
class SelfTest:
    """What the loaded adapter did.

    Attributes:
        rows: How many were asked; ``split``: where they are from.
        loss: Of the loaded adapter, per answer token in nats; ``loss_trained``: of the trainer's own model.
        answers: Generated greedily; ``answers_ended``: those with an end token within ``answer_budget_tokens``.
        serving: What vLLM needs.
        notes: What does not forbid to publish and should be known.
    """

    rows: int
    split: str
    loss: float
    loss_trained: float
    answers: int
    answers_ended: int
    answer_budget_tokens: int
    serving: Serving
    notes: list[str]

    def sentences(self) -> list[str]:
        """Return it for the adapter's card."""
        rank = self.serving.max_lora_rank
        loss = (
            f"Loaded back from these files onto the base, it has a loss of {self.loss:.6f} nats per answer token on "
            f"{self.rows} {self.split} rows; the trainer's own model had {self.loss_trained:.6f}."
        )
        ended = f"{self.answers_ended} of {self.answers} greedy answers ended by themselves"
        return [
            loss,
            f"{ended} within {self.answer_budget_tokens} tokens.",
            *([f"vLLM: --max-lora-rank {rank} or more."] if rank else []),
            *(f"Note: {note}." for note in [*self.serving.notes, *self.notes]),
        ]


def self_test(folder: Path, checkpoint: Path, *, config: TrainConfig, base: ResolvedModel, layout: Layout) -> SelfTest:
    """Load the adapter in `folder`; refuse it if it is not the one that was trained.

    It runs in the job's own process, also after a run of several processes; there the model is loaded once, by the
    parent. A signal ends it at once: the finished checkpoint stays, and the rerun has only this to do.

    Answers without an end are no reason to refuse. That the labels teach the end is checked by the audit for each row;
    whether so few steps sufficed to learn it is a question of quality, which the evaluation answers on rows that were
    not trained on, against the base. So their number is told, and a note says when it is none.

    Args:
        folder: The assembled adapter.
        checkpoint: Folder of the checkpoint that it is from, with its witness.
        config: The recipe.
        base: The resolved base, which is loaded in the recipe's form.
        layout: Of the run.

    Raises:
        JobError: The loss is another one, or the files cannot be read as an adapter.
    """
    import torch
    from peft import PeftModel

    from llmjobs.training.base_model import load_base, quiet_libraries

    witness = _witness(checkpoint)
    serving = serving_of(_settings(folder), read_header(folder / WEIGHTS))
    quiet_libraries()
    # The trainer is a knot of references: without this its model stays beside the one that is loaded now.
    gc.collect()
    if layout.on_gpu:
        torch.cuda.empty_cache()
    torch.set_num_threads(layout.threads)
    device = "cuda:0" if layout.on_gpu else "cpu"
    bare = load_base(base.path, config.model, config.quantisation, device=device)
    model = PeftModel.from_pretrained(bare, str(folder))
    loss = loss_on(model, witness.rows, device)
    _compare(loss, witness)
    return _told(loss, witness, serving, _answers(model, witness, folder, device))


def _witness(checkpoint: Path) -> Witness:
    path = checkpoint / WITNESS
    if not path.is_file():
        raise JobError(
            f"checkpoint {checkpoint.name} has no {WITNESS}: an older version has written it; delete the folder "
            f"{checkpoint.parent} and train again"
        )
    return Witness.model_validate_json(path.read_text(encoding="utf-8"))


def _settings(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))


def _compare(loss: float, witness: Witness) -> None:
    trained = math.nan if witness.loss is None else witness.loss
    if not math.isclose(loss, trained, rel_tol=RELATIVE_TOLERANCE, abs_tol=TOLERANCE_NATS):
        allowed = max(RELATIVE_TOLERANCE * max(abs(loss), abs(trained)), TOLERANCE_NATS)
        raise JobError(
            f"the adapter's files do not give what was trained: loss {loss:.6f} on {len(witness.rows)} {witness.split} "
            f"rows, the trainer's model had {trained:.6f}; {abs(loss - trained):.6f} apart, allowed are {allowed:.6f}. "
            "Nothing is published, the checkpoints are kept"
        )
    logger.info("self-test: loss %.6f, trained %.6f, on %d %s rows", loss, trained, len(witness.rows), witness.split)


@dataclass(frozen=True)
class _Answers:
    count: int
    ended: int
    budget: int
    notes: list[str]


def _answers(model: Any, witness: Witness, folder: Path, device: str) -> _Answers:
    """Generate an answer to each row, with the tokenizer that is published."""
    from llmjobs.training.measuring.generation import generate_answers, questions
    from llmjobs.training.measuring.scoring import same_precision_as_training

    tokenizer, asked = load_tokenizer(str(folder)), questions(witness.rows, len(witness.rows))
    budget = min(max(len(one.reference) for one in asked) + _SPARE_TOKENS, _MOST_TOKENS)
    with same_precision_as_training(model, device):
        answers = generate_answers(model, asked, tokenizer, max_new_tokens=budget, micro_batch_size=len(asked))
    ended = sum(answer.ended for answer in answers.values())
    notes = (
        [] if ended else [f"no greedy answer ended by itself within {budget} tokens; the run may have been too short"]
    )
    taught = {one.reference[-1] for one in asked}
    missing = sorted(taught - _stops(model, tokenizer))
    if missing:
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(missing)))
        notes.append(f"answers end with {names}, which the base does not stop at by itself: give it as a stop token")
    return _Answers(len(answers), ended, budget, notes)


def _stops(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens at which a server stops unasked: the tokenizer's end and those of the generation settings."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {int(end) for end in [*listed, tokenizer.eos_token_id] if end is not None}


def _told(loss: float, witness: Witness, serving: Serving, answers: _Answers) -> SelfTest:
    result = SelfTest(
        rows=len(witness.rows),
        split=witness.split,
        loss=loss,
        loss_trained=witness.loss or 0.0,
        answers=answers.count,
        answers_ended=answers.ended,
        answer_budget_tokens=answers.budget,
        serving=serving,
        notes=answers.notes,
    )
    for sentence in result.sentences()[1:]:
        logger.info("self-test: %s", sentence)
    return result
