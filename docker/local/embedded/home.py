"""Where the state of one stack lives, which ports it uses, and which secrets are its own.

The default place is ``.nightshift`` in the clone: two clones never share state, nothing is written into ``$HOME``
(which may be empty or absent), and removing the clone removes the state. Deleting the folder resets everything; the
environment (``.venv``) and the model cache (``.cache``) are outside, so a reset costs no download.

The folder is private (0700). PostgreSQL refuses to run as root; for that one case see `embedded.postgres`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from embedded.errors import StackError

REPOSITORY = Path(__file__).resolve().parents[3]
PYTHON = REPOSITORY / ".venv" / "bin" / "python"


@dataclass(frozen=True)
class Ports:
    """TCP ports on 127.0.0.1."""

    airflow: int
    mlflow: int
    postgres: int


PORT_VARIABLES = {
    "airflow": "NIGHTSHIFT_PORT",
    "mlflow": "NIGHTSHIFT_MLFLOW_PORT",
    "postgres": "NIGHTSHIFT_POSTGRES_PORT",
}
DEFAULT_PORTS = {"airflow": 8080, "mlflow": 5001, "postgres": 54329}
"""8080 is where people expect Airflow. 5001 and 54329 stay off the usual 5000 (registries, AirPlay) and 5432."""


@dataclass(frozen=True)
class Secrets:
    """Generated once for each home and kept in ``secrets.json`` (0600)."""

    admin_password: str
    postgres_password: str
    airflow_password: str
    nightshift_password: str
    jwt_secret: str
    api_secret_key: str
    fernet_key: str


@dataclass(frozen=True)
class Home:
    """The folder ``NIGHTSHIFT_HOME`` and the names of what is in it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """Return the home that ``NIGHTSHIFT_HOME`` names, by default ``.nightshift`` in the clone."""
        text = os.environ.get("NIGHTSHIFT_HOME") or str(REPOSITORY / ".nightshift")
        return cls(Path(text).expanduser().resolve())

    @property
    def stack_id(self) -> str:
        """Return the marker that every process of this home carries in its environment.

        It follows from the path alone, so that processes are found even after the folder was deleted under them.
        """
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:16]

    @property
    def run(self) -> Path:
        """Return the folder of what holds only while the stack runs: process records, ports, the control socket."""
        return self.root / "run"

    @property
    def records(self) -> Path:
        """Return the folder of process records, one JSON file each; the local runner records its jobs here too."""
        return self.run / "processes"

    @property
    def logs(self) -> Path:
        """Return the folder of the services' logs and of Airflow's task logs."""
        return self.root / "logs"

    @property
    def lake(self) -> Path:
        """Return the folder of the lake."""
        return self.root / "lake"

    @property
    def airflow(self) -> Path:
        """Return ``AIRFLOW_HOME``."""
        return self.root / "airflow"

    @property
    def mlflow(self) -> Path:
        """Return the folder of MLflow's database and artifacts."""
        return self.root / "mlflow"

    @property
    def postgres(self) -> Path:
        """Return PostgreSQL's data folder, or the link to it (see `embedded.postgres`)."""
        return self.root / "postgres"

    def create(self) -> None:
        """Make the folders, private to their owner.

        As root the home itself may be passed through (0711, not listed), because PostgreSQL's own user must reach its
        data in it; every folder in it is private.

        Raises:
            StackError: The folder holds something else: its modes and content are not ours to change.
        """
        ours = (self.root / "README").exists() or (self.root / "secrets.json").exists()
        if self.root.exists() and not ours and (not self.root.is_dir() or any(self.root.iterdir())):
            raise StackError(f"{self.root} is no Nightshift home and not empty; set NIGHTSHIFT_HOME to a new folder")
        self.root.mkdir(parents=True, exist_ok=True)
        # First of all: it marks the folder as ours, also when we are killed before the rest is made.
        (self.root / "README").write_text("State of a Nightshift stack. Deleting this folder resets everything.\n")
        self.root.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for folder in (self.records, self.logs, self.lake, self.airflow, self.mlflow / "artifacts"):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.run, self.logs, self.lake, self.airflow, self.mlflow):
            folder.chmod(0o700)

    def secrets(self) -> Secrets:
        """Return this home's secrets; generate and keep them the first time."""
        path = self.root / "secrets.json"
        if not path.exists():
            write_private(path, json.dumps(asdict(_generate()), indent=2) + "\n")
        return Secrets(**json.loads(path.read_text()))

    def ports(self) -> Ports:
        """Return the ports of the running stack, or those that the environment asks for."""
        recorded = self.recorded_ports()
        return recorded if recorded is not None else requested_ports()

    def recorded_ports(self) -> Ports | None:
        """Return the ports that the stack was started with, or None when it was never started or has ended."""
        path = self.run / "ports.json"
        return Ports(**json.loads(path.read_text())) if path.exists() else None

    def record_ports(self, ports: Ports) -> None:
        """Keep `ports` for commands that come later, such as ``make ask``."""
        (self.run / "ports.json").write_text(json.dumps(asdict(ports)))

    def forget_ports(self) -> None:
        """Forget the ports: the stack has ended."""
        (self.run / "ports.json").unlink(missing_ok=True)


def requested_ports() -> Ports:
    """Return the ports that the environment asks for.

    Raises:
        StackError: A variable holds no port number.
    """
    return Ports(**{name: _requested_port(name) for name in PORT_VARIABLES})


def _requested_port(name: str) -> int:
    variable = PORT_VARIABLES[name]
    text = os.environ.get(variable) or str(DEFAULT_PORTS[name])
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise StackError(f"{variable} must be a port number between 1 and 65535, got {text!r}")
    return int(text)


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path`, never readable by others, not even for a moment."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def _generate() -> Secrets:
    return Secrets(
        admin_password=secrets.token_urlsafe(12),
        postgres_password=secrets.token_hex(24),
        airflow_password=secrets.token_hex(24),
        nightshift_password=secrets.token_hex(24),
        jwt_secret=secrets.token_hex(32),
        api_secret_key=secrets.token_hex(32),
        fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    )
