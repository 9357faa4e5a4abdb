"""The commands behind the Makefile: ``python -m embedded up|down|run|status|ask|env``."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time

from embedded import processes, stack
from embedded.environment import airflow_url, mlflow_url, stack_environment
from embedded.errors import StackError
from embedded.home import PYTHON, Home


def main() -> int:
    """Run one command; a `StackError` is one sentence and exit code 1."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="nightshift", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    try:
        return COMMANDS[options.command](Home.from_environment(), options.arguments)
    except StackError as error:
        print(f"nightshift: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nnightshift: interrupted; the stack is left as it is (`make status`, `make down`)", file=sys.stderr)
        return 130


def up(home: Home, _: list[str]) -> int:
    """Start the stack without a run."""
    started = stack.up(home)
    report_start(started)
    print_where(home)
    return 0


def down(home: Home, _: list[str]) -> int:
    """End every process of this home."""
    ended = stack.down(home)
    print(f"ended {ended} processes of {home.root}" if ended else f"nothing of {home.root} was running")
    return 0


def run(home: Home, _: list[str]) -> int:
    """Start the stack and drive a whole night through Airflow's API."""
    from embedded.night import drive

    started = stack.up(home)
    report_start(started)
    code = drive(home, started)
    print_where(home)
    return code


def status(home: Home, _: list[str]) -> int:
    """Print what runs and how much memory it takes."""
    found = processes.find(home)
    names = {record.pid: record.what for record in processes.read_records(home)}
    for pid, process in sorted(found.items()):
        age = time.time() - process.create_time()
        print(f"{pid:>8}  {age:>7.0f} s  {names.get(pid) or ' '.join(process.cmdline())[:80]}")
    print(f"{len(found)} processes, {processes.memory_bytes(found.values()) / 2**20:.0f} MiB (PSS)")
    if home.recorded_ports() is not None:
        print_where(home)
    return 0 if found else 3


def ask(home: Home, words: list[str]) -> int:
    """Answer one question from the guide."""
    question = " ".join(words).strip()
    if not question:
        raise StackError('ask what? make ask q="How do I reset everything?"')
    if home.recorded_ports() is None:
        raise StackError("the stack is not up; `make run` first")
    command = [str(PYTHON), "-m", "llmjobs.embeddings.ask", question]
    return subprocess.run(command, env=stack_environment(home), check=False).returncode


def env(home: Home, _: list[str]) -> int:
    """Print the stack's environment as shell exports, secrets included: ``eval "$(... env)"``."""
    home.create()
    for name, value in stack_environment(home).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def report_start(started: stack.Started) -> None:
    """Say in one line what `up` did, and name DAG files that do not load."""
    if started.was_up:
        print("the stack is up")
    else:
        print(f"the stack is healthy after {started.cpu_seconds:.0f} CPU s")
    for name, trace in started.health.import_errors.items():
        print(f"DAG import error in {name}: {trace.strip().splitlines()[-1]}")


def print_where(home: Home) -> None:
    """Print where to look, and with which login."""
    ports = home.ports()
    print(f"Airflow  {airflow_url(ports)}   login admin, password {home.secrets().admin_password}")
    print(f"MLflow   {mlflow_url(ports)}")
    print(f"State    {home.root}   (make down ends everything; deleting the folder resets everything)")


COMMANDS = {"up": up, "down": down, "run": run, "status": status, "ask": ask, "env": env}

if __name__ == "__main__":
    sys.exit(main())
