"""Whether vLLM can serve an adapter, from its files alone. Pure: no torch.

The rules are those of `lora/peft_helper.py`, `lora/utils.py` and `config/lora.py` as known in 2026; no vLLM was run. An
adapter that breaks one can still be merged or served otherwise, so a break is a note; only names that nothing can read
are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.errors import JobError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be, and no less than the adapter's rank."""

_DEFAULT_RANK = 16

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.(lora_(embedding_)?[AB](\.weight)?|lora_magnitude_vector)")

_SERVED = {
    "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj", "out_proj",
    "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "fc1", "fc2", "c_attn", "c_proj", "c_fc", "W_pack",
}  # fmt: skip
"""Layers of the families that vLLM serves adapters for."""

_NUMBERS = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class Serving:
    """What a server must know.

    Attributes:
        max_lora_rank: The least ``--max-lora-rank`` that takes the adapter; 0 where none does.
        notes: Each rule that the adapter breaks, or that needs a setting.
    """

    max_lora_rank: int
    notes: list[str]


def serving_of(settings: dict[str, Any], header: dict[str, Any]) -> Serving:
    """Return what vLLM's rules say of an adapter.

    Args:
        settings: ``adapter_config.json``.
        header: Of the safetensors: tensor name -> ``dtype`` and ``shape``.

    Raises:
        JobError: A tensor's name is not peft's, so that no server could tell which layer it is for.
    """
    matches = {name: _NAME.fullmatch(name) for name in header}
    strange = sorted(name for name, match in matches.items() if match is None)
    if strange:
        raise JobError(
            f"the adapter's tensor {strange[0]} ({len(strange)} such) has no name of peft's; nothing loads it"
        )
    layers = {match["module"].rsplit(".", 1)[-1] for match in matches.values() if match}
    rank = next((allowed for allowed in _RANKS if allowed >= settings["r"]), 0)
    return Serving(rank, [*_rank_notes(settings["r"], rank), *_feature_notes(settings), *_layer_notes(layers, header)])


def _rank_notes(rank: int, least: int) -> list[str]:
    if not least:
        return [f"rank {rank} is more than vLLM's largest ({_RANKS[-1]})"]
    return [f"vLLM needs --max-lora-rank {least}; its default is {_DEFAULT_RANK}"] if least > _DEFAULT_RANK else []


def _feature_notes(settings: dict[str, Any]) -> list[str]:
    broken = {
        "use_dora": "DoRA",
        "modules_to_save": "whole modules beside the adapter (modules_to_save)",
        "rank_pattern": "ranks by layer (rank_pattern)",
    }
    notes = [f"vLLM does not serve {what}" for field, what in broken.items() if settings.get(field)]
    bias = settings.get("bias", "none")
    return notes if bias == "none" else [*notes, f"vLLM does not serve an adapter with a bias ({bias})"]


def _layer_notes(layers: set[str], header: dict[str, Any]) -> list[str]:
    strange = sorted(layers - _SERVED)
    types = sorted({entry["dtype"] for entry in header.values()} - _NUMBERS)
    notes = [f"layers that vLLM may not adapt: {', '.join(strange)}"] if strange else []
    return [*notes, f"numbers of the type {', '.join(types)}, not 16 or 32 bit floats"] if types else notes
