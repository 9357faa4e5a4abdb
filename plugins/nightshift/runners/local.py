"""Runs a job's container as a process of this machine: the embedded stack, tests, laptops.

The process gets its own session, a log file and an environment built from the pod's, never Airflow's own. Its
log file is passed on line by line; since it is a file, a job outlives a killed Airflow process without noticing.

    $NIGHTSHIFT_HOME/run/jobs/<dag>/<run>/<task>/<map index>/    lock  claim  job.log  result.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kubernetes.client import models as k8s

from llmjobs.contracts import environment
from nightshift import settings
from nightshift.failures import Ended, Interrupted, JobFailed, failure_of, sentence_of, signal_name
from nightshift.pod_spec import POD_ONLY
from nightshift.runners import processes
from nightshift.runners.lock import JobLock
from nightshift.runners.memory import OomWatch
from nightshift.runners.processes import MARKER, ProcessRecord, kill_stragglers, mark_of

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "NIGHTSHIFT_HOME",
    "LLMJOBS_MODEL_CACHE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
"""What a local job sees of Airflow's environment, beside the pod's variables and the connections.

Everything else stays away from it, Airflow's own secrets first of all; `[nightshift] local_environment` adds names.
"""

_POLL_SECONDS = 0.25
_LONGEST_LINE = 64 * 1024
_LEVEL = re.compile(r"^\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


@dataclass(frozen=True)
class JobKey:
    """Which task instance a job belongs to; its tries share one folder, one lock and one record."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @property
    def folder(self) -> Path:
        """Return the folder of this task instance's jobs."""
        parts = [quote(part, safe=":+") for part in (self.dag_id, self.run_id, self.task_id, str(self.map_index))]
        return settings.home().joinpath("run", "jobs", *parts)

    @property
    def record(self) -> Path:
        """Return where the living job is recorded."""
        # A digest: the ids together can be longer than a file name may be.
        name = hashlib.sha256(str(self).encode()).hexdigest()[:16]
        return settings.home() / "run" / "processes" / f"job-{name}.json"


