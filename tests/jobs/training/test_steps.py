"""One optimiser step is the same however it is cut and packed; what is tried before the first leaves no trace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import LAKE_URL, MLFLOW_URL
from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.training.data.batches import Step, packed, padded
from llmjobs.training.data.packing import Cutter
from llmjobs.training.data.tokenisation import TokenRow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft 0.21.2
]


def rows_of(lengths: list[int]) -> list[TokenRow]:
    """Rows of made-up tokens; the second half of each is the answer."""
    made = []
    for number, length in enumerate(lengths):
        ids = [(7 * number + 13 * place) % 240 + 6 for place in range(length)]
        made.append(TokenRow(str(number), ids, [-100] * (length // 2) + ids[length // 2 :]))
    return made


ROWS = rows_of([12, 31, 7, 22, 40, 9, 18, 27])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, published: Any) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LAKE_URL, f"file://{folder / 'lake'}")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.delenv(MLFLOW_URL, raising=False)
        published(Lake.from_environment(), folder / "dataset", train=range(90, 110), test=range(140, 144))
        yield folder


@pytest.fixture(scope="module")
def trainer_of(world: Path, tiny_model: Path, recipe: Any) -> Callable[..., Any]:
    """Return a function that builds a trainer of the tiny task, ready for its first step."""
    from llmjobs.training import identity, worker
    from llmjobs.training.base_model import load_base
    from llmjobs.training.state.checkpoints import CheckpointStore
    from llmjobs.training.trainer import build_trainer, training_arguments

    def build(folder: Path, dtype: str = "bfloat16", **sections: Any) -> Any:
        config: TrainConfig = identity.identify(recipe(tiny_model, **sections), Lake.from_environment()).config
        config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
        layout = worker.layout_here(config)
        return build_trainer(
            config,
            layout,
            rows=worker._load_rows(config, str(tiny_model)),
            arguments=training_arguments(config, layout, folder / "scratch"),
            base=load_base(str(tiny_model), config.model, config.quantisation, device="cpu"),
            store=CheckpointStore(folder / "checkpoints", {}),
            callbacks=[],
        )

    return build


@pytest.fixture(scope="module")
def exact(trainer_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer in float32 without dropout, whose lora_B are not 0, so that every matrix has a gradient."""
    import torch

    folder = tmp_path_factory.mktemp("exact")
    trainer = trainer_of(folder, dtype="float32", quantisation={"type": "none"}, lora={"dropout": 0.0})
    torch.manual_seed(5)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return trainer


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_are_computed_as_if_alone(exact: Any, attention: str) -> None:
    """Logits are of order 1; 2e-6 is a few units in the last place."""
    import torch

    exact.model.set_attn_implementation(attention)
    batch = packed([ROWS[:3], ROWS[3:5]], pad_token_id=0, flat=False, device="cpu")
    together = exact.logits(batch)
    for line, rows in enumerate((ROWS[:3], ROWS[3:5])):
        start = 0
        for row in rows:
            alone = exact.logits(padded([row], pad_token_id=0, device="cpu"))[0]
            found = together[line, start : start + len(row.input_ids)]
            torch.testing.assert_close(found, alone, rtol=0, atol=2e-6)
            start += len(row.input_ids)
    exact.model.set_attn_implementation("sdpa")


def test_a_model_that_lets_packed_rows_see_each_other_is_refused(exact: Any) -> None:
    import torch

    from llmjobs.training.probe import refuse_leaks

    refuse_leaks(exact.logits, ROWS, flat=False)
    refuse_leaks(exact.logits, ROWS, flat=True)

    def masked(batch: dict[str, Any]) -> Any:
        return exact.logits({**batch, "attention_mask": torch.ones_like(batch["input_ids"])})

    def without_positions(batch: dict[str, Any]) -> Any:
        return exact.logits({key: value for key, value in batch.items() if key != "position_ids"})

    for leak in (masked, without_positions):
        with pytest.raises(BadConfig, match=r"see each other in this model, .* set data.packing to none"):
            refuse_leaks(leak, ROWS, flat=False)


def gradients(trainer: Any, cutter: Cutter) -> tuple[float, dict[str, Any]]:
    """Return loss and gradients of one step of `ROWS`, all processes' shares computed here one after the other."""
    import torch

    trainer.model.zero_grad()
    loss = 0.0
    for process in range(cutter.processes):
        trainer.batches.cutter, trainer.batches._process = cutter, process
        step: Step = trainer.batches(ROWS)
        answers = trainer._get_num_items_in_batch([step], torch.device("cpu"))
        loss += float(trainer.training_step(trainer.model, step, answers))
    named = trainer.model.named_parameters()
    return loss, {name: one.grad.clone() for name, one in named if one.grad is not None}


