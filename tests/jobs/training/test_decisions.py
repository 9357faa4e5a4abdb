"""Plan, gate and promotion: no torch, a lake of made-up adapters and evaluations."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import MLFLOW_URL
from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import Evaluate, EvaluateResult, Score, TrainConfig
from llmjobs.lake import Lake
from llmjobs.training import plan, promote
from llmjobs.training.gate import decide
from llmjobs.training.identity import ADAPTERS, CHAMPION, EVALUATIONS, champion_version, evaluation_version, identify


def score(version: str, exact: int, loss: float, rows: int = 50) -> Score:
    return Score(version=version, rows=rows, exact=exact, exact_match=exact / rows, loss=loss)


def measured(adapter: Score, base: Score, champion: Score | None = None) -> EvaluateResult:
    return EvaluateResult(
        name="tickets", version="e1", evaluation_url="", reused=False, adapter_version=adapter.version,
        champion_version=champion.version if champion else "", dataset="tickets", dataset_version="d1",
        rows=adapter.rows, excluded_rows=0, over_long_rows=0, base=base, adapter=adapter, champion=champion,
        conditions="",
    )  # fmt: skip


BASE = score("base", 0, 2.5)
GATE: list[tuple[dict[str, Any], EvaluateResult, bool, str]] = [
    ({}, measured(score("a", 45, 0.1), BASE), True, "promoted: exact match 0.9 on 50 held-out rows (base 0)"),
    (
        {},
        measured(score("a", 0, 0.1), BASE),
        False,
        "exact match 0 on 50 held-out rows does not beat the base (base 0)",
    ),
    ({"metric": "loss"}, measured(score("a", 0, 0.1), BASE), True, "promoted: loss 0.1 on 50 held-out rows (base 2.5)"),
    (
        {"metric": "loss"},
        measured(score("a", 9, 2.6), BASE),
        False,
        "loss 2.6 on 50 held-out rows does not beat the base",
    ),
    ({}, measured(score("a", 45, 0.1), BASE, score("c", 44, 0.01)), True, "(base 0, champion 0.88)"),
    (
        {},
        measured(score("a", 44, 0.001), BASE, score("c", 44, 0.01)),
        False,
        "does not beat the champion (base 0, cham",
    ),
    (
        {"min_gain": 0.05},
        measured(score("a", 46, 0.1), BASE, score("c", 44, 0.1)),
        False,
        "the champion by more than 0.05",
    ),
    ({"min_gain": 0.05}, measured(score("a", 47, 0.1), BASE, score("c", 44, 0.1)), True, "promoted"),
    (
        {"min_rows": 51},
        measured(score("a", 45, 0.1), BASE),
        False,
        "50 held-out rows are fewer than evaluate.min_rows (51)",
    ),
]


@pytest.mark.parametrize(("rules", "result", "promoted", "says"), GATE)
def test_gate(rules: dict[str, Any], result: EvaluateResult, promoted: bool, says: str) -> None:
    decision = decide(Evaluate.model_validate(rules), result)
    assert decision.promoted is promoted
    assert says in decision.sentence


@pytest.fixture
def config(lake: Lake, tmp_path: Path, published: Any, recipe: Any) -> TrainConfig:
    """A published dataset, and a base that is only looked at."""
    published(lake, tmp_path / "dataset", train=range(8), test=range(100, 104))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    made: TrainConfig = recipe(model)
    return made


def train(lake: Lake, config: TrainConfig, tmp_path: Path) -> str:
    """Put an adapter into the lake, as the training job would."""
    adapter = identify(config, lake)
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    lake.publish(folder, kind=ADAPTERS, name="tickets", version=adapter.version, inputs={"dataset": "tickets"})
    return adapter.version


def evaluate(lake: Lake, config: TrainConfig, tmp_path: Path, *, exact: int, champion_exact: int = 0) -> None:
    """Put an evaluation into the lake, as the evaluation job would."""
    adapter = identify(config, lake)
    champion = champion_version(lake, "tickets")
    rival = score(champion, champion_exact, 0.5) if champion else None
    version = evaluation_version(lake, adapter)
    result = measured(score(adapter.version, exact, 0.1), BASE, rival).model_copy(update={"version": version})
    (tmp_path / "evaluation").mkdir(exist_ok=True)
    lake.publish(
        tmp_path / "evaluation", kind=EVALUATIONS, name="tickets", version=version,
        metrics=result.model_dump(mode="json"), inputs={"adapter_version": adapter.version},
    )  # fmt: skip


def with_seed(config: TrainConfig, seed: int) -> TrainConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def test_plan_without_a_dataset_says_what_to_run(lake: Lake, recipe: Any) -> None:
    with pytest.raises(BadData, match="nothing is published yet; run prepare_instructions_tickets first"):
        plan.run(recipe("/nowhere"))


def test_plan_with_an_unknown_dataset_version_says_so(lake: Lake, config: TrainConfig) -> None:
    with pytest.raises(BadData, match="no version 0123"):
        plan.run(config.model_copy(update={"dataset_version": "0123"}))


def test_a_night_from_plan_to_champion_and_the_night_after(lake: Lake, config: TrainConfig, tmp_path: Path) -> None:
    first = plan.run(config)
    assert (first.trained, first.evaluated, first.decided, first.needed) == (False, False, False, True)
    assert "to be trained" in first.sentence
    with pytest.raises(BadData, match="no evaluation against today's champion"):
        promote.run(config)

    version = train(lake, config, tmp_path)
    assert version == first.adapter_version
    assert "to be measured" in plan.run(config).sentence
    evaluate(lake, config, tmp_path, exact=45)
    assert "to be decided" in plan.run(config).sentence

    result = promote.run(config)
    assert result.promoted
    assert (result.exact_match_base, result.exact_match) == (0.0, 0.9)
    assert champion_version(lake, "tickets") == version
    pointer = lake.pointer(ADAPTERS, "tickets", CHAMPION)
    assert pointer is not None
    assert pointer.reason == result.sentence

    after = plan.run(config)
    assert not after.needed
    assert "it is the champion" in after.sentence
    assert promote.run(config).promoted, "a retry after the pointer moved says the same"


def test_a_worse_candidate_is_decided_once(lake: Lake, config: TrainConfig, tmp_path: Path) -> None:
    champion = train(lake, config, tmp_path)
    evaluate(lake, config, tmp_path, exact=45)
    promote.run(config)
    other = with_seed(config, 8)
    train(lake, other, tmp_path)
    evaluate(lake, other, tmp_path, exact=40, champion_exact=45)
    result = promote.run(other)
    assert not result.promoted
    assert "exact match 0.8 on 50 held-out rows does not beat the champion (base 0, champion 0.9)" in result.sentence
    assert champion_version(lake, "tickets") == champion
    assert "not promoted before, so there is nothing to do" in plan.run(other).sentence
    assert promote.run(other).sentence.startswith("decided before: not promoted")


def test_a_champion_set_back_by_hand_stays(lake: Lake, config: TrainConfig, tmp_path: Path) -> None:
    first = train(lake, config, tmp_path)
    evaluate(lake, config, tmp_path, exact=40)
    promote.run(config)
    better = with_seed(config, 8)
    train(lake, better, tmp_path)
    evaluate(lake, better, tmp_path, exact=45, champion_exact=40)
    assert promote.run(better).promoted
    lake.move_pointer(ADAPTERS, "tickets", CHAMPION, first, reason="users complained")
    assert not plan.run(better).needed
    again = promote.run(better)
    assert not again.promoted
    assert "another champion was set since" in again.sentence
    assert champion_version(lake, "tickets") == first


def test_other_rules_decide_anew(lake: Lake, config: TrainConfig, tmp_path: Path) -> None:
    train(lake, config, tmp_path)
    evaluate(lake, config, tmp_path, exact=45)
    strict = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"min_rows": 51})})
    assert not promote.run(strict).promoted
    assert not plan.run(strict).needed
    assert plan.run(config).needed
    assert promote.run(config).promoted


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "", "http://nobody.invalid:5000", "not a url"])
def test_mlflow_out_of_reach_costs_a_sentence(
    lake: Lake, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: the port refuses
        monkeypatch.setenv(MLFLOW_URL, url.format(port=closed.getsockname()[1]))
        train(lake, config, tmp_path)
        evaluate(lake, config, tmp_path, exact=45)
        result = promote.run(config)
    assert result.promoted
    assert result.mlflow_model_url == ""
    assert len(result.notes) == 1
    assert "MLflow" in result.notes[0]
