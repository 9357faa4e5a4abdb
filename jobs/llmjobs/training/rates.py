"""How fast a training is: tokens and operations per second of each device. Pure: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.recipe import Lora
from llmjobs.contracts.training import TrainConfig
from llmjobs.training.estimating.flops import step_flops
from llmjobs.training.estimating.gpus import gpu_named
from llmjobs.training.estimating.shapes import ModelShape, shape_of
from llmjobs.training.sharding import Layout, gpu_here

STEP_TOKENS = "step_tokens"
STEP_ANSWERS = "step_answers"
STEP_SQUARES = "step_squares"
"""What the trainer logs of each step, over all processes: see `llmjobs.training.data.batches.Step`."""

_TERA = 10**12


class Rates:
    """Turns what a step has computed into rates.

    Args:
        devices: Processes of the run; each has a device of its own.
        lora: The adapter.
        shape: The base; None where its family is not known well enough to count its operations.
        peak_flops: Highest rate of one device in operations per second; None where it is not known.
    """

    def __init__(self, *, devices: int, lora: Lora, shape: ModelShape | None, peak_flops: float | None) -> None:
        """Remember the sizes."""
        self._devices = devices
        self._lora = lora
        self._shape = shape
        self._peak = peak_flops

    @classmethod
    def of(cls, config: TrainConfig, layout: Layout, model_path: Path) -> Rates:
        """Return the rates of a run on this machine; a peak is known for GPUs that compute in bfloat16."""
        try:
            shape = shape_of(model_path)
        except BadConfig:
            shape = None
        gpu = gpu_named(gpu_here()) if layout.on_gpu and config.model.dtype == "bfloat16" else None
        return cls(
            devices=layout.batching.processes, lora=config.lora, shape=shape, peak_flops=gpu.bf16_flops if gpu else None
        )

    def of_step(self, logged: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Return the rates of one step.

        Args:
            logged: `STEP_TOKENS`, `STEP_ANSWERS` and `STEP_SQUARES` of the step.
            seconds: That it took, validation and checkpoint not counted.

        Returns:
            ``tokens_per_second_per_device``, padding not counted; where the base's family is known
            ``tflops_per_device``: 1e12 operations a second that the step cannot do without
            (`llmjobs.training.estimating.flops`); where the device's peak is known too, ``mfu``: their share of it.
        """
        spent = max(seconds, 1e-9) * self._devices
        rates = {"tokens_per_second_per_device": logged[STEP_TOKENS] / spent}
        if self._shape is None:
            return rates
        tokens, answers, squares = (logged[name] for name in (STEP_TOKENS, STEP_ANSWERS, STEP_SQUARES))
        flops = step_flops(self._shape, self._lora, tokens=tokens, answers=answers, squares=squares) / spent
        rates["tflops_per_device"] = flops / _TERA
        return rates | ({"mfu": flops / self._peak} if self._peak else {})
