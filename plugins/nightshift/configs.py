"""One YAML file, one DAG: reads the configs of a DAG file, and refuses the wrong ones alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from llmjobs.contracts.base import JobConfig
from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.errors import BadConfig

ConfigT = TypeVar("ConfigT", bound=JobConfig)

CHECKER = "check_configs.py"
"""DAG file without DAGs that turns wrong configs into an import error of its own, see `refuse_wrong_configs`."""

logger = logging.getLogger(__name__)


def each_config(dag_file: str, config_type: type[ConfigT]) -> Iterator[tuple[str, ConfigT]]:
    """Yield ``(name, config)`` for every ``configs/<stem of dag_file>/<name>.yaml`` beside a DAG file.

    A wrong file yields nothing and is left to `CHECKER`: an import error of the DAG file itself would stop its good
    DAGs too (Airflow 3.3.2 marks every DAG of a file with an import error as stale, `_update_import_errors`).

    Args:
        dag_file: The DAG file's own ``__file__``: a versioned bundle lies elsewhere in every run.
        config_type: The job's config model.

    Raises:
        BadConfig: A config is wrong, after the last good one, and no `CHECKER` is there to say so.
    """
    home, stem = Path(dag_file).parent, Path(dag_file).stem
    errors: list[str] = []
    for name, config in _read(home, stem, config_type):
        if isinstance(config, BadConfig):
            errors.append(str(config))
        else:
            yield name, config
    if errors and not (home / CHECKER).is_file():
        raise BadConfig("\n".join(errors))
    for error in errors:
        logger.error("No DAG for a wrong config: %s", error)


def contracts_beside(dag_file: str) -> dict[str, DataContract]:
    """Return name -> contract for every readable ``contracts/<name>.yaml`` beside a DAG file.

    A wrong one is left out and left to `CHECKER`, as with configs.
    """
    found = _contracts(Path(dag_file).parent)
    return {name: contract for name, contract in found if isinstance(contract, DataContract)}


def refuse_wrong_configs(checker_file: str, config_types: Mapping[str, type[JobConfig]]) -> None:
    """Raise when a config beside `checker_file` is wrong; Airflow then shows one import error with all of them.

    Args:
        checker_file: The checker's own ``__file__``.
        config_types: DAG file's stem -> config model.

    Raises:
        BadConfig: One line for each wrong field of each wrong file, and for a file or folder that nobody reads.
    """
    home = Path(checker_file).parent
    errors = list(_misnamed(home))
    for folder in sorted(path for path in (home / "configs").iterdir() if path.is_dir()):
        config_type = config_types.get(folder.name)
        if config_type is None:
            known = ", ".join(sorted(config_types))
            errors.append(f"configs/{folder.name}: {Path(checker_file).name} names no config model for it ({known})")
            continue
        found = _read(home, folder.name, config_type)
        errors += [str(config) for _, config in found if isinstance(config, BadConfig)]
    errors += [str(contract) for _, contract in _contracts(home) if isinstance(contract, BadConfig)]
    if errors:
        # A contract's error is found again with each config that names it.
        raise BadConfig("\n".join(dict.fromkeys("\n".join(errors).splitlines())))


def _contracts(home: Path) -> Iterator[tuple[str, DataContract | BadConfig]]:
    for path in sorted((home / "contracts").glob("*.yaml")):
        yield path.stem, _read_one(home, path, DataContract)


def _misnamed(home: Path) -> Iterator[str]:
    """Yield a sentence for each YAML file that is left out because its name does not end in ``.yaml``."""
    for path in sorted([*(home / "configs").rglob("*"), *(home / "contracts").rglob("*")]):
        if path.suffix != ".yaml" and path.suffix.lower() in {".yml", ".yaml"}:
            yield f"{path.relative_to(home)}: is not read; rename it to {path.stem}.yaml"


def _read(home: Path, stem: str, config_type: type[ConfigT]) -> Iterator[tuple[str, ConfigT | BadConfig]]:
    """Yield each config, or what is wrong with it; its files are named relative to `home`."""
    for path in sorted((home / "configs" / stem).glob("*.yaml")):
        yield path.stem, _read_one(home, path, config_type)


def _read_one(home: Path, path: Path, config_type: type[ConfigT]) -> ConfigT | BadConfig:
    try:
        return config_type.from_yaml(path)
    except BadConfig as error:
        return BadConfig(str(error).replace(f"{home}/", ""))
