"""How near a generated answer is to its reference: shared words, their order, its length, its end, and circles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Thai to Khmer, kana and Chinese: scripts without spaces between words, so that a character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")

_LOOP_TOKENS = 4
_LOOP_TIMES = 3


@dataclass(frozen=True)
class Answer:
    """One generated answer beside its reference.

    Attributes:
        text: As generated, without special tokens.
        tokens: Of the answer, its end included; ``reference_tokens``: of the reference.
        token_f1: Of their words, 0 to 1; ``rouge_l`` too.
        ended: Whether the model ended it within the budget.
        repeated: Whether it runs in circles.
    """

    text: str
    tokens: int
    reference_tokens: int
    token_f1: float
    rouge_l: float
    ended: bool
    repeated: bool


def compare(text: str, reference: str, ids: Sequence[int], reference_ids: Sequence[int], *, ended: bool) -> Answer:
    """Compare one answer with its reference, both as text and as token ids."""
    mine, wanted = words(text), words(reference)
    return Answer(
        text=text,
        tokens=len(ids),
        reference_tokens=len(reference_ids),
        token_f1=token_f1(mine, wanted),
        rouge_l=rouge_l(mine, wanted),
        ended=ended,
        repeated=repeats(ids, reference_ids),
    )


def words(text: str) -> list[str]:
    """Return the lower-case words and numbers of a text; of scripts without spaces, the characters."""
    return _WORD.findall(text.lower())


def token_f1(mine: list[str], wanted: list[str]) -> float:
    """Return the F1 of the words in common, whatever their order (SQuAD's, arXiv:1606.05250, with articles kept)."""
    return _f1(sum((Counter(mine) & Counter(wanted)).values()), len(mine), len(wanted))


def rouge_l(mine: list[str], wanted: list[str]) -> float:
    """Return ROUGE-L: the F1 of the longest common subsequence of words (Lin, 2004, "ROUGE", section 3, beta 1)."""
    lengths = [0] * (len(wanted) + 1)
    for word in mine:
        diagonal = 0
        for place, other in enumerate(wanted, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return _f1(lengths[-1], len(mine), len(wanted))


def _f1(common: int, mine: int, wanted: int) -> float:
    # Two texts without a word, for example a lone number sign, agree in that.
    return 2 * common / (mine + wanted) if mine + wanted else 1.0


def repeats(ids: Sequence[int], reference_ids: Sequence[int]) -> bool:
    """Return whether some 4 tokens in a row come 3 times or more, and more often than in the reference."""
    found, wanted = _runs(ids), _runs(reference_ids)
    return any(times >= _LOOP_TIMES and times > wanted[run] for run, times in found.items())


def _runs(ids: Sequence[int]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(ids[start : start + _LOOP_TOKENS]) for start in range(len(ids) - _LOOP_TOKENS + 1))
