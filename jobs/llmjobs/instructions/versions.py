"""Published versions of a dataset: lists them, goes back to an older one, and remembers which one was left for good.

    python -m llmjobs.instructions.versions --dataset tickets list
    python -m llmjobs.instructions.versions --dataset tickets rollback 3f2a --reason "labels of May are wrong"
    python -m llmjobs.instructions.versions --dataset tickets publish 9c1e --reason "labels of May are right after all"
    python -m llmjobs.instructions.versions --dataset tickets adapters 3f2a

Going back to a version withdraws the one that was current: ``datasets/<name>/withdrawn.json`` says when, who and why,
and no night makes it current again (`is_withdrawn`). Going back to a withdrawn version, or publishing it by hand, takes
its mark away. The lake is the one of ``LLMJOBS_LAKE_URL``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmjobs.contracts.errors import BadConfig, BadData, ExitCode, JobError
from llmjobs.contracts.instructions import PublishResult
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions.history.descendants import made_from
from llmjobs.instructions.history.people import who
from llmjobs.instructions.takedown import taken_down_in
from llmjobs.lake import Lake

KIND = "datasets"
POINTER = "current"

_SHORT = 12


@dataclass(frozen=True)
class Withdrawn:
    """Why a version must not become current by itself.

    Attributes:
        at: ISO 8601, UTC.
        by: The Airflow run, or the user of the machine.
        reason: As it was given.
        instead: The version that became current instead.
    """

    at: str
    by: str
    reason: str
    instead: str


def current_version(lake: Lake, name: str) -> str:
    """Return the id of the version that ``current`` points at; empty before the first."""
    pointer = lake.pointer(KIND, name, POINTER)
    return pointer.version if pointer is not None else ""


def is_withdrawn(lake: Lake, name: str, version: str) -> str | None:
    """Return a sentence that says when, by whom and why a version was withdrawn; None where it was not."""
    mark = _withdrawn(lake, name).get(version)
    if mark is None:
        return None
    why = f" ({mark.reason})" if mark.reason else ""
    return (
        f"dataset {name}: version {version[:_SHORT]} was withdrawn by {mark.by} at {mark.at}{why}, so it does not "
        f"become current by itself; `python -m llmjobs.instructions.versions --dataset {name} publish "
        f"{version[:_SHORT]}` takes the mark away"
    )


def find(lake: Lake, name: str, version: str) -> Manifest:
    """Return the version whose id begins with `version`.

    Raises:
        BadData: None does.
        BadConfig: More than one does, or `version` is empty.
    """
    if not version:
        raise BadConfig(f"dataset {name}: name a version, or the first digits of one")
    known = lake.versions(KIND, name)
    found = [one for one in known if one.version.startswith(version)]
    if not found:
        newest = ", ".join(one.version[:_SHORT] for one in known[:-6:-1]) or "none"
        raise BadData(f"dataset {name}: the lake has no version {version}; the newest are: {newest}")
    if len(found) > 1:
        raise BadConfig(
            f"dataset {name}: {len(found)} versions begin with {version}: "
            f"{', '.join(one.version for one in found)}; give more digits"
        )
    return found[0]


def roll_back(lake: Lake, name: str, version: str, reason: str) -> PublishResult:
    """Make an older version current again and withdraw the one that was.

    Killed anywhere, the same call again does the rest. Going back to a withdrawn version undoes its withdrawal, and
    withdraws nothing.

    Args:
        lake: The lake.
        name: The dataset.
        version: Id of the version, or its first digits.
        reason: Why; kept with the pointer and with the mark.

    Raises:
        BadData: There is no such version, or it holds rows that were taken down.
        BadConfig: The first digits are not enough.
    """
    target, marks = find(lake, name, version).version, _withdrawn(lake, name)
    left, undone = current_version(lake, name), target in marks
    if left and left != target and not undone:
        refuse_taken_down(lake, name, target)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        marks[left] = Withdrawn(at=now, by=who(), reason=reason, instead=target)
        _write(lake, name, marks)
    return make_current(lake, name, target, reason)


def make_current(lake: Lake, name: str, version: str, reason: str) -> PublishResult:
    """Point ``current`` at a version, and take its mark away if it was withdrawn; twice is as once.

    Raises:
        BadData: There is no such complete version, or it holds rows that were taken down.
    """
    refuse_taken_down(lake, name, version)
    previous = current_version(lake, name)
    if previous != version:
        lake.move_pointer(KIND, name, POINTER, version, reason=reason)
    marks = _withdrawn(lake, name)
    if marks.pop(version, None) is not None:
        _write(lake, name, marks)
    return PublishResult(name=name, version=version, previous=previous, changed=previous != version)


def refuse_taken_down(lake: Lake, name: str, version: str) -> None:
    """Return when a version holds no row that was taken down.

    Raises:
        BadData: It does: how many, and what to do.
    """
    held = taken_down_in(lake, name, version)
    if held:
        raise BadData(
            f"dataset {name}: version {version[:_SHORT]} holds {len(held)} row(s) that were taken down, so it cannot "
            f"become current (takedowns/{name}.jsonl names them); prepare the dataset again without them"
        )


def published_until(lake: Lake, name: str, version: str) -> str:
    """Return the latest interval end that led to the current version; a version that came back has a later one."""
    manifest = lake.manifest(KIND, name, version)
    first = str(manifest.inputs.get("interval_end", "")) if manifest else ""
    noted = json.loads(lake.read_text(_intervals(name)) or "{}")
    return max(first, str(noted["interval_end"])) if noted.get("version") == version else first


def note_interval(lake: Lake, name: str, version: str, interval_end: str) -> None:
    """Write down that the night until `interval_end` has led to the current version, unless a later one has."""
    if interval_end > published_until(lake, name, version):
        noted = {"version": version, "interval_end": interval_end}
        lake.write_text(_intervals(name), json.dumps(noted) + "\n")


def _intervals(name: str) -> str:
    return f"{KIND}/{name}/interval.json"


def _withdrawn(lake: Lake, name: str) -> dict[str, Withdrawn]:
    text = lake.read_text(_marks(name))
    return {version: Withdrawn(**mark) for version, mark in json.loads(text or "{}").items()}


def _write(lake: Lake, name: str, marks: dict[str, Withdrawn]) -> None:
    values = {version: asdict(mark) for version, mark in sorted(marks.items())}
    lake.write_text(_marks(name), json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def _marks(name: str) -> str:
    return f"{KIND}/{name}/withdrawn.json"


def listing(lake: Lake, name: str) -> list[str]:
    """Return one line for each version, the newest first: id, date, rows, and whether it is current or withdrawn."""
    current, marks = current_version(lake, name), _withdrawn(lake, name)
    lines = []
    for one in reversed(lake.versions(KIND, name)):
        rows = one.metrics.get("published")
        said = ["current"] if current == one.version else []
        mark = marks.get(one.version)
        if mark is not None:
            said.append(f"withdrawn {mark.at[:10]} by {mark.by}: {mark.reason}")
        shown = "        ?" if rows is None else f"{rows:>9,}"
        lines.append(
            f"{one.version}  {one.created_at[:16].replace('T', ' ')}  {shown} rows  {'; '.join(said)}".rstrip()
        )
    return lines


def adapters_of(lake: Lake, name: str, version: str) -> list[str]:
    """Return one line for each adapter that was trained on a version."""
    full = find(lake, name, version).version
    trained = [one for one in made_from(lake, name, {full}) if one.kind == "adapters"]
    lines = []
    for one in trained:
        champion = lake.pointer(one.kind, one.name, "champion")
        mark = "  champion" if champion is not None and champion.version == one.version else ""
        lines.append(f"{one.name} {one.version}  {one.created_at[:16].replace('T', ' ')}{mark}")
    return lines


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name; print what it found or did."""
    given = _parser().parse_args(arguments)
    try:
        lake = Lake.from_environment()
        if given.command == "list":
            lines = listing(lake, given.dataset) or [f"dataset {given.dataset}: nothing is published yet"]
        elif given.command == "adapters":
            lines = adapters_of(lake, given.dataset, given.version) or ["no adapter was trained on it"]
        else:
            full = find(lake, given.dataset, given.version).version
            move = roll_back if given.command == "rollback" else make_current
            lines = [_moved(move(lake, given.dataset, full, given.reason or f"{given.command} by {who()}"))]
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("\n".join(lines) + "\n")
    return ExitCode.DONE


def _moved(result: PublishResult) -> str:
    if not result.changed:
        return f"dataset {result.name}: version {result.version} is current already"
    was = f", it was {result.previous}" if result.previous else ""
    return (
        f"dataset {result.name}: version {result.version} is current{was}; the next run of its DAG tells Airflow, or "
        "start one now"
    )


def _parser() -> argparse.ArgumentParser:
    program = f"python -m llmjobs.instructions.{Path(__file__).stem}"
    parser = argparse.ArgumentParser(prog=program, description="Versions of a dataset in the lake of LLMJOBS_LAKE_URL.")
    parser.add_argument("--dataset", required=True, help="name of the dataset, for example tickets")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all versions, the newest first")
    for name, said in (("rollback", "make an older version current, and withdraw the one that is"),
                       ("publish", "make a version current, and take its mark away"),
                       ("adapters", "adapters that were trained on a version")):  # fmt: skip
        command = commands.add_parser(name, help=said)
        command.add_argument("version", help="id of the version, or its first digits")
        if name != "adapters":
            command.add_argument("--reason", default="", help="kept with the pointer")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
