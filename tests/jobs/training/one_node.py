"""Run as a program, not by pytest: one node of a training whose torchrun is a stand-in, with short waits.

    python one_node.py FOLDER NODE_RANK {works|diverges|waits|deaf}

``waits`` ends when it is asked to, and says so, as our processes do; ``deaf`` hangs in a collective.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llmjobs.contracts.errors import JobError
from llmjobs.contracts.training import Batching, TrainConfig
from llmjobs.training import launcher, meeting, nodes, worker
from llmjobs.training.rendezvous import Rendezvous
from llmjobs.training.sharding import Layout
from llmjobs.training.stopping import StopSignal

PROCESS = """
import json, pathlib, signal, sys
reason, how = pathlib.Path(sys.argv[1]), sys.argv[2]
def end(code, *_):
    reason.write_text(json.dumps({"exit_code": code, "sentence": f"ended with {code}"}))
    sys.exit(1)
if how == "works":
    sys.exit(0)
if how == "diverges":
    end(70)
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "deaf" else lambda *_: end(75))
reason.with_suffix(".begun").touch()
while True:
    signal.pause()
"""


def main(folder: Path, rank: int, how: str) -> int:
    """Be the node; return its exit code."""
    meeting.BEAT_SECONDS = 0.05
    nodes.END_ALONE_SECONDS = 0.2
    nodes.KILL_AFTER_SECONDS = 1
    meeting.LOST_AFTER_SECONDS = 3.0
    reason = worker.failure_file(folder, rank)
    launcher.command = lambda layout, where: [sys.executable, "-c", PROCESS, str(reason), how]
    config = TrainConfig.from_mapping({"name": "tickets", "dataset": "tickets", "model": "m"}, origin="test")
    assignment = worker.Assignment(config=config, model_path="m", folder=str(folder), adapter_version="v1")
    batching = Batching(processes=2, micro_batch_size=1, accumulation=1)
    layout = Layout("ddp", batching, on_gpu=False, threads=1, nodes=2)
    place, stop = Rendezvous(2, rank, "127.0.0.1", 1), StopSignal()
    stop.install()
    try:
        if rank:
            nodes.follow(assignment, layout, place, stop, lambda: False)
        else:
            nodes.lead(assignment, layout, place, stop)
    except JobError as error:
        sys.stdout.write(f"{error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
