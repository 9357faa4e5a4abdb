"""What packing gains over padding on real rows, beside the bound that the padding itself sets.

    python -m tests.benchmarks.packing

GSM8K and Alpaca rows in steps of 8, on the real small model in NF4, in turns: each step is trained padded and packed,
the order of the two changing from step to step. Padding computes ``8 * longest / sum`` positions for each token; no
packing can gain more than that. The time is CPU time from the end of a step to the end of the next, optimiser and
all; the trial of the longest batch, before the first step, warms up.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmjobs.contracts.training import TrainConfig
from llmjobs.models import resolve_model
from llmjobs.rendering import ChatRow, load_tokenizer
from llmjobs.training.data.ordering import Ordering
from llmjobs.training.data.packing import Cutter, padded_tokens
from llmjobs.training.data.tokenisation import Tokenised, TrainingRows, tokenise
from llmjobs.training.sharding import layout_for, usable_cores, wait_without_spinning
from tests.benchmarks.figures import Figure, Skipped, report

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DATA = Path(__file__).parents[3] / "shared" / "data" / "instructions"
FILES = {"GSM8K": DATA / "gsm8k_train.jsonl", "Alpaca": DATA / "alpaca_en_demo.json"}
ROWS, BATCH, PAIRS, LONGEST = 1000, 8, 5, 2048
SHARE_OF_BOUND = 0.85


def measure() -> Iterator[Figure | Skipped]:
    """Measure each file."""
    for name, path in FILES.items():
        if not path.is_file():
            yield Skipped("training", f"packing, {name}", f"the real rows are not beside the repository ({path.name})")
            continue
        tokenizer = load_tokenizer(resolve_model(MODEL).path)
        rows = tokenise(list(read(path)), tokenizer, max_length_tokens=LONGEST).rows
        yield from figures(name, TrainingRows(tokenizer, Tokenised(rows, {}), []))


def read(path: Path) -> Iterator[ChatRow]:
    """Yield the first rows of a file as conversations of two turns."""
    text = path.read_text(encoding="utf-8")
    records = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    for number, record in enumerate(records[:ROWS]):
        question = record.get("question") or "\n".join(filter(None, (record["instruction"], record.get("input"))))
        answer = record.get("answer") or record["output"]
        if question and answer:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            yield ChatRow(str(number), turns)


def figures(name: str, rows: TrainingRows) -> Iterator[Figure]:
    """Yield the bound over all rows, and what packing gained on the steps that were trained."""
    lengths = [len(row.input_ids) for row in rows.train.rows]
    order = Ordering(lengths, seed=7, global_batch_size=BATCH)
    yield Figure(
        "training", f"padding bound, {name}, batch {BATCH}, {len(lengths)} rows", *bound(order.steps(0), order)
    )
    steps = order.steps(0)[:PAIRS]
    seconds = trained(rows, Pairs(lengths, 7, BATCH, taken=steps))
    gain = sum(padded for padded, _ in seconds) / sum(packed for _, packed in seconds)
    limit, _ = bound(steps, order)
    yield Figure(
        "training",
        f"packing (bfd) over padding, {name}, batch {BATCH}, {PAIRS} steps of the same rows",
        round(gain, 3),
        "times the tokens/CPU s",
        f"the bound that these steps' padding sets, {limit}; "
        f"step by step {', '.join(f'{padded / packed:.2f}' for padded, packed in seconds)}",
        round(gain / limit, 3),
        SHARE_OF_BOUND,
        "higher",
    )


def bound(steps: list[list[int]], order: Ordering) -> tuple[float, str]:
    """Return positions of padded batches for each token in them, and the unit."""
    whole = [[order.lengths[row] for row in step] for step in steps if len(step) == BATCH]
    positions = sum(padded_tokens([[place] for place in range(BATCH)], lengths) for lengths in whole)
    return round(positions / sum(map(sum, whole)), 3), "positions/token"


@dataclass(frozen=True)
class Pairs(Ordering):
    """Every taken step twice in a row."""

    taken: list[list[int]] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        return 2 * len(self.taken)

    def steps(self, epoch: int) -> list[list[int]]:
        del epoch
        return [step for step in self.taken for _ in range(2)]


def trained(rows: TrainingRows, pairs: Pairs) -> list[tuple[float, float]]:
    """Return the CPU seconds of each step, padded and packed."""
    config = TrainConfig.from_mapping(
        {
            "name": "packing", "dataset": "packing", "model": MODEL, "data": {"max_length_tokens": LONGEST},
            "train": {"max_steps": pairs.steps_per_epoch, "global_batch_size": BATCH, "micro_batch_size": BATCH},
            "checkpoint": {"every_steps": 1000}, "dist": {"threads": 1},
        },
        origin="benchmark",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer, taken = turns(config, rows, pairs, Path(folder))
        trainer.train()
    # Of each pair the first is padded and then packed, the next the other way round.
    couples = [taken[place : place + 2] for place in range(0, len(taken), 2)]
    return [(one, two) if place % 2 == 0 else (two, one) for place, (one, two) in enumerate(couples)]


def turns(config: TrainConfig, rows: TrainingRows, pairs: Pairs, folder: Path) -> tuple[Any, list[float]]:
    """Return a trainer that pads and packs in turns, and the list where it leaves the CPU seconds of its steps."""
    import torch
    from transformers import TrainerCallback

    from llmjobs.training.base_model import load_base, quiet_libraries
    from llmjobs.training.state.checkpoints import CheckpointStore
    from llmjobs.training.trainer import build_trainer, training_arguments

    quiet_libraries()
    torch.set_num_threads(1)
    layout = layout_for(config, gpus=0, cores=usable_cores())
    cutters = (Cutter(1, BATCH), Cutter(1, BATCH, LONGEST))
    taken: list[float] = []

    class Turns(TrainerCallback):
        begun = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken.append(time.process_time() - self.begun)
            trainer.batches.cutter = cutters[(len(taken) + len(taken) // 2) % 2]
            self.begun = time.process_time()

    trainer = build_trainer(
        config, layout, rows=rows, arguments=training_arguments(config, layout, folder),
        base=load_base(str(resolve_model(MODEL).path), config.model, config.quantisation, device="cpu"),
        store=CheckpointStore(folder / "checkpoints", {}), callbacks=[Turns()],
    )  # fmt: skip
    trainer.ordering = pairs
    return trainer, taken


def main() -> int:
    """Print the figures."""
    wait_without_spinning()
    return report(measure)


if __name__ == "__main__":
    raise SystemExit(main())
