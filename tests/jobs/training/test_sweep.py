"""A sweep: fractions of the rows, compared on the validation split; the best goes on."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from llmjobs.contracts.environment import LAKE_URL, MLFLOW_URL
from llmjobs.contracts.errors import BadConfig, BadData, Diverged
from llmjobs.contracts.sweeping import told
from llmjobs.contracts.training import Evaluate, TrainConfig
from llmjobs.contracts.training_results import DivergedPoint, Score, SweepPoint, SweepResult
from llmjobs.lake import Lake
from llmjobs.training import evaluate, plan, promote, sweep, train, worker
from llmjobs.training.measuring.differences import mcnemar, paired_difference
from llmjobs.training.measuring.scoring import RowScore
from llmjobs.training.reports.sweep import write_report
from llmjobs.training.sweep import sentence

# --- how sure


@pytest.mark.parametrize(
    ("only_mine", "only_other", "p_value"),
    # The first three: real systems on the 1,319 problems of GSM8K's test set.
    [(209, 152, 0.00315), (88, 260, 7.47e-21), (43, 499, 1.66e-99), (0, 0, 1.0), (3, 3, 1.0), (0, 5, 0.0625)],
)
def test_mcnemar(only_mine: int, only_other: int, p_value: float) -> None:
    assert mcnemar(only_mine, only_other) == pytest.approx(p_value, rel=5e-3)
    assert mcnemar(only_other, only_mine) == mcnemar(only_mine, only_other)
    rows = only_mine + only_other
    assert rows == 0 or mcnemar(only_mine, only_other) == pytest.approx(binomtest(only_mine, rows).pvalue)


def scores(exact: list[bool], nats: list[float]) -> list[RowScore]:
    return [RowScore(str(n), right, lost, 4) for n, (right, lost) in enumerate(zip(exact, nats, strict=True))]


def test_the_interval_is_that_of_paired_differences() -> None:
    chance = random.Random(3)
    right = [(chance.random() < 0.6, chance.random() < 0.5) for _ in range(400)]
    mine, other = (scores([pair[n] for pair in right], [0.0] * 400) for n in (0, 1))
    found = paired_difference(mine, other, "exact_match")
    differences = [int(a) - int(b) for a, b in right]
    mean = sum(differences) / 400
    error = (sum((one - mean) ** 2 for one in differences) / 400 / 400) ** 0.5
    assert found.gain == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.006)
    assert found.p_value is not None
    assert (found.p_value < 0.05) is (found.low > 0)


def test_less_loss_is_a_gain() -> None:
    low, high = (
        scores([True] * 50, [1.0 + n % 3 for n in range(50)]),
        scores([True] * 50, [2.0 + n % 5 for n in range(50)]),
    )
    found = paired_difference(low, high, "loss")
    assert found.gain == pytest.approx(
        (sum(2.0 + n % 5 for n in range(50)) - sum(1.0 + n % 3 for n in range(50))) / 200
    )
    assert 0 < found.low < found.gain < found.high
    assert found.p_value is None
    same = paired_difference(low, low, "loss")
    assert (same.gain, same.low, same.high) == (0, 0, 0)


def point(
    settings: float | dict[str, float], exact: int, low: float = 0.0, high: float = 0.0, *, full: int = 80
) -> SweepPoint:
    """A candidate, by a fraction or by its values, beside a reference with `full` exact answers."""
    values = settings if isinstance(settings, dict) else {"data.fraction": settings}
    share = values.get("data.fraction", 1)
    score = Score(version=f"v{values}", rows=100, exact=exact, exact_match=exact / 100, loss=1 - exact / 200)
    return SweepPoint(
        settings=values, adapter_version=score.version, rows=int(share * 1000), tokens=int(share * 50_000),
        score=score, gain=(exact - full) / 100, low=low, high=high, p_value=0.5,
    )  # fmt: skip


FULL = point(1, 80)
ENOUGH = (
    "0.5 of the rows loses nothing measurable: exact match 0.79 with 500 rows against 0.8 with 1000; the gain is -0.01 "
    "(95% interval -0.04 to +0.02) on 100 validation rows"
)


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        (
            [point(0.25, 60, -0.3, -0.1), point(0.5, 79, -0.04, 0.02), FULL],
            ENOUGH,
        ),
        ([point(0.25, 78, -0.05, 0.01), point(0.5, 79, -0.04, 0.02), FULL], "0.25 of the rows loses nothing"),
        (
            [point(0.25, 60, -0.3, -0.1), point(0.5, 70, -0.2, -0.01), FULL],
            "more rows still help: exact match 0.7 with 500",
        ),
        # A smaller fraction that is no worse by luck does not count where a larger one is worse.
        ([point(0.25, 80, -0.1, 0.1), point(0.5, 70, -0.2, -0.01), FULL], "more rows still help"),
    ],
)
def test_the_sentence_says_whether_fewer_rows_would_do(curve: list[SweepPoint], says: str) -> None:
    assert sentence(curve, Evaluate(), []).startswith(says)


def rate(learning_rate: float, rank: int) -> dict[str, float]:
    return {"train.learning_rate": learning_rate, "lora.r": rank}


MIDDLE = [
    point(rate(1e-4, 8), 60, -0.3, -0.1), point(rate(1e-4, 16), 61, -0.3, -0.1), point(rate(1e-4, 32), 62, -0.3, -0.1),
    point(rate(2e-4, 8), 78, -0.1, 0.01), point(rate(2e-4, 16), 80), point(rate(2e-4, 32), 79, -0.1, 0.05),
    point(rate(4e-4, 8), 50, -0.4, -0.2), point(rate(4e-4, 16), 51, -0.4, -0.2), point(rate(4e-4, 32), 40, -0.5, -0.3),
]  # fmt: skip


def test_the_sentence_names_the_best_and_what_is_as_good() -> None:
    assert sentence(MIDDLE, Evaluate(), []) == (
        "learning rate 0.0002, rank 16 is best: exact match 0.8; 2 of 8 others are not measurably worse (learning rate "
        "0.0002, rank 8; learning rate 0.0002, rank 32) on 100 validation rows"
    )


def test_the_sentence_says_where_a_list_ends_too_early() -> None:
    said = sentence(MIDDLE[:6], Evaluate(), [])
    assert "; learning rate 0.0002 is the highest that was tried, a higher one may be better on 100" in said
    assert "rank 16 is the" not in said
    assert told({"lora.r": 8, "train.learning_rate": 2e-4}) == "learning rate 0.0002, rank 8"
    assert "; rank 32 is the highest that was tried" in sentence(MIDDLE[2:3] + MIDDLE[:2], Evaluate(), [])
    lower = [point({"lora.r": 4}, 80), point({"lora.r": 8}, 70, -0.2, -0.1)]
    assert "; rank 4 is the lowest that was tried, a lower one may be better" in sentence(lower, Evaluate(), [])
    # A higher rate that diverged was tried.
    lost = DivergedPoint(settings=rate(9e-4, 16), adapter_version="v", sentence="loss is nan at step 3 of 60")
    said = sentence(MIDDLE[:6], Evaluate(), [lost])
    assert "highest" not in said
    assert said.endswith(" on 100 validation rows; diverged: learning rate 0.0009, rank 16")


def test_few_rows_say_little() -> None:
    curve = [point(0.5, 79, -0.04, 0.02), FULL]
    assert sentence(curve, Evaluate(min_rows=101), []).endswith("is fewer than evaluate.min_rows (101) and says little")
    assert sentence(curve, Evaluate(min_rows=100), []).endswith("on 100 validation rows")


def swept(
    curve: list[SweepPoint], metric: Any, best: int, reference: int, diverged: tuple[DivergedPoint, ...] = ()
) -> SweepResult:
    return SweepResult(
        name="tickets", version="s1", reused=False, dataset="<tickets>", dataset_version="d1", metric=metric, rows=100,
        excluded_rows=0, over_long_rows=0, base=point(0.1, 0).score, curve=curve, diverged=list(diverged),
        reference_version=curve[reference].adapter_version, settings=curve[best].settings,
        adapter_version=curve[best].adapter_version, report_url="",
        sentence=sentence(curve, Evaluate(metric=metric), list(diverged)),
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["exact_match", "loss"])
def test_the_report_needs_nothing_from_outside(metric: str, tmp_path: Path) -> None:
    curve = [point(0.25, 60, -0.3, -0.1), point(0.5, 81, -0.04, 0.02), FULL]
    write_report(tmp_path / "report.html", swept(curve, metric, 1, 2))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0.5 of the rows loses nothing measurable" in page
    assert "The candidate with 0.5 of the rows goes on" in page
    assert ("McNemar" in page) is (metric == "exact_match")
    assert page.count('class="point') == 3
    assert page.count('class="point best"') == 1
    assert not re.search(r"<script|(src|href)=|url\(|https?:", page)
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "&lt;tickets&gt;" in page
    places = [float(place) for place in re.findall(r'c[xy]="([-\d.]+)"', page)]
    assert all(0 <= place <= 720 for place in places)


@pytest.mark.parametrize("metric", ["exact_match", "loss"])
def test_the_report_of_rates_and_ranks_shows_the_best_first(metric: str, tmp_path: Path) -> None:
    lost = DivergedPoint(settings=rate(9e-4, 16), adapter_version="v", sentence="loss is nan at step 3 of 60")
    write_report(tmp_path / "report.html", swept(MIDDLE, metric, 4, 4, (lost,)))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r'<td class="number">([\d.e-]+)</td><td class="number">(\d+)</td><td class="number">1,000', page)
    assert len(shown) == 9
    assert shown[:3] == [("0.0002", "16"), ("0.0002", "32"), ("0.0002", "8")]
    assert "over the best candidate" in page
    assert "<td>learning rate 0.0009, rank 16</td><td>loss is nan at step 3 of 60</td>" in page
    across = [float(place) for place in re.findall(r'cx="([-\d.]+)"', page)]
    assert across == sorted(across, reverse=metric == "exact_match"), "the best is at the metric's good end"
    assert all(300 <= place <= 720 for place in across)


# --- the jobs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, published: Any) -> Iterator[Path]:
    """A lake with one dataset version whose rows are ranked."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LAKE_URL, f"file://{folder / 'lake'}")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv(MLFLOW_URL, raising=False)
        published(Lake.from_environment(), folder / "rows", train=range(100, 140), test=range(140, 164), ranked=True)
        yield folder


