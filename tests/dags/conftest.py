"""The repository's DAGs, parsed once the way the DAG processor does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

DAGS = Path(__file__).parents[2] / "dags"


@pytest.fixture(scope="session")
def bag() -> BundleDagBag:
    """Every DAG file with every config of the repository."""
    return BundleDagBag(bundle_path=DAGS, bundle_name="nightshift", dag_folder=str(DAGS))
