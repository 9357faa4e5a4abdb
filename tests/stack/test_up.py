"""The stack as a whole: it is up, on loopback only, small, and every child is recorded."""

from __future__ import annotations

import os

import psutil
import pytest

from embedded import processes
from embedded.programs import AIRFLOW_SERVICES
from tests.fixtures.stack import RunningStack, command

pytestmark = pytest.mark.stack


def test_every_component_is_healthy(stack: RunningStack) -> None:
    answer = stack.api.get("monitor/health")
    assert {name: part["status"] for name, part in answer.items()} == dict.fromkeys(
        ("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"
    )


def test_everything_listens_on_loopback_only(stack: RunningStack) -> None:
    listening = [
        connection.laddr
        for process in processes.find(stack.home).values()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {stack.ports.airflow, stack.ports.mlflow, stack.ports.postgres} <= {port for _, port in listening}
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_idle_stack_needs_under_two_gib(stack: RunningStack) -> None:
    used = processes.memory_bytes(processes.find(stack.home).values())
    assert 200 * 2**20 < used < 2 * 2**30


def test_every_service_is_recorded(stack: RunningStack) -> None:
    records = {record.what: record for record in processes.read_records(stack.home)}
    assert {"supervisor", "postgres", "mlflow", *AIRFLOW_SERVICES} <= set(records)
    assert all(processes.alive(record) for record in records.values())


def test_training_pool_has_one_slot_that_deferred_tasks_keep(stack: RunningStack) -> None:
    pool = stack.api.get("pools/training")
    assert (pool["slots"], pool["include_deferred"]) == (1, True)


def test_secrets_are_private(stack: RunningStack) -> None:
    for path in (stack.home.root / "secrets.json", stack.home.airflow / "passwords.json"):
        assert path.stat().st_mode & 0o077 == 0
    assert stack.password not in " ".join(stack.api.get("version").values())


def test_up_again_leaves_the_stack_as_it_is(stack: RunningStack) -> None:
    before = {record.what: record.pid for record in processes.read_records(stack.home)}
    done = command(stack.home, stack.ports, "up")
    assert done.returncode == 0, done.stderr
    assert "the stack is up" in done.stdout
    assert {record.what: record.pid for record in processes.read_records(stack.home)} == before


def test_no_parent_of_a_private_home_was_opened(stack: RunningStack) -> None:
    if os.geteuid() != 0:
        assert stack.home.root.stat().st_mode & 0o777 == 0o700
        return
    assert stack.home.root.parent.stat().st_mode & 0o077 == 0
