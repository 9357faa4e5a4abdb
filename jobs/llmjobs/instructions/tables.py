"""The tables that the steps of `prepare` hand to each other: names and types of their columns."""

from __future__ import annotations

from typing import Any

import polars as pl

MESSAGE = pl.Struct({"role": pl.String, "content": pl.String, "tool_calls": pl.String})
"""One turn. ``role`` is system, user, assistant or tool. ``tool_calls`` is null or, of an assistant, canonical JSON:
``[{"name": ..., "arguments": {...}}, ...]``; its ``content`` may then be empty."""

READ: dict[str, Any] = {
    "line": pl.Int64,
    "raw": pl.String,
    "read_problem": pl.String,
    "shape_problem": pl.String,
    "repeated_keys": pl.String,
    "turns": pl.List(MESSAGE),
    "system": pl.String,
    "instruction": pl.String,
    "input": pl.String,
    "output": pl.String,
    "tools": pl.String,
    "source": pl.String,
    "licence": pl.String,
    "topic": pl.String,
    "label": pl.String,
    "conversation": pl.String,
}
r"""One row per row of a file, in the file's order.

* ``line``: line of the file where the row begins, from 1; of Parquet the number of the row, from 1
* ``raw``: its exact text (of CSV the record, of Parquet the row as JSON); bytes that are no UTF-8 are ``\xff``
* ``read_problem``: why it could not be read, with line and column; ``shape_problem``: why it is no row of its format;
  where one of both is set, all columns below are null
* ``repeated_keys``: keys that one of its objects holds twice, joined by ", "
* an Alpaca-like row (Alpaca, Dolly, prompt/completion): ``system``, ``instruction``, ``input``, ``output`` (null where
  the format has no such field; empty where it is empty), ``turns`` = earlier turns (Alpaca's ``history``) or null
* a chat (messages, ShareGPT): ``turns`` = all turns, and ``system`` to ``output`` are null
* ``tools``: null or JSON text, as it stands; ``source`` to ``conversation``: null where the row does not say
"""

EXAMINED: dict[str, Any] = {
    "line": pl.Int64,
    "raw": pl.String,
    "read_problem": pl.String,
    "shape_problem": pl.String,
    "repeated_keys": pl.String,
    "json_problem": pl.String,
    "messages": pl.List(MESSAGE),
    "tools": pl.String,
    "input": pl.String,
    "source": pl.String,
    "licence": pl.String,
    "topic": pl.String,
    "label": pl.String,
    "conversation": pl.String,
    "prompt": pl.String,
    "answer": pl.String,
    "language": pl.String,
    "characters": pl.Int64,
    "tokens": pl.Int64,
    "quarantined": pl.Boolean,
}
"""One row per row of `READ`, in its order, and besides these columns one boolean column for every rule of `RULES` and
every flag of `PII_FLAGS` (False where it is off or could not look).

* ``messages``: repaired and masked, null where the row could not be read; ``json_problem``: says more about
  ``invalid_json_answer``
* ``input``: of an Alpaca-like row the part of its question that was the input, repaired and masked; else null
* ``prompt``: the first user turn, ``answer``: the last assistant turn, both repaired and masked
* ``language``: ISO 639-1 of the answer, null where nobody asked (rule and drift off) or it is too short to tell
* ``characters``: of all turns; ``tokens``: null unless the contract has a tokenizer
* ``label``: of the file, else the field `answer.label` of a JSON answer
* ``quarantined``: a flag of severity ``quarantine`` or ``fail`` is set
"""

FIXES: dict[str, Any] = {
    "row": pl.Int64,
    "rule": pl.String,
    "part": pl.String,
    "before": pl.String,
    "after": pl.String,
}
"""One row per repaired part: ``row`` is the position in the chunk, from 0. Personal data is masked in both texts; of a
masking rule ``before`` is the kind and number of what was masked, never the text."""


def no_rows() -> pl.DataFrame:
    """Return `READ` without rows."""
    return pl.DataFrame(schema=READ)
