"""Starts one node's part of a training over several nodes, and brings all nodes to the same end.

Node 0 opens a meeting, waits for the others, and when the run has ended it says why; each of them takes over its
verdict. torchrun does not tell one node of another's end, and a connection that is only silent keeps a collective
waiting for up to half an hour: therefore each node looks after the others, and ends when it is left alone.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from llmjobs.contracts.errors import ExitCode, JobError
from llmjobs.training import launcher, meeting, worker
from llmjobs.training.meeting import Invitation, Meeting
from llmjobs.training.rendezvous import Rendezvous
from llmjobs.training.sharding import Layout
from llmjobs.training.stopping import INTERRUPTED, StopSignal

logger = logging.getLogger(__name__)

MEET_WITHIN_SECONDS = 1800
"""How long nodes wait for each other at the start: a GPU node may have to boot."""

NAME_WITHIN_SECONDS = 120
"""How long node 0's name may be unknown."""

END_ALONE_SECONDS = 30.0
"""How long the processes of a node that was left alone have to find out by themselves; then they are asked to end."""

KILL_AFTER_SECONDS = 120
"""And when they are killed: in a collective without a partner they cannot hear."""


def lead(assignment: worker.Assignment, layout: Layout, place: Rendezvous, stop: StopSignal) -> None:
    """Run node 0's processes to the end of the training, beside those of the other nodes.

    Raises:
        JobError: Of the kind that a process of any node gave as its reason.
    """
    folder = Path(assignment.folder)
    launcher.clear_reasons(folder)
    ours = meeting.opened(folder, nodes=place.nodes)
    stop.last_words = lambda: _tell_of_signal(ours)
    try:
        _wait_for_all(ours, place.nodes)
        _wait_for_name(ours, place)
        signalled = launcher.run(_command(layout, place, ours), launcher.environment(assignment, layout), _beside(ours))
        if signalled is None:
            ours.tell(state="done")
            return
        ours.tell(state="ended", signalled=signalled)
        _until(lambda: ours.all_ended, ours)
        asked = signalled or ours.signalled
        raise launcher.reason_of(folder, layout.batching.processes, interrupted=asked)
    except JobError as error:
        ours.tell(state="ended", exit_code=int(error.exit_code), sentence=str(error))
        raise
    finally:
        stop.last_words = None


def follow(
    assignment: worker.Assignment, layout: Layout, place: Rendezvous, stop: StopSignal, there: Callable[[], bool]
) -> None:
    """Run the processes of a node beside the first; nothing is cleared, locked or published.

    Args:
        assignment: With this node's own path of the base.
        layout: Of the whole run.
        place: This node's.
        stop: Receives signals.
        there: Whether the adapter is in the lake, so that there is nothing to do.

    Raises:
        JobError: Of the kind that node 0 found.
    """
    folder = Path(assignment.folder)
    ours = _invited(folder, place, there)
    if ours is None:
        return
    stop.last_words = lambda: _tell_of_signal(ours)
    environment = launcher.environment(assignment, layout, node=place.node_rank)
    _wait_for_name(ours, place)
    signalled = launcher.run(_command(layout, place, ours), environment, _beside(ours))
    stop.last_words = None
    ours.tell(state="done" if signalled is None else "ended", signalled=bool(signalled))
    if signalled is not None:
        raise _verdict(ours)


def _command(layout: Layout, place: Rendezvous, ours: Meeting) -> list[str]:
    where = [
        "--nnodes", str(place.nodes), "--node-rank", str(place.node_rank), "--rdzv-id", ours.nonce,
        "--master-addr", place.address, "--master-port", str(place.port),
        "--rdzv-conf", f"timeout={MEET_WITHIN_SECONDS}",
    ]  # fmt: skip
    return launcher.command(layout, where)


