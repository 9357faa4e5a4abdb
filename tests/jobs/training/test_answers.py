"""How near an answer is to its reference: no model."""

from __future__ import annotations

import difflib
import random

import pytest

from llmjobs.training.measuring.answers import compare, repeats, rouge_l, token_f1, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"team":"search","run":104}', ["team", "search", "run", "104"]),
        ("Grün, grün_sind", ["grün", "grün", "sind"]),
        ("abc漢字 def", ["abc", "漢", "字", "def"]),
        ("#!", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("mine", "wanted", "f1", "rouge"),
    [
        # Lin, 2004, section 3.1: "police kill the gunman" and "the gunman kill police" against the reference.
        ("police kill the gunman", "police killed the gunman", 0.75, 0.75),
        ("the gunman kill police", "police killed the gunman", 0.75, 0.5),
        ("a b c d", "a b", 2 / 3, 2 / 3),
        ("b a a", "a b", 0.8, 0.4),
        ("", "a", 0.0, 0.0),
        ("", "", 1.0, 1.0),
    ],
)
def test_shared_words_and_their_order(mine: str, wanted: str, f1: float, rouge: float) -> None:
    assert token_f1(words(mine), words(wanted)) == pytest.approx(f1)
    assert rouge_l(words(mine), words(wanted)) == pytest.approx(rouge)


def test_rouge_is_symmetric_and_between_the_bounds() -> None:
    chance = random.Random(5)
    for _ in range(100):
        mine, wanted = ([chance.choice("abcde") for _ in range(chance.randint(1, 20))] for _ in range(2))
        found = rouge_l(mine, wanted)
        assert found == pytest.approx(rouge_l(wanted, mine))
        # Any matching blocks in order are a common subsequence; shared words are at least the longest one.
        blocks = sum(
            one.size for one in difflib.SequenceMatcher(None, mine, wanted, autojunk=False).get_matching_blocks()
        )
        assert 2 * blocks / (len(mine) + len(wanted)) <= found + 1e-9
        assert found <= token_f1(mine, wanted) + 1e-9


def test_circles() -> None:
    assert repeats([1, 2, 3, 4] * 3, [9])
    assert repeats([7] * 6, [7, 7])
    assert not repeats([7] * 5, [7, 7])
    assert not repeats([1, 2, 3, 4] * 2, [9])
    assert not repeats([1, 2, 3, 4] * 3, [1, 2, 3, 4] * 3), "the reference does so too"


def test_one_answer() -> None:
    found = compare("search, 104", "search 105", [1, 2, 3], [1, 2, 3, 4], ended=True)
    assert (found.token_f1, found.rouge_l, found.tokens, found.reference_tokens) == (0.5, 0.5, 3, 4)
    assert found.ended
    assert not found.repeated
