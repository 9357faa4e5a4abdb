"""An adapter on its base, and both as one model. Everything here needs torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from llmjobs.contracts.recipe import Quantisation
from llmjobs.training.adapter_files import TOKENIZER_FILES
from llmjobs.training.base_model import load_base
from llmjobs.training.measuring.contestants import Contestant

_LARGEST_SHARD = "4GB"
"""A file that FAT32, and stores with a limit of 5 GB for one request, still take."""


def as_trained(adapter: Contestant, base: str, device: str) -> Any:
    """Return the adapter on the base in the form in which it was trained."""
    config = adapter.config
    return _with_adapter(load_base(base, config.model, config.quantisation, device=device), adapter)


def in_16_bits(adapter: Contestant, base: str, dtype: str, device: str) -> Any:
    """Return the adapter on the base's own weights, not on the 4-bit ones.

    The 4-bit weights, turned back into 16 bits, are those that the adapter was trained on, and their error would be
    published with them: whoever stores such a model in 8 bits adds a second error to the first.

    Args:
        adapter: With the recipe that it was trained by.
        base: Folder of the base.
        dtype: ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda:0``.
    """
    model = adapter.config.model.model_copy(update={"dtype": dtype})
    return _with_adapter(load_base(base, model, Quantisation(type="none"), device=device), adapter)


def _with_adapter(model: Any, adapter: Contestant) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter.folder))


def merged(model: Any) -> Any:
    """Return the base with the adapter added to its weights; `model` is used up.

    Raises:
        ValueError: A sum is not finite (peft's `safe_merge`).
    """
    whole = model.merge_and_unload(safe_merge=True)
    whole.config.use_cache = True  # off in training
    return whole


def save_merged(model: Any, folder: Path, tokenizer_folder: Path) -> None:
    """Write a model as safetensors with config, generation config, and the adapter's own tokenizer and template."""
    model.save_pretrained(str(folder), max_shard_size=_LARGEST_SHARD)
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, folder / name)
