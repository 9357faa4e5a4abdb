"""The local runner with real processes: how jobs end, are relaunched, are stopped, and never run twice."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes.client import models as k8s

from nightshift import failures
from nightshift.runners import local
from nightshift.runners.local import JobKey, LocalRunner
from nightshift.runners.memory import OomWatch
from nightshift.runners.processes import ProcessRecord

KEY = JobKey("dag", "run", "task", -1)
Sample = Callable[..., k8s.V1Container]
Until = Callable[..., Any]


def runner(*, grace_seconds: float = 20.0) -> LocalRunner:
    log = logging.getLogger("nightshift.test")
    log.setLevel(logging.INFO)
    return LocalRunner(KEY, try_number=2, grace_seconds=grace_seconds, log=log)


def starts(work: Path) -> int:
    return len((work / "starts").read_text().splitlines())


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; where nobody reaps orphans a zombie stays."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Run `action` in a thread beside the body, and raise what it raised."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if raised:
            raise raised[0]


# --- results and logs


def test_result_comes_back_and_nothing_is_left(sample: Sample, home: Path) -> None:
    result = runner().run(sample("succeed", section={"rate": 0.5}), relaunches=0)
    assert result["rate"] == 0.5
    assert "{% for m in messages %}" in result["text"]
    assert list((home / "run" / "processes").iterdir()) == []


def test_a_secret_reaches_its_own_job_and_no_file(sample: Sample, home: Path, work: Path) -> None:
    container = sample("succeed")
    reference = k8s.V1EnvVarSource(secret_key_ref=k8s.V1SecretKeySelector(name="s", key="k"))
    container.env.append(k8s.V1EnvVar(name="LLMJOBS_STORAGE_OPTIONS", value_from=reference))
    secrets = {"LLMJOBS_STORAGE_OPTIONS": '{"key": "AKIAEXAMPLE"}'}
    result = runner().run(container, relaunches=0, secrets=secrets)
    assert result["variables"]["LLMJOBS_STORAGE_OPTIONS"] == '{"key": "AKIAEXAMPLE"}'
    assert "LLMJOBS_STORAGE_OPTIONS" not in runner().run(container, relaunches=0)["variables"]
    written = [path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "result.json"]
    assert not any(b"AKIAEXAMPLE" in content for content in written)


def test_a_job_sees_the_pods_variables_and_no_secret_of_airflow(
    sample: Sample, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow:secret@/airflow")
    monkeypatch.setenv("LLMJOBS_LAKE_URL", "file:///lake")
    monkeypatch.setenv("EXTRA_ONE", "1")
    monkeypatch.setenv("AIRFLOW__NIGHTSHIFT__LOCAL_ENVIRONMENT", "EXTRA_ONE, EXTRA_TWO")
    container = sample("succeed")
    for name in ("LLMJOBS_LAKE_URL", "EXTRA_SECRET"):
        source = k8s.V1EnvVarSource(secret_key_ref=k8s.V1SecretKeySelector(name="any", key=name))
        container.env.append(k8s.V1EnvVar(name=name, value_from=source))
    monkeypatch.setenv("EXTRA_SECRET", "not on the list of connections")
    variables = runner().run(container, relaunches=0)["variables"]
    assert variables["LLMJOBS_LAKE_URL"] == "file:///lake"
    assert variables["EXTRA_ONE"] == "1"
    assert variables["HOME"] == os.environ["HOME"], "the pod's HOME is a folder of its image"
    assert not [name for name in variables if name.startswith("AIRFLOW") or name == "EXTRA_SECRET"]


def test_the_jobs_lines_reach_the_task_log_with_their_level(sample: Sample, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(failures.BadData):
        runner().run(sample("refuse", code=65), relaunches=0)
    refused = [record for record in caplog.records if "REFUSED 65" in record.getMessage()]
    assert [record.levelno for record in refused] == [logging.ERROR]
    runner().run(sample("speak"), relaunches=0)
    lines = [record.getMessage() for record in caplog.records]
    assert "100% done" in lines
    assert "not \N{REPLACEMENT CHARACTER} text" in lines
    assert "without an end" in lines


def test_a_job_without_a_result_is_said_so(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert runner().run(k8s.V1Container(name="base", command=["true"]), relaunches=0) is None
    assert "wrote no result" in caplog.text


def test_a_result_that_is_no_json_is_a_failure(home: Path) -> None:
    command = ["sh", "-c", 'printf "{" > "$LLMJOBS_RESULT"']
    with pytest.raises(failures.JobFailed, match=r"result\.json: the job's result is not valid JSON"):
        runner().run(k8s.V1Container(name="base", command=command), relaunches=0)


# --- exit codes


@pytest.mark.parametrize(
    ("code", "expected", "text"),
    [
        (65, failures.BadData, r"^row 7 of tickets\.json has no text; add it \(code 65\)$"),
        (70, failures.Diverged, r"^row 7"),
        (77, failures.OutOfMemory, r"^row 7"),
        (78, failures.BadConfig, r"^row 7"),
        (1, failures.JobFailed, "exit code 1: the last words"),
        (3, failures.JobFailed, "exit code 3: the last words"),
    ],
)
def test_exit_codes_become_typed_exceptions(
    sample: Sample, work: Path, code: int, expected: type[failures.JobFailed], text: str
) -> None:
    with pytest.raises(failures.JobFailed, match=text) as caught:
        runner().run(sample("refuse", code=code), relaunches=3)
    assert type(caught.value) is expected
    assert starts(work) == 1, "only exit 75 is started again"


def test_an_unknown_field_of_the_config_is_a_bad_config(sample: Sample) -> None:
    with pytest.raises(failures.BadConfig, match="did you mean 'text'"):
        runner().run(sample("succeed", txet="typo"), relaunches=0)


# --- relaunches


def test_an_interrupted_job_goes_on_in_the_same_try(
    sample: Sample, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert runner().run(sample("resume", times=3), relaunches=2)["starts"] == 3
    assert "starting it again" in caplog.text


def test_relaunches_are_bounded(sample: Sample, work: Path) -> None:
    with pytest.raises(failures.Interrupted, match="stopped after step 3"):
        runner().run(sample("resume", times=99), relaunches=2)
    assert starts(work) == 3


def test_a_newer_try_ends_the_relaunches_of_an_older_one(sample: Sample, work: Path, until: Until) -> None:
    older = runner()

    def newer() -> None:
        until((work / "ready").exists)
        assert runner().run(sample("succeed"), relaunches=0)["starts"] == 2

    with meanwhile(newer), pytest.raises(failures.Interrupted):
        older.run(sample("wait"), relaunches=5)
    assert starts(work) == 2


# --- signals


def test_a_stopped_task_passes_sigterm_on_and_relaunches_nothing(sample: Sample, work: Path, until: Until) -> None:
    one = runner()

    def stop() -> None:
        until((work / "ready").exists)
        one.stop()

    with meanwhile(stop), pytest.raises(failures.Interrupted, match="checkpoint written"):
        one.run(sample("wait"), relaunches=5)
    assert (work / "checkpoint").exists()
    assert starts(work) == 1


def test_sigterm_of_the_task_process_reaches_the_job(sample: Sample, work: Path, until: Until) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        until((work / "ready").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(terminate), pytest.raises(failures.Interrupted, match="checkpoint written"):
        runner().run(sample("wait"), relaunches=5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(sample: Sample, work: Path, until: Until) -> None:
    one = runner(grace_seconds=0.5)

    def stop() -> None:
        until((work / "ready").exists)
        one.stop()

    with meanwhile(stop), pytest.raises(failures.Preempted, match="SIGKILL"):
        one.run(sample("ignore"), relaunches=5)


def test_a_timeout_of_the_task_ends_the_job(sample: Sample, work: Path, until: Until) -> None:
    class TaskTimeout(BaseException):
        pass

    def handler(_number: int, _frame: Any) -> None:
        raise TaskTimeout

    def alarm() -> None:
        until((work / "ready").exists)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with meanwhile(alarm), pytest.raises(TaskTimeout):
            runner().run(sample("wait"), relaunches=5)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (work / "checkpoint").exists()
    assert is_gone(int((work / "ready").read_text()))


def test_workers_do_not_outlive_their_job(sample: Sample, work: Path, until: Until) -> None:
    with pytest.raises(failures.Preempted):
        runner().run(sample("leave_child"), relaunches=0)
    pid = int((work / "worker").read_text())
    until(lambda: is_gone(pid))


# --- SIGKILL: memory or not


@pytest.fixture
def counter(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Watch a control group of our own: the sample job writes its counter."""
    (work / "memory.events").write_text("oom 4\noom_kill 2\n")
    (work / "cgroup").write_text("0::/\n")
    watch = partial(OomWatch, cgroup_root=work, own_cgroups=work / "cgroup", kernel_log=work / "no-log")
    monkeypatch.setattr(local, "OomWatch", watch)
    return work / "memory.events"


