"""One YAML file, one DAG: reads the configs of a DAG file and refuses wrong ones alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from airflow.sdk import DAG

from llmjobs.contracts.base import JobConfig
from llmjobs.contracts.errors import BadConfig

ConfigT = TypeVar("ConfigT", bound=JobConfig)


class RefusedConfigs(DAG):
    """Stands in for the DAGs of wrong YAML files, so that their errors reach the UI.

    Airflow drops every DAG of a file whose module raises, but it validates DAGs one by one and keeps the
    valid ones of the file (`BundleDagBag.process_file`, Airflow 3.3.2). So this DAG's validation fails with the
    text of the errors: the file gets an import error, and the DAGs of its good configs run on.
    """

    refusal: str = ""

    def validate(self) -> None:
        """Refuse, always.

        Raises:
            BadConfig: One line for each wrong field of each wrong file.
        """
        raise BadConfig(self.refusal)


def each_config(dag_file: str, config_type: type[ConfigT]) -> Iterator[tuple[str, ConfigT]]:
    """Yield ``(name, config)`` for every ``configs/<stem of dag_file>/<name>.yaml`` beside a DAG file.

    Call it once, at the top of the DAG file, and exhaust it. Wrong files yield nothing and become one DAG import
    error together, which names file, field and fix.

    Args:
        dag_file: The DAG file's own ``__file__``: a versioned bundle lies elsewhere in every run.
        config_type: The job's config model.
    """
    home = Path(dag_file).parent
    errors: list[str] = []
    for path in sorted((home / "configs" / Path(dag_file).stem).glob("*.yaml")):
        try:
            config = config_type.from_yaml(path)
        except BadConfig as error:
            errors.append(str(error).replace(f"{home}/", ""))
        else:
            yield path.stem, config
    if errors:
        _refuse(Path(dag_file).stem, errors)


def _refuse(stem: str, errors: list[str]) -> None:
    """Leave a `RefusedConfigs` behind; ``with`` is what hands a DAG to the file that is being parsed."""
    refused = RefusedConfigs(dag_id=f"{stem}__refused")
    refused.refusal = "\n".join(errors)
    with refused:
        pass
