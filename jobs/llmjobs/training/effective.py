"""What a recipe means on this machine, everything derived filled in; nothing is loaded and nothing trained.

``python -m llmjobs.training.train --print-effective [FILE]``; without a file it is the config in LLMJOBS_CONFIG.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from llmjobs.contracts.errors import ExitCode, JobError
from llmjobs.contracts.training import TrainConfig
from llmjobs.training.base_model import NOT_SERVED
from llmjobs.training.sharding import Layout, deepspeed_settings, recomputes
from llmjobs.training.worker import layout_here

OPTION = "--print-effective"


def effective(config: TrainConfig, layout: Layout) -> dict[str, Any]:
    """Return the whole config, and what follows from it on a machine that is laid out so.

    Args:
        config: The recipe.
        layout: Processes and devices.
    """
    train, lora = config.train, config.lora
    bf16 = config.model.dtype == "bfloat16"
    derived = {
        "strategy": layout.strategy,
        **layout.batching.model_dump(),
        "device": "gpu" if layout.on_gpu else "cpu",
        "threads_per_process": layout.threads,
        "activation_checkpointing": recomputes(config, layout),
        "epochs": None if train.max_steps else train.epochs or 1.0,
        "adapter_scale": lora.alpha / (lora.r**0.5 if lora.rslora else lora.r),
        "deepspeed": deepspeed_settings(layout, bf16=bf16),
        "notes": [NOT_SERVED] if lora.dora else [],
    }
    return {"config": config.model_dump(mode="json"), "derived": derived}


def show(arguments: list[str]) -> int:
    """Print it as YAML, or why the recipe is refused; return the exit code.

    Args:
        arguments: What stands on the command line beside the option: a config file or nothing.
    """
    try:
        config = TrainConfig.from_yaml(Path(arguments[0])) if arguments else TrainConfig.from_environment()
        text = yaml.safe_dump(effective(config, layout_here(config)), sort_keys=False, allow_unicode=True)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    sys.stdout.write(text)
    return int(ExitCode.DONE)
