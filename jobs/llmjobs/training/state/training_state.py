"""What a training needs besides its adapter to go on, told by parameter name: it fits any number of processes.

    optimizer.safetensors      weight/<name>, exp_avg/<name>, exp_avg_sq/<name>, step/<name> ...; float32, whole tensors
    random-<process>.safetensors

Under ZeRO every process holds a part of one long tensor; the parts are put together here and cut again on the way
back (DeepSpeed 0.19.8, utils/tensor_fragment.py, runtime/zero). Nothing is pickled.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  (only the training processes import this module)
from torch import Tensor, distributed  # noqa: TID253

OPTIMIZER = "optimizer.safetensors"

_WEIGHT = "weight"
_STEP = "step"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def trainable(model: Any) -> dict[str, Any]:
    """Return the parameters that learn, by name; the same names under every strategy."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def gather(model: Any, optimizer: Any) -> dict[str, Tensor]:
    """Return weights and optimiser state as whole tensors in main memory; all processes must take part.

    Args:
        model: With the adapter, not wrapped.
        optimizer: Of the trainer: accelerate's wrapper around torch's, bitsandbytes' or DeepSpeed's.
    """
    inner = optimizer.optimizer
    sharded = _sharded(inner)
    found: dict[str, Tensor] = {}
    for name, parameter in trainable(model).items():
        parts = _gather_sharded(inner, parameter) if sharded else _gather_whole(inner, parameter)
        found |= {f"{key}/{name}": tensor.detach().cpu().clone().contiguous() for key, tensor in parts.items()}
    return found


def restore(model: Any, optimizer: Any, tensors: dict[str, Tensor]) -> None:
    """Put weights and optimiser state back, whatever strategy they were gathered under.

    Args:
        model: With a fresh adapter of the same shape, not wrapped.
        optimizer: Of the trainer, before its first step.
        tensors: What `gather` returned.
    """
    inner = optimizer.optimizer
    if _sharded(inner):
        _restore_sharded(model, inner, tensors)
    else:
        _restore_whole(model, inner, tensors)


def _sharded(inner: Any) -> bool:
    return hasattr(inner, "single_partition_of_fp32_groups") or hasattr(inner, "fp32_partitioned_groups_flat")


def _gather_whole(inner: Any, parameter: Any) -> dict[str, Tensor]:
    state = inner.state[parameter]
    # A whole number (the step of bitsandbytes) becomes an int64 tensor, and on the way back a number again.
    return {_WEIGHT: parameter.data} | {
        key: value if isinstance(value, Tensor) else torch.tensor(value) for key, value in state.items()
    }


def _gather_sharded(inner: Any, parameter: Any) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    step = next(iter(inner.optimizer.state.values()))[_STEP]
    return {
        _WEIGHT: safe_get_full_fp32_param(parameter),
        _STEP: torch.as_tensor(float(step)),
        **{key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS},
    }


