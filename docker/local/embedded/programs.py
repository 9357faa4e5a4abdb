"""The services of the stack, and the configuration of the process runner (supervisor) that keeps them."""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded.environment import LOOPBACK
from embedded.errors import StackError
from embedded.home import PYTHON, REPOSITORY, Home, Ports
from embedded.postgres import Server

LONGEST_SOCKET_PATH = 90
"""Linux allows 107 bytes; supervisor binds to the path with its pid appended first."""

AIRFLOW_SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")


@dataclass(frozen=True)
class Program:
    """One service.

    Attributes:
        name: Name in logs, records and ``make status``.
        command: What runs; the recorder is put before it.
        at_once: Whether it starts with the runner, or when the database is ready.
        priority: Small numbers start first and end last.
        stop_signal: Signal of an orderly end.
        user: System user, or None for the caller.
    """

    name: str
    command: Sequence[str]
    at_once: bool = False
    priority: int = 20
    stop_signal: str = "TERM"
    user: str | None = None


def all_programs(home: Home, ports: Ports, server: Server) -> list[Program]:
    """Return the services in the order in which they start."""
    return [
        Program("postgres", server.command(ports.postgres), True, 10, "INT", server.user),
        Program("mlflow", _mlflow(home, ports), at_once=True),
        *(Program(service, _airflow(service)) for service in AIRFLOW_SERVICES),
    ]


def write_configuration(home: Home, programs: Sequence[Program]) -> Path:
    """Write supervisor's configuration and return its path."""
    path = home.run / "supervisord.conf"
    sections = [_supervisor_section(home), *(_program_section(home, program) for program in programs)]
    path.write_text("\n".join(sections))
    return path


def control_socket(home: Home) -> Path:
    """Return the path of supervisor's socket: in the home, or in a private short folder when that path is too long.

    Raises:
        StackError: The short folder exists and belongs to somebody else.
    """
    path = home.run / "supervisor.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    folder = Path(tempfile.gettempdir()) / f"nightshift-{os.geteuid()}-{hashlib.sha256(bytes(path)).hexdigest()[:12]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StackError(f"{folder} belongs to another user; remove it or set NIGHTSHIFT_HOME to a shorter path")
    return folder / "supervisor.sock"


def _mlflow(home: Home, ports: Ports) -> list[str]:
    return [
        *(str(PYTHON), "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(ports.mlflow), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home.mlflow / 'mlflow.db'}"),
        *("--artifacts-destination", str(home.mlflow / "artifacts"), "--serve-artifacts"),
    ]


def _airflow(service: str) -> list[str]:
    """Return an Airflow component's command.

    The log servers are off: Airflow 3.3.2 binds them to every interface, and all logs are files of this machine that
    the API server reads by itself.
    """
    command = [str(PYTHON), "-m", "airflow", service]
    return [*command, "--skip-serve-logs"] if service in {"scheduler", "triggerer"} else command


def _supervisor_section(home: Home) -> str:
    socket = control_socket(home)
    return f"""[supervisord]
nodaemon=true
logfile={_plain(home.logs / "supervisor.log")}
logfile_maxbytes=10MB
logfile_backups=1
pidfile={_plain(home.run / "supervisord.pid")}
childlogdir={_plain(home.logs)}
umask=077
{"user=root" if os.geteuid() == 0 else ""}

[unix_http_server]
file={_plain(socket)}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


def _program_section(home: Home, program: Program) -> str:
    database = program.name == "postgres"
    whole_group = str(not database).lower()  # the postmaster ends its own children, in order
    return f"""[program:{program.name}]
command={_plain(shlex.join(_recorded(home, program)))}
directory={_plain(home.root)}
autostart={str(program.at_once).lower()}
autorestart=true
startsecs=0
priority={program.priority}
stopsignal={program.stop_signal}
stopasgroup={whole_group}
killasgroup={whole_group}
stopwaitsecs={60 if database else 10}
redirect_stderr=true
stdout_logfile={_plain(home.logs / f"{program.name}.log")}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
"""


def _recorded(home: Home, program: Program) -> list[str]:
    launch = REPOSITORY / "docker" / "local" / "embedded" / "launch.py"
    record = home.records / f"service-{program.name}.json"
    user = ["--user", program.user] if program.user else []
    return [str(PYTHON), "-P", str(launch), str(record), program.name, *user, "--", *program.command]


def _plain(value: object) -> str:
    """Keep supervisor from expanding ``%`` in a value."""
    return str(value).replace("%", "%%")
