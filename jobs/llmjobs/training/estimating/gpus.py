"""GPUs as their makers' data sheets tell them. Pure: no torch.

Memory is the sheet's decimal gigabytes. The driver shows the same or up to 7% more (an H100 80GB 85.5e9 bytes, an L4
24.2e9), which is left to CUDA's context and to fragmentation. Operations are dense: half of what a sheet gives with
sparsity, and with sums in 32 bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GB = 10**9
_TERA = 10**12


@dataclass(frozen=True)
class Gpu:
    """One type.

    Attributes:
        name: As a config names it.
        memory_bytes: Of one GPU.
        bf16_flops: Highest rate of bfloat16 matrix products, in operations per second; where the hardware has none
            (T4, V100) that of float32, in which they are then computed.
    """

    name: str
    memory_bytes: int
    bf16_flops: float


def _gpu(name: str, gigabytes: int, teraflops: float) -> Gpu:
    return Gpu(name, gigabytes * _GB, teraflops * _TERA)


GPUS = (
    _gpu("b200", 180, 2250), _gpu("h200", 141, 989.4), _gpu("h200-nvl", 141, 835.5), _gpu("gh200", 96, 989.4),
    _gpu("h100", 80, 989.4), _gpu("h100-pcie", 80, 756.5), _gpu("h100-nvl", 94, 835.5), _gpu("h20", 96, 148),
    _gpu("a100", 40, 312), _gpu("a100-80gb", 80, 312), _gpu("a40", 48, 149.7), _gpu("a30", 24, 165),
    _gpu("a10", 24, 125), _gpu("a10g", 24, 70), _gpu("l40s", 48, 362), _gpu("l40", 48, 181), _gpu("l4", 24, 121),
    _gpu("a6000", 48, 154.8), _gpu("6000-ada", 48, 364.2), _gpu("a5000", 24, 111.1), _gpu("5090", 32, 209.5),
    _gpu("4090", 24, 165.2), _gpu("3090", 24, 71), _gpu("t4", 16, 8.1), _gpu("v100", 16, 15.7),
    _gpu("v100-32gb", 32, 15.7),
)  # fmt: skip


def gpu_named(text: str) -> Gpu | None:
    """Return the type that a config or the driver names; None where it is none of `GPUS`.

    Args:
        text: ``l4`` or ``a100-80gb``, or the driver's "NVIDIA A100-SXM4-80GB". Without a size it is the smaller one.
            A slice of a GPU (MIG) is none.
    """
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    if "mig" in words:
        return None
    fitting = [gpu for gpu in GPUS if words.issuperset(gpu.name.split("-"))]
    return max(fitting, key=lambda gpu: gpu.name.count("-"), default=None)
