"""What the job's care costs: tokens per CPU second beside a plain TRL script; checkpoints; the launcher.

    python -m tests.benchmarks.training     (NIGHTSHIFT_FULL=1: more pairs of more and larger steps)

The real small model in NF4 on GSM8K rows of like length, so that no order of the rows pads more than another. Both
trainers are built once and train in turns, the order of the two changing from pair to pair. Of each turn the first step
warms up; the time is CPU time from its end to the end of the last step.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.models import resolve_model
from llmjobs.rendering import ChatRow, load_tokenizer
from llmjobs.training import launcher, worker
from llmjobs.training.data.tokenisation import Tokenised, TrainingRows, tokenise
from llmjobs.training.live import Live
from llmjobs.training.sharding import layout_for, usable_cores, wait_without_spinning
from llmjobs.training.stopping import StopSignal
from tests.benchmarks.figures import Figure, Skipped, report

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILE = Path(__file__).parents[3] / "shared" / "data" / "instructions" / "gsm8k_train.jsonl"
PAIRS, STEPS, BATCH = (8, 7, 8) if os.environ.get("NIGHTSHIFT_FULL") == "1" else (5, 3, 4)
LONGEST, LEARNING_RATE, RANK, ALPHA = 2048, 2e-4, 16, 32
LEAST_RATIO = 0.97

# Student's t for a 95% interval, by the number of pairs.
_STUDENT = {5: 2.776, 8: 2.365}


def measure() -> Iterator[Figure | Skipped]:
    """Measure the trainers in turns, then what surrounds them."""
    if not FILE.is_file():
        yield Skipped("training", "tokens per CPU second", f"the real rows are not beside the repository ({FILE.name})")
        return
    with tempfile.TemporaryDirectory() as folder:
        turns, clock = pairs(Path(folder))
        yield speed(turns)
        yield Figure("training", "CPU seconds to save a checkpoint", round(statistics.median(clock.saving), 3), "CPU s")
        checkpoint = next((Path(folder) / "checkpoints").glob("step-*"))
        size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
        yield Figure("training", f"size of a checkpoint, rank {RANK}, all linear layers", round(size / 1e6, 2), "MB")
    yield launching()


class Clock:
    """CPU times of the turns of one trainer.

    Attributes:
        rates: Tokens per CPU second of each turn.
        saving: CPU seconds from the end of the last step to its checkpoint.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.saving: list[float] = []
        self._ends: list[float] = []

    def callback(self) -> Any:
        """Return what the trainer calls."""
        from transformers import TrainerCallback

        clock = self

        class Taken(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                clock._ends.clear()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock._ends.append(time.process_time())

            def on_save(self, *_: Any, **__: Any) -> None:
                clock.saving.append(time.process_time() - clock._ends[-1])

            def on_train_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
                counted = [line["num_tokens"] for line in state.log_history if "num_tokens" in line]
                clock.rates.append((counted[STEPS - 1] - counted[0]) / (clock._ends[-1] - clock._ends[0]))

        return Taken()


def pairs(folder: Path) -> tuple[list[tuple[float, float]], Clock]:
    """Return tokens per CPU second of ours and TRL's, pair by pair, and our clock."""
    import torch

    torch.set_num_threads(1)
    records = like_rows()
    clocks = Clock(), Clock()
    trainers = ours(records, folder, clocks[0]), plain(records, folder / "trl", clocks[1])
    for turn in range(PAIRS):
        for trainer in trainers if turn % 2 == 0 else reversed(trainers):
            if trainer is trainers[0]:
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            trainer.train()
    return list(zip(clocks[0].rates, clocks[1].rates, strict=True)), clocks[0]


def speed(turns: list[tuple[float, float]]) -> Figure:
    """Return our rate beside TRL's with the 95% interval of the ratio."""
    ratios = [one / other for one, other in turns]
    mean, half = statistics.fmean(ratios), _STUDENT[PAIRS] * statistics.stdev(ratios) / len(ratios) ** 0.5
    return Figure(
        "training",
        f"tokens per CPU second, QLoRA, batch {BATCH}, {PAIRS} pairs in turns; 95% interval of the ratio "
        f"{mean - half:.3f} to {mean + half:.3f}",
        round(statistics.fmean(one for one, _ in turns), 1),
        "tokens/CPU s",
        f"a plain SFTTrainer script, trl {version('trl')}, "
        f"{statistics.fmean(other for _, other in turns):.1f} tokens/CPU s",
        round(mean, 3),
        LEAST_RATIO,
        "higher",
    )


def like_rows() -> list[dict[str, str]]:
    """Return as many GSM8K rows as a turn trains on, of the most common length."""
    records = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()[:1000]]
    records.sort(key=lambda record: len(record["question"]) + len(record["answer"]))
    middle = len(records) // 4
    return records[middle : middle + STEPS * BATCH]


