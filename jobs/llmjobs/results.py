"""How a job starts and what it hands back: config in, result and exit code out."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from llmjobs.contracts import environment
from llmjobs.contracts.base import JobConfig, JobResult
from llmjobs.contracts.errors import ExitCode, JobError
from llmjobs.logs import configure_logging

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=JobConfig)

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes shows this file's text as the container's termination message."""


def main(config_type: type[ConfigT], run: Callable[[ConfigT], JobResult]) -> int:
    """Run one job as its process: read the config, call `run`, write the result, return the exit code.

    A `JobError` ends in its own exit code and one sentence in the log; anything else ends in 1 with its
    traceback. A `MemoryError` counts as out of memory.
    """
    configure_logging()
    try:
        write_result(run(config_type.from_environment()))
    except JobError as error:
        return _refuse(error.exit_code, str(error))
    except MemoryError:
        logger.exception("out of memory")
        return _refuse(ExitCode.OUT_OF_MEMORY, "The machine's memory ran out; lower the batch size or ask for more.")
    except Exception as error:
        logger.exception("the job failed")
        return _refuse(ExitCode.UNKNOWN, f"{type(error).__name__}: {error}")
    return ExitCode.DONE


def write_result(result: JobResult) -> None:
    """Write the result where Airflow reads it: ``$LLMJOBS_RESULT``, or the XCom sidecar's file in a pod.

    Started by hand, with neither, the job prints it.
    """
    target = os.environ.get(environment.RESULT)
    if target is None and Path(environment.POD_RESULT_PATH).parent.is_dir():
        target = environment.POD_RESULT_PATH
    text = result.model_dump_json()
    if target is None:
        sys.stdout.write(text + "\n")
        return
    path = Path(target)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _refuse(code: ExitCode, sentence: str) -> int:
    """Say why in the log and, in a pod, in the termination message; return `code`.

    The operator takes the last line that starts with ``REFUSED`` as the reason of the failure.
    """
    logger.error("REFUSED %d %s", code, sentence.replace("\n", " | "))
    if TERMINATION_LOG.exists() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(sentence[:4096], encoding="utf-8")
    return code
