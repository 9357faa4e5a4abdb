"""An adapter's weights are refused when they are empty, broken or untrained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmjobs.contracts.errors import JobError
from llmjobs.training.adapter_files import check_weights

A, B = "base_model.model.layers.0.q_proj.lora_A.weight", "base_model.model.layers.0.q_proj.lora_B.weight"
TRAINED = {A: np.ones((2, 4), np.float32), B: np.full((4, 2), 0.5, np.float32)}


def written(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file(tensors, str(path))
    return path


def test_a_trained_adapter_passes(tmp_path: Path) -> None:
    report = check_weights(written(tmp_path, TRAINED))
    assert (report.tensors, report.parameters) == (2, 16)
    assert len(report.sha256) == 64


def test_bfloat16_is_read_as_numbers(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "adapter_model.safetensors"
    save_torch({A: torch.ones(2, 4, dtype=torch.bfloat16), B: torch.zeros(4, 2, dtype=torch.bfloat16)}, path)
    with pytest.raises(JobError, match="every lora_B is zero"):
        check_weights(path)
    save_torch({A: torch.ones(2, 4, dtype=torch.bfloat16), B: torch.full((4, 2), 1e-3, dtype=torch.bfloat16)}, path)
    assert check_weights(path).parameters == 16


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "0 tensors, which are not pairs"),
        ({A: TRAINED[A]}, "1 tensors, which are not pairs"),
        ({**TRAINED, B: np.zeros((4, 2), np.float32)}, "every lora_B is zero, so nothing was learnt"),
        ({**TRAINED, A: np.full((2, 4), np.nan, np.float32)}, "lora_A.weight holds numbers that are not finite"),
        ({**TRAINED, B: np.full((4, 2), np.inf, np.float16)}, "lora_B.weight holds numbers that are not finite"),
    ],
)
def test_wrecks_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(JobError, match=says):
        check_weights(written(tmp_path, tensors))
