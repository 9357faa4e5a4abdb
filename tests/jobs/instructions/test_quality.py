"""The score: bounded, monotone, of any text; and it knows spoilt answers from good ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import Quality
from llmjobs.contracts.errors import BadConfig
from llmjobs.instructions.choice import quality, words
from llmjobs.instructions.choice.embedder import embedder
from llmjobs.instructions.tables import MESSAGE
from tests.benchmarks.quality import FLOORS, auc, long_enough, read, spoil, table, turn

PLAIN = Quality(score=True)
FULL = Quality(score=True, similarity=True)
PROSE = (
    "A glacier is a large body of ice that forms where snow outlasts many summers. Its own weight presses it into "
    "ice, and it then creeps downhill, grinding rock as it goes and leaving lakes behind when it melts."
)


def scored(*texts: tuple[str, str]) -> pl.DataFrame:
    return quality.score(table(list(texts)), PLAIN)


def signal(name: str, question: str, answer: str) -> float:
    return float(scored((question, answer))[name][0])


# --- words


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def of_ascii(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@settings(deadline=None)
@given(st.lists(st.text(st.characters(max_codepoint=127), max_size=40), max_size=20))
def test_words_are_those_of_a_regular_expression(texts: list[str]) -> None:
    expected = [of_ascii(text) for text in texts]
    found = list(words.blocks(pl.Series(texts, dtype=pl.String)))
    counts = [count for _, (block,) in found for count in block.counts.tolist()]
    assert counts == [len(row) for row in expected]
    hashes = [number for _, (block,) in found for number in block.hashes.tolist()]
    spelt = [word for row in expected for word in row]
    assert len(set(zip(spelt, hashes, strict=True))) == len(set(spelt)) == len(set(hashes))


def test_chinese_characters_are_words_and_their_punctuation_parts_them() -> None:
    ((_, (block,)),) = words.blocks(pl.Series(["冰川“很”大\uff0ccafé — naïve\uff01", "很"]))
    assert block.counts.tolist() == [6, 1]
    assert block.alone.tolist() == [True, True, True, True, False, False, True]
    assert block.hashes[2] == block.hashes[6]


def test_a_text_hashes_the_same_wherever_it_stands() -> None:
    texts = pl.Series([f"{'pad ' * (number % 50)}Glaciers grind" for number in range(5000)] + ["x" * 200_000, None])
    found = [block.hashes[np.cumsum(block.counts) - 1] for _, (block,) in words.blocks(texts.head(5000))]
    assert len(found) > 1
    assert len(set(np.concatenate(found).tolist())) == 1
    assert sum(len(block.counts) for _, (block,) in words.blocks(texts)) == 5002


# --- signals


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_every_row_of_any_text_has_signals_from_0_to_1(texts: list[tuple[str, str]]) -> None:
    found = scored(*texts)
    assert found.columns == ["score", *quality.SIGNALS]
    assert found.height == len(texts)
    for column in found:
        assert column.dtype == pl.Float32
        assert column.is_between(0, 1).all()
        assert not column.is_nan().any()


def test_nulls_and_an_empty_chunk_are_no_exception() -> None:
    rows = pl.DataFrame(
        {"prompt": ["q", None], "answer": [None, None], "messages": [None, None]},
        schema={"prompt": pl.String, "answer": pl.String, "messages": pl.List(MESSAGE)},
    )
    assert quality.score(rows, PLAIN)["score"].is_between(0, 0.5).all()
    assert quality.score(rows.head(0), PLAIN).height == 0


@settings(deadline=None)
@given(st.integers(0, 900), st.integers(1, 100))
def test_length_rises_until_many_words_and_then_falls(count: int, more: int) -> None:
    short, longer, endless = (
        float(quality._length(np.array([number]))[0]) for number in (count, count + more, 1000 + count)
    )
    assert 0 <= short < longer + 1e-12
    assert endless <= 1
    assert quality._length(np.array([4000]))[0] == pytest.approx(0.5)


def test_a_vocabulary_that_repeats_itself_scores_low() -> None:
    assert signal("lexical", "What is a glacier?", PROSE) > 0.98
    assert signal("lexical", "What is a glacier?", f"{PROSE} {PROSE}") < 0.7
    assert signal("lexical", "What is a glacier?", "ice " * 60) < 0.05
    assert signal("lexical", "冰川?", "冰很冷" * 20) < 0.1
    assert signal("lexical", "冰川是什么?", "冰川是由多年积雪压实而成的巨大移动冰体,存在于寒冷地区。") > 0.98


def test_a_question_again_is_no_answer_but_a_corrected_sentence_is() -> None:
    assert signal("overlap", PROSE, PROSE) < 0.02
    assert signal("overlap", "Why do people like ice so much?", f"Why do people like ice so much? {PROSE}") < 0.02
    wrong = "Correct this sentence: he go to the market every day and buy bread for his family"
    assert signal("overlap", wrong, "He goes to the market every day and buys bread for his family") > 0.3
    assert signal("overlap", "What is a glacier?", PROSE) > 0.98
    assert signal("overlap", "Yes or no?", "No") == 1


def test_an_answer_about_something_else_has_less_relevance_but_never_less_than_half() -> None:
    assert signal("relevance", "How does a glacier melt?", "Stir the flour into warm butter.") == 0.5
    assert signal("relevance", "How does a glacier melt?", PROSE) > 0.7
    assert signal("relevance", "冰川如何融化?", "冰川在夏天融化。") > signal(
        "relevance", "冰川如何融化?", "把面粉拌入黄油。"
    )


def test_of_a_chat_the_last_question_is_compared_and_tool_calls_are_an_answer() -> None:
    chat = [turn("user", "Hello"), turn("assistant", "Hi"), turn("user", PROSE), turn("assistant", PROSE)]
    calls = [turn("user", "Weather?"), {**turn("assistant", ""), "tool_calls": f'[{{"arguments": "{PROSE}"}}]'}]
    rows = pl.DataFrame(
        {"prompt": ["Hello", "Weather?"], "answer": [PROSE, ""], "messages": [chat, calls]},
        schema={"prompt": pl.String, "answer": pl.String, "messages": pl.List(MESSAGE)},
    )
    found = quality.score(rows, PLAIN)
    assert found["overlap"][0] < 0.02
    assert found["length"][1] > 0.8


# --- the score


VALUES = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@settings(deadline=None)
@given(VALUES, st.integers(0, 3), st.floats(0, 1))
def test_the_score_rises_with_each_signal(values: list[float], which: int, other: float) -> None:
    changed = [max(value, other) if place == which else value for place, value in enumerate(values)]
    one, two = (
        quality.combined({name: np.array([value]) for name, value in zip(quality.SIGNALS, row, strict=True)})[0]
        for row in (values, changed)
    )
    assert 0 <= one <= two <= 1


def test_a_mark_counts_where_there_is_one() -> None:
    rows = scored(*[("What is a glacier?", PROSE)] * 3)
    found = quality.with_marks(rows, pl.Series("mark", [1, 5, None], dtype=pl.UInt8))
    assert found["mark"].to_list() == [0.0, 1.0, None]
    low, high, none = found["score"].to_list()
    assert low < 0.1 < none == rows["score"][2] < high <= 1


def test_similarity_is_the_cosine_up_to_close_and_a_broken_vector_loses_no_row() -> None:
    vectors = {"q": [1.0, 0.0], "same": [1.0, 0.0], "half": [0.3, 0.954], "other": [-1.0, 0.0], "nan": [np.nan, 0.0]}

    def embed(texts: list[str]) -> npt.NDArray[np.float32]:
        return np.array([vectors[text] for text in texts], dtype=np.float32)

    rows = table([("q", answer) for answer in ("same", "half", "other", "nan")])
    found = quality.score(rows, FULL, embed=embed)
    assert found["similarity"].to_list() == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-6)
    assert found["score"].is_between(0, 1).all()


# --- the evidence, in short; tests/benchmarks/quality.py has all of it


@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "alpaca_zh_demo.json"])
def test_spoilt_answers_score_below_good_ones(real: Callable[[str], Path], name: str) -> None:
    texts = long_enough(read(real(name)))
    good = scored(*texts)
    spoilt = {kind: scored(*rows) for kind, rows in spoil(texts).items()}
    found = {kind: auc(good["score"], bad["score"]) for kind, bad in spoilt.items()}
    assert {kind for kind, value in found.items() if value < FLOORS[False][kind]} == set()
    telling = {"truncated": "length", "repeated": "lexical", "echoed": "overlap", "shuffled": "relevance"}
    assert {kind for kind, which in telling.items() if auc(good[which], spoilt[kind][which]) < 0.88} == set()


@pytest.mark.slow  # importing sentence-transformers takes 20 CPU seconds
def test_the_real_model_tells_shuffled_answers_apart(real: Callable[[str], Path]) -> None:
    texts = [(question, answer[:200]) for question, answer in long_enough(read(real("alpaca_en_demo.json")))[:30]]
    embed = embedder(FULL.embedding_model)
    good = quality.score(table(texts), FULL, embed=embed)
    bad = quality.score(table(spoil(texts)["shuffled"]), FULL, embed=embed)
    assert auc(good["similarity"], bad["similarity"]) > 0.95
    assert auc(good["score"], bad["score"]) > 0.9
    vectors = embed(["one text", "another, longer text about glaciers", "one text"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (vectors[0] == vectors[2]).all()


def test_an_unknown_model_is_refused_before_a_row_is_read() -> None:
    with pytest.raises(BadConfig, match=r"no folder with a config\.json"):
        embedder("/nowhere/model")
