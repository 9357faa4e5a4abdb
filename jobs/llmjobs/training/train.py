"""Job: dataset version and recipe -> adapter version in the lake.

    python -m llmjobs.training.train                            (config as JSON in LLMJOBS_CONFIG)
    python -m llmjobs.training.train --print-effective [FILE]   (what a recipe means here; trains nothing)

The adapter's version follows from the dataset's content, the base's weights and the recipe. One that is there is
returned at once. A run that was killed goes on from its newest valid checkpoint and ends, on a CPU with the
same number of threads, in the same bytes as a run that was not.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts import environment
from llmjobs.contracts.base import JobResult
from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.contracts.manifest import Manifest
from llmjobs.contracts.training import SCHEMA, TrainConfig
from llmjobs.contracts.training_results import TrainResult
from llmjobs.lake import Lake
from llmjobs.models import ResolvedModel, resolve_model
from llmjobs.results import main
from llmjobs.training import effective, launcher, nodes, worker
from llmjobs.training.adapter_files import WeightsReport, assemble, model_card
from llmjobs.training.curves import mean_rate, read_curves
from llmjobs.training.identity import ADAPTERS, AdapterIdentity, identify
from llmjobs.training.live import Live
from llmjobs.training.publication import attempts
from llmjobs.training.publication.divergence import divergence_kept
from llmjobs.training.publication.provenance import base_files, computed_on, package_versions
from llmjobs.training.publication.self_test import SelfTest, self_test
from llmjobs.training.rendezvous import NodeResult, Rendezvous, rendezvous_of
from llmjobs.training.sharding import Layout, wait_without_spinning
from llmjobs.training.state.checkpoints import Checkpoint, CheckpointStore, changes_of
from llmjobs.training.stopping import StopSignal

logger = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 300


def run_node(config: TrainConfig) -> JobResult:
    """Train as `run`, or be one of the other nodes of a training that node 0 runs.

    Raises:
        JobError: As `run`; the environment does not say which node this is.
    """
    place = rendezvous_of(config.dist.nodes, os.environ)
    return _follow(config, place) if place and place.node_rank else run(config)


def run(config: TrainConfig) -> TrainResult:
    """Train the adapter that `config` means, unless it is there.

    Raises:
        BadData: Dataset absent, or rows that cannot be trained on.
        BadConfig: Base absent, or a batch that cannot be cut.
        Interrupted: A signal came; a rerun goes on.
        Diverged: The loss is no number.
        OutOfMemory: Of the GPU.
    """
    stop = StopSignal()
    stop.install()
    wait_without_spinning()
    lake = Lake.from_environment()
    adapter = identify(config, lake)
    live = Live.of_task(lake, name=config.name, version=adapter.version)
    live.phase("starting")
    reused = _existing(lake, adapter)
    if reused:
        return reused
    folder = _working_folder(lake, adapter)
    with live.ending_told(), _alone(folder, live), divergence_kept(lake, adapter):
        # Another run may have trained the same adapter while this one waited for the lock.
        return _existing(lake, adapter) or _train(lake, adapter, folder, stop, live)


def _follow(config: TrainConfig, place: Rendezvous) -> NodeResult:
    stop = StopSignal()
    stop.install()
    wait_without_spinning()
    lake = Lake.from_environment()
    adapter = identify(config, lake)
    base = resolve_model(adapter.config.model.name, adapter.config.model.revision)
    assignment = _assignment(adapter, base, _working_folder(lake, adapter))
    nodes.follow(assignment, worker.layout_here(adapter.config), place, stop, lambda: bool(_existing(lake, adapter)))
    return NodeResult(name=config.name, version=adapter.version, node_rank=place.node_rank)


def _existing(lake: Lake, adapter: AdapterIdentity) -> TrainResult | None:
    manifest = lake.manifest(ADAPTERS, adapter.config.name, adapter.version)
    if manifest is None:
        return None
    logger.info("adapter %s version %s is there already: nothing to train", adapter.config.name, adapter.version)
    return _result(lake, manifest, reused=True)


def _working_folder(lake: Lake, adapter: AdapterIdentity) -> Path:
    """Return the folder of checkpoints and lock: ours by name, else the lake's, else this machine's."""
    parts = (ADAPTERS, adapter.config.name, adapter.version)
    if given := os.environ.get(environment.WORK_FOLDER, ""):
        folder = Path(given).joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder_of_lake = lake.working_folder(*parts)
    if folder_of_lake is None:
        if adapter.config.dist.nodes > 1:
            raise BadConfig(
                f"dist.nodes ({adapter.config.dist.nodes}) needs a lake in a folder that every node mounts, for they "
                f"share its checkpoints, but LLMJOBS_LAKE_URL names an object store: set {environment.WORK_FOLDER} to "
                "such a folder (in pods: [nightshift] work_claim), or dist.nodes to 1"
            )
        folder = Path(tempfile.gettempdir()).joinpath("nightshift-work", *parts)
        folder.mkdir(parents=True, exist_ok=True)
        logger.warning(
            "the lake is remote: checkpoints stay on this machine, in %s, unless %s names a folder", folder,
            environment.WORK_FOLDER,
        )  # fmt: skip
        return folder
    return folder_of_lake


@contextmanager
def _alone(folder: Path, live: Live) -> Iterator[None]:
    """Hold the folder's lock, which the kernel frees with the process.

    Raises:
        JobError: Another run held it for too long.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        live.phase("waiting")
        logger.info("another run trains this adapter; waiting up to %d s for it", LOCK_WAIT_SECONDS)
        try:
            lock.acquire(timeout=LOCK_WAIT_SECONDS)
        except Timeout:
            raise JobError(
                f"another run has been training this adapter for over {LOCK_WAIT_SECONDS} s (lock {folder / 'lock'}); "
                "try again when it is done"
            ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class TrainedRun:
    """A run that has nothing left to do but to publish."""

    outcome: worker.Outcome
    checkpoint: Checkpoint
    layout: Layout


def _train(lake: Lake, adapter: AdapterIdentity, folder: Path, stop: StopSignal, live: Live) -> TrainResult:
    base = resolve_model(adapter.config.model.name, adapter.config.model.revision)
    run = trained(adapter, base, folder, stop)
    manifest = _publish(lake, adapter, base, run, folder=folder, live=live)
    # Nothing goes on from a finished run: the adapter is in the lake.
    for leftover in (worker.CHECKPOINTS, "scratch"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    (folder / attempts.ATTEMPTS).unlink(missing_ok=True)
    return _result(lake, manifest, reused=False)


def trained(adapter: AdapterIdentity, base: ResolvedModel, folder: Path, stop: StopSignal) -> TrainedRun:
    """Train, or go on training, in `folder` until the finished checkpoint is there; nothing is published.

    Raises:
        JobError: As `run`.
    """
    config = adapter.config
    layout = worker.layout_here(config)
    (folder / worker.OUTCOME).unlink(missing_ok=True)
    assignment = _assignment(adapter, base, folder)
    place = rendezvous_of(config.dist.nodes, os.environ)
    if place:
        nodes.lead(assignment, layout, place, stop)
        stop.install()
    elif layout.distributed:
        launcher.launch(assignment, layout)
        stop.install()
    else:
        worker.work(assignment, stop)
    outcome = worker.Outcome.model_validate_json((folder / worker.OUTCOME).read_text(encoding="utf-8"))
    store = CheckpointStore(folder / worker.CHECKPOINTS, layout.checkpoint_layout())
    checkpoint = store.newest_valid()
    if checkpoint is None or not checkpoint.finished:
        raise JobError(f"{store.folder}: the finished checkpoint is gone; run the training again")
    return TrainedRun(outcome, checkpoint, layout)


def _assignment(adapter: AdapterIdentity, base: ResolvedModel, folder: Path) -> worker.Assignment:
    return worker.Assignment(
        config=adapter.config, model_path=base.path, folder=str(folder), adapter_version=adapter.version
    )


def _publish(
    lake: Lake, adapter: AdapterIdentity, base: ResolvedModel, run: TrainedRun, *, folder: Path, live: Live
) -> Manifest:
    config, curves = adapter.config, folder / worker.CURVES
    source = run.checkpoint.adapter_path
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        report = assemble(source, target, config=config, base=base, curves=curves)
        live.phase("testing")
        tested = self_test(target, source, config=config, base=base, layout=run.layout)
        metrics = _metrics(run, report, tested, read_curves(curves))
        shown = {
            key: metrics[key] for key in ("steps", "train_rows", "tokens", "loss_first", "loss_last", "parameters")
        }
        card = model_card(config, version=adapter.version, base=base, figures=shown, checked=tested.sentences())
        (target / "README.md").write_text(card, encoding="utf-8")
        ended = attempts.end(folder)
        metrics["device_seconds"] = attempts.device_seconds(ended)
        inputs = _inputs(adapter, base, run, ended)
        live.phase("publishing")
        return lake.publish(
            target, kind=ADAPTERS, name=config.name, version=adapter.version, metrics=metrics, inputs=inputs
        )


def _inputs(
    adapter: AdapterIdentity, base: ResolvedModel, run: TrainedRun, tries: list[attempts.Attempt]
) -> dict[str, Any]:
    """Return everything that a rerun needs (`llmjobs.training.rerun`)."""
    config, machine = adapter.config, computed_on(run.layout)
    return {
        "dataset": config.dataset,
        "dataset_version": config.dataset_version,
        "base_model": base.name,
        "base_revision": base.revision,
        "base_origin": base.origin,
        "base_files": base_files(Path(base.path)),
        "recipe": config.recipe(),
        "config": config.model_dump(mode="json"),
        "config_digest": config.digest(),
        "seed": config.train.seed,
        "job_schema": SCHEMA,
        # The estimate of the next training learns from these two and `tokens_per_second`.
        "layout": run.layout.checkpoint_layout(),
        "device": machine["devices"][0],
        "machine": machine,
        "attempts": [one.model_dump() for one in tries],
        "packages": package_versions(),
        "mlflow_run_id": run.outcome.mlflow_run_id,
        "mlflow_run_url": run.outcome.mlflow_run_url,
    }


def _metrics(run: TrainedRun, report: WeightsReport, tested: SelfTest, curves: list[dict[str, Any]]) -> dict[str, Any]:
    outcome, checkpoint = run.outcome, run.checkpoint
    fresh = [line for line in curves if line["step"] > outcome.resumed_from_step]
    return {
        "steps": checkpoint.step,
        "published_step": checkpoint.step if checkpoint.best_step is None else checkpoint.best_step,
        "elastic": changes_of(checkpoint.layouts),
        "train_rows": outcome.train_rows,
        "over_long_rows": len(outcome.over_long),
        "over_long": outcome.over_long,
        "tokens": outcome.tokens,
        "trainable_tokens": outcome.trainable_tokens,
        "loss_first": curves[0]["loss"] if curves else 0.0,
        "loss_last": curves[-1]["loss"] if curves else 0.0,
        "seconds": round(sum(line["seconds"] for line in curves), 3),
        "tokens_per_second": round(fresh[-1]["tokens_per_second"], 1) if fresh else 0.0,
        **{name: mean_rate(curves, name) for name in ("tokens_per_second_per_device", "tflops_per_device", "mfu")},
        "resumed_from_step": outcome.resumed_from_step,
        "adapter_sha256": report.sha256,
        "tensors": report.tensors,
        "parameters": report.parameters,
        "self_test": asdict(tested),
        "notes": [*outcome.notes, *checkpoint.notes()],
    }


def _result(lake: Lake, manifest: Manifest, *, reused: bool) -> TrainResult:
    metrics, inputs = manifest.metrics, manifest.inputs
    names = TrainResult.model_fields.keys() & metrics.keys()
    return TrainResult(
        name=manifest.name,
        version=manifest.version,
        adapter_url=lake.version_url(ADAPTERS, manifest.name, manifest.version),
        reused=reused,
        dataset=inputs["dataset"],
        dataset_version=inputs["dataset_version"],
        base_model=inputs["base_model"],
        base_revision=inputs["base_revision"],
        mlflow_run_url=inputs["mlflow_run_url"],
        **{name: metrics[name] for name in names},
    )


if __name__ == "__main__":
    if effective.OPTION in sys.argv[1:]:
        sys.exit(effective.show([argument for argument in sys.argv[1:] if argument != effective.OPTION]))
    sys.exit(main(TrainConfig, run_node))