def _restore_whole(model: Any, inner: Any, tensors: dict[str, Tensor]) -> None:
    parameters = trainable(model)
    names = {id(parameter): name for name, parameter in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{_WEIGHT}/{name}"])
    fresh = inner.state_dict()
    order = [names[id(parameter)] for group in inner.param_groups for parameter in group["params"]]
    by_name: dict[str, dict[str, Any]] = {name: {} for name in order}
    for key, tensor in tensors.items():
        kind, name = key.split("/", 1)
        if kind != _WEIGHT:
            by_name[name][kind] = tensor.item() if tensor.dtype == torch.int64 and not tensor.ndim else tensor
    inner.load_state_dict({**fresh, "state": {place: by_name[name] for place, name in enumerate(order)}})


def _restore_sharded(model: Any, inner: Any, tensors: dict[str, Tensor]) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    parameters = trainable(model)
    _make_room(inner, next(float(tensor) for key, tensor in tensors.items() if key.startswith(f"{_STEP}/")))
    for name, parameter in parameters.items():
        weight = tensors[f"{_WEIGHT}/{name}"].to(parameter.device)
        moments = {key: tensors[f"{key}/{name}"].to(parameter.device) for key in _MOMENTS}
        if hasattr(parameter, "ds_id"):
            _restore_partition(parameter, weight, moments)
            continue
        safe_set_full_fp32_param(parameter, weight)
        for key, moment in moments.items():
            safe_set_full_optimizer_state(parameter, moment, key)
    _refresh_working_copy(inner)


def _make_room(inner: Any, step: float) -> None:
    """Give the base optimiser the state that its first step would make."""
    base = inner.optimizer
    own_kind = type(base).__module__.startswith("torch.")  # DeepSpeed's CPU Adam counts in a Python integer
    for flat in getattr(inner, "single_partition_of_fp32_groups", None) or inner.fp32_partitioned_groups_flat:
        base.state[flat] = {
            _STEP: torch.tensor(step) if own_kind else int(step),
            **{key: torch.zeros_like(flat.data) for key in _MOMENTS},
        }
    if hasattr(inner, "_lazy_init_hp_params_optimizer_state"):
        inner._lazy_init_hp_params_optimizer_state()  # noqa: SLF001  (else done after a first step)


def _restore_partition(parameter: Any, weight: Tensor, moments: dict[str, Tensor]) -> None:
    """Put this process' part of one parameter in its place under ZeRO-3; the last part may be padded."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = parameter.ds_tensor.numel()

    def part(whole: Tensor) -> Tensor:
        padded = whole.new_zeros(size * distributed.get_world_size())
        padded[: whole.numel()] = whole.flatten()
        return padded.narrow(0, size * distributed.get_rank(), size)

    safe_set_local_fp32_param(parameter, part(weight))
    for key, moment in moments.items():
        safe_set_local_optimizer_state(parameter, part(moment), key)


def _refresh_working_copy(inner: Any) -> None:
    """Round the float32 weights into those that the model computes with, as a step does at its end."""
    if hasattr(inner, "update_lp_params"):
        inner.update_lp_params()
        return
    for group in range(len(inner.fp32_partitioned_groups_flat)):
        inner._reassign_or_swap_out_partitioned_parameters(group)  # noqa: SLF001  (the end of `step`)
    if inner.persistent_parameters:
        inner.persistent_parameters[0].all_gather(inner.persistent_parameters)


def set_schedule(scheduler: Any, optimizer: Any, step: int) -> None:
    """Put the learning rate where it stands after so many steps.

    It follows from the step alone, so no checkpoint holds it; DeepSpeed has fewer groups of parameters than torch.

    Args:
        scheduler: Any of torch's `LambdaLR`, which are all that a recipe can name.
        optimizer: Of the trainer.
        step: Optimiser steps done.
    """
    rates = [base * share(step) for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler.load_state_dict(
        {**scheduler.state_dict(), "last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    )


def random_file(folder: Path, process: int) -> Path:
    """Return where a process keeps the state of its random numbers."""
    return folder / f"random-{process}.safetensors"


def save_random(path: Path) -> None:
    """Write the state of Python's, numpy's and torch's random numbers of this process."""
    import numpy as np
    from safetensors.torch import save_file

    kind, keys, *rest = np.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    texts = {"python": json.dumps(random.getstate()), "numpy": json.dumps([kind, keys.tolist(), *rest])}  # type: ignore[union-attr]
    save_file(tensors, path, metadata=texts)


def load_random(path: Path) -> None:
    """Undo `save_random`."""
    import numpy as np
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
        torch.set_rng_state(file.get_tensor("torch"))
        if "cuda" in file.keys() and torch.cuda.is_available():  # noqa: SIM118  (no mapping)
            torch.cuda.set_rng_state(file.get_tensor("cuda"))
    version, internal, following = json.loads(texts["python"])
    random.setstate((version, tuple(internal), following))
    kind, keys, *rest = json.loads(texts["numpy"])
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def draw_anew(seed: int, *, step: int, process: int) -> None:
    """Seed a process that goes on where there was none: no other process and no other step draws the same."""
    import numpy as np

    drawn = random.Random(f"{seed}/{step}/{process}").getrandbits(32)  # noqa: S311  (dropout, not secrets)

    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)
