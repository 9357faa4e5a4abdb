"""Run as a program, not by pytest: trainings that get a signal at a chosen call, and are then run again.

    KILLS='{"folder": ..., "datasets": ..., "config": ..., "kills": [[signal, call, occurrence, processes], ...]}'

Every run is a fork of this process, which has imported everything: so a kill costs seconds, not the half minute of
imports. With two processes the signal goes to the second one alone, and this program does what torchrun does: when
one ends, it asks the other to. Each kill's story goes to ``<folder>/stories.json``.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from llmjobs.contracts.environment import CONFIG, LAKE_URL, RESULT
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.results import main as job_main
from llmjobs.training import train as job
from llmjobs.training import worker
from llmjobs.training.identity import identify

HANGS_AFTER_SECONDS = 120

CALLS = {
    "tokenising": ("llmjobs.training.worker", "_load_rows"),
    "loading": ("llmjobs.training.base_model", "load_base"),
    "building": ("llmjobs.training.trainer", "build_trainer"),
    "training": ("llmjobs.training.trainer", "AdapterTrainer.training_step"),
    "step end": ("llmjobs.training.callbacks", "StopAtStep.on_step_end"),
    "validation": ("llmjobs.training.callbacks", "StopAtStep.on_prediction_step"),
    "saving": ("llmjobs.training.state.resumable", "ResumableTrainer._save_optimizer_and_scheduler"),
    "random numbers": ("llmjobs.training.state.training_state", "save_random"),
    "manifest": ("llmjobs.training.state.checkpoints", "_sync"),
    "pruning": ("llmjobs.training.state.checkpoints", "CheckpointStore.keep"),
    "outcome": ("llmjobs.training.worker", "_Reporter.finish"),
    "assembling": ("llmjobs.training.train", "assemble"),
    "self-test": ("llmjobs.training.publication.self_test", "loss_on"),
    "publishing": ("llmjobs.lake", "Lake.publish"),
}
"""Phase -> the function before which the signal comes."""


def strike(phase: str, occurrence: int, numbers: list[int]) -> None:
    """Have this process get signals just before a call."""
    module, path = CALLS[phase]
    holder: Any = import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        holder = getattr(holder, part)
    honest, calls = getattr(holder, name), 0

    @functools.wraps(honest)
    def struck(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == occurrence:
            for number in numbers:
                os.kill(os.getpid(), number)
        return honest(*args, **kwargs)

    setattr(holder, name, struck)


def forked(log: Path, environment: dict[str, str], action: Any) -> int:
    """Run `action` in a fork whose output goes to `log` and whose exit code is its value; return the process id."""
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    with worker.ending_at_once():
        sys.exit(action())


def ends(children: list[int]) -> list[int | None]:
    """Wait for processes as torchrun does; return exit codes, a signal's number negative, None for one that hung."""
    codes: dict[int, int | None] = {}
    deadline = time.monotonic() + HANGS_AFTER_SECONDS
    asked = False
    while len(codes) < len(children):
        for child in set(children) - codes.keys():
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                codes[child] = None
        if any(codes.values()) and not asked:
            asked = True
            for child in set(children) - codes.keys():
                os.kill(child, signal.SIGTERM)
        time.sleep(0.01)
    return [codes[child] for child in children]


def alone(folder: Path, blow: tuple[str, int, list[int]] | None) -> list[int | None]:
    """Run the whole job as one process."""

    def action() -> int:
        if blow:
            strike(*blow)
        return job_main(TrainConfig, job.run)

    environment = {RESULT: str(folder / "result.json"), LAKE_URL: f"file://{folder / 'lake'}"}
    return ends([forked(folder / "log.txt", environment, action)])


def together(folder: Path, blow: tuple[str, int, list[int]] | None) -> list[int | None]:
    """Run the training of two processes over gloo; nothing is published."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for old in folder.glob("failure-*"):
        old.unlink()
    (folder / "assignment.json").write_text(assignment(folder).model_dump_json())

    def action(rank: int) -> int:
        if blow and rank == 1:
            strike(*blow)
        return worker.main()

    def environment(rank: int) -> dict[str, str]:
        return {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, worker.ASSIGNMENT: str(folder / "assignment.json"),
            worker.LAUNCHER: str(os.getppid()), LAKE_URL: f"file://{folder / 'lake'}",
        }  # fmt: skip

    ranks = [
        forked(folder / f"log-{rank}.txt", environment(rank), functools.partial(action, rank)) for rank in range(2)
    ]
    return ends(ranks)


def assignment(folder: Path) -> worker.Assignment:
    """Return what two processes do; the batch is the one process' own, cut in two."""
    os.environ[LAKE_URL] = f"file://{folder / 'lake'}"
    config = identify(TrainConfig.from_environment(), Lake.from_environment()).config
    both = config.model_copy(update={"dist": config.dist.model_copy(update={"processes": 2})})
    return worker.Assignment(config=both, model_path=config.model.name, folder=str(folder), adapter_version="kills")


def story(folder: Path, blow: tuple[str, int, list[int]] | None, processes: int) -> dict[str, Any]:
    """Run once with the blow and once without; tell how both ended and what was there in between."""
    run = alone if processes == 1 else together
    first = run(folder, blow) if blow else []
    between = published(folder)
    seconds = time.monotonic()
    again = run(folder, None)
    return {
        "first": first,
        "between": between,
        "again": again,
        "seconds_again": round(time.monotonic() - seconds, 1),
        "reasons": [json.loads(path.read_text())["exit_code"] for path in sorted(folder.glob("failure-*.json"))],
        "adapter": fingerprint(folder, processes),
    }


def published(folder: Path) -> list[str]:
    """Return the adapters in the lake, told by their hashes as they are on the disk."""
    return [sha256(path.parent) for path in sorted(folder.glob("lake/adapters/*/versions/*/manifest.json"))]


def fingerprint(folder: Path, processes: int) -> str:
    """Return the hash of what a run ended in."""
    if processes == 1:
        return "".join(published(folder))
    return sha256(max(folder.glob("checkpoints/step-*"), default=folder))


def sha256(folder: Path) -> str:
    """Return the hash of an adapter's weights; empty where there are none."""
    import hashlib

    file = folder / "adapter_model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def main() -> None:
    """Tell all stories."""
    given = json.loads(os.environ["KILLS"])
    os.environ[CONFIG] = json.dumps(given["config"])
    folder, stories = Path(given["folder"]), []
    for module in [*(module for module, _ in CALLS.values()), "bitsandbytes", "datasets", "deepspeed", "mlflow"]:
        import_module(module)
    for number, (signals, phase, occurrence, processes) in enumerate(given["kills"]):
        own = folder / str(number)
        shutil.copytree(given["datasets"], own / "lake" / "datasets")
        blow = (phase, occurrence, signals) if phase else None
        stories.append(story(own, blow, processes))
        (folder / "stories.json").write_text(json.dumps(stories, indent=1))


if __name__ == "__main__":
    main()
