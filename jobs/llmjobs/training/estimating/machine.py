"""What a training will run on, from its config; without one, what is here."""

from __future__ import annotations

from dataclasses import dataclass

from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.training import TrainConfig
from llmjobs.training.estimating.gpus import GPUS, Gpu, gpu_named
from llmjobs.training.sharding import gpu_here, layout_for, usable_cores, visible_gpus

GIB = 2**30
CPU = "cpu"


@dataclass(frozen=True)
class Machine:
    """What a training will run on.

    Attributes:
        device: Type of GPU, ``gpu`` where it is not known, or ``cpu``.
        processes: That train together, on all nodes.
        room_bytes: Memory that each may take; None where it is not known.
        nodes: Over which the processes are spread evenly.
    """

    device: str
    processes: int
    room_bytes: int | None
    nodes: int = 1

    @property
    def processes_per_node(self) -> int:
        """How many of the processes each node has."""
        return self.processes // self.nodes

    @property
    def on_gpu(self) -> bool:
        """Whether each process has a GPU."""
        return self.device != CPU


def machine_of(config: TrainConfig) -> Machine:
    """Return the machine that the config asks for; where it names no GPUs, the one that the training would find here.

    Raises:
        BadConfig: The type of GPU is not known, or the global batch cannot be cut for the processes.
    """
    resources = config.resources
    gpus = resources.gpus or visible_gpus()
    layout = layout_for(config, gpus=gpus, cores=usable_cores())
    processes, nodes = layout.batching.processes, layout.nodes
    if not gpus:
        return Machine(CPU, processes, int(resources.memory_gib * GIB / layout.processes_per_node), nodes)
    gpu = _type(resources.gpu)
    return Machine(gpu.name, processes, gpu.memory_bytes, nodes) if gpu else Machine("gpu", processes, None, nodes)


def _type(name: str) -> Gpu | None:
    gpu = gpu_named(name or gpu_here())
    if name and gpu is None:
        known = ", ".join(one.name for one in GPUS)
        raise BadConfig(f"resources.gpu ({name}) is no type that is known here; known are {known}")
    return gpu
