"""One process of a training: loads, trains, leaves a finished checkpoint and an outcome.

In a run of one process the job calls `work` itself; otherwise torchrun starts this module once for each.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.base import Strict
from llmjobs.contracts.errors import ExitCode, Interrupted, JobError, OutOfMemory
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.logs import configure_logging
from llmjobs.rendering import load_tokenizer
from llmjobs.training.data.splits import load_split
from llmjobs.training.data.tokenisation import Tokenised, TrainingRows
from llmjobs.training.live import Live
from llmjobs.training.publication import attempts
from llmjobs.training.publication.provenance import devices_of
from llmjobs.training.rates import Rates
from llmjobs.training.sharding import Layout, layout_for, usable_cores, visible_gpus
from llmjobs.training.state.checkpoints import Checkpoint, CheckpointStore
from llmjobs.training.stopping import INTERRUPTED, StopSignal, die_with_parent, leave

logger = logging.getLogger(__name__)

ASSIGNMENT = "LLMJOBS_TRAINING_ASSIGNMENT"
"""Path of the JSON file that tells torchrun's processes what to do."""

LAUNCHER = "LLMJOBS_TRAINING_LAUNCHER"
"""Process id of the job, which is the parent of torchrun, which is the parent of its processes."""

OUTCOME = "outcome.json"
CHECKPOINTS = "checkpoints"
CURVES = "metrics.jsonl"


class Assignment(Strict):
    """What one run of the worker does.

    Attributes:
        config: The recipe, dataset version filled in.
        model_path: Folder of the resolved base.
        folder: Working folder, for this adapter version alone.
        adapter_version: For names and tags.
    """

    config: TrainConfig
    model_path: str
    folder: str
    adapter_version: str


class Outcome(Strict):
    """What the first process hands to the job, beside the finished checkpoint.

    Attributes:
        trainable_tokens: Tokens with a loss in the train split.
    """

    train_rows: int
    over_long: dict[str, int]
    tokens: int
    trainable_tokens: int
    resumed_from_step: int
    mlflow_run_id: str
    mlflow_run_url: str
    notes: list[str]


@dataclass(frozen=True)
class _Rank:
    """Which process this is."""

    index: int
    local: int

    @classmethod
    def from_environment(cls) -> _Rank:
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0")))


def layout_here(config: TrainConfig) -> Layout:
    """Return the layout of a run on this machine."""
    return layout_for(config, gpus=visible_gpus(), cores=usable_cores())


def work(assignment: Assignment, stop: StopSignal) -> None:
    """Train until the last checkpoint is there; write the outcome on the first process.

    Raises:
        Interrupted: A signal came; a checkpoint was left.
        Diverged: The loss is no number.
        BadData: The rows cannot be trained on.
        OutOfMemory: Of the GPU or the machine.
    """
    config, rank = assignment.config, _Rank.from_environment()
    layout = layout_here(config)
    device = _prepare_process(layout, rank)
    from llmjobs.training.base_model import load_base
    from llmjobs.training.trainer import build_trainer, training_arguments

    folder = Path(assignment.folder)
    store = CheckpointStore(folder / CHECKPOINTS, layout.checkpoint_layout())
    # Before the model: under ZeRO-3 transformers looks at the arguments when it loads.
    arguments = training_arguments(config, layout, folder / "scratch")
    live = Live.of_task(
        Lake.from_environment(), name=config.name, version=assignment.adapter_version, heard=rank.index == 0
    )
    live.phase("tokenising")
    rows = _load_rows(config, assignment.model_path)
    checkpoint = store.newest_valid()
    step = checkpoint.step if checkpoint else 0
    if layout.nodes > 1:
        _agree_on(step, arguments.device)
    if checkpoint:
        store.go_on_from(checkpoint)
    reporter = _Reporter(assignment, folder, layout, live, after_step=step) if rank.index == 0 else None
    if not (checkpoint and checkpoint.finished):
        with _ending_told(reporter), _memory_errors_named(config, layout):
            live.phase("loading")
            base = load_base(assignment.model_path, config.model, config.quantisation, device=device)
            trainer = build_trainer(
                config, layout, rows=rows, arguments=arguments, base=base, store=store,
                callbacks=[*_choosing(config), *_callbacks(stop, reporter)],
            )  # fmt: skip
            live.phase("trying")
            _train(trainer, checkpoint, stop)
            if reporter:
                reporter.notes += trainer.notes
    if reporter:
        reporter.finish(rows.train, resumed_from_step=step)


