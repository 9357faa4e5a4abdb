"""The environment of every process of the stack: one function, so that tests and services see the same."""

from __future__ import annotations

import os

from embedded.home import REPOSITORY, Home, Ports, Secrets

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TERM", "TMPDIR", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN",
             "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
             "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
             "NIGHTSHIFT_NIGHTLY")  # fmt: skip
"""What a service may see of the caller's environment. `HF_HUB_OFFLINE` is the user's to set: without a hub the model
resolver takes the packaged models by itself."""

JOBS_SEE = ("NIGHTSHIFT_STACK", "SPT_NOENV", "PYTHONUNBUFFERED", "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
            "TORCH_EXTENSIONS_DIR", "MAX_JOBS",
            "TOKENIZERS_PARALLELISM", "GX_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "HF_ENDPOINT", "HF_TOKEN",
            "MLFLOW_DISABLE_TELEMETRY", "http_proxy", "https_proxy", "no_proxy")  # fmt: skip
"""What the local runner passes on to jobs beside its own list; the marker first of all."""

CACHE = REPOSITORY / ".cache"
LOOPBACK = "127.0.0.1"


def stack_environment(home: Home, ports: Ports | None = None) -> dict[str, str]:
    """Return the whole environment of a service, a task or a command of the stack at `home`.

    Args:
        home: The stack's home; its secrets are generated if they are not there yet.
        ports: The ports to use; by default those that the stack runs on.
    """
    ports = ports or home.ports()
    secrets = home.secrets()
    return {
        **_inherited(home),
        **_marker(home),
        **_jobs(home, ports, secrets),
        **_mlflow(),
        **_airflow(home, ports, secrets),
    }


def airflow_url(ports: Ports) -> str:
    """Return the base URL of Airflow's UI and API."""
    return f"http://{LOOPBACK}:{ports.airflow}"


def mlflow_url(ports: Ports) -> str:
    """Return the base URL of the MLflow server."""
    return f"http://{LOOPBACK}:{ports.mlflow}"


def database_url(ports: Ports, *, user: str, password: str, database: str, scheme: str = "postgresql") -> str:
    """Return a database URL. TCP on loopback with a password: no socket path limit, nothing that others may enter."""
    return f"{scheme}://{user}:{password}@{LOOPBACK}:{ports.postgres}/{database}"


def _inherited(home: Home) -> dict[str, str]:
    values = {name: os.environ[name] for name in INHERITED if os.environ.get(name)}
    values.setdefault("HOME", str(home.root))
    binaries = str(REPOSITORY / ".venv" / "bin")
    values["PATH"] = f"{binaries}:{values.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    return values


def _marker(home: Home) -> dict[str, str]:
    return {
        "NIGHTSHIFT_HOME": str(home.root),
        "NIGHTSHIFT_STACK": home.stack_id,
        "SPT_NOENV": "1",  # setproctitle overwrites the environment block, and with it the marker, unless told not to
        "PYTHONPATH": f"{REPOSITORY / 'jobs'}:{REPOSITORY / 'docker' / 'local' / 'policy'}",
        "PYTHONUNBUFFERED": "1",
    }


def _jobs(home: Home, ports: Ports, secrets: Secrets) -> dict[str, str]:
    return {
        "LLMJOBS_LAKE_URL": f"file://{home.lake}",
        "LLMJOBS_DATABASE_URL": database_url(
            ports, user="nightshift", password=secrets.nightshift_password, database="nightshift"
        ),
        "LLMJOBS_MODEL_CACHE": str(CACHE / "models"),
        "MLFLOW_TRACKING_URI": mlflow_url(ports),
        "TORCH_EXTENSIONS_DIR": str(CACHE / "torch_extensions"),
        "MAX_JOBS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve each other on a busy machine
        "TOKENIZERS_PARALLELISM": "false",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _mlflow() -> dict[str, str]:
    return {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # the job runner would cost 0.75 GB and has nothing to run
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _airflow(home: Home, ports: Ports, secrets: Secrets) -> dict[str, str]:
    settings = {
        "core": _airflow_core(home, ports, secrets),
        "database": _airflow_database(ports, secrets),
        "api": {
            "host": LOOPBACK,
            "port": str(ports.airflow),
            "base_url": airflow_url(ports),
            "workers": "1",
            "secret_key": secrets.api_secret_key,
        },
        "api_auth": {"jwt_secret": secrets.jwt_secret},
        "dag_processor": {"parsing_processes": "1", "dag_file_processor_timeout": "180", "refresh_interval": "30"},
        "scheduler": {"task_instance_heartbeat_timeout": "120"},
        "logging": {
            "base_log_folder": str(home.logs / "tasks"),
            "dag_processor_child_process_log_directory": str(home.logs / "dag_processor"),
        },
        "usage_data_collection": {"enabled": "False"},
        "nightshift": {"runner": "local", "local_environment": ",".join(JOBS_SEE)},
    }
    named = {f"AIRFLOW__{s.upper()}__{k.upper()}": v for s, values in settings.items() for k, v in values.items()}
    return {"AIRFLOW_HOME": str(home.airflow), **named}


def _airflow_core(home: Home, ports: Ports, secrets: Secrets) -> dict[str, str]:
    return {
        "dags_folder": str(REPOSITORY / "dags"),
        "plugins_folder": str(REPOSITORY / "plugins"),
        "load_examples": "False",
        "executor": "LocalExecutor",
        "parallelism": "4",  # the default of 32 keeps 28 more idle workers in memory
        "execution_api_server_url": f"{airflow_url(ports)}/execution/",
        "fernet_key": secrets.fernet_key,
        "hostname_callable": "embedded_host.loopback",
        "simple_auth_manager_users": "admin:admin",
        "simple_auth_manager_passwords_file": str(home.airflow / "passwords.json"),
        # A paused DAG would swallow both a trigger and an asset event without a word. What must not happen by
        # surprise is a night on a laptop, and that is what policy/airflow_local_settings.py prevents.
        "dags_are_paused_at_creation": "False",
        "dagbag_import_timeout": "120",
    }


def _airflow_database(ports: Ports, secrets: Secrets) -> dict[str, str]:
    def url(scheme: str) -> str:
        return database_url(ports, user="airflow", password=secrets.airflow_password, database="airflow", scheme=scheme)

    return {"sql_alchemy_conn": url("postgresql+psycopg2"), "sql_alchemy_conn_async": url("postgresql+asyncpg")}
