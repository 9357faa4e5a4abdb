"""Plan, gate and promotion: no torch, a lake of made-up adapters and evaluations."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import MLFLOW_URL
from llmjobs.contracts.errors import BadConfig, BadData, ExitCode
from llmjobs.contracts.training import Evaluate, TrainConfig
from llmjobs.contracts.training_results import EvaluateResult, Gain, RegressionScore, Score
from llmjobs.lake import Lake
from llmjobs.training import plan, promote, rollback
from llmjobs.training.evaluate import judged
from llmjobs.training.identity import ADAPTERS, CHAMPION, EVALUATIONS, champion_version, evaluation_version, identify
from llmjobs.training.measuring.differences import gains
from llmjobs.training.measuring.gate import decide
from llmjobs.training.measuring.scoring import RowScore
from llmjobs.training.withdrawals import is_withdrawn


def score(version: str, exact: int, loss: float, rows: int = 50) -> Score:
    return Score(version=version, rows=rows, exact=exact, exact_match=exact / rows, loss=loss)


def rows_of(one: Score) -> list[RowScore]:
    """Rows that give a score: the first ones right, and the loss a little different on each."""
    return [RowScore(str(n), n < one.exact, one.loss * (1 + 0.1 * (n % 2) - 0.05), 1) for n in range(one.rows)]


def gained(adapter: Score, base: Score, champion: Score | None) -> list[Gain]:
    over = gains(rows_of(adapter), rows_of(base), "base")
    return over + (gains(rows_of(adapter), rows_of(champion), "champion") if champion else [])


def measured(
    adapter: Score, base: Score, champion: Score | None = None, regression: tuple[RegressionScore, ...] = ()
) -> EvaluateResult:
    return EvaluateResult(
        name="tickets", version="e1", evaluation_url="", reused=False, adapter_version=adapter.version,
        champion_version=champion.version if champion else "", dataset="tickets", dataset_version="d1",
        rows=adapter.rows, excluded_rows=0, over_long_rows=0, base=base, adapter=adapter, champion=champion,
        conditions="", gains=gained(adapter, base, champion), regression=list(regression),
    )  # fmt: skip


def regressed(exact: int, base: int, champion: int | None = None, rows: int = 50) -> RegressionScore:
    ours, theirs = score("a", exact, 0.5, rows), score("base", base, 0.5, rows)
    rival = None if champion is None else score("c", champion, 0.5, rows)
    return RegressionScore(
        dataset="general", version="g1", split="test", rows=rows, excluded_rows=0, over_long_rows=0, base=theirs,
        adapter=ours, champion=rival, gains=gained(ours, theirs, rival),
    )  # fmt: skip


BASE = score("base", 0, 2.5)
BETTER = score("a", 45, 0.1)
GENERAL = {"regression": [{"dataset": "general", "margin": 0.1}]}
GATE: list[tuple[dict[str, Any], EvaluateResult, bool, str]] = [
    (
        {},
        measured(BETTER, BASE),
        True,
        "promoted: exact match 0.9 on 50 held-out rows (base 0); the gain over the base is +0.9 (95% interval +0.8",
    ),
    ({}, measured(score("a", 0, 0.1), BASE), False, "not promoted: exact match 0 on 50 held-out rows (base 0); the ga"),
    ({"metric": "loss"}, measured(score("a", 0, 0.1), BASE), True, "promoted: loss 0.1 on 50 held-out rows (base 2.5)"),
    ({"metric": "loss"}, measured(score("a", 9, 2.6), BASE), False, "the gain over the base is -0.1 (95% interval -0."),
    # One row more could be luck; nine rows more are not.
    (
        {},
        measured(BETTER, BASE, score("c", 44, 0.01)),
        False,
        "the champion is +0.02 (95% interval +0 to +0.06), which must lie above 0: its lower end missed that by 0",
    ),
    ({}, measured(BETTER, BASE, score("c", 36, 0.01)), True, "(base 0, champion 0.72)"),
    ({"min_gain": 0.1}, measured(BETTER, BASE, score("c", 36, 0.1)), False, "must lie above 0.1: its lower end missed"),
    ({"min_gain": 0.1}, measured(BETTER, BASE, score("c", 20, 0.1)), True, "promoted"),
    ({"min_rows": 51}, measured(BETTER, BASE), False, "50 held-out rows are fewer than evaluate.min_rows (51)"),
    (GENERAL, measured(BETTER, BASE, None, (regressed(30, 30),)), True, "within the margin of 1 regression set(s)"),
    (
        GENERAL,
        measured(BETTER, BASE, None, (regressed(25, 30),)),
        False,
        "on the 50 rows of the regression set general test the gain of the exact match over the base is -0.1 (95% int",
    ),
    (
        GENERAL,
        measured(BETTER, BASE, score("c", 20, 0.1), (regressed(30, 30, 38),)),
        False,
        "the gain of the exact match over the champion is -0.16",
    ),
    (
        {"regression": [{"dataset": "general", "margin": 0.1, "metric": "loss"}]},
        measured(BETTER, BASE, None, (regressed(25, 30),)),
        True,
        "within the margin",
    ),
    (GENERAL, measured(BETTER, BASE, None, (regressed(9, 9, rows=9),)), False, "9 general test rows are fewer than"),
]


@pytest.mark.parametrize(("rules", "result", "promoted", "says"), GATE)
def test_gate(rules: dict[str, Any], result: EvaluateResult, promoted: bool, says: str) -> None:
    decision = decide(Evaluate.model_validate(rules), result)
    assert decision.promoted is promoted
    assert says in decision.sentence


def test_a_miss_is_told_with_its_size() -> None:
    rules = Evaluate.model_validate(GENERAL)
    found = regressed(25, 30)
    (gain,) = (one for one in found.gains if one.metric == "exact_match")
    decision = decide(rules, measured(BETTER, BASE, None, (found,)))
    assert decision.sentence.endswith(f"must not reach below -0.1 (its margin): it does by {-0.1 - gain.low:.3g}")


def test_a_figure_that_is_no_number_is_not_promoted() -> None:
    result = measured(BETTER, BASE)
    broken = [gain.model_copy(update={"low": float("nan")}) for gain in result.gains]
    assert not decide(Evaluate(), result.model_copy(update={"gains": broken})).promoted


@pytest.mark.parametrize(("rules", "lacks"), [(GENERAL, "general test was not measured"), ({}, "no gain of the exact")])
def test_an_evaluation_that_lacks_what_the_rules_ask_for_is_measured_again(rules: dict[str, Any], lacks: str) -> None:
    result = measured(BETTER, BASE).model_copy(update={} if rules else {"gains": []})
    with pytest.raises(BadData, match=f"{lacks}.*run the evaluation again"):
        decide(Evaluate.model_validate(rules), result)


def test_rules_that_no_evaluation_can_meet_are_refused(recipe: Any) -> None:
    with pytest.raises(BadConfig, match=r"metric \(rouge_l\) needs generated answers: generation.rows \(0\) must be"):
        recipe("m", evaluate={"metric": "rouge_l"})
    with pytest.raises(BadConfig, match="two regression sets have one dataset and split"):
        recipe("m", evaluate={"regression": [{"dataset": "a", "margin": 0}, {"dataset": "a", "margin": 1}]})
    with pytest.raises(BadConfig, match="a sweep is compared by exact_match or loss, not by token_f1"):
        recipe("m", evaluate={"metric": "token_f1", "generation": {"rows": 4}}, sweep={"fractions": [0.5, 1]})


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
    inputs = {
        "dataset": "tickets", "dataset_version": adapter.config.dataset_version, "base_model": config.model.name,
        "base_revision": adapter.base_revision,
    }  # fmt: skip
    lake.publish(folder, kind=ADAPTERS, name="tickets", version=adapter.version, inputs=inputs)
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
        metrics=result.model_dump(mode="json"),
        inputs={
            "adapter_version": adapter.version, "champion_version": result.champion_version,
            "dataset_version": adapter.config.dataset_version,
        },
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
    assert "exact match 0.8 on 50 held-out rows (base 0, champion 0.9); the gain over the champion" in result.sentence
    assert champion_version(lake, "tickets") == champion
    assert "not promoted before, so there is nothing to do" in plan.run(other).sentence
    assert promote.run(other).sentence.startswith("decided before: not promoted")


def test_a_champion_set_back_by_hand_stays(lake: Lake, config: TrainConfig, tmp_path: Path) -> None:
    first = train(lake, config, tmp_path)
    evaluate(lake, config, tmp_path, exact=40)
    promote.run(config)
    better = with_seed(config, 8)
    train(lake, better, tmp_path)
    evaluate(lake, better, tmp_path, exact=45, champion_exact=30)
    assert promote.run(better).promoted
    lake.move_pointer(ADAPTERS, "tickets", CHAMPION, first, reason="users complained")
    assert not plan.run(better).needed
    again = promote.run(better)
    assert not again.promoted
    assert "another champion was set since" in again.sentence
    assert champion_version(lake, "tickets") == first


@pytest.fixture
def two(lake: Lake, config: TrainConfig, tmp_path: Path) -> tuple[TrainConfig, TrainConfig]:
    """The champion of before, and the champion."""
    better = with_seed(config, 8)
    for one, exact, before in ((config, 20, 0), (better, 45, 20)):
        train(lake, one, tmp_path)
        evaluate(lake, one, tmp_path, exact=exact, champion_exact=before)
        assert promote.run(one).promoted
    return config, better


def test_rolled_back_by_a_run(lake: Lake, two: tuple[TrainConfig, TrainConfig], tmp_path: Path) -> None:
    first, second = (identify(one, lake).version for one in two)
    done = plan.run(two[1].model_copy(update={"rollback_to": first[:10]}))
    # What the DAG's tasks look at: nothing is trained, and the champion to announce is the older one.
    assert (done.needed, done.champion_version, done.adapter_version) == (False, first, first)
    assert f"is champion again instead of {second}: rolled back by a run's parameter" in done.sentence
    assert champion_version(lake, "tickets") == first

    # Against the older champion there is no evaluation of the withdrawn adapter; no night makes one.
    night = plan.run(two[1])
    assert not night.needed
    assert "was withdrawn by" in night.sentence
    evaluate(lake, two[1], tmp_path, exact=50, champion_exact=20)
    other = two[1].model_copy(update={"evaluate": two[1].evaluate.model_copy(update={"min_rows": 5})})
    assert "does not become champion by itself" in promote.run(other).sentence
    assert champion_version(lake, "tickets") == first

    assert "is champion already" in plan.run(two[1].model_copy(update={"rollback_to": first})).sentence
    assert not is_withdrawn(lake, "tickets", first)


def test_rolled_back_from_the_shell_and_forth(
    lake: Lake, two: tuple[TrainConfig, TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (identify(one, lake).version for one in two)
    assert rollback.main(["--adapter", "tickets", first, "--reason", "users complained"]) == 0
    assert f"version {first} is champion again instead of {second}: users complained" in capsys.readouterr().out
    pointer = lake.pointer(ADAPTERS, "tickets", CHAMPION)
    assert pointer is not None
    assert (pointer.version, pointer.reason) == (first, "users complained")
    assert rollback.main(["--adapter", "tickets", second]) == 0
    assert champion_version(lake, "tickets") == second
    assert not any(is_withdrawn(lake, "tickets", version) for version in (first, second))
    assert rollback.main(["--adapter", "tickets", "nothing"]) == ExitCode.BAD_DATA
    assert f"has no version nothing; the newest are: {second}, {first}" in capsys.readouterr().err
    assert rollback.main(["--adapter", "tickets", ""]) == ExitCode.BAD_CONFIG


def test_a_better_adapter_waits_for_a_person(lake: Lake, config: TrainConfig, tmp_path: Path) -> None:
    asking = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"approval": True})})
    version = train(lake, asking, tmp_path)
    evaluate(lake, asking, tmp_path, exact=45)
    waiting = promote.run(asking)
    assert not waiting.promoted
    assert waiting.sentence.startswith("not promoted yet, a person has to approve: promoted: exact match 0.9")
    assert champion_version(lake, "tickets") == ""
    assert plan.run(asking).needed, "nothing is decided"
    done = promote.run(asking.model_copy(update={"approved": "version e1 was approved by jane"}))
    assert done.promoted
    assert champion_version(lake, "tickets") == version
    assert done.sentence.endswith("; version e1 was approved by jane")


@pytest.mark.parametrize(
    ("approval", "exact", "verdict"), [(False, 45, "accepted"), (True, 45, "ask"), (True, 0, "refused")]
)
def test_what_the_person_is_shown(config: TrainConfig, approval: bool, exact: int, verdict: str) -> None:
    asking = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"approval": approval})})
    result = judged(asking, measured(score("a", exact, 0.1), BASE, score("c", 0, 2.0), (regressed(30, 30, 30),)))
    assert result.verdict == verdict
    assert result.sentence.startswith(
        "not better: exact match 0 " if verdict == "refused" else "better: exact match 0.9 "
    )
    table = result.summary.splitlines()
    assert {line.count("|") for line in table} == {8}
    assert table[2].startswith(f"| exact match | 50 | {exact / 50:.4f} | 0.0000 | +")
    assert any(line.startswith("| general test: loss (less is better) | 50 |") for line in table)


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
