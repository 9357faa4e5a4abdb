"""What a signal does to a run: while it trains, a checkpoint at the next step; at any other time, an end at once."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from llmjobs.contracts.errors import ExitCode

logger = logging.getLogger(__name__)

INTERRUPTED = "the training was stopped by a signal; a rerun goes on from the newest checkpoint"


_PR_SET_PDEATHSIG = 1


class ValidationStopped(Exception):
    """A signal came in the midst of a validation."""


class StopSignal:
    """Receives SIGTERM.

    Every file of a run is published by a rename, so outside the training loop the process may end on the spot. A
    raised exception could be swallowed by an import or a library's ``except``; leaving cannot.
    """

    def __init__(self) -> None:
        """Install nothing yet."""
        self.requested = False
        self._deferred = False
        self.last_words: Callable[[], object] | None = None

    def install(self) -> None:
        """Take over SIGTERM; call it in the main thread, first thing."""
        signal.signal(signal.SIGTERM, self._on_signal)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only remember a signal inside the block; the block looks at `requested`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        if not self._deferred:
            leave(self.last_words)


def leave(last_words: Callable[[], object] | None = None) -> None:
    """End this process as interrupted; a rerun goes on from the newest checkpoint.

    Args:
        last_words: What to do first: a process of several leaves its reason for the launcher.
    """
    try:
        if last_words:
            last_words()
        logger.error("REFUSED %d %s", ExitCode.INTERRUPTED, INTERRUPTED)
        sys.stdout.flush()
    finally:  # the signal may have come while this very stream was being written
        os._exit(ExitCode.INTERRUPTED)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, so that no training outlives its lock.

    One system call: it allocates nothing and takes no lock, so it is safe between fork and exec.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
