"""Train an adapter of the lake again from its manifest, and tell whether the same bytes come out.

    python -m llmjobs.training.rerun NAME[@VERSION]      (without a version: the champion)

Nothing is published and MLflow is not told. Equal bytes are promised on a CPU with the same packages and number of
threads, for a run that kept one layout; what differs today is said first.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.environment import MLFLOW_URL
from llmjobs.contracts.errors import BadConfig, ExitCode, JobError
from llmjobs.contracts.manifest import Manifest
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.logs import configure_logging
from llmjobs.models import ResolvedModel, resolve_model
from llmjobs.training.adapter_files import WEIGHTS, check_weights
from llmjobs.training.data.rows import dataset_version
from llmjobs.training.identity import AdapterIdentity, adapter_manifest
from llmjobs.training.publication.provenance import base_files, computed_on, package_versions
from llmjobs.training.stopping import StopSignal
from llmjobs.training.train import trained
from llmjobs.training.worker import layout_here

DIFFERENT = 1
"""Exit code of a rerun that ended in other bytes."""


@dataclass(frozen=True)
class Rerun:
    """How a rerun ended.

    Attributes:
        differences: What is not as it was; one sentence each.
        sha256: Of the weights now; ``published``: of those in the lake.
    """

    version: str
    differences: list[str]
    sha256: str
    published: str

    @property
    def equal(self) -> bool:
        """Whether the bytes are the same."""
        return self.sha256 == self.published

    def lines(self) -> list[str]:
        """Return it for the terminal."""
        verdict = "the same bytes" if self.equal else f"other bytes: {self.sha256}, published {self.published}"
        return [*(f"differs: {one}" for one in self.differences), f"adapter {self.version}: {verdict}"]


def rerun(name: str, version: str, lake: Lake, stop: StopSignal) -> Rerun:
    """Train again in a folder of its own and compare.

    Args:
        name: Of the adapter.
        version: Of the adapter; empty: the champion.
        lake: Where manifest and dataset are.
        stop: Ends the run; nothing of it is kept.

    Raises:
        BadData: No such adapter, or its dataset version is gone.
        BadConfig: Its base is gone, or the manifest is of an older version and has no config.
    """
    manifest = adapter_manifest(lake, name, version)
    config = config_of(manifest)
    dataset_version(lake, config.dataset, config.dataset_version)
    base = resolve_model(config.model.name, config.model.revision)
    differences = differences_of(manifest, config, base)
    identity = AdapterIdentity(config, base.revision, manifest.version)
    with tempfile.TemporaryDirectory() as scratch:
        run = trained(identity, base, Path(scratch), stop)
        now = check_weights(run.checkpoint.adapter_path / WEIGHTS).sha256
    return Rerun(manifest.version, differences, now, manifest.metrics["adapter_sha256"])


def config_of(manifest: Manifest) -> TrainConfig:
    """Return the config of an adapter, on as many processes and threads as it was trained, all of them here.

    Raises:
        BadConfig: The manifest has none.
    """
    inputs = manifest.inputs
    if "config" not in inputs or "machine" not in inputs:
        raise BadConfig(
            f"adapter {manifest.name}@{manifest.version}: its manifest is of an older version, without config"
        )
    config = TrainConfig.from_mapping(inputs["config"], origin=f"manifest of {manifest.name}@{manifest.version}")
    layout = inputs["layout"]
    strategy = "auto" if layout["strategy"] == "single" else layout["strategy"]
    threads = inputs["machine"]["threads"]
    spread = {"strategy": strategy, "processes": layout["processes"], "nodes": 1, "threads": threads}
    return config.model_copy(
        update={
            "dist": config.dist.model_copy(update=spread),
            "train": config.train.model_copy(update={"micro_batch_size": layout["micro_batch_size"]}),
        }
    )


def differences_of(manifest: Manifest, config: TrainConfig, base: ResolvedModel) -> list[str]:
    """Return what is not today as the manifest says: base, packages, machine, and how the run went."""
    inputs = manifest.inputs
    then = {"base_revision": inputs["base_revision"], **_flat("base", inputs["base_files"])}
    now = {"base_revision": base.revision, **_flat("base", base_files(Path(base.path)))}
    then |= {**_flat("package", inputs["packages"]), **_flat("machine", inputs["machine"])}
    now |= {**_flat("package", package_versions()), **_flat("machine", computed_on(layout_here(config)))}
    changed = [
        f"{key} is {now.get(key, 'absent')}, was {then.get(key, 'absent')}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
    return [*changed, *manifest.metrics["elastic"]]


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix} {key}": value for key, value in values.items()}


def main(arguments: list[str]) -> int:
    """Rerun what the command line names; return 0 for equal bytes, 1 for others, or the exit code of the refusal."""
    configure_logging()
    stop = StopSignal()
    stop.install()
    os.environ.pop(MLFLOW_URL, None)
    try:
        if len(arguments) != 1:
            raise BadConfig("name one adapter: python -m llmjobs.training.rerun NAME[@VERSION]")
        name, _, version = arguments[0].partition("@")
        told = rerun(name, version, Lake.from_environment(), stop)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    sys.stdout.write("\n".join(told.lines()) + "\n")
    return int(ExitCode.DONE) if told.equal else DIFFERENT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
