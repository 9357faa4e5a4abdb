"""Exit codes of a job and the exceptions that lead to them.

JobError                 1   unknown
├── BadData             65   the data is wrong: not retried
├── Diverged            70   the loss is no number or ran away: not retried
├── Interrupted         75   stopped by a signal, resumable: relaunched, not charged to the user's retries
├── OutOfMemory         77   out of memory, with advice
└── BadConfig           78   the config is wrong: not retried

The numbers follow BSD's sysexits.h where it has one.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a job's process returns to the operator."""

    DONE = 0
    UNKNOWN = 1
    BAD_DATA = 65
    DIVERGED = 70
    INTERRUPTED = 75
    OUT_OF_MEMORY = 77
    BAD_CONFIG = 78


class JobError(Exception):
    """A job's failure. Its text is one sentence: what clashed, with the number, and what to change."""

    exit_code = ExitCode.UNKNOWN


class BadData(JobError):
    """The input data breaks its contract."""

    exit_code = ExitCode.BAD_DATA


class Diverged(JobError):
    """Training went to NaN, infinity or away from the data."""

    exit_code = ExitCode.DIVERGED


class Interrupted(JobError):
    """The job was asked to stop and left a state from which it can resume."""

    exit_code = ExitCode.INTERRUPTED


class OutOfMemory(JobError):
    """Memory of the machine or the GPU ran out."""

    exit_code = ExitCode.OUT_OF_MEMORY


class BadConfig(JobError):
    """The config cannot be obeyed."""

    exit_code = ExitCode.BAD_CONFIG
