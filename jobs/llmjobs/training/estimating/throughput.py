"""Tokens per second of one device: given, as past trainings had, or from the operations of a token. Pure: no torch.

The table that learns is the lake itself: each adapter's manifest says how fast it was trained, and on what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from llmjobs.contracts.manifest import Manifest
from llmjobs.lake import Lake
from llmjobs.training.estimating.gpus import gpu_named
from llmjobs.training.identity import ADAPTERS

UTILISATION = 0.2
"""Share of the peak rate that is reckoned with: published QLoRA runs of Hugging Face's libraries reach 0.20 to 0.25
(Llama-2-7B at 2,300 to 3,100 tokens/s on one A100, 70B at 790 a GPU on four H100), recomputation not counted."""

_NEWEST = 20


@dataclass(frozen=True)
class Run:
    """How fast one training was.

    Attributes:
        base: Model's name.
        device: As `device_named` names it.
        strategy: ``single``, ``ddp``, ``zero1``, ...
        max_length: ``data.max_length_tokens``.
        tokens_per_second: Of one device, padding not counted.
        created_at: ISO 8601, UTC.
    """

    base: str
    device: str
    strategy: str
    max_length: int
    tokens_per_second: float
    created_at: str


@dataclass(frozen=True)
class Throughput:
    """Tokens per second of one device, and in one phrase where the figure comes from."""

    tokens_per_second: float
    source: str


def device_named(text: str) -> str:
    """Return the type of GPU as the estimate names it, what the driver says where that is unknown, or ``cpu``."""
    gpu = gpu_named(text)
    return gpu.name if gpu else text.strip().lower() or "cpu"


def past_runs(lake: Lake) -> list[Run]:
    """Return the speeds of the adapters in the lake, the newest first.

    A manifest that does not say on what it was trained, as those of older nights, teaches nothing.
    """
    found = []
    for path in lake.find(f"{ADAPTERS}/*/versions/*/manifest.json"):
        text = lake.read_text(path)
        run = run_of(Manifest.model_validate_json(text)) if text else None
        if run:
            found.append(run)
    return sorted(found, key=lambda run: run.created_at, reverse=True)


def run_of(manifest: Manifest) -> Run | None:
    """Return the speed that a manifest tells, None where it tells none."""
    inputs, rate = manifest.inputs, manifest.metrics.get("tokens_per_second")
    layout, device = inputs.get("layout"), inputs.get("device")
    if not (rate and layout and device):
        return None
    return Run(
        base=inputs["base_model"],
        device=device_named(device),
        strategy=layout["strategy"],
        max_length=inputs["recipe"]["data"]["max_length_tokens"],
        tokens_per_second=rate / layout["processes"],
        created_at=manifest.created_at,
    )


def learned(runs: Iterable[Run], *, base: str, device: str, strategy: str, max_length: int) -> Throughput | None:
    """Return the median of the newest runs like this one; of those with the same base and device where none is.

    Args:
        runs: The newest first.
        base: Model's name.
        device: As `device_named` names it.
        strategy: Of this training.
        max_length: ``data.max_length_tokens`` of this training.
    """
    near = [run for run in runs if (run.base, run.device) == (base, device)]
    alike = [run for run in near if (run.strategy, run.max_length) == (strategy, max_length)]
    newest = (alike or near)[:_NEWEST]
    if not newest:
        return None
    count = f"the last {len(newest)} trainings (median)" if len(newest) > 1 else "the last training"
    other = "" if alike else ", under another strategy or with rows of another length"
    rate = median(run.tokens_per_second for run in newest)
    return Throughput(rate, f"learned from {count} of {base} on {device}{other}")


def derived(device: str, flops_per_token: float) -> Throughput | None:
    """Return the rate that follows from a GPU's peak, None for a device whose peak is not known.

    Args:
        device: Type of GPU, or ``cpu``.
        flops_per_token: Operations of forward and backward, recomputation not counted.
    """
    gpu = gpu_named(device)
    if gpu is None:
        return None
    return Throughput(
        gpu.bf16_flops * UTILISATION / flops_per_token,
        f"derived: {UTILISATION:.0%} of the {gpu.bf16_flops / 1e12:g} TFLOP/s of an {gpu.name}",
    )
