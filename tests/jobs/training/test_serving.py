"""vLLM's rules for adapters, told from the files alone."""

from __future__ import annotations

from typing import Any

import pytest

from llmjobs.contracts.errors import JobError
from llmjobs.training.publication.serving import serving_of

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
PLAIN = {"r": 16, "bias": "none", "use_dora": False, "modules_to_save": None, "rank_pattern": {}}


def header(*names: str, dtype: str = "F32") -> dict[str, Any]:
    return {name: {"dtype": dtype} for name in names or (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight")}


def test_a_plain_adapter_is_served_as_it_is() -> None:
    found = serving_of(PLAIN, header())
    assert (found.max_lora_rank, found.notes) == (16, [])


@pytest.mark.parametrize(
    ("settings", "tensors", "rank", "note"),
    [
        ({"r": 17}, header(), 32, "vLLM needs --max-lora-rank 32; its default is 16"),
        ({"r": 513}, header(), 0, "rank 513 is more than vLLM's largest (512)"),
        ({"use_dora": True}, header(f"{LAYER}.lora_magnitude_vector"), 16, "vLLM does not serve DoRA"),
        ({"bias": "all"}, header(), 16, "vLLM does not serve an adapter with a bias (all)"),
        ({"modules_to_save": ["norm"]}, header(), 16, "vLLM does not serve whole modules beside the adapter"),
        ({"rank_pattern": {"q_proj": 4}}, header(), 16, "vLLM does not serve ranks by layer"),
        ({}, header("base_model.model.odd.lora_A.weight"), 16, "layers that vLLM may not adapt: odd"),
        ({}, header(dtype="F64"), 16, "numbers of the type F64, not 16 or 32 bit floats"),
    ],
)
def test_each_broken_rule_is_a_note(settings: dict[str, Any], tensors: dict[str, Any], rank: int, note: str) -> None:
    found = serving_of(PLAIN | settings, tensors)
    assert found.max_lora_rank == rank
    assert [one for one in found.notes if one.startswith(note)] == found.notes


def test_names_that_are_not_pefts_are_refused() -> None:
    with pytest.raises(JobError, match=r"tensor layers.0.lora_A \(1 such\) has no name of peft's"):
        serving_of(PLAIN, header("layers.0.lora_A", f"{LAYER}.lora_B.weight"))
