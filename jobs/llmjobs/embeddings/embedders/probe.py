"""Which precision is fastest on this machine: tried once, for a second, and kept beside the converted models."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmjobs.contracts.base import digest
from llmjobs.models import cache_folder

if TYPE_CHECKING:
    from llmjobs.embeddings.model import Encoder, SentenceModel

logger = logging.getLogger(__name__)

LEAST_GAIN = 1.2
"""bfloat16 must be so much faster than float32 to be worth its rounding."""

LEAST_COSINE = 0.999
"""Below it the rounding is a defect of this machine's kernels rather than of the format."""

_TEXTS = [
    f"Chapter {number}. " + "The night shift reads, sorts and files what the day has left. " * 4 for number in range(12)
]


def fastest_dtype(model: SentenceModel) -> str:
    """Return ``float32`` or ``bfloat16``: what a short probe found on a machine of this kind with this model.

    The finding is a file of the model cache, so all processes and all later runs agree.
    """
    path = cache_folder() / "probes" / f"{digest([_machine(model.config.device), model.revision])[:32]}.json"
    if not path.is_file():
        _write(path, _probe(model))
    return str(json.loads(path.read_text(encoding="utf-8"))["dtype"])


def _probe(model: SentenceModel) -> dict[str, Any]:
    plain, short = model.load_as("float32"), model.load_as("bfloat16")
    cosine = float((plain.encode(_TEXTS) * short.encode(_TEXTS)).sum(1).min())
    gain = _seconds(plain) / _seconds(short)
    chosen = "bfloat16" if gain >= LEAST_GAIN and cosine >= LEAST_COSINE else "float32"
    logger.info("%s: bfloat16 is %.1f times as fast here, cosine %.5f: %s", model.config.name, gain, cosine, chosen)
    return {"dtype": chosen, "gain": round(gain, 2), "cosine": round(cosine, 6), "model": model.config.name}


def _seconds(encoder: Encoder) -> float:
    """Return the time of the fastest of two calls; a machine that is busy slows one down."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        encoder.encode(_TEXTS)
        times.append(time.perf_counter() - started)
    return min(times)


def _machine(device: str) -> list[str]:
    """Return what decides how fast a precision is."""
    import torch

    from llmjobs.embeddings.encoder import device_of

    if device_of(device) == "cuda":
        return [torch.cuda.get_device_name(), torch.__version__]
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    described = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return [platform.machine(), *described, torch.__version__]


def _write(path: Path, found: dict[str, Any]) -> None:
    """Keep what was found; of two processes that probed at once the first one's finding stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{uuid.uuid4().hex}")
    staging.write_text(json.dumps(found), encoding="utf-8")
    try:
        os.link(staging, path)
    except FileExistsError:
        pass
    finally:
        staging.unlink()