def test_sigkill_with_a_grown_counter_is_out_of_memory(sample: Sample, counter: Path) -> None:
    with pytest.raises(failures.OutOfMemory, match=r"counted 1 out-of-memory kill.*memory_gib"):
        runner().run(sample("die", code=signal.SIGKILL, text="oom_kill 3\n"), relaunches=5)


@pytest.mark.parametrize("text", ["oom_kill 2\n", "no counter"])
def test_sigkill_without_evidence_is_a_preemption(sample: Sample, work: Path, counter: Path, text: str) -> None:
    with pytest.raises(failures.Preempted, match="nothing says that memory ran out"):
        runner().run(sample("die", code=signal.SIGKILL, text=text), relaunches=5)
    assert starts(work) == 1


def test_a_crash_in_native_code_is_no_memory_question(sample: Sample, counter: Path) -> None:
    with pytest.raises(failures.JobFailed, match="crashed with SIGSEGV") as caught:
        runner().run(sample("die", code=signal.SIGSEGV, text="oom_kill 3\n"), relaunches=5)
    assert type(caught.value) is failures.JobFailed


# --- never two jobs of one task


@pytest.fixture
def first_try(home: Path, work: Path, until: Until) -> Iterator[Callable[..., int]]:
    """Start a first try in an Airflow process of its own, kill that with SIGKILL, return the job's pid."""
    started: list[int] = []

    def begin(mode: str) -> int:
        script = Path(__file__).with_name("hold_job.py")
        parent = subprocess.Popen([sys.executable, str(script), mode, str(work), "20"])
        pid = int(until(lambda: (work / "ready").exists() and (work / "ready").read_text(), seconds=60))
        started.append(pid)
        parent.kill()
        parent.wait()
        return pid

    yield begin
    for pid in started:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def lock_is_held() -> bool:
    with (KEY.folder / "lock").open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_retry_asks_the_living_former_job_to_end_first(
    sample: Sample, work: Path, first_try: Callable[[str], int], caplog: pytest.LogCaptureFixture
) -> None:
    pid = first_try("wait")
    assert not is_gone(pid), "the job outlives its Airflow process"
    assert lock_is_held()
    record = ProcessRecord.read(KEY.record)
    assert record is not None
    assert record.pid == pid
    result = runner().run(sample("succeed"), relaunches=0)
    assert result["starts"] == 2
    assert (work / "checkpoint").read_text() == str(pid), "it had the time to write its checkpoint"
    assert is_gone(pid)
    assert "The job of a former try still runs" in caplog.text
    assert "has ended after" in caplog.text
    assert not KEY.record.exists()


