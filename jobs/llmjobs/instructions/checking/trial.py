"""Tries a contract on files, with all that a night does but for publishing; in a lake of its own that is gone after."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.environment import LAKE_URL
from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions.json_texts import texts_in, value_of
from llmjobs.lake import Lake

NAME = "check"

_LONGEST_BEGIN, _LONGEST_END = 60, 90
"""Characters shown of a row's first text, usually the question, and of its last, usually the answer."""


@dataclass(frozen=True)
class Trial:
    """What a contract makes of some files.

    Attributes:
        figures: All counts, as in an audit's manifest.
        refusal: Why the data would be refused; empty where it would not.
        question: Whether a person would be asked.
        samples: Rule -> places and masked texts of some of its quarantined rows.
    """

    figures: dict[str, Any]
    refusal: str
    question: bool
    samples: dict[str, list[str]]


def try_on(contract: DataContract, files: Sequence[str], *, lake: Lake | None = None, samples: int = 2) -> Trial:
    """Return what a contract makes of files.

    Nothing is compared with: there is no last version, and no other dataset.

    Args:
        contract: The contract.
        files: Paths of this machine, globs among them, or URLs.
        lake: Where evaluation sets without ``scheme://`` lie.
        samples: Rows shown of each rule.

    Raises:
        BadData: A file is not there.
        BadConfig: The contract asks for something that is not installed.
    """
    from llmjobs.instructions import prepare

    config = PrepareConfig(
        name=NAME, source="\n".join(_url(file) for file in files), contract=_alone(contract, lake), dry_run=True
    )
    with _own_lake() as own:
        refusal = ""
        try:
            prepare.run(config)
        except BadData as error:
            refusal = str(error)
        audits = own.versions("audits", NAME)
        if not audits:
            raise BadData(refusal)
        figures = audits[-1].metrics
        with own.open(f"audits/{NAME}/versions/{audits[-1].version}/quarantine.jsonl") as rows:
            shown = _samples(rows, samples)
    if figures.get("sentence"):
        # Without the address of a report that is gone, and without the name of a dataset that there never was.
        refusal = str(figures["sentence"]).partition(": ")[2] if refusal else ""
    return Trial(figures, refusal, question=figures["decision"] == "ask", samples=shown)


def _alone(contract: DataContract, lake: Lake | None) -> DataContract:
    """Return the contract as far as it can be tried: evaluation sets by URL, no other datasets."""
    sets = []
    for chosen in contract.leaks.sets:
        lines = [line.strip() for line in chosen.source.splitlines() if line.strip()]
        if lake is not None:
            lines = [line if "://" in line else f"{lake.url}/{line}" for line in lines]
        if all("://" in line for line in lines):
            sets.append(chosen.model_copy(update={"source": "\n".join(lines)}))
    leaks = contract.leaks.model_copy(update={"sets": tuple(sets)})
    return contract.model_copy(update={"leaks": leaks, "dedupe": contract.dedupe.model_copy(update={"across": ()})})


def _url(file: str) -> str:
    return file if "://" in file else f"file://{Path(file).absolute()}"


@contextmanager
def _own_lake() -> Iterator[Lake]:
    """Make an empty lake, and the one that jobs of this process find; the former one is back afterwards."""
    former = os.environ.get(LAKE_URL)
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        os.environ[LAKE_URL] = f"file://{folder}"
        try:
            yield Lake.from_environment()
        finally:
            if former is None:
                del os.environ[LAKE_URL]
            else:
                os.environ[LAKE_URL] = former


def _samples(lines: Any, most: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        row = json.loads(line)
        for reason in row["reasons"]:
            shown = found.setdefault(reason["rule"], [])
            if len(shown) < most:
                shown.append(_sample(row, str(reason.get("detail") or "")))
    return found


def _texts(raw: str) -> list[str]:
    """Return the texts of a row that is JSON, in its order, or the raw row."""
    return [text for text in texts_in(value_of(raw)) if text.strip()] or [raw]


def _sample(row: dict[str, Any], detail: str) -> str:
    """Return a row's place and the beginning of its text, without personal data and control characters."""
    from llmjobs.instructions.rules.pii import mask_text

    texts = [mask_text(" ".join(text.split())) for text in _texts(str(row["raw"] or ""))]
    parts = [(texts[0], _LONGEST_BEGIN), *((text, _LONGEST_END) for text in texts[1:][-1:])] if texts else []
    shown = " -> ".join(text if len(text) <= most else text[: most - 3] + "..." for text, most in parts)
    place = f"{Path(str(row['source_file'])).name} line {row['source_line']}"
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)
    return f"{place}{f' ({mask_text(detail)})' if detail else ''}: {printable}"
