"""The fault campaign of the benchmarks in short: a few kills of every kind, and the database gone in mid-shard."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.benchmarks.embedding_faults import kill_campaign, restart_in_mid_shard, restartable


def test_kills_here_and_there_leave_nothing_wrong(postgres_server: str, tmp_path: Path) -> None:
    found = kill_campaign(postgres_server, tmp_path, range(12, 100, 29))
    assert found.faults.total() >= 6
    assert found.broken == []
    assert found.wrong.total() == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_the_database_restarts_in_mid_shard(tmp_path: Path, how: signal.Signals) -> None:
    with restartable() as (url, restart):
        found = restart_in_mid_shard(url, tmp_path / how.name.lower(), lambda: restart(how))
    assert found.faults.total() == 1
    assert (found.broken, found.wrong.total(), found.paid_twice) == ([], 0, 0)
