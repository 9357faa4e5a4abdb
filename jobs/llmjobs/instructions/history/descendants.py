"""What was made from a dataset version: adapters, evaluations, rendered text."""

from __future__ import annotations

from collections.abc import Collection

from llmjobs.contracts.manifest import Manifest
from llmjobs.lake import MANIFEST, Lake


def made_from(lake: Lake, name: str, versions: Collection[str]) -> list[Manifest]:
    """Return the manifests of everything in the lake that names one of these versions as its input.

    A manifest names its dataset by the inputs ``dataset`` (a version without it counts, too) and ``dataset_version``.

    Args:
        lake: The lake.
        name: The dataset.
        versions: Ids of its versions.
    """
    found = []
    for path in lake.find(f"*/*/versions/*/{MANIFEST}"):
        kind, artifact, _, version, _ = path.split("/")
        if kind in {"datasets", "audits"}:
            continue
        manifest = lake.manifest(kind, artifact, version)
        if manifest is not None and _fed_by(manifest, name, versions):
            found.append(manifest)
    return sorted(found, key=lambda one: (one.kind, one.name, one.created_at))


def _fed_by(manifest: Manifest, name: str, versions: Collection[str]) -> bool:
    inputs = manifest.inputs
    return inputs.get("dataset", name) == name and inputs.get("dataset_version") in versions
