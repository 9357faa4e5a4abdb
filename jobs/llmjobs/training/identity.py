"""Which adapter a config means: dataset version, base revision and the version that follows from both."""

from __future__ import annotations

from dataclasses import dataclass

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.manifest import Manifest
from llmjobs.contracts.sweeping import Settings
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.models import model_revision
from llmjobs.training.data.rows import dataset_version

ADAPTERS = "adapters"
EVALUATIONS = "evaluations"
DECISIONS = "decisions"
SWEEPS = "sweeps"
DIVERGENCES = "divergences"
CHAMPION = "champion"


@dataclass(frozen=True)
class AdapterIdentity:
    """The adapter of one config.

    Attributes:
        config: The config with its dataset version filled in.
        base_revision: Of the base's weights.
        version: Of ``adapters/<name>``.
    """

    config: TrainConfig
    base_revision: str
    version: str


def identify(config: TrainConfig, lake: Lake) -> AdapterIdentity:
    """Return the adapter that `config` means today, without loading or downloading anything.

    Raises:
        BadData: The dataset has no such version, or none yet.
        BadConfig: The base is not to be had.
    """
    dataset = dataset_version(lake, config.dataset, config.dataset_version)
    revision = model_revision(config.model.name, config.model.revision)
    pinned = config.model_copy(update={"dataset_version": dataset})
    return AdapterIdentity(pinned, revision, config.adapter_version(dataset, revision))


@dataclass(frozen=True)
class SweepIdentity:
    """The sweep of one config.

    Attributes:
        candidates: Its adapters, the smallest values first.
        settings: Their values, by their versions.
        version: Of ``sweeps/<name>``.
    """

    candidates: list[AdapterIdentity]
    settings: dict[str, Settings]
    version: str


def identify_sweep(config: TrainConfig, lake: Lake) -> SweepIdentity:
    """Return the sweep that `config` means today, without loading or downloading anything.

    Raises:
        BadData: As `identify`.
        BadConfig: As `identify`.
    """
    candidates = [identify(one, lake) for one in config.candidates]
    versions = [one.version for one in candidates]
    settings = dict(zip(versions, config.sweep.candidates if config.sweep else [{}], strict=True))
    return SweepIdentity(candidates, settings, config.sweep_version(versions, candidates[0].config.dataset_version))


def champion_version(lake: Lake, name: str) -> str:
    """Return the version that ``champion`` points at, or an empty string."""
    pointer = lake.pointer(ADAPTERS, name, CHAMPION)
    return pointer.version if pointer else ""


def adapter_manifest(lake: Lake, name: str, version: str = "") -> Manifest:
    """Return the manifest of an adapter; without a version of the champion.

    Raises:
        BadData: There is none.
    """
    wanted = version or champion_version(lake, name)
    manifest = lake.manifest(ADAPTERS, name, wanted) if wanted else None
    if manifest is None:
        raise BadData(
            f"{ADAPTERS}/{name}: there is no version {wanted or '(and no champion)'}; name one as NAME@VERSION"
        )
    return manifest


def evaluation_version(lake: Lake, adapter: AdapterIdentity) -> str:
    """Return the version of the evaluation of `adapter` against today's champion.

    A candidate that is champion already is compared with the base alone.
    """
    champion = champion_version(lake, adapter.config.name)
    rival = "" if champion == adapter.version else champion
    sets = [dataset_version(lake, one.dataset, one.version) for one in adapter.config.evaluate.regression]
    return adapter.config.evaluation_version(adapter.version, rival, adapter.config.dataset_version, sets)
