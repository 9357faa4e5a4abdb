"""On what an adapter was trained: machine, packages, files of the base. What a rerun compares. No torch."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmjobs.contracts.environment import IMAGE
from llmjobs.training.sharding import Layout, gpu_here

_PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "deepspeed", "tokenizers", "safetensors",
    "numpy",
)  # fmt: skip

_BASE_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip


def devices_of(layout: Layout) -> list[str]:
    """Return the name of each process' device; the GPUs of a run are taken to be of one type."""
    return [(layout.on_gpu and gpu_here()) or "cpu"] * layout.batching.processes


def computed_on(layout: Layout) -> dict[str, Any]:
    """Return what computes here: devices, processor, threads of each process, and on a GPU its driver and CUDA."""
    return {
        "devices": devices_of(layout),
        "threads": layout.threads,
        "cpu": _cpu(),
        "python": platform.python_version(),
        "image": os.environ.get(IMAGE, ""),
        **(_driver() if layout.on_gpu else {}),
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _driver() -> dict[str, str]:
    """Return the driver's and CUDA's version, as NVML tells them (``12080`` is 12.8); not run here, without a GPU."""
    import pynvml

    pynvml.nvmlInit()
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())
        driver = pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    return {
        "driver": driver if isinstance(driver, str) else driver.decode(),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that compute; of one that is absent, an empty text."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def base_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the base's config, tokenizer and chat template; the weights are in its revision."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in _BASE_FILES
        if (folder / name).is_file()
    }
