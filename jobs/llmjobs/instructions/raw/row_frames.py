"""Makes frames of `READ` out of rows that were read one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from llmjobs.instructions.raw.formats import COLUMNS, storable, take
from llmjobs.instructions.raw.json_rows import ReadRow
from llmjobs.instructions.raw.row_layouts import Layouts, WrongShape
from llmjobs.instructions.tables import MESSAGE, READ

_SCHEMA: Any = READ
_NOTHING = (None,) * len(COLUMNS)
_TEXTS = [name for name in READ if name not in {"line", "turns"}]


def frame_of(rows: Iterable[ReadRow], layouts: Layouts) -> pl.DataFrame:
    """Return rows as `READ`, in their order."""
    columns: dict[str, list[Any]] = {name: [] for name in READ}
    turns: list[tuple[int, str, str, str | None]] = []
    for number, row in enumerate(rows):
        taken, shape_problem, repeated = _taken(row, layouts)
        columns["line"].append(row.line)
        columns["raw"].append(row.raw)
        columns["read_problem"].append(row.problem or None)
        columns["shape_problem"].append(shape_problem)
        columns["repeated_keys"].append(storable(", ".join(repeated)) if repeated else None)
        for name, column in zip(COLUMNS[1:], taken[1:], strict=True):
            columns[name].append(column)
        if taken[0] is not None:
            turns.extend((number, *turn) for turn in taken[0])
    frame = pl.DataFrame({"line": pl.Series(columns["line"], dtype=pl.Int64)})
    frame = frame.with_columns(pl.Series(name, columns[name], dtype=pl.String) for name in _TEXTS)
    return frame.with_columns(turns=_listed(turns, frame.height)).select(*READ)


def _taken(row: ReadRow, layouts: Layouts) -> tuple[Sequence[Any], str | None, Sequence[str]]:
    """Return what a row has for `COLUMNS`, why it has no such shape, and its repeated keys."""
    if row.problem:
        return _NOTHING, None, row.repeated
    repeated = list(row.repeated)
    try:
        return take(row.value, row.raw, layouts, repeated), None, list(dict.fromkeys(repeated))
    except WrongShape as error:
        return _NOTHING, storable(str(error)), repeated
    except RecursionError:
        return _NOTHING, "nested too deeply", repeated


def _listed(turns: list[tuple[int, str, str, str | None]], height: int) -> pl.Series:
    """Return one list of turns a row, null for rows without any."""
    names = ("row", "role", "content", "tool_calls")
    types = (pl.Int64, pl.String, pl.String, pl.String)
    flat = zip(*turns, strict=True) if turns else ((), (), (), ())
    table = pl.DataFrame([pl.Series(name, list(c), dtype=t) for name, c, t in zip(names, flat, types, strict=True)])
    by_row = table.group_by("row", maintain_order=True).agg(turns=pl.struct(*MESSAGE.to_schema()))
    everyone = pl.DataFrame({"row": pl.int_range(height, eager=True)})
    return everyone.join(by_row, on="row", how="left", maintain_order="left")["turns"].cast(_SCHEMA["turns"])