def _wait_for_all(ours: Meeting, nodes: int) -> None:
    """Wait for the other nodes.

    Raises:
        JobError: Some did not come.
    """
    logger.info("waiting for the other %d nodes, at %s", nodes - 1, ours.folder)
    deadline = time.monotonic() + MEET_WITHIN_SECONDS
    _until(lambda: ours.complete or time.monotonic() > deadline, ours)
    absent = [str(node) for node, watch in ours.others.items() if watch.look() is None]
    if absent:
        raise JobError(
            f"of {nodes} nodes, {', '.join(absent)} did not come within {MEET_WITHIN_SECONDS} s: start the job there "
            "with the same config and its NODE_RANK, with the lake mounted at the same place, or lower dist.nodes"
        )


def _wait_for_name(ours: Meeting, place: Rendezvous) -> None:
    """Wait until node 0's name can be looked up: a cluster's DNS learns of a pod some seconds after its start.

    Raises:
        JobError: It cannot be.
    """
    deadline = time.monotonic() + NAME_WITHIN_SECONDS
    _until(lambda: _known(place.address) or time.monotonic() > deadline, ours)
    if not _known(place.address):
        error = JobError(
            f"MASTER_ADDR ({place.address}) could not be looked up within {NAME_WITHIN_SECONDS} s on node "
            f"{place.node_rank}: set it to a name or an address of node 0 that every node knows"
        )
        ours.tell(state="ended", sentence=str(error))
        raise error


def _known(address: str) -> bool:
    try:
        return bool(socket.getaddrinfo(address, None))
    except OSError:
        return False


def _invited(folder: Path, place: Rendezvous, there: Callable[[], bool]) -> Meeting | None:
    """Wait for node 0 and join it; return None where another run publishes the adapter meanwhile.

    Raises:
        JobError: Node 0 does not come.
    """
    invitation = Invitation(folder, nodes=place.nodes, node=place.node_rank)
    deadline = time.monotonic() + MEET_WITHIN_SECONDS
    logger.info("node %d of %d waits for node 0, at %s", place.node_rank, place.nodes, folder)
    while time.monotonic() < deadline:
        ours = invitation.joined()
        if ours or there():
            return ours
        time.sleep(meeting.BEAT_SECONDS / 2)
    raise JobError(
        f"node 0 was not met within {MEET_WITHIN_SECONDS} s: start it with the same config, and see that {folder} is "
        "the same shared folder on every node"
    )


def _verdict(ours: Meeting) -> JobError:
    """Return what node 0 found; a retryable end where it is lost itself."""
    first = ours.others[0]
    _until(lambda: bool((record := first.look()) and record.exit_code is not None) or first.lost, ours)
    if first.record is None or first.record.exit_code is None:
        return JobError("node 0 ended without a word; what it left is gone on from when all nodes are started again")
    return launcher.error_of(first.record.exit_code, first.record.sentence)


def _until(done: Callable[[], bool], ours: Meeting) -> None:
    while not done():
        ours.beat()
        time.sleep(meeting.BEAT_SECONDS / 2)


def _tell_of_signal(ours: Meeting) -> None:
    ours.tell(state="ended", signalled=True, exit_code=int(ExitCode.INTERRUPTED), sentence=INTERRUPTED)


def _beside(ours: Meeting) -> launcher.Wait:
    """Return how to wait for torchrun while the other nodes are looked after."""

    def wait(process: subprocess.Popen[bytes]) -> int:
        troubled_at, asked = None, False
        while True:
            try:
                return process.wait(timeout=meeting.BEAT_SECONDS)
            except subprocess.TimeoutExpired:
                ours.beat()
            trouble = ours.trouble()
            if not trouble:
                continue
            if troubled_at is None:
                troubled_at = time.monotonic()
                logger.warning("%s: this node's processes end too", trouble)
            alone = time.monotonic() - troubled_at
            if alone > KILL_AFTER_SECONDS:
                process.kill()  # its processes die with it
            elif alone > END_ALONE_SECONDS and not asked:
                asked = True
                process.terminate()

    return wait