@pytest.mark.parametrize(
    "cutter",
    [
        Cutter(1, 4), Cutter(2, 2), Cutter(1, 1), Cutter(2, 4), Cutter(3, 2),
        Cutter(1, 8, 64), Cutter(1, 1, 64), Cutter(2, 1, 64), Cutter(1, 2, 64, flat=True), Cutter(2, 1, 200, flat=True),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_has_the_same_gradient_however_it_is_cut(exact: Any, cutter: Cutter) -> None:
    import torch

    loss, whole = gradients(exact, Cutter(1, 8))
    found, cut = gradients(exact, cutter)
    assert found == pytest.approx(loss, rel=1e-6)
    assert cut.keys() == whole.keys()
    assert len(whole) == 2 * 2 * 7
    for name, gradient in whole.items():
        assert float(gradient.abs().max()) > 0
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)


def trained(trainer: Any) -> dict[str, Any]:
    trainer.train()
    return {name: one.detach().clone() for name, one in trainer.model.named_parameters() if one.requires_grad}


SHORT = {"train": {"max_steps": 3, "micro_batch_size": 4}, "checkpoint": {"every_steps": 50}}


def test_the_trial_of_the_longest_batch_leaves_no_trace(
    trainer_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from llmjobs.training.probe import LongestBatchFirst

    packing = {**SHORT, "data": {"packing": "bfd"}}
    with caplog.at_level(logging.INFO):
        with_trial = trained(trainer_of(tmp_path / "with", **packing))
    assert "the longest micro batch fits" in caplog.text
    monkeypatch.delattr(LongestBatchFirst, "on_train_begin")
    without = trained(trainer_of(tmp_path / "without", **packing))
    assert all(bool((with_trial[name] == value).all()) for name, value in without.items())
    assert any(float(value.abs().max()) > 0 for name, value in without.items() if "lora_B" in name)


def test_where_the_longest_batch_does_not_fit_half_of_it_is_taken(
    trainer_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from llmjobs.training.trainer import AdapterTrainer

    whole = trainer_of(tmp_path / "whole", **SHORT)
    whole.train()
    sizes: list[int] = []
    honest = AdapterTrainer._unreduced

    def small(self: Any, inputs: dict[str, Any]) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(self, inputs)

    monkeypatch.setattr(AdapterTrainer, "_unreduced", small)
    halved = trainer_of(tmp_path / "halved", **SHORT)
    with caplog.at_level(logging.WARNING):
        halved.train()
    assert sizes == [4, 2]
    assert halved.batches.cutter.micro_batch_size == 2
    (note,) = halved.notes
    assert note in caplog.text
    assert "4 sequences" in note
    assert "micro batches of 2 instead of 4" in note
    assert halved.state.log_history[0]["num_tokens"] == whole.state.log_history[0]["num_tokens"]
    assert halved.state.log_history[0]["loss"] == pytest.approx(whole.state.log_history[0]["loss"], abs=0.02)

    monkeypatch.setattr(AdapterTrainer, "_unreduced", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        trainer_of(tmp_path / "none", **SHORT).train()


def test_an_epoch_trains_on_every_row_once(trainer_of: Callable[..., Any], tmp_path: Path) -> None:
    """20 rows in steps of 8: the last step has 4, and its loss counts only theirs."""
    trainer = trainer_of(tmp_path, train={"max_steps": 3, "global_batch_size": 8, "micro_batch_size": 8})
    loader = trainer.get_train_dataloader()
    assert len(loader) == 3
    steps = list(loader)
    assert [len(step.micro_batches[0]["input_ids"]) for step in steps] == [8, 8, 4]
    assert sum(step.tokens for step in steps) == sum(len(row.input_ids) for row in trainer.rows)
    assert sum(step.answers for step in steps) == sum(row.trainable for row in trainer.rows)
    loader.batch_sampler.set_epoch(1)
    assert [step.tokens for step in loader] != [step.tokens for step in steps]


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize(
    ("optimizer", "lora", "quantisation"),
    [
        ("adamw_8bit", {"r": 64, "rslora": True, "target": ["q_proj", "down_proj"]}, {"storage": "bfloat16"}),
        ("paged_adamw_8bit", {"r": 64, "dora": True}, {"storage": "uint8", "double": False}),
    ],
)
def test_every_optimiser_and_kind_of_adapter_learns(
    trainer_of: Callable[..., Any], tmp_path: Path, optimizer: str, lora: dict[str, Any], quantisation: dict[str, Any]
) -> None:
    """Two runs cover them; bitsandbytes keeps tensors of fewer than 4,096 numbers in 32 bits, hence the rank.

    On a CPU the paged optimiser is the 8-bit one, and says so.
    """
    import torch

    from llmjobs.training.base_model import NOT_SERVED

    train = {**SHORT["train"], "optimizer": optimizer}
    trainer = trainer_of(tmp_path, lora=lora, quantisation=quantisation, **{**SHORT, "train": train})
    before = {name: one.detach().clone() for name, one in trainer.model.named_parameters() if one.requires_grad}
    after = trained(trainer)
    assert all(not torch.equal(before[name], value) for name, value in after.items() if "lora_A" not in name)
    states = trainer.optimizer.optimizer.state.values()
    assert {state["state1"].dtype for state in states if state["state1"].numel() >= 4096} == {torch.uint8}
    layers = {name.split(".")[-4] for name in after if "lora_B" in name}
    frozen = {one.dtype for name, one in trainer.model.named_parameters() if name.endswith("q_proj.base_layer.weight")}
    scales = {module.scaling["default"] for module in trainer.model.modules() if hasattr(module, "lora_A")}
    if lora.get("dora"):
        assert sum("lora_magnitude" in name for name in after) == 2 * 7
        assert (len(layers), frozen, scales, trainer.notes) == (7, {torch.uint8}, {8 / 64}, [NOT_SERVED])
    else:
        assert (layers, frozen, scales) == ({"q_proj", "down_proj"}, {torch.bfloat16}, {8 / 8})


def test_layers_that_the_base_has_not_are_refused_with_those_that_it_has(
    trainer_of: Callable[..., Any], tmp_path: Path
) -> None:
    says = "no linear layer query, wo; it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj$"
    with pytest.raises(BadConfig, match=says):
        trainer_of(tmp_path, lora={"target": ["q_proj", "wo", "query"]})