@pytest.fixture(scope="module")
def config(world: Path, tiny_model: Path, recipe: Any) -> TrainConfig:
    made: TrainConfig = recipe(
        tiny_model, sweep={"fractions": [1.0, 0.25]}, evaluate={"metric": "loss"}, train={"max_steps": 6}
    )
    return made


def test_a_config_without_a_sweep_is_refused(recipe: Any) -> None:
    with pytest.raises(BadConfig, match="there is no sweep in the config"):
        sweep.run(recipe("/nowhere"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21.2
def test_from_plan_to_champion(config: TrainConfig, world: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = plan.run(config)
    assert first.needed
    assert "a sweep of 2 candidates" in first.sentence
    assert "0 of them trained" in first.sentence
    with pytest.raises(BadData, match=r"\(0\.25 of the rows\): not in the lake; train it first"):
        sweep.run(config)
    trained = [train.run(one) for one in config.candidates]
    assert [one.train_rows for one in trained] == [10, 40]
    assert "2 of them trained" in plan.run(config).sentence
    with caplog.at_level(logging.INFO):
        result = sweep.run(config)
    assert result.sentence in caplog.text
    assert [found.adapter_version for found in result.curve] == [one.version for one in trained]
    assert (result.rows, result.excluded_rows, result.base.rows) == (4, 0, 4)
    losses = [found.score.loss for found in result.curve]
    assert max(losses) < result.base.loss
    assert result.adapter_version == trained[losses.index(min(losses))].version
    assert sweep.run(config) == result.model_copy(update={"reused": True})
    folder = Path(result.report_url.removeprefix("file://")).parent
    assert {path.name for path in folder.iterdir()} == {"report.html", "rows.jsonl", "sweep.json", "manifest.json"}
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 4

    best = config.candidate(result.settings)
    second = plan.run(config)
    assert (second.needed, second.trained, second.evaluated) == (True, True, False)
    assert second.adapter_version == result.adapter_version
    measured = evaluate.run(best)
    assert (measured.adapter_version, measured.rows) == (result.adapter_version, 24)
    assert promote.run(best).promoted
    third = plan.run(config)
    assert not third.needed
    assert f"the best of a sweep ({told(result.settings)}), on dataset version" in third.sentence


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21.2
def test_a_candidate_that_diverges_is_told_and_left_out(
    config: TrainConfig, world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rates = [0.01, 0.02]
    mine = TrainConfig.from_mapping(
        {**config.model_dump(mode="json"), "name": "rates", "sweep": {"learning_rates": rates}}, origin="test"
    )
    good, bad = mine.candidates
    trained = train.run(good)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "work", diverge)
        with pytest.raises(Diverged):
            train.run(bad)
    with caplog.at_level(logging.INFO):
        result = sweep.run(mine)
    assert result.settings == {"train.learning_rate": 0.01}
    assert [found.adapter_version for found in result.curve] == [trained.version]
    assert [(one.settings, one.sentence) for one in result.diverged] == [
        ({"train.learning_rate": 0.02}, "loss is nan at step 3 of 6")
    ]
    assert result.sentence.endswith("; diverged: learning rate 0.02")
    assert "learning rate 0.02 diverged: loss is nan at step 3 of 6" in caplog.text
    assert plan.run(mine).adapter_version == trained.version


@pytest.mark.usefixtures("world")
def test_a_sweep_of_which_nothing_is_left_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = TrainConfig.from_mapping(
        {**config.model_dump(mode="json"), "name": "lost", "sweep": {"ranks": [2, 4]}}, origin="test"
    )
    monkeypatch.setattr(worker, "work", diverge)
    for one in mine.candidates:
        with pytest.raises(Diverged):
            train.run(one)
    with pytest.raises(BadData, match="every candidate diverged; rank 2: loss is nan at step 3 of 6"):
        sweep.run(mine)


def diverge(*_: Any) -> None:
    """Stand for a training whose loss is no number; how it ends so is tested with the training."""
    raise Diverged("loss is nan at step 3 of 6")
