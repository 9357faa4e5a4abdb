"""Base, champion and candidate measured for real on a tiny model: figures, answers, report, and what is left out."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import LAKE_URL, MLFLOW_URL
from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import TrainConfig
from llmjobs.contracts.training_results import EvaluateResult
from llmjobs.lake import Lake
from llmjobs.training import evaluate, promote
from llmjobs.training.data.tokenisation import TokenRow
from llmjobs.training.identity import ADAPTERS, CHAMPION
from llmjobs.training.measuring.generation import Question, generate_answers, questions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft 0.21.2
]


@pytest.fixture(scope="module")
def exact_model(tiny_model: Path) -> Any:
    """The tiny model in float32, where a batch adds up as its rows do, with attention that looks at far tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for name, weights in model.named_parameters():
        if "_proj" in name:
            weights.data *= 8
    return model


def asked(count: int = 6) -> list[Question]:
    """Prompts of unequal lengths; no answer ends with token 399."""
    return [Question(str(n), list(range(10, 30 + 7 * n)), [5, 6, 399]) for n in range(count)]


def test_a_batch_answers_as_its_rows_alone(exact_model: Any, tokenizer: Any) -> None:
    exact_model.generation_config.repetition_penalty = 1.8  # as some models bring along; it must not count
    together, alone = (
        generate_answers(exact_model, asked(), tokenizer, max_new_tokens=16, micro_batch_size=size) for size in (4, 1)
    )
    assert together == alone
    assert len({answer.text for answer in together.values()}) > 1, "the prompts matter"
    assert {answer.tokens for answer in together.values()} == {16}
    assert exact_model.generation_config.repetition_penalty == 1.8
    exact_model.generation_config.repetition_penalty = None
    greedy = generate_answers(exact_model, asked(), tokenizer, max_new_tokens=16, micro_batch_size=4)
    assert greedy == together


def test_an_answer_ends_where_the_references_end(exact_model: Any, tokenizer: Any) -> None:
    import torch

    (one,) = asked(1)
    with torch.inference_mode():
        ids = list(one.prompt)
        for _ in range(8):
            ids.append(int(exact_model(torch.tensor([ids])).logits[0, -1].argmax()))
    said = ids[len(one.prompt) :]
    ending = Question(one.row_id, one.prompt, [5, said[3]])
    found = generate_answers(exact_model, [ending], tokenizer, max_new_tokens=8, micro_batch_size=1)["0"]
    assert found.ended
    assert found.tokens == said.index(said[3]) + 1


def test_a_row_is_cut_where_its_last_answer_begins() -> None:
    rows = [
        TokenRow("b", [1, 2, 3, 4, 5, 6, 7], [-100, 2, 3, -100, 5, 6, -100]),
        TokenRow("a", [1, 2], [-100, 2]),
        TokenRow("c", [1, 2], [-100, 2]),
    ]
    assert questions(rows, 2) == [Question("a", [1], [2]), Question("b", [1, 2, 3, 4], [5, 6])]
    assert questions(rows, 0) == []


# --- the job


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, published: Any) -> Iterator[Path]:
    """A lake with the tickets, and with a second dataset as a regression set."""
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LAKE_URL, f"file://{folder / 'lake'}")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv(MLFLOW_URL, raising=False)
        lake = Lake.from_environment()
        version = published(lake, folder / "general", train=range(300, 304), test=range(110, 125))
        lake.publish(folder / "general", kind="datasets", name="general", version=version)
        lake.move_pointer("datasets", "general", "current", version)
        published(lake, folder / "rows", train=range(100, 120), test=range(118, 130))
        handler = signal.getsignal(signal.SIGTERM)
        yield folder
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def config(tiny_model: Path, recipe: Any) -> TrainConfig:
    made: TrainConfig = recipe(
        tiny_model,
        evaluate={
            "generation": {"rows": 6, "max_new_tokens": 12},
            "regression": [{"dataset": "general", "margin": 0.1}],
            "micro_batch_size": 4,
        },
    )
    return made


@pytest.fixture(scope="module")
def champion(world: Path, config: TrainConfig, tiny_model: Path, random_adapter: Any) -> str:
    lake = Lake.from_environment()
    other = config.model_copy(update={"train": config.train.model_copy(update={"seed": 8})})
    version: str = random_adapter(lake, other, tiny_model, world / "champion", strength=0.02)
    lake.move_pointer(ADAPTERS, "tickets", CHAMPION, version, reason="test")
    return version


@pytest.fixture(scope="module")
def result(world: Path, config: TrainConfig, champion: str, tiny_model: Path, random_adapter: Any) -> EvaluateResult:
    random_adapter(Lake.from_environment(), config, tiny_model, world / "candidate", strength=0.2)
    return evaluate.run(config)


def test_all_are_measured_on_the_rows_that_none_was_trained_on(result: EvaluateResult, champion: str) -> None:
    assert (result.rows, result.excluded_rows, result.champion_version) == (10, 2, champion)
    (general,) = result.regression
    assert (general.dataset, general.split, general.rows, general.excluded_rows) == ("general", "test", 5, 10)
    for one in (result, general):
        scores = [one.base, one.adapter, one.champion]
        assert [score.generated.rows for score in scores if score and score.generated] == [min(6, one.rows)] * 3
        metrics = ["exact_match", "loss", "token_f1", "rouge_l", "length_ratio", "ended", "repeated"]
        assert [(gain.against, gain.metric) for gain in one.gains] == [
            (rival, metric) for rival in ("base", "champion") for metric in metrics
        ]
        assert all(gain.low <= gain.gain <= gain.high for gain in one.gains)
    loss = next(gain for gain in result.gains if gain.metric == "loss")
    assert loss.gain == pytest.approx(result.base.loss - result.adapter.loss)
    assert loss.gain != 0


def test_a_measured_adapter_is_judged_anew_and_not_measured_again(result: EvaluateResult, config: TrainConfig) -> None:
    assert result.verdict == "refused"
    assert evaluate.run(config) == result.model_copy(update={"reused": True})
    few = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"min_rows": 11})})
    assert "10 held-out rows are fewer" in evaluate.run(few).sentence
    decided = promote.run(config)
    assert not decided.promoted
    assert decided.sentence == result.sentence.replace("not better", "not promoted")
    assert decided.report_url == result.report_url


def test_the_rows_and_their_answers_are_kept(result: EvaluateResult) -> None:
    folder = Path(result.evaluation_url.removeprefix("file://"))
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3 * (10 + 5)
    assert {line["set"] for line in lines} == {"held-out", "general test"}
    assert sum(line["answer"] is not None for line in lines) == 3 * (6 + 5)


def test_the_report_says_the_verdict_first_and_needs_nothing_from_outside(result: EvaluateResult) -> None:
    page = Path(result.report_url.removeprefix("file://")).read_text(encoding="utf-8")
    assert page.index("Not better") < page.index("Held-out rows") < page.index("Where candidate and base differ most")
    assert "Regression set general, test rows" in page
    assert page.count('class="card example"') == 6
    assert page.count('<p class="small soft">Candidate</p>') == 6
    assert not re.search(r"<script|(src|href)=|url\(|https?:", page)


def test_a_regression_set_that_is_not_in_the_lake_is_refused(
    result: EvaluateResult, recipe: Any, tiny_model: Path
) -> None:
    absent = recipe(tiny_model, evaluate={"regression": [{"dataset": "absent", "margin": 0}]})
    with pytest.raises(BadData, match="dataset absent: nothing is published yet"):
        evaluate.run(absent)
