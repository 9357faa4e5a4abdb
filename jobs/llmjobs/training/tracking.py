"""MLflow as a mirror: curves and system metrics while a run works. Without it the run works just the same.

Everything is in ``metrics.jsonl`` and the lake first. A server that is absent, slow or lost in the middle costs a
few seconds once, and one sentence in the log and in the result.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from llmjobs.contracts.environment import Identity
from llmjobs.mlflow_server import reach

logger = logging.getLogger(__name__)

_FLUSH_EVERY_SECONDS = 3.0
_SAMPLE_EVERY_SECONDS = 5.0


class Tracking:
    """One MLflow run; a resumed training goes on in the same one.

    Args:
        folder: Working folder of the training, where the run's id is remembered.
        experiment: Name of the experiment.
        run_name: Name of the run.
        params: What is fixed during the run.
    """

    def __init__(self, folder: Path, *, experiment: str, run_name: str, params: dict[str, Any]) -> None:
        """Open or go on with the run; never raises."""
        self._remembered = folder / "mlflow_run_id"
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()
        self._monitor: Any = None
        self.run_id = self.url = ""
        self._mlflow, self.note = reach()
        if self._mlflow is not None:
            self._try("start", lambda: self._open(experiment, run_name, params))
        if self.note:
            logger.warning(self.note)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Hand over one step's figures; they are sent every few seconds."""
        if self._mlflow is None:
            return
        now = time.time_ns() // 1_000_000
        self._pending += [(key, value, now, step) for key, value in metrics.items()]
        if time.monotonic() - self._flushed >= _FLUSH_EVERY_SECONDS:
            self._try("log", self._flush)

    def close(self, status: str) -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED`` (interrupted: it will go on)."""
        if self._mlflow is None:
            return
        client = self._mlflow.client

        def end() -> None:
            if self._monitor is not None:
                self._monitor.finish()
            self._flush()
            client.set_terminated(self.run_id, status)

        self._try("close", end)

    def _open(self, experiment: str, run_name: str, params: dict[str, Any]) -> None:
        assert self._mlflow is not None
        client = self._mlflow.client
        known = client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else client.create_experiment(experiment)
        self.run_id = self._existing_run(client, experiment_id)
        resumed = bool(self.run_id)
        if resumed:
            client.update_run(self.run_id, status="RUNNING")
        else:
            tags = {f"nightshift.{key}": str(value) for key, value in Identity.from_environment().as_dict().items()}
            self.run_id = client.create_run(experiment_id, tags=tags, run_name=run_name).info.run_id
            for key, value in params.items():
                client.log_param(self.run_id, key, value)
            self._remembered.write_text(self.run_id, encoding="utf-8")
        self.url = self._mlflow.run_url(experiment_id, self.run_id)
        self._start_monitor(resumed)
        logger.info("MLflow run: %s", self.url)

    def _existing_run(self, client: Any, experiment_id: str) -> str:
        """Return the run of an interrupted training, unless MLflow has lost it."""
        if not self._remembered.is_file():
            return ""
        from mlflow.exceptions import MlflowException

        run_id = self._remembered.read_text(encoding="utf-8")
        try:
            info = client.get_run(run_id).info
        except MlflowException:
            return ""
        return run_id if info.experiment_id == experiment_id and info.lifecycle_stage == "active" else ""

    def _start_monitor(self, resumed: bool) -> None:
        """Sample CPU, memory and, where there is one, the GPU, in MLflow's own thread."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        assert self._mlflow is not None
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._monitor = SystemMetricsMonitor(
            self.run_id,
            sampling_interval=_SAMPLE_EVERY_SECONDS,
            resume_logging=resumed,
            tracking_uri=self._mlflow.url,
        )
        self._monitor.start()

    def _flush(self) -> None:
        from mlflow.entities import Metric

        assert self._mlflow is not None
        batch, self._pending = self._pending, []
        self._flushed = time.monotonic()
        if batch:
            self._mlflow.client.log_batch(self.run_id, metrics=[Metric(*one) for one in batch])

    def _try(self, what: str, action: Any) -> None:
        """Do something with MLflow; on any failure do without it from now on."""
        try:
            action()
        except Exception as error:
            self.note = f"MLflow failed to {what} ({type(error).__name__}: {str(error)[:200]}); the run goes on without"
            logger.warning(self.note)
            self._mlflow = None
