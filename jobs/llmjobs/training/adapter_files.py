"""What an adapter version holds: checked weights, tokenizer, recipe, curves and a card; no pickle. No torch here."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import JobError
from llmjobs.contracts.training import TrainConfig
from llmjobs.models import ResolvedModel

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
RECIPE = "recipe.json"

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
"""Whatever of them a tokenizer has."""

_TAKEN = (WEIGHTS, SETTINGS, *TOKENIZER_FILES)


@dataclass(frozen=True)
class WeightsReport:
    """What is in an adapter's safetensors.

    Attributes:
        sha256: Of the file.
        tensors: Their number; two for each adapted layer.
        parameters: Their number.
    """

    sha256: str
    tensors: int
    parameters: int


def assemble(
    checkpoint: Path, target: Path, *, config: TrainConfig, base: ResolvedModel, curves: Path
) -> WeightsReport:
    """Fill `target` with everything of an adapter version but its card.

    Args:
        checkpoint: The finished checkpoint.
        target: Empty local folder.
        config: The recipe, dataset version filled in.
        base: The resolved base.
        curves: The run's ``metrics.jsonl``.

    Raises:
        JobError: The weights are incomplete, not finite, or were never trained.
    """
    for name in _TAKEN:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, target / name)
    report = check_weights(target / WEIGHTS)
    settings = json.loads((target / SETTINGS).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base.name
    settings["revision"] = base.revision if "hub" in base.origin.lower() else None
    settings["target_modules"] = sorted(settings["target_modules"])
    _write_json(target / SETTINGS, settings)
    _write_json(target / RECIPE, {"base_revision": base.revision, "config": config.model_dump(mode="json")})
    shutil.copyfile(curves, target / "metrics.jsonl")
    return report


def check_weights(path: Path) -> WeightsReport:
    """Refuse an adapter that is empty, broken or untrained.

    A LoRA adapter starts with every ``lora_B`` at zero, so one that is still all zero did not learn; an adapter
    saved wrongly under ZeRO-3 has no tensors at all (trl#4416).

    Raises:
        JobError: With what is wrong.
    """
    import numpy as np

    data, header = path.read_bytes(), read_header(path)
    (length,) = struct.unpack("<Q", data[:8])
    halves = {side: [name for name in header if f".{side}." in name] for side in ("lora_A", "lora_B")}
    if not header or len(halves["lora_A"]) != len(halves["lora_B"]) or not halves["lora_A"]:
        raise JobError(f"{path.name}: {len(header)} tensors, which are not pairs of lora_A and lora_B")
    moved = parameters = 0
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = _as_float32(np, data[begin:end], entry["dtype"])
        if not np.isfinite(values).all():
            raise JobError(f"{path.name}: {name} holds numbers that are not finite")
        parameters += values.size
        moved += ".lora_B." in name and bool(values.any())
    if not moved:
        raise JobError(f"{path.name}: every lora_B is zero, so nothing was learnt; were there trainable tokens?")
    return WeightsReport(hashlib.sha256(data).hexdigest(), len(header), parameters)


def read_header(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file by name: type, shape and place, without their numbers."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def _as_float32(np: Any, data: bytes, dtype: str) -> Any:
    """Return the numbers of one tensor; bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, dtype={"F32": "<f4", "F16": "<f2"}[dtype]).astype("<f4")


def model_card(
    config: TrainConfig, *, version: str, base: ResolvedModel, figures: dict[str, Any], checked: list[str]
) -> str:
    """Return the README of an adapter version, Markdown with the front matter that model hubs read.

    Args:
        config: The recipe.
        version: Of the adapter.
        base: The resolved base.
        figures: Of the training, for the table.
        checked: What was found before it was published; one sentence each.
    """
    findings = "\n".join(f"* {sentence}" for sentence in checked)
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    quantised = (
        "none"
        if config.quantisation.type == "none"
        else (f"{config.quantisation.type}{', double' if config.quantisation.double else ''}")
    )
    layers = "every linear layer" if config.lora.target == "all-linear" else ", ".join(config.lora.target)
    return f"""---
base_model: {base.name}
library_name: peft
pipeline_tag: text-generation
tags: [lora, sft, nightshift]
---

# {config.name}, version {version}

A LoRA adapter of rank {config.lora.r} on {layers} of `{base.name}` (revision `{base.revision}`,
{base.origin}), trained on version `{config.dataset_version}` of the dataset `{config.dataset}` with the loss on the
assistant's turns only. Base quantisation in training: {quantised}; computed in {config.model.dtype}.

| | |
|---|---|
{rows}

## Checked before it was published

{findings}

`recipe.json` is the whole recipe, `metrics.jsonl` has every step, `manifest.json` the hashes and the lineage. How it
compares with its base on rows that it has never seen is in the lake under `evaluations/{config.name}`.
"""


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
