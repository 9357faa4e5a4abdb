"""Repairs parts of rows: control characters, inputs that say nothing, personal data; each with its before and after.

A part ("cell") is one text of a row: ``instruction``, ``input``, ``output``, ``system``, a turn of a chat
(``messages[3]``), its tool calls (``messages[3].tool_calls``) or the row's ``tools``. Only cells in which `suspicious`
sees something come here; they are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import PII_KINDS
from llmjobs.instructions.rules.library import CONTROL, HINT, NO_INPUT, URL_ONLY, without_control
from llmjobs.instructions.rules.pii import Finder, hint, mask_json, mask_texts, masked
from llmjobs.instructions.rules.presidio import analyzer, found_by
from llmjobs.instructions.tables import FIXES

CELL = pl.Schema({"cell": pl.UInt32, "row": pl.UInt32, "part": pl.String, "text": pl.String})
"""``cell``: position in the column that the text is from; ``row``: position in the chunk."""

_FOUND = {"row": pl.UInt32, "flag": pl.String}
_JSON = pl.col("part").str.contains(r"tool_calls$|^tools$")


@dataclass(frozen=True)
class Repaired:
    """What was found in cells, and done about it.

    Attributes:
        cells: All of them, schema `CELL`, with their texts as they are now.
        found: ``row`` and ``flag`` of each rule that a cell broke, repaired or not; rows may repeat.
        fixes: Schema `tables.FIXES`.
    """

    cells: pl.DataFrame
    found: pl.DataFrame
    fixes: pl.DataFrame


def suspicious(text: pl.Expr, contract: DataContract, *, is_input: bool = False) -> pl.Expr:
    """Return whether a text may need a repair, break a hinted rule or hold personal data: one cheap pass."""
    kinds = kinds_in_force(contract)
    if contract.pii.engine != "builtin":
        return text != ""
    found = text.str.contains("|".join([HINT, hint(kinds)]) if kinds else HINT)
    return found | text.str.contains(NO_INPUT) | text.str.contains(URL_ONLY) if is_input else found


def _also(contract: DataContract) -> Finder | None:
    """Return the search that the contract wants beside the built-in one."""
    if contract.pii.engine == "builtin":
        return None
    engine = analyzer()
    return lambda text: found_by(engine, text)


def kinds_in_force(contract: DataContract) -> tuple[str, ...]:
    """Return the kinds of personal data that the contract looks for."""
    return tuple(kind for kind in PII_KINDS if getattr(contract.pii, kind) != "off")


def repaired(cells: pl.DataFrame, contract: DataContract) -> Repaired:
    """Apply the contract's repairs to `cells`, in this order: control characters, empty inputs, personal data."""
    texts, is_input = pl.col("text"), pl.col("part") == "input"
    rewrites = {
        "control_characters": (~_JSON, CONTROL, without_control(texts), {"fix"}),
        "no_input_marker": (is_input & texts.str.contains(r"\S"), NO_INPUT, pl.lit(""), {"fix", "drop_field"}),
        "url_only_input": (is_input, URL_ONLY, pl.lit(""), {"drop_field"}),
    }
    found, fixes = [pl.DataFrame(schema=_FOUND)], [pl.DataFrame(schema=FIXES)]
    for rule, (where, pattern, after, repairing) in rewrites.items():
        severity = getattr(contract.rules, rule)
        if severity == "off":
            continue
        looked_at = cells.with_row_index("place").filter(where & (texts != ""))
        broken = looked_at.filter(texts.str.contains(pattern)).with_columns(after=after)
        found.append(broken.select("row", flag=pl.lit(rule)))
        if severity in repairing and broken.height:
            fixes.append(_fixes(broken, rule))
            cells = cells.with_columns(text=cells["text"].scatter(broken["place"], broken["after"]))
    cells, personal, maskings = without_personal_data(cells, contract)
    return Repaired(cells, pl.concat([*found, personal]), pl.concat([*fixes, maskings]))


def _fixes(changed: pl.DataFrame, rule: str) -> pl.DataFrame:
    """Return the fixes of one rule; personal data is masked in both texts, whatever the contract does about it."""
    return changed.select(
        pl.col("row").cast(pl.Int64),
        pl.lit(rule).alias("rule"),
        "part",
        pl.col("text").map_batches(mask_texts, return_dtype=pl.String).alias("before"),
        pl.col("after").map_batches(mask_texts, return_dtype=pl.String),
    )


def without_personal_data(
    cells: pl.DataFrame, contract: DataContract
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the cells masked where the policy says so, flags of all kinds found, and what was masked."""
    found: list[tuple[int, str]] = []
    fixes: list[tuple[int, str, str, str, str]] = []
    kinds = kinds_in_force(contract)
    also = _also(contract)
    everywhere = pl.lit(value=also is not None)
    likely = cells.select((pl.col("text").str.contains(hint(kinds)) | everywhere) if kinds else False).to_series()
    positions = likely.arg_true()
    texts = []
    hiding = [kind for kind in kinds if getattr(contract.pii, kind) == "mask"]
    for row, part, text, is_json in cells.filter(likely).select("row", "part", "text", _JSON.alias("json")).iter_rows():
        search = mask_json if is_json else masked
        _, counts = search(text, kinds, also)
        found += [(row, f"pii_{kind}") for kind in counts]
        safe = search(text, hiding, also)[0] if counts.keys() & set(hiding) else text
        texts.append(safe)
        fixes += [
            (row, f"pii_{kind}", part, f"{kind}: {counts[kind]}", f"[{kind.upper()}]")
            for kind in hiding
            if kind in counts
        ]
    if texts:
        cells = cells.with_columns(text=cells["text"].scatter(positions, texts))
    return cells, pl.DataFrame(found, schema=_FOUND, orient="row"), pl.DataFrame(fixes, schema=FIXES, orient="row")
