"""The audit of a dataset version: what it counts, what its report shows, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.lake import Lake
from llmjobs.training import audit


def test_it_counts_every_row_and_shows_some_token_by_token(
    lake: Lake, tiny_model: Path, recipe: Any, published: Any, tmp_path: Path
) -> None:
    published(lake, tmp_path / "rows", train=range(40), test=range(100, 110))
    result = audit.run(recipe(tiny_model))
    assert [(one.split, one.rows) for one in result.splits] == [("train", 40), ("validation", 4), ("test", 10)]
    train = result.splits[0]
    assert (train.answers, train.ended_answers) == (40, 40)
    assert 0 < result.trainable_tokens_per_epoch < result.tokens_per_epoch == train.tokens
    assert sum(train.histogram.values()) == 40
    page = (lake.fetch(audit.AUDITS, "tickets", result.version, tmp_path / "audit") / "report.html").read_text("utf-8")
    assert page.count("<article") == 20
    learnt = [re.sub("<.*?>", "", one) for one in re.findall(r"<article.*?</article>", page, re.DOTALL)]
    assert all("&#34;team&#34;" in one for one in learnt)
    assert "<script" not in page
    assert audit.run(recipe(tiny_model)) == result.model_copy(update={"reused": True})


def test_rows_without_the_beginning_of_their_question_are_counted(
    lake: Lake, tiny_model: Path, recipe: Any, published: Any, tmp_path: Path
) -> None:
    published(lake, tmp_path / "rows", train=range(40), test=range(100, 110), long_row=True)
    with pytest.raises(BadData, match=r"1 of 41 rows are longer than data\.max_length_tokens \(128\)"):
        audit.run(recipe(tiny_model))
    result = audit.run(recipe(tiny_model, data={"on_overflow": "truncate_prompt"}))
    assert (result.splits[0].rows, result.splits[0].truncated_rows) == (41, 1)
    assert result.longest_tokens == 128


def test_a_row_on_two_sides_is_refused(
    lake: Lake, tiny_model: Path, recipe: Any, published: Any, tmp_path: Path
) -> None:
    published(lake, tmp_path / "rows", train=range(40), test=range(39, 45))
    with pytest.raises(BadData, match=r"1 test rows are train rows, too, the first is tickets\.jsonl line 39"):
        audit.run(recipe(tiny_model))