def ours(records: list[dict[str, str]], folder: Path, clock: Clock) -> Any:
    """Return the job's own trainer with all that watches over it."""
    from llmjobs.training.base_model import load_base, quiet_libraries
    from llmjobs.training.state.checkpoints import CheckpointStore
    from llmjobs.training.trainer import build_trainer, training_arguments

    quiet_libraries()
    path = resolve_model(MODEL).path
    config = TrainConfig.from_mapping(
        {
            "name": "speed", "dataset": "gsm8k", "model": MODEL, "data": {"max_length_tokens": LONGEST},
            "lora": {"r": RANK, "alpha": ALPHA, "dropout": 0.0}, "checkpoint": {"every_steps": 1000},
            "train": {
                "max_steps": STEPS, "global_batch_size": BATCH, "micro_batch_size": BATCH,
                "learning_rate": LEARNING_RATE, "scheduler": "linear",
            },
            "dist": {"threads": 1},
        },
        origin="benchmark",
    )  # fmt: skip
    tokenizer = load_tokenizer(path)
    rows = [ChatRow(str(number), turns_of(record)) for number, record in enumerate(records)]
    tokens = tokenise(rows, tokenizer, max_length_tokens=LONGEST).rows
    layout = layout_for(config, gpus=0, cores=usable_cores())
    assignment = worker.Assignment(config=config, model_path=path, folder=str(folder), adapter_version="speed")
    live = Live(Lake(f"file://{folder}/lake"), "work/live/speed.json", name="speed", version="speed")
    reporter = worker._Reporter(assignment, folder, layout, live, after_step=0)
    return build_trainer(
        config, layout, rows=TrainingRows(tokenizer, Tokenised(tokens, {}), []),
        arguments=training_arguments(config, layout, folder / "scratch"),
        base=load_base(path, config.model, config.quantisation, device="cpu"),
        store=CheckpointStore(folder / "checkpoints", layout.checkpoint_layout()),
        callbacks=[*worker._callbacks(StopSignal(), reporter), clock.callback()],
    )  # fmt: skip


def turns_of(record: dict[str, str]) -> list[dict[str, str]]:
    """Return a row as a conversation of two turns."""
    return [{"role": "user", "content": record["question"]}, {"role": "assistant", "content": record["answer"]}]


def plain(records: list[dict[str, str]], folder: Path, clock: Clock) -> Any:
    """Return what a script of a few lines has: the same model, rows, adapter and batch, the loss on the answer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    path = resolve_model(MODEL).path
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, quantization_config=nf4)
    rows = [{"prompt": turns[:1], "completion": turns[1:]} for turns in map(turns_of, records)]
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE,
        bf16=True, use_cpu=True, activation_checkpointing=False, max_length=LONGEST, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    return SFTTrainer(
        model=base, args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
        callbacks=[clock.callback()],
    )  # fmt: skip


def launching() -> Figure:
    """Return what it costs to have processes started and watched that do nothing."""
    config = TrainConfig.from_mapping(
        {"name": "nothing", "dataset": "none", "model": MODEL, "dist": {"processes": 2}}, origin="benchmark"
    )
    layout = layout_for(config, gpus=0, cores=usable_cores())
    command = [*launcher.command(layout, ["--standalone"])[:-2], "--no-python", "true"]
    with tempfile.TemporaryDirectory() as folder:
        assignment = worker.Assignment(config=config, model_path="", folder=folder, adapter_version="none")
        environment = launcher.environment(assignment, layout)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if launcher.run(command, environment) is not None:
            raise RuntimeError("torchrun did not start two processes that do nothing")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figure("training", "launcher and torchrun around 2 empty processes", round(seconds, 2), "CPU s once a run")


def main() -> int:
    """Print the figures."""
    wait_without_spinning()
    return report(measure)


if __name__ == "__main__":
    raise SystemExit(main())
