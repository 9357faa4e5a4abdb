"""Run by torchrun, not by pytest: every strategy in one pair of processes, for imports cost 15 CPU seconds each.

    STRATEGIES='{"folder": ..., "model": ..., "runs": {name: config}}' torchrun --nproc-per-node 2 strategies.py

A run whose name ends in ``-stopped`` gets its signal on the second process alone, after three steps, and is then
run again. One named ``zero2-to-ddp`` is stopped likewise and goes on under the other strategy; one named
``single-to-zero2`` goes on from what one process has left in its folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from llmjobs.contracts.errors import Interrupted
from llmjobs.contracts.training import TrainConfig
from llmjobs.training.stopping import StopSignal
from llmjobs.training.worker import Assignment, ending_at_once, part_company, work


class StopAfterThreeSteps(StopSignal):
    """A signal that comes to one process of several, at a known step."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    @property
    def requested(self) -> bool:
        # Asked once before the training, then once a step.
        self._asked += 1
        return os.environ["RANK"] == "1" and self._asked > 3

    @requested.setter
    def requested(self, value: bool) -> None:
        del value


def forget_the_run_before() -> None:
    """Reset what accelerate, transformers and DeepSpeed keep for a process' whole life."""
    from accelerate.state import AcceleratorState, GradientState  # type: ignore[import-untyped]
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    unset_hf_deepspeed_config()
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


def main() -> None:
    given = json.loads(os.environ["STRATEGIES"])
    for name, values in given["runs"].items():
        folder = Path(given["folder"]) / name
        folder.mkdir(exist_ok=True)
        config = TrainConfig.from_mapping(values, origin=name)
        assignment = Assignment(config=config, model_path=given["model"], folder=str(folder), adapter_version=name)
        first, _, second = name.partition("-to-")
        if name.endswith("-stopped") or (second and first != "single"):
            try:
                work(assignment, StopAfterThreeSteps())
            except Interrupted:
                (folder / f"interrupted-{os.environ['RANK']}").touch()
            forget_the_run_before()
        if second == "single":
            continue  # the test goes on from here in a process of its own
        if second:
            other = config.dist.model_copy(update={"strategy": second})
            assignment = assignment.model_copy(update={"config": config.model_copy(update={"dist": other})})
        work(assignment, StopSignal())
        forget_the_run_before()
    part_company()


if __name__ == "__main__":
    with ending_at_once():
        main()
