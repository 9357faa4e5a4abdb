"""Takes rows down for good: no later version holds them, and it says where they are already.

    python -m llmjobs.instructions.takedown --dataset tickets --row-id 5f0c... --reason "asked by the author"
    python -m llmjobs.instructions.takedown --dataset tickets --containing "Jane Roe" --reason "asked by the author"

Adds to ``takedowns/<name>.jsonl`` in the lake: row id, when, who and why, never a text. A row that a rule put aside has
no id, so the SHA-256 of its raw text is listed: no looser rule, correction or replay publishes it. `prepare` sets these
rows aside as ``taken_down`` without keeping their text. What is there already is left: the command names the versions,
adapters, audits, corrections and examined parts that hold the rows, and says what to do. The cache of a judge holds
hashes and marks, no text. The lake is the one of ``LLMJOBS_LAKE_URL``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from llmjobs.contracts.errors import BadConfig, BadData, ExitCode, JobError
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions.history import traces
from llmjobs.instructions.history.descendants import made_from
from llmjobs.instructions.history.people import who
from llmjobs.lake import Lake

RAW = "raw_sha256"
"""Field of an entry of the list that names a row by its raw text."""


@dataclass(frozen=True)
class Takedown:
    """What a takedown found.

    Attributes:
        row_ids: Rows that are on the list for these questions.
        added: Those that were not on it before.
        raws: SHA-256 of raw texts that are on the list for these questions: rows that a rule put aside.
        added_raws: Those that were not on it before.
        versions: Dataset version -> number of its rows that are on the list.
        current: The version that counts, if it is one of them.
        made: Adapters, evaluations and rendered texts that were made from one of these versions.
        copies: Folder of an audit or of an examined part -> its files that quote the rows.
        corrections: Lines of the list of corrections that quote them, from 1.
    """

    name: str
    row_ids: list[str]
    added: list[str]
    raws: list[str] = field(default_factory=list)
    added_raws: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    current: str = ""
    made: list[Manifest] = field(default_factory=list)
    copies: dict[str, list[str]] = field(default_factory=dict)
    corrections: list[int] = field(default_factory=list)


def taken_down(lake: Lake, name: str) -> frozenset[str]:
    """Return the ids of the rows that no version of a dataset may hold.

    Raises:
        BadData: A line of the list is broken: guessing would publish what must not be published.
    """
    return _listed(lake, name, "row_id")


def taken_down_raw(lake: Lake, name: str) -> frozenset[str]:
    """Return the SHA-256 of raw texts, as they stand in a file or in a correction, that no version may be made from.

    Raises:
        BadData: A line of the list is broken.
    """
    return _listed(lake, name, RAW)


def _listed(lake: Lake, name: str, field: str) -> frozenset[str]:
    found = set()
    for number, line in enumerate((lake.read_text(_list(name)) or "").splitlines(), start=1):
        try:
            entry = json.loads(line)
            known = {key: str(entry[key]) for key in ("row_id", RAW) if key in entry}
        except (ValueError, TypeError):
            known = {}
        if not known:
            raise BadData(f"{_list(name)} line {number}: is no object with a row_id or a {RAW}; repair the line")
        found |= {known[field]} if field in known else set()
    return frozenset(found)


def taken_down_in(lake: Lake, name: str, version: str) -> list[str]:
    """Return the rows of the list that a version holds, sorted; a version that is not there holds none."""
    listed = taken_down(lake, name)
    manifest = lake.manifest("datasets", name, version) if listed else None
    return sorted(traces.holding(lake, manifest, row_ids=listed)) if manifest is not None else []


def take_down(
    lake: Lake, name: str, *, row_ids: Collection[str] = (), texts: Sequence[str] = (), reason: str
) -> Takedown:
    """Put rows on the list, and find what holds them.

    Args:
        lake: The lake.
        name: The dataset.
        row_ids: Whole row ids, as in a version or in a duplicates file.
        texts: Every row with one of these is taken down: of any version, and of those that any audit put aside or a
            person corrected; letter case and white space do not count.
        reason: Kept with the list; say no more about the person than you must.

    Raises:
        BadConfig: There is nothing to look for, or no reason.
        BadData: A row id is in no version of the dataset, or a text is nowhere: nothing is written.
    """
    if not (row_ids or texts) or not reason.strip():
        raise BadConfig("name at least one row id or text, and a reason")
    listed = taken_down(lake, name)
    found = {
        one.version: traces.holding(lake, one, row_ids=row_ids, texts=texts) for one in lake.versions("datasets", name)
    }
    _refuse_unknown(name, row_ids, found, listed)
    aside = traces.put_aside(lake, name, texts)
    inside = {row_id for rows in found.values() for row_id in rows}
    ids = sorted(inside | aside.row_ids | (set(row_ids) & listed))
    copies = traces.copies(lake, name, ids=ids, texts=texts, rows=list(found.values()))
    if texts and not (inside or aside.row_ids or aside.raws or copies):
        raise BadData(
            f"dataset {name}: no row of its {len(found)} version(s) holds the text, nor does one of its audits, parts "
            "or corrections; nothing was taken down"
        )
    raws_listed = taken_down_raw(lake, name)
    added = [row_id for row_id in ids if row_id not in listed]
    added_raws = sorted(aside.raws - raws_listed)
    _add(lake, name, [*(("row_id", one) for one in added), *((RAW, one) for one in added_raws)], reason)
    versions = {version: len(rows) for version, rows in found.items() if rows}
    current = lake.pointer("datasets", name, "current")
    return Takedown(
        name=name,
        row_ids=ids,
        added=added,
        raws=sorted(aside.raws),
        added_raws=added_raws,
        versions=versions,
        current=current.version if current is not None and current.version in versions else "",
        made=made_from(lake, name, versions),
        copies=copies,
        corrections=aside.corrections,
    )


def lines_of(found: Takedown) -> list[str]:
    """Return what a person has to know and to do; no text of a row is in it."""
    rows, now = len(found.row_ids) + len(found.raws), len(found.added) + len(found.added_raws)
    lines = [f"dataset {found.name}: {rows} row(s) are taken down, {now} of them now"]
    lines += [f"  row      {row_id}" for row_id in found.row_ids]
    lines += [f"  raw row  {one}" for one in found.raws]
    lines += [
        f"  version  {version}: {count} row(s){'  <- current' if version == found.current else ''}"
        for version, count in found.versions.items()
    ]
    lines += [f"  {one.kind.removesuffix('s'):<8} {one.name} {one.version}" for one in found.made]
    lines += [f"  copy     {folder}: {', '.join(files)}" for folder, files in found.copies.items()]
    lines += [f"  copy     {traces.corrections_of(found.name)}: line {number}" for number in found.corrections]
    return [*lines, "", *_advice(found)]


def _advice(found: Takedown) -> list[str]:
    steps = []
    if found.current:
        steps.append("run the dataset's prepare DAG: its next version is without these rows, and starts the trainings")
    if any(one.kind == "adapters" for one in found.made):
        steps.append("the adapters above were trained on a version with them: retrain, then delete their folders")
    if found.versions:
        steps.append("the versions above still hold the text and cannot become current again; delete their folders")
    if found.copies:
        steps.append("the folders above quote the text; delete them (an audit without its folder cannot be replayed)")
    if found.corrections:
        steps.append("delete the lines above from the list of corrections, whose texts are those of the rows")
    steps.append("delete the rows from the source files too: a changed row has another id and would come back")
    return ["What to do next:", *(f"  {number}. {step}" for number, step in enumerate(steps, start=1))]


def _refuse_unknown(name: str, row_ids: Collection[str], found: dict[str, set[str]], listed: Collection[str]) -> None:
    everywhere = {row_id for rows in found.values() for row_id in rows} | set(listed)
    unknown = sorted(set(row_ids) - everywhere)
    if unknown:
        raise BadData(
            f"dataset {name}: no version holds row {unknown[0]}"
            f"{f' nor {len(unknown) - 1} other(s) of the rows named' if unknown[1:] else ''}; give whole row ids"
        )


def _add(lake: Lake, name: str, entries: Sequence[tuple[str, str]], reason: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [
        json.dumps({key: value, "reason": reason, "when": now, "who": who()}, ensure_ascii=False)
        for key, value in entries
    ]
    if lines:
        former = lake.read_text(_list(name)) or ""
        lake.write_text(_list(name), former + "\n".join(lines) + "\n")


def _list(name: str) -> str:
    return f"takedowns/{name}.jsonl"


def main(arguments: list[str]) -> int:
    """Take the rows down that the arguments name; print what holds them."""
    given = _parser().parse_args(arguments)
    try:
        found = take_down(
            Lake.from_environment(), given.dataset, row_ids=given.row_id, texts=given.containing, reason=given.reason
        )
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("\n".join(lines_of(found)) + "\n")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmjobs.instructions.takedown",
        description="Take rows of a dataset down, and say what holds them already.",
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset, for example tickets")
    parser.add_argument("--row-id", action="append", default=[], help="a whole row id; may be given again")
    parser.add_argument("--containing", action="append", default=[], help="rows with this text; may be given again")
    parser.add_argument("--reason", required=True, help="kept with the list of takedowns")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