def test_a_former_job_that_does_not_end_is_killed(
    sample: Sample, first_try: Callable[[str], int], caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    pid = first_try("ignore")
    assert runner(grace_seconds=1.0).run(sample("succeed"), relaunches=0)["starts"] == 2
    assert "did not end in time" in caplog.text
    until(lambda: is_gone(pid))


def test_another_process_with_the_recorded_pid_is_left_alone(home: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        started_at = psutil.Process(stranger.pid).create_time()
        of_yesterday = ProcessRecord(pid=stranger.pid, started_at=started_at - 60, what="a job of yesterday")
        assert not of_yesterday.ask_to_end()
        of_yesterday.kill()
        assert stranger.poll() is None
        assert ProcessRecord(pid=stranger.pid, started_at=started_at, what="this one").ask_to_end()
        assert stranger.wait(timeout=20) == -signal.SIGTERM
    finally:
        stranger.kill()
        stranger.wait()


def test_a_workers_group_left_by_a_former_job_is_ended_before_the_next(
    sample: Sample, home: Path, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = subprocess.Popen(["sleep", "600"], env={"NIGHTSHIFT_LAUNCH": f"{KEY.folder}#former"}, start_new_session=True)
    other = subprocess.Popen(["sleep", "600"], env={"NIGHTSHIFT_LAUNCH": f"{KEY.folder}0#other"})
    try:
        assert runner(grace_seconds=5).run(sample("succeed"), relaunches=0)["starts"] == 1
        assert left.poll() is not None
        assert other.poll() is None, "the job of another task instance is none of ours"
        assert str(left.pid) in caplog.text
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_the_record_names_the_living_job(sample: Sample, work: Path, until: Until) -> None:
    one = runner()
    seen: dict[str, Any] = {}

    def look() -> None:
        until((work / "ready").exists)
        seen.update(json.loads(KEY.record.read_text()))
        one.stop()

    with meanwhile(look), pytest.raises(failures.Interrupted):
        one.run(sample("wait"), relaunches=0)
    assert seen["pid"] == int((work / "ready").read_text())
    assert seen["what"] == "dag / run / task [-1] try 2"
    assert seen["started_at"] > 0
