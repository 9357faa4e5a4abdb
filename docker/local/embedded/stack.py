"""Starts and ends the stack."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psutil

from embedded import health, postgres, processes, programs, samples
from embedded.api import Api, Refused
from embedded.environment import stack_environment
from embedded.errors import StackError
from embedded.home import PORT_VARIABLES, PYTHON, REPOSITORY, Home, Ports, requested_ports, write_private

POOL = {
    "name": "training",
    "slots": 1,
    "description": "One training at a time: it guards the machine, or its GPUs.",
    "include_deferred": True,
}


@dataclass(frozen=True)
class Started:
    """What `up` did.

    Attributes:
        ports: The ports that the stack listens on.
        health: What the last check found.
        was_up: Whether it was running already.
        cpu_seconds: CPU time of all its processes until it was healthy, 0 when it was running already.
    """

    ports: Ports
    health: health.Health
    was_up: bool
    cpu_seconds: float


def up(home: Home, *, say: Callable[[str], None] = print) -> Started:
    """Start the stack at `home` and wait until it is healthy; without a run. A stack that is up is left as it is.

    Raises:
        StackError: Says what is in the way and what to do.
    """
    home.create()
    with _alone(home):
        samples.seed(home)
        running = _running(home, say)
        return running if running is not None else _start(home, say)


def down(home: Home, *, patience_seconds: float = 20.0) -> int:
    """End every process of `home`, and return how many there were."""
    ended = processes.end(home, patience_seconds=patience_seconds)
    home.forget_ports()
    if home.run.is_dir():
        socket = programs.control_socket(home)
        socket.unlink(missing_ok=True)
        if socket.parent != home.run:
            shutil.rmtree(socket.parent, ignore_errors=True)
    return ended


def _running(home: Home, say: Callable[[str], None]) -> Started | None:
    """Return the running stack, or None; what is left of a stack without its runner is ended."""
    supervisor_lives = any(r.what == "supervisor" and processes.alive(r) for r in processes.read_records(home))
    ports = home.recorded_ports()
    if supervisor_lives and ports is not None:
        _refuse_other_ports(ports)
        state = health.wait(home, ports, since=datetime.fromtimestamp(0, UTC), say=say)
        return Started(ports, state, was_up=True, cpu_seconds=0.0)
    if processes.find(home):
        say("ending what is left of a stack whose runner is gone")
        down(home)
    home.forget_ports()
    return None


def _refuse_other_ports(ports: Ports) -> None:
    """Refuse to pass over a port that the environment names and the running stack does not use."""
    wanted = requested_ports()
    for name, variable in PORT_VARIABLES.items():
        if os.environ.get(variable) and getattr(wanted, name) != getattr(ports, name):
            used = f"{variable}={getattr(ports, name)}"
            raise StackError(f"the stack is up with {used}; `make down` first to move it to another port")


def _start(home: Home, say: Callable[[str], None]) -> Started:
    ports = requested_ports()
    from embedded.ports import check_free

    check_free(ports)
    began = datetime.now(UTC)
    say(f"starting the stack; state in {home.root}")
    _write_airflow_passwords(home)
    server = postgres.prepare(home)
    configuration = programs.write_configuration(home, programs.all_programs(home, ports, server))
    environment = stack_environment(home, ports)
    home.record_ports(ports)
    _start_supervisor(home, configuration, environment)
    try:
        postgres.wait_until_ready(home, ports)
        postgres.create_databases(home, ports)
        spent = _migrate(home, environment)
        _start_airflow(home, ports)
        state = health.wait(home, ports, since=began, say=say)
        _ensure_pool(Api.of(home, ports))
    except BaseException:
        down(home)
        raise
    return Started(ports, state, was_up=False, cpu_seconds=spent + _cpu_seconds(home))


def _start_supervisor(home: Home, configuration: Path, environment: dict[str, str]) -> None:
    """Start the process runner in a session of its own, recorded like every other process."""
    launch = REPOSITORY / "docker" / "local" / "embedded" / "launch.py"
    runner = [str(PYTHON), "-m", "supervisor.supervisord", "-c", str(configuration)]
    command = [str(PYTHON), "-P", str(launch), str(home.records / "service-supervisor.json"), "supervisor", "--"]
    with (home.logs / "supervisor.out").open("ab") as output:
        subprocess.Popen(
            [*command, *runner], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, cwd=home.root, umask=0o077,
        )  # fmt: skip


def _migrate(home: Home, environment: dict[str, str]) -> float:
    """Migrate Airflow's database (once for each version) and ours, and return the CPU seconds that it took."""
    before = _children_cpu()
    steps: list[Sequence[str]] = []
    stamp, version = home.airflow / "migrated", importlib.metadata.version("apache-airflow-core")
    if not stamp.exists() or stamp.read_text() != version:
        steps.append(["-m", "airflow", "db", "migrate"])
    if importlib.util.find_spec("llmjobs.database") and importlib.util.find_spec("llmjobs.database.migrate"):
        steps.append(["-m", "llmjobs.database.migrate"])
    with (home.logs / "migrate.log").open("ab") as log:
        _run_together([[str(PYTHON), *step] for step in steps], environment, log)
    stamp.write_text(version)
    return _children_cpu() - before


def _run_together(commands: list[list[str]], environment: dict[str, str], log: IO[bytes]) -> None:
    children = [subprocess.Popen(c, env=environment, stdout=log, stderr=log, cwd=REPOSITORY) for c in commands]
    for command, child in zip(commands, children, strict=True):
        if child.wait() != 0:
            raise StackError(f"`{' '.join(command[1:])}` failed with exit code {child.returncode}; see {log.name}")


def _start_airflow(home: Home, ports: Ports) -> None:
    """Start Airflow's components, the scheduler last.

    A task that the scheduler starts before the API server answers fails at once and has lost a try; after a restart
    with an unfinished training there is such a task in the first second.
    """
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(serverurl=f"unix://{programs.control_socket(home)}")
    supervisor = xmlrpc.client.ServerProxy("http://127.0.0.1", transport).supervisor
    for service in programs.AIRFLOW_SERVICES:
        if service != "scheduler":
            supervisor.startProcess(service, False)
    health.wait_for_api(home, ports)
    supervisor.startProcess("scheduler", False)


def _write_airflow_passwords(home: Home) -> None:
    import json

    write_private(home.airflow / "passwords.json", json.dumps({"admin": home.secrets().admin_password}))


def _ensure_pool(api: Api) -> None:
    try:
        api.post("pools", POOL)
    except Refused as error:
        if error.status != 409:
            raise
        api.patch(f"pools/{POOL['name']}", POOL)


def _cpu_seconds(home: Home) -> float:
    """Return the CPU time of the stack's processes, including their ended children."""
    total = 0.0
    for process in processes.find(home).values():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Let one command at a time start the stack of `home`."""
    with (home.root / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
