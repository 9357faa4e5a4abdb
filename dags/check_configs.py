"""Holds no DAG: it turns wrong YAML files into an import error that names file, field and fix.

It is a file of its own because Airflow stops every DAG of a file that has an import error; so the DAGs of the good
configs run on. A new DAG file adds its line here.
"""

from __future__ import annotations

from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.contracts.training import TrainConfig
from nightshift.configs import refuse_wrong_configs

refuse_wrong_configs(
    __file__,
    {
        "prepare_instructions": PrepareConfig,
        "train_adapter": TrainConfig,
        "refresh_embeddings": RefreshConfig,
    },
)
