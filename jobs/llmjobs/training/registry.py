"""MLflow's model registry as a mirror of the lake: one model for each adapter name, the alias ``champion``.

The lake decides. What could not be mirrored in one night is put right when MLflow is reached again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmjobs.contracts.manifest import Manifest
from llmjobs.lake import MANIFEST, Lake
from llmjobs.mlflow_server import Reached, reach
from llmjobs.training.identity import ADAPTERS, CHAMPION, champion_version

logger = logging.getLogger(__name__)

_VERSION_TAG = "adapter_version"


def mirror(lake: Lake, name: str, versions: list[str]) -> tuple[str, str]:
    """Register adapter versions and set the alias where the lake's champion is; best effort.

    Args:
        lake: The truth.
        name: The adapter's name.
        versions: Adapter versions to register besides the champion.

    Returns:
        The model's page, and one sentence when MLflow was not brought up to date (else empty).
    """
    mlflow, why = reach()
    if mlflow is None:
        logger.warning(why)
        return "", why
    try:
        return _mirror(mlflow, lake, name, versions), ""
    except Exception as error:
        why = f"MLflow's registry was not brought up to date ({type(error).__name__}: {str(error)[:200]})"
        logger.warning(why)
        return "", why


def tag(lake: Lake, name: str, version: str, tags: dict[str, str]) -> str:
    """Put tags on an adapter's version in the registry, registering it where it is not; best effort.

    Returns:
        One sentence when MLflow did not take them (else empty).
    """
    mlflow, why = reach()
    if mlflow is None:
        return why
    try:
        _mirror(mlflow, lake, name, [version])
        model = f"nightshift-{name}"
        registered = _registered(mlflow, model)[version]
        for key, value in tags.items():
            mlflow.client.set_model_version_tag(model, registered, key, value)
    except Exception as error:
        return f"MLflow did not take the tags of adapter {name} ({type(error).__name__}: {str(error)[:200]})"
    return ""


def _mirror(mlflow: Reached, lake: Lake, name: str, versions: list[str]) -> str:
    model, champion = f"nightshift-{name}", champion_version(lake, name)
    known = _registered(mlflow, model)
    for version in dict.fromkeys([*versions, champion]):
        manifest = lake.manifest(ADAPTERS, name, version) if version and version not in known else None
        if manifest is not None:
            known[version] = _register(mlflow, lake, model, manifest)
    if champion in known:
        mlflow.client.set_registered_model_alias(model, CHAMPION, known[champion])
    return f"{mlflow.url}/#/models/{model}"


def _registered(mlflow: Reached, model: str) -> dict[str, str]:
    """Return adapter version -> registry version; make the model if it is absent."""
    from mlflow.exceptions import MlflowException

    try:
        mlflow.client.create_registered_model(model, description="Adapters of Nightshift; the lake holds the files.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = mlflow.client.search_model_versions(f"name='{model}'")
    return {one.tags[_VERSION_TAG]: one.version for one in found if _VERSION_TAG in one.tags}


def _register(mlflow: Reached, lake: Lake, model: str, manifest: Manifest) -> str:
    """Register one adapter: its manifest as an artifact of its run, its lineage as tags."""
    run_id = manifest.inputs.get("mlflow_run_id") or _run_for(mlflow, manifest)
    # MLflow refuses a local path as a version's source ("Invalid model version source", 3.17), so the source is the
    # run's artifact: the manifest, which says where the files are and what their hashes are.
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / MANIFEST
        path.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        mlflow.client.log_artifact(run_id, str(path), "adapter")
    version = mlflow.client.create_model_version(
        model, source=f"runs:/{run_id}/adapter", run_id=run_id, tags=_lineage(lake, manifest)
    )
    return str(version.version)


def _run_for(mlflow: Reached, manifest: Manifest) -> str:
    """Return a run for an adapter that was trained while MLflow was away."""
    experiment = f"nightshift/{manifest.name}"
    known = mlflow.client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else mlflow.client.create_experiment(experiment)
    run = mlflow.client.create_run(experiment_id, run_name=manifest.version)
    mlflow.client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def _lineage(lake: Lake, manifest: Manifest) -> dict[str, str]:
    inputs: dict[str, Any] = manifest.inputs
    fields = ("dataset", "dataset_version", "base_model", "base_revision", "config_digest", "seed")
    return {
        _VERSION_TAG: manifest.version,
        "url": lake.version_url(ADAPTERS, manifest.name, manifest.version),
        **{field: str(inputs[field]) for field in fields},
        **{f"produced_by.{key}": str(value) for key, value in manifest.produced_by.items()},
    }