def _agree_on(step: int, device: Any) -> None:
    """Make sure that all nodes saw the same newest checkpoint: a shared folder may show it to one of them late.

    Raises:
        JobError: They did not; the next try will.
    """
    import torch
    from torch import distributed

    seen = torch.tensor([step, -step], device=device)
    distributed.all_reduce(seen, op=distributed.ReduceOp.MAX)
    latest, earliest = int(seen[0]), -int(seen[1])
    if latest != earliest:
        raise JobError(
            f"the nodes see different newest checkpoints, of steps {earliest} and {latest}, in the folder that they "
            "share: start them again, and if it stays so, see that every node mounts the same lake"
        )


def _load_rows(config: TrainConfig, model_path: str) -> TrainingRows:
    tokenizer, lake = load_tokenizer(model_path), Lake.from_environment()
    train = load_split(config, tokenizer, lake, "train").tokenised
    validating = config.evaluate.validate_every_steps > 0
    validation = load_split(config, tokenizer, lake, "validation").tokenised.rows if validating else []
    return TrainingRows(tokenizer, train, validation)


def _train(trainer: Any, checkpoint: Checkpoint | None, stop: StopSignal) -> None:
    """Train to the last step.

    Raises:
        Interrupted: A signal came on one of the processes.
    """
    if checkpoint:
        logger.info("going on from the checkpoint of step %d of %d", checkpoint.step, checkpoint.total_steps)
    with stop.deferred():
        if not stop.requested:
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    # A signal after the last step counts as well: the rerun has only to publish.
    if stop.requested or not trainer.finished:
        raise Interrupted(INTERRUPTED)


@contextmanager
def _ending_told(reporter: _Reporter | None) -> Iterator[None]:
    """Tell MLflow when the run ends before its time."""
    try:
        yield
    except BaseException as error:
        if reporter:
            reporter.close("KILLED" if isinstance(error, Interrupted) else "FAILED")
        raise


