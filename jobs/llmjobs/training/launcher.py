"""Starts torchrun for a run of several processes, passes signals on and turns its flat exit code into the reason.

torchrun ends with 1 whatever its processes return (torch 2.13, elastic/agent/server/api.py), so each process leaves
its reason in a file.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from llmjobs.contracts.errors import BadConfig, BadData, Diverged, ExitCode, Interrupted, JobError, OutOfMemory
from llmjobs.training import worker
from llmjobs.training.sharding import Layout
from llmjobs.training.stopping import INTERRUPTED, die_with_parent

logger = logging.getLogger(__name__)

SAVE_WITHIN_SECONDS = 600
"""How long torchrun lets its processes write their checkpoint after a signal; the pod's grace period cuts it short."""

_BY_EXIT_CODE = {kind.exit_code: kind for kind in (BadConfig, BadData, Diverged, Interrupted, OutOfMemory, JobError)}


Wait = Callable[["subprocess.Popen[bytes]"], int]
"""Waits for torchrun's end and returns its exit code."""


def launch(assignment: worker.Assignment, layout: Layout) -> None:
    """Run the processes of one distributed training to their end.

    Raises:
        JobError: Of the kind that a process gave as its reason.
    """
    folder = Path(assignment.folder)
    clear_reasons(folder)
    here = ["--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
    signalled = run(command(layout, here), environment(assignment, layout))
    if signalled is None:
        return
    raise reason_of(folder, layout.batching.processes, interrupted=signalled)


def clear_reasons(folder: Path) -> None:
    """Forget why an earlier run ended."""
    for old in folder.glob("failure-*.json"):
        old.unlink()


def command(layout: Layout, where: list[str]) -> list[str]:
    """Return torchrun's command line for the processes of one node.

    Args:
        layout: Of the run.
        where: Options that tell how many nodes there are and where they meet.
    """
    return [
        sys.executable, "-m", "torch.distributed.run",
        "--nproc-per-node", str(layout.processes_per_node), *where,
        "--module", "llmjobs.training.worker",
    ]  # fmt: skip


def environment(assignment: worker.Assignment, layout: Layout, *, node: int = 0) -> dict[str, str]:
    """Write down what this node's processes do; return their environment."""
    path = Path(assignment.folder) / (f"assignment-{node}.json" if node else "assignment.json")
    path.write_text(assignment.model_dump_json(), encoding="utf-8")
    # torchrun takes each of its options from PET_*, where the command line is silent.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
    return {
        **inherited,
        worker.ASSIGNMENT: str(path),
        worker.LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": str(layout.threads),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SAVE_WITHIN_SECONDS),
        # DeepSpeed builds its CPU op with ninja, which lies beside the interpreter.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: list[str], environment: dict[str, str], wait: Wait = subprocess.Popen.wait) -> bool | None:
    """Run torchrun; return None when it succeeded, else whether a signal of ours had gone before.

    Only the first signal is passed on: a second one would end torchrun while its processes save.
    """
    signalled = False
    process = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)  # noqa: PLW1509  (see there)

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        del frame
        if not signalled:
            process.send_signal(number)
        signalled = True

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        return None if wait(process) == 0 else signalled
    finally:
        signal.signal(signal.SIGTERM, previous)
        if process.poll() is None:
            process.kill()


def reason_of(folder: Path, processes: int, *, interrupted: bool) -> JobError:
    """Return why a run ended: what one process knows of it, else who was first; the others' ends are its echoes.

    A process that was killed leaves nothing. Then torchrun stops the rest of them, and their "interrupted" is no reason
    to launch the job again for free.
    """
    found = sorted(folder.glob("failure-*.json"), key=lambda path: path.stat().st_mtime_ns)
    reasons: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    echoes = {ExitCode.INTERRUPTED, ExitCode.UNKNOWN}
    telling = [reason for reason in reasons if reason["exit_code"] not in echoes]
    if not telling and interrupted:
        return Interrupted(INTERRUPTED)
    if not telling and len(reasons) < processes:
        return JobError("a training process ended without a reason; the log above has its last words")
    first = [*telling, *reasons][0]
    return error_of(first["exit_code"], first["sentence"])


def error_of(exit_code: int, sentence: str) -> JobError:
    """Return the typed error behind an exit code of ours."""
    return _BY_EXIT_CODE[ExitCode(exit_code)](sentence)
