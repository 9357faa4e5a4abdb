"""A model of 0.1 million parameters with a tokenizer of its own, and a lake that holds a dataset for it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.base import digest
from llmjobs.contracts.environment import LAKE_URL, MLFLOW_URL
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.training.adapter_files import RECIPE
from llmjobs.training.identity import ADAPTERS, identify

# SmolLM2's own template: no generation marks, a default system turn.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEAMS = ("billing", "search", "data", "training")
TOPICS = ("invoice", "index", "export", "loss")


def ticket(number: int) -> list[dict[str, str]]:
    """Return one conversation of the tiny task."""
    kind = number % 4
    question = f"The {TOPICS[kind]} of run {number} is wrong"
    answer = f'{{"team":"{TEAMS[kind]}","run":{number}}}'
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE of 400 entries with SmolLM2's chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text["content"] for n in range(100, 160) for text in ticket(n)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|im_start|>",
        extra_special_tokens=["[INST]", "[/INST]", "</s>"],
    )  # fmt: skip
    fast.chat_template = CHATML
    return fast


@pytest.fixture(scope="session")
def tiny_model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 layers x 64, saved like any model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def publish_tickets(
    lake: Lake, folder: Path, *, train: range, test: range, long_row: bool = False, ranked: bool = False
) -> str:
    """Publish a dataset version of the tiny task and make it current; return its version.

    Args:
        lake: Where to.
        folder: For its files.
        train: Numbers of the train rows; ``test``: of the test rows.
        long_row: Whether a train row is too long.
        ranked: Whether the rows are as of today, with tool calls and ranks, the last row of the file being the best.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in {"train": train, "validation": range(900, 904), "test": test}.items():
        rows = [_row(ticket(number), number) for number in numbers]
        if long_row and split == "train":
            words = [{"role": "user", "content": "long " * 300}, {"role": "assistant", "content": "no"}]
            rows.append(_row(words, 10_000))
        if ranked:
            rows = [_as_of_today(row, rank=len(rows) - place - 1) for place, row in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    version = digest([list(train), list(test), long_row, *([ranked] if ranked else [])])[:16]
    lake.publish(folder, kind="datasets", name="tickets", version=version)
    lake.move_pointer("datasets", "tickets", "current", version)
    return version


def _row(messages: list[dict[str, str]], line: int) -> dict[str, Any]:
    return {
        "row_id": digest(messages), "group_id": digest(messages[0]), "messages": messages,
        "source_file": "tickets.jsonl", "source_line": line,
    }  # fmt: skip


def _as_of_today(row: dict[str, Any], *, rank: int) -> dict[str, Any]:
    return {**row, "messages": [{**one, "tool_calls": None} for one in row["messages"]], "tools": None, "rank": rank}


def put_adapter(lake: Lake, config: TrainConfig, model: Path, folder: Path, *, strength: float) -> str:
    """Put an adapter of random matrices into the lake, with its recipe; return its version."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = identify(config, lake)
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    with_adapter = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, matrix in with_adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(matrix.data, std=strength)
    with_adapter.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    recipe = {"config": adapter.config.model_dump(mode="json"), "base_revision": adapter.base_revision}
    (folder / RECIPE).write_text(json.dumps(recipe))
    lake.publish(folder, kind=ADAPTERS, name="tickets", version=adapter.version)
    return adapter.version


@pytest.fixture(scope="session")
def random_adapter() -> Any:
    """`put_adapter`, for tests of other files."""
    return put_adapter


@pytest.fixture(scope="session")
def published() -> Any:
    """`publish_tickets`, for tests of other files."""
    return publish_tickets


@contextmanager
def offline_lake(folder: Path, *, train: range, test: range) -> Iterator[Path]:
    """A lake with one dataset version, found by every job of a module; no GPU, no hub, no MLflow.

    A job takes over SIGTERM; afterwards it is as before.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LAKE_URL, f"file://{folder / 'lake'}")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv(MLFLOW_URL, raising=False)
        publish_tickets(Lake.from_environment(), folder / "dataset", train=train, test=test)
        handler = signal.getsignal(signal.SIGTERM)
        yield folder
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def offline() -> Any:
    """`offline_lake`, for the worlds of other files."""
    return offline_lake


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """An empty lake that jobs find in their environment; no MLflow."""
    monkeypatch.setenv(LAKE_URL, f"file://{tmp_path / 'lake'}")
    monkeypatch.delenv(MLFLOW_URL, raising=False)
    return Lake.from_environment()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of these tests are a CPU's, wherever they run."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def recipe() -> Any:
    """Return a function that makes the tiny task's config."""

    def make(model: Path | str, **sections: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "name": "tickets",
            "dataset": "tickets",
            "model": str(model),
            "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
            "data": {"max_length_tokens": 128},
            "train": {"max_steps": 12, "global_batch_size": 8, "micro_batch_size": 4, "learning_rate": 0.01},
            "checkpoint": {"every_steps": 4},
            "evaluate": {"min_rows": 4},
            "dist": {"threads": 1},
        }
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
        return TrainConfig.from_mapping(values, origin="test")

    return make


@pytest.fixture(scope="session", autouse=True)
def quiet_tokenizers() -> None:
    """Tokenizers warn about threads when the test starts processes."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
