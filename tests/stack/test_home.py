"""Where state lives, which ports are used, and that the schedule of a laptop's stack is quiet."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embedded import samples
from embedded.environment import stack_environment
from embedded.errors import StackError
from embedded.home import REPOSITORY, Home, Ports, requested_ports
from embedded.ports import check_free, free_ports
from embedded.programs import LONGEST_SOCKET_PATH, control_socket


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_taken_port_is_named_with_its_process_and_the_variable() -> None:
    ports = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.airflow))
        taken.listen()
        with pytest.raises(
            StackError, match=rf"port {ports.airflow} is taken by .* \(pid {os.getpid()}\); set NIGHTSHIFT_PORT"
        ):
            check_free(ports)


def test_free_ports_pass() -> None:
    check_free(free_ports())


def test_free_ports_are_none_that_a_client_is_given() -> None:
    assert all(20_000 <= port < 32_000 for port in vars(free_ports()).values())


def test_same_port_twice_is_refused() -> None:
    port = free_ports().airflow
    with pytest.raises(StackError, match="must differ"):
        check_free(Ports(port, port, port + 1))


@pytest.mark.parametrize("text", ["http", "0", "70000", "-1", "80.5"])
def test_wrong_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NIGHTSHIFT_PORT", text)
    with pytest.raises(StackError, match="NIGHTSHIFT_PORT must be a port number"):
        requested_ports()


def test_default_home_is_in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIGHTSHIFT_HOME", raising=False)
    assert Home.from_environment().root == REPOSITORY / ".nightshift"


def test_somebody_elses_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    tmp_path.chmod(0o755)
    with pytest.raises(StackError, match="is no Nightshift home and not empty; set NIGHTSHIFT_HOME"):
        Home(tmp_path).create()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_home_whose_making_was_cut_short_is_still_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, mkdir = Home(tmp_path / "home"), Path.mkdir

    def killed(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if path == home.logs:
            raise KeyboardInterrupt
        mkdir(path, mode, parents, exist_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", killed)
        with pytest.raises(KeyboardInterrupt):
            home.create()
    assert home.records.is_dir()
    home.create()
    assert home.lake.is_dir()


def test_secrets_stay_and_differ_between_homes(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    other.create()
    assert home.secrets() == home.secrets()
    assert not set(vars(home.secrets()).values()) & set(vars(other.secrets()).values())
    assert (home.root / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_long_home_gets_a_short_private_socket(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 100))
    path = control_socket(home)
    assert len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rmdir()


def test_environment_holds_no_caller_secret(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", "/elsewhere")
    env = stack_environment(home, free_ports())
    assert "hush" not in env.values()
    assert env["AIRFLOW__CORE__DAGS_FOLDER"] == str(REPOSITORY / "dags")


def test_empty_home_variable_is_replaced(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert stack_environment(home, free_ports())["HOME"] == str(home.root)


def test_samples_are_mirrored_and_only_when_changed(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "guide"
    source.mkdir()
    (source / "a.md").write_text("one")
    (source / "b.md").write_text("two")
    monkeypatch.setattr(samples, "seeds", lambda: [samples.Seed(source, "*.md", "documents/guide")])
    assert samples.seed(home) == ["documents/guide/a.md", "documents/guide/b.md"]
    stamp = (home.lake / "documents/guide/a.md").stat().st_mtime_ns
    (source / "b.md").unlink()
    assert samples.seed(home) == ["documents/guide/b.md"]
    assert (home.lake / "documents/guide/a.md").stat().st_mtime_ns == stamp
    (source / "a.md").write_text("new")
    assert samples.seed(home) == ["documents/guide/a.md"]
    assert (home.lake / "documents/guide/a.md").read_text() == "new"
    assert samples.seed(home) == []


def test_real_samples_are_seeded(home: Home) -> None:
    changed = samples.seed(home)
    assert any(path.startswith("raw/tickets/") for path in changed)
    assert any(path.startswith("documents/guide/") for path in changed)


def test_cron_is_off_and_assets_stay_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable

    from policy.airflow_local_settings import dag_policy

    asset = Asset("nightshift://dataset/x")
    nightly = CronTriggerTimetable("0 2 * * *", timezone="UTC")
    schedules = {
        "cron": "0 2 * * *",
        "both": AssetOrTimeSchedule(timetable=nightly, assets=[asset]),
        "asset": [asset],
        "none": None,
    }

    def timetables() -> dict[str, str]:
        found = {}
        for name, schedule in schedules.items():
            dag = DAG(name, schedule=schedule, start_date=datetime(2026, 1, 1, tzinfo=UTC))
            dag_policy(dag)
            found[name] = type(dag.timetable).__name__
        return found

    monkeypatch.delenv("NIGHTSHIFT_NIGHTLY", raising=False)
    quiet = timetables()
    assert quiet == {
        "cron": "NullTimetable",
        "both": "AssetTriggeredTimetable",
        "asset": "AssetTriggeredTimetable",
        "none": "NullTimetable",
    }
    monkeypatch.setenv("NIGHTSHIFT_NIGHTLY", "1")
    assert timetables()["both"] == "AssetOrTimeSchedule"
    assert timetables()["cron"] != "NullTimetable"