@contextmanager
def _memory_errors_named(config: TrainConfig, layout: Layout) -> Iterator[None]:
    """Turn torch's out-of-memory errors, of a GPU or of the machine, into ours, with advice."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(_memory_advice(config, layout)) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(_memory_advice(config, layout)) from error


def _prepare_process(layout: Layout, rank: _Rank) -> str | None:
    """Fix threads, determinism and device of this process; return where the base is loaded to."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not layout.on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch

    from llmjobs.training.base_model import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(layout.threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # That mode also fills every new tensor, which costs 13% here and guards only against reading garbage.
    torch.utils.deterministic.fill_uninitialized_memory = False
    logger.info("%s, %d of %d processes, %d threads", layout.strategy, rank.index + 1, layout.batching.processes,
                layout.threads)  # fmt: skip
    if not layout.on_gpu:
        return None if layout.zero_stage == 3 else "cpu"
    torch.cuda.set_device(rank.local)
    return None if layout.zero_stage == 3 else f"cuda:{rank.local}"


def _memory_advice(config: TrainConfig, layout: Layout) -> str:
    where = "GPU" if layout.on_gpu else "machine"
    return (
        f"the {where}'s memory ran out with micro batches of {layout.batching.micro_batch_size} rows of up to "
        f"{config.data.max_length_tokens} tokens: lower train.micro_batch_size (the global batch stays "
        f"{config.train.global_batch_size}), or set train.activation_checkpointing"
    )


def _callbacks(stop: StopSignal, reporter: _Reporter | None) -> list[Any]:
    from llmjobs.training.callbacks import Progress, RefuseNaN, StopAtStep

    shown = [Progress(reporter.curves, reporter.tracking, reporter.rates, reporter.live)] if reporter else []
    return [RefuseNaN(), *shown, StopAtStep(stop)]


def _choosing(config: TrainConfig) -> list[Any]:
    from llmjobs.training.callbacks import ChooseBest
    from llmjobs.training.state.selection import Selection

    return [ChooseBest(Selection.of(config))] if config.publishes_best else []


class _Reporter:
    """What only the first process keeps: curves, rates, MLflow, the task's page, the outcome."""

    def __init__(self, assignment: Assignment, folder: Path, layout: Layout, live: Live, *, after_step: int) -> None:
        from llmjobs.training.curves import Curves
        from llmjobs.training.tracking import Tracking

        config = assignment.config
        self._folder = folder
        self.live = live
        self.rates = Rates.of(config, layout, Path(assignment.model_path))
        self.notes: list[str] = []
        attempt = attempts.Attempt(
            began_at=attempts.now(),
            from_step=after_step,
            layout=layout.checkpoint_layout(),
            devices=devices_of(layout),
        )
        attempts.begin(folder, attempt, sign_of_life=folder / CURVES)
        self.curves = Curves(folder / CURVES, after_step=after_step)
        recipe = config.recipe()
        self.tracking = Tracking(
            folder,
            experiment=f"nightshift/{config.name}",
            run_name=assignment.adapter_version,
            params={
                "adapter_version": assignment.adapter_version,
                "dataset": config.dataset,
                "dataset_version": config.dataset_version,
                "base_model": config.model.name,
                **{f"{part}.{key}": value for part in ("lora", "train") for key, value in recipe[part].items()},
            },
        )

    def close(self, status: str) -> None:
        self.tracking.close(status)

    def finish(self, train: Tokenised, *, resumed_from_step: int) -> None:
        self.tracking.close("FINISHED")
        outcome = Outcome(
            train_rows=len(train.rows),
            over_long=train.over_long,
            tokens=train.tokens,
            trainable_tokens=train.trainable_tokens,
            resumed_from_step=resumed_from_step,
            mlflow_run_id=self.tracking.run_id,
            mlflow_run_url=self.tracking.url,
            notes=[*self.notes, *([self.tracking.note] if self.tracking.note else [])],
        )
        temporary = self._folder / f"{OUTCOME}.tmp"
        temporary.write_text(outcome.model_dump_json(indent=1), encoding="utf-8")
        temporary.replace(self._folder / OUTCOME)


def failure_file(folder: Path, rank: int) -> Path:
    """Return where a process of a distributed run leaves its reason."""
    return folder / f"failure-{rank}.json"


def _grandparent() -> int:
    """Return the id of the process that started the one that started this one; 0 when it is gone."""
    import psutil

    try:
        return int(psutil.Process(os.getppid()).ppid())
    except psutil.NoSuchProcess:
        return 0


def main() -> int:
    """Be one of torchrun's processes; torchrun flattens exit codes, so the reason is left in a file."""
    stop = StopSignal()
    stop.install()
    configure_logging()
    die_with_parent()
    if _grandparent() != int(os.environ[LAUNCHER]):
        leave()  # the job died before the line above was reached
    assignment = Assignment.model_validate_json(Path(os.environ[ASSIGNMENT]).read_text(encoding="utf-8"))
    rank = _Rank.from_environment()
    reason_file = failure_file(Path(assignment.folder), rank.index)
    stop.last_words = lambda: _leave_reason(reason_file, Interrupted(INTERRUPTED))
    if rank.index:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        work(assignment, stop)
        part_company()
    except JobError as error:
        _leave_reason(reason_file, error)
        return int(error.exit_code)
    except Exception as error:
        # Perhaps only the echo of another process' end: the launcher goes by who was first.
        _leave_reason(reason_file, JobError(f"{type(error).__name__}: {str(error)[:500]}"))
        raise
    return 0


def _leave_reason(file: Path, error: JobError) -> None:
    """Tell the launcher why this process ends; the first reason of a process stands."""
    if not file.exists():
        reason = {"exit_code": int(error.exit_code), "sentence": str(error)}
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(reason), encoding="utf-8")
        temporary.replace(file)


def part_company() -> None:
    """Wait for the other processes of a run that is done, and close the connections to them."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End the process after the block without the interpreter's teardown; its exit code is the block's.

    The teardown may destroy an object of gloo or of DeepSpeed whose C++ thread still runs, which aborts the process
    ("terminate called without an active exception") although everything is done and on the disk.
    """
    code = int(ExitCode.UNKNOWN)
    try:
        yield
        code = int(ExitCode.DONE)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else code
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with ending_at_once():
        sys.exit(main())
