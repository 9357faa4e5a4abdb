"""Which processes a run has, and the DeepSpeed settings that follow. Pure: no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.training import Batching, TrainConfig

Strategy = Literal["single", "ddp", "zero1", "zero2", "zero3"]

_BUCKET_ELEMENTS = 50_000_000
_SMALL_BUCKET_ELEMENTS = 1_000_000


@dataclass(frozen=True)
class Layout:
    """How a run is spread.

    Attributes:
        strategy: ``single`` is one process without any communication.
        batching: The global batch cut for the processes.
        on_gpu: Whether each process has a GPU.
        threads: CPU threads of each process.
        offload: Whether the optimiser's state lies in main memory.
        nodes: Machines; each has as many of the processes.
    """

    strategy: Strategy
    batching: Batching
    on_gpu: bool
    threads: int
    offload: bool = False
    nodes: int = 1

    @property
    def distributed(self) -> bool:
        """Whether torchrun starts the processes."""
        return self.strategy != "single"

    @property
    def processes_per_node(self) -> int:
        """How many of the processes each machine has."""
        return self.batching.processes // self.nodes

    @property
    def zero_stage(self) -> int:
        """1, 2 or 3, or 0 without DeepSpeed."""
        return int(self.strategy[-1]) if self.strategy.startswith("zero") else 0

    def checkpoint_layout(self) -> dict[str, Any]:
        """Return what a checkpoint must have in common with a run that goes on from it."""
        return {"strategy": self.strategy, **self.batching.model_dump()}


def layout_for(config: TrainConfig, *, gpus: int, cores: int) -> Layout:
    """Return the layout of a run on a machine with so many GPUs and CPU cores, or on ``dist.nodes`` of them.

    Raises:
        BadConfig: The global batch cannot be cut, or there are fewer GPUs than processes.
    """
    here, nodes = config.dist.processes or max(1, gpus), config.dist.nodes
    if gpus and here > gpus:
        raise BadConfig(f"dist.processes ({here}) is more than the {gpus} GPUs that are here")
    processes = here * nodes
    strategy: Strategy = "single" if config.dist.strategy == "auto" else config.dist.strategy
    if processes > 1 and strategy == "single":
        strategy = "ddp"
    if processes == 1 and strategy == "ddp":
        strategy = "single"
    try:
        batching = config.batching(processes)
    except ValueError as error:
        raise BadConfig(str(error)) from None
    threads = config.dist.threads or int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // here))
    offload = config.dist.offload == "cpu"
    return Layout(strategy, batching, on_gpu=gpus > 0, threads=threads, offload=offload, nodes=nodes)


def recomputes(config: TrainConfig, layout: Layout) -> bool:
    """Return whether activations are computed again in the backward pass instead of kept."""
    chosen = config.train.activation_checkpointing
    return layout.on_gpu if chosen is None else chosen


def visible_gpus() -> int:
    """Return how many NVIDIA GPUs this process may use, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in {"", "-1"}])
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library: there is no GPU
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def gpu_here() -> str:
    """Return the driver's name of the first GPU that this process may use, without loading torch; empty without one."""
    if not visible_gpus():
        return ""
    import pynvml

    pynvml.nvmlInit()
    try:
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    finally:
        pynvml.nvmlShutdown()
    return name.decode() if isinstance(name, bytes) else str(name)


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def wait_without_spinning() -> None:
    """Let CPU threads sleep while they wait for each other; call it before torch is loaded.

    A job shares its machine, with Airflow at least. On busy cores spinning threads more than double a step's CPU
    time; on idle ones sleeping costs a little wall time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def deepspeed_settings(layout: Layout, *, bf16: bool) -> dict[str, Any] | None:
    """Return the DeepSpeed dictionary of a run, or None without ZeRO.

    ``auto`` is filled in by transformers from the training arguments. The keys and values were seen to work with
    NF4 on CPU (gloo) in DeepSpeed 0.19.8; the same settings serve NCCL.
    """
    if not layout.zero_stage:
        return None
    bucket = _BUCKET_ELEMENTS if layout.on_gpu else _SMALL_BUCKET_ELEMENTS
    zero: dict[str, Any] = {
        "stage": layout.zero_stage,
        "overlap_comm": layout.on_gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if layout.zero_stage == 3:
        # The adapter is saved whole: without the gather it would be a file without tensors.
        zero |= {
            "stage3_prefetch_bucket_size": bucket // 10,
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    # DeepSpeed's own Adam for CPUs needs a compiler at run time and is not the optimiser of the recipe.
    offload: dict[str, Any] = {}
    if layout.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": layout.on_gpu}
        offload = {"zero_force_ds_cpu_optimizer": False}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        **offload,
        "bf16": {"enabled": bf16},
        "steps_per_print": 1_000_000_000,
    }
