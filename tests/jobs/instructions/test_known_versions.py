"""A version's id is a promise: the same rows under the same contract have the id that they had in earlier releases."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import prepare
from llmjobs.lake import Lake

ROOT = Path(__file__).parents[3]
SAMPLES = "bd4b5de93732b25f1be2f9a5c5a9d90c"
"""Of the samples of ``tickets`` under its contract: another row or rule may change it, a faster program may not."""


def test_the_samples_lead_to_the_version_that_they_always_led_to(lake: Lake, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docker/local/samples/raw", tmp_path / "lake" / "raw")
    result = prepare.run(PrepareConfig.from_yaml(ROOT / "dags/configs/prepare_instructions/tickets.yaml"))
    assert (result.rows_in, result.published, result.version) == (824, 768, SAMPLES)
    assert lake.manifest("datasets", "tickets", SAMPLES) is not None