class LocalRunner:
    """Runs one container as a process.

    Args:
        key: The task instance.
        try_number: Its try, for people who read records.
        grace_seconds: How long a job may take to end after SIGTERM before it is killed.
        log: Gets the job's lines.
    """

    def __init__(self, key: JobKey, *, try_number: int, grace_seconds: float, log: logging.Logger | Logger) -> None:
        self._what = f"{key.dag_id} / {key.run_id} / {key.task_id} [{key.map_index}] try {try_number}"
        self._folder = key.folder
        self._log_path = key.folder / "job.log"
        self._result_path = key.folder / "result.json"
        self._record_path = key.record
        self._grace_seconds = grace_seconds
        self._log = log
        self._stopping = False
        self._record: ProcessRecord | None = None
        self._enforcer: subprocess.Popen[bytes] | None = None
        self._secrets: dict[str, str] = {}
        self._refusal = self._last_line = ""
        self._lock = JobLock(self._folder, record=self._record_path, log=log)

    def run(self, container: k8s.V1Container, *, relaunches: int, secrets: Mapping[str, str] | None = None) -> Any:
        """Run the container's command until it is done, and return its result.

        An interrupted job (exit 75) is started again up to `relaunches` times, unless we are being stopped or a
        newer try has taken over.

        Args:
            container: What to run.
            relaunches: How often it is started again.
            secrets: Variables that stand in the container as references to a Secret, for its process alone.

        Raises:
            JobFailed: One of the exceptions of `nightshift.failures`.
        """
        self._secrets = dict(secrets or {})
        self._lock.claim()
        with self._passing_on_sigterm():
            for left in range(relaunches, -1, -1):
                try:
                    return self._run_once(container)
                except Interrupted as reason:
                    if not left or self._stopping or not self._lock.still_ours():
                        raise
                    self._log.warning(
                        "The job was interrupted and can resume (%s): starting it again, %d more time(s) allowed",
                        reason, left - 1,
                    )  # fmt: skip
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Ask the job to end and return at once; a process of its own kills it if it does not.

        Airflow gives a killed task five seconds (3.3), a checkpoint may need more.
        """
        self._stopping = True
        record = self._record
        if record is None or not record.ask_to_end():
            return
        self._log.warning("Asked the job to end (process %d)", record.pid)
        if self._enforcer is None:
            self._enforcer = subprocess.Popen(
                [sys.executable, "-m", processes.__name__, str(self._record_path), str(self._grace_seconds)],
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _run_once(self, container: k8s.V1Container) -> Any:
        descriptor = self._lock.acquire(self._grace_seconds)
        try:
            if self._stopping:
                raise Interrupted("the task was asked to end before its job started")
            watch = OomWatch()
            process, record = self._start(container, descriptor)
        finally:
            self._lock.release()
        code = self._wait(process, record)
        if code == 0:
            return self._read_result()
        memory = watch.evidence(process.pid) if signal_name(code) == "SIGKILL" else ""
        raise failure_of(Ended(exit_code=code, reason=self._refusal or self._last_line, memory=memory))

    def _start(self, container: k8s.V1Container, descriptor: int) -> tuple[subprocess.Popen[bytes], ProcessRecord]:
        command = [*(container.command or []), *(container.args or [])]
        if command[:1] == ["python"]:
            command[0] = sys.executable
        mark = mark_of(self._folder, uuid.uuid4().hex[:8])
        self._refusal = self._last_line = ""
        self._result_path.unlink(missing_ok=True)
        with self._log_path.open("wb") as stream:
            process = subprocess.Popen(
                command,
                env={
                    **local_environment(container),
                    **self._secrets,
                    environment.RESULT: str(self._result_path),
                    MARKER: mark,
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(descriptor,),
                cwd=self._folder,
            )
        record = ProcessRecord.of(process.pid, what=self._what, mark=mark)
        record.write(self._record_path)
        self._record = record
        self._log.info("Started process %d: %s", process.pid, " ".join(command))
        if self._stopping:  # a signal came between the two
            self.stop()
        return process, record

    def _wait(self, process: subprocess.Popen[bytes], record: ProcessRecord) -> int:
        """Pass the job's log on until it ends; return its exit code as a shell counts it.

        Whatever else ends this wait, a task timeout for example, ends the job first.
        """
        try:
            code = self._follow(process)
        except BaseException:
            self._end_now(process)
            raise
        finally:
            left = kill_stragglers(record.mark)
            if left:
                self._log.warning("Killed processes that the job left behind: %s", left)
            record.remove(self._record_path)
            self._record = None
            if self._enforcer is not None:
                self._enforcer.wait()  # it ends once the job has
        return code if code >= 0 else 128 - code

    def _follow(self, process: subprocess.Popen[bytes]) -> int:
        with self._log_path.open("rb") as stream:
            rest = b""
            while True:
                code = process.poll()
                *lines, rest = (rest + stream.read()).split(b"\n")
                if rest and (code is not None or len(rest) > _LONGEST_LINE):
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._pass_on(line)
                if code is not None:
                    return code
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_POLL_SECONDS)

    def _pass_on(self, raw: bytes) -> None:
        # A progress bar writes over its own line: what counts is what stands there in the end.
        line = raw.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
        if not line.strip():
            return
        self._refusal, self._last_line = sentence_of(line) or self._refusal, line
        level = _LEVEL.match(line)
        self._log.log(logging.getLevelNamesMapping()[level[1]] if level else logging.INFO, "%s", line)

    def _end_now(self, process: subprocess.Popen[bytes]) -> None:
        self._stopping = True
        process.terminate()
        try:
            process.wait(timeout=self._grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _read_result(self) -> Any:
        try:
            return json.loads(self._result_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._log.warning("The job ended well but wrote no result to $%s", environment.RESULT)
            return None
        except ValueError as error:
            raise JobFailed(f"{self._result_path}: the job's result is not valid JSON: {error}") from error

    @contextmanager
    def _passing_on_sigterm(self) -> Iterator[None]:
        """Pass SIGTERM on to the job, also where Airflow has set no handler (`dag.test`, `airflow tasks test`)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        former = signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)


def local_environment(container: k8s.V1Container) -> dict[str, str]:
    """Return a local job's environment: the pod's variables, the connections, and little else of ours."""
    found = {name: os.environ[name] for name in (*PASSED_ON, *settings.local_environment()) if name in os.environ}
    for variable in container.env or []:
        if variable.name in POD_ONLY:
            continue
        if variable.value_from is None:
            found[variable.name] = variable.value or ""
        elif variable.name in environment.CONNECTIONS and variable.name in os.environ:
            found[variable.name] = os.environ[variable.name]
    return found
