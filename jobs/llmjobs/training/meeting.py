"""How the nodes of one training know of each other: a folder beside its checkpoints, which all nodes mount.

    meeting-<nonce>/<node>.json     {"beats": 17, "state": "here", ...}, written anew every two seconds

Node 0 makes the folder, under a name of its own each time. The others join one whose node 0 they have seen beat, so
they never join yesterday's. Clocks are not compared: a node counts as lost when its beats do not change for a while.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from llmjobs.contracts.base import Strict

BEAT_SECONDS = 2.0
LOST_AFTER_SECONDS = 60.0
"""A shared folder may show a file late: NFS keeps attributes for up to 60 s, but not of a file that is opened anew."""


class Record(Strict):
    """What a node tells the others.

    Attributes:
        beats: Rises as long as the node lives.
        state: ``ended`` is without success.
        signalled: Whether the node was asked to stop.
        exit_code: Node 0's verdict about an end, for all nodes; ``sentence``: its reason.
    """

    beats: int = 0
    state: Literal["here", "done", "ended"] = "here"
    signalled: bool = False
    exit_code: int | None = None
    sentence: str = ""


class Watch:
    """Tells whether the file of a node still changes.

    Args:
        file: The node's record.
        clock: In seconds.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to wait for a first sign."""
        self._file, self._clock = file, clock
        self.record: Record | None = None
        self.moved = False
        self._since = clock()

    def look(self) -> Record | None:
        """Return the node's newest record, None before the first."""
        try:
            record = Record.model_validate_json(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there yet, or a shared folder's hiccup: only silence counts
            return self.record
        if record != self.record:
            self.moved = self.record is not None
            self.record, self._since = record, self._clock()
        return self.record

    @property
    def lost(self) -> bool:
        """Whether nothing has changed for too long."""
        return self._clock() - self._since > LOST_AFTER_SECONDS


class Meeting:
    """One node's view of the others.

    Args:
        folder: Of this meeting.
        nodes: How many there are; ``node``: which one this is.
        clock: In seconds.
    """

    def __init__(self, folder: Path, *, nodes: int, node: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Say that this node is here."""
        self.folder, self._node = folder, node
        self._own = Record()
        self.others = {other: Watch(folder / f"{other}.json", clock) for other in range(nodes) if other != node}
        self.beat()

    @property
    def nonce(self) -> str:
        """What no other meeting is called."""
        return self.folder.name.removeprefix("meeting-")

    @property
    def complete(self) -> bool:
        """Whether every node has come."""
        return all(watch.look() for watch in self.others.values())

    @property
    def all_ended(self) -> bool:
        """Whether no other node is still at work: each has said so or is lost."""
        return all(_over(watch) for watch in self.others.values())

    @property
    def signalled(self) -> bool:
        """Whether another node was asked to stop."""
        return any(watch.record.signalled for watch in self.others.values() if watch.record)

    def beat(self) -> None:
        """Tell the others that this node lives."""
        self.tell(beats=self._own.beats + 1)

    def tell(self, **news: object) -> None:
        """Change this node's record."""
        self._own = Record.model_validate({**self._own.model_dump(), **news})
        temporary = self.folder / f"{self._node}.tmp"
        temporary.write_text(self._own.model_dump_json(), encoding="utf-8")
        temporary.replace(self.folder / f"{self._node}.json")

    def trouble(self) -> str:
        """Return which node has ended without success or is lost; empty while all is well."""
        for node, watch in self.others.items():
            record = watch.look()
            if record and record.state == "ended":
                return f"node {node} has ended"
            if watch.lost and not (record and record.state == "done"):
                return f"node {node} was not heard of for {LOST_AFTER_SECONDS:.0f} s"
        return ""


def _over(watch: Watch) -> bool:
    record = watch.look()
    return watch.lost or (record is not None and record.state != "here")


def opened(folder: Path, *, nodes: int) -> Meeting:
    """Clear away former meetings and open one, as node 0."""
    for old in folder.glob("meeting-*"):
        shutil.rmtree(old, ignore_errors=True)
    place = folder / f"meeting-{uuid.uuid4().hex[:12]}"
    place.mkdir()
    return Meeting(place, nodes=nodes, node=0)


class Invitation:
    """Finds the meeting that a node beside the first has to join.

    Args:
        folder: Where meetings are.
        nodes: How many there are; ``node``: which one this is.
        clock: In seconds.
    """

    def __init__(self, folder: Path, *, nodes: int, node: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at nothing yet."""
        self._folder, self._nodes, self._node, self._clock = folder, nodes, node, clock
        self._watches: dict[Path, Watch] = {}

    def joined(self) -> Meeting | None:
        """Join a meeting whose node 0 is seen to live and whose place for this node is free; None without one."""
        for place in sorted(self._folder.glob("meeting-*")):
            watch = self._watches.setdefault(place, Watch(place / "0.json", self._clock))
            record = watch.look()
            if record and record.state == "here" and watch.moved and self._claimed(place):
                return Meeting(place, nodes=self._nodes, node=self._node, clock=self._clock)
        return None

    def _claimed(self, place: Path) -> bool:
        """Return whether this place is ours now: another run of the same adapter may have its own nodes there."""
        try:
            (place / f"{self._node}.claim").touch(exist_ok=False)
        except OSError:
            return False
        return True
