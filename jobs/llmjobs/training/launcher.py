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


def launch(assignment: worker.Assignment, layout: Layout) -> None:
    """Run the processes of one distributed training to their end.

    Raises:
        JobError: Of the kind that a process gave as its reason.
    """
    folder = Path(assignment.folder)
    for old in folder.glob("failure-*.json"):
        old.unlink()
    path = folder / "assignment.json"
    path.write_text(assignment.model_dump_json(), encoding="utf-8")
    signalled = _run(_command(layout), {**os.environ, **_environment(layout), worker.ASSIGNMENT: str(path)})
    if signalled is None:
        return
    raise _reason(folder, layout.batching.processes, interrupted=signalled)


def _command(layout: Layout) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", "1", "--nproc-per-node", str(layout.batching.processes),
        "--master-addr", "127.0.0.1", "--master-port", str(_free_port()),
        "--module", "llmjobs.training.worker",
    ]  # fmt: skip


def _environment(layout: Layout) -> dict[str, str]:
    return {
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


def _run(command: list[str], environment: dict[str, str]) -> bool | None:
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
        return None if process.wait() == 0 else signalled
    finally:
        signal.signal(signal.SIGTERM, previous)
        if process.poll() is None:
            process.kill()


def _reason(folder: Path, processes: int, *, interrupted: bool) -> JobError:
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
    return _BY_EXIT_CODE[first["exit_code"]](first["sentence"])
