"""Make an older adapter champion again: ``python -m llmjobs.training.rollback --adapter tickets 3f2a``.

The champion that is left is withdrawn, so that no night promotes it again by itself; going back to a withdrawn adapter
takes its mark away. MLflow's alias moves along. The next run of the adapter's DAG tells Airflow; a run with the
parameter `rollback_to` does both at once. The lake is the one of ``LLMJOBS_LAKE_URL``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.contracts.manifest import Manifest
from llmjobs.lake import Lake
from llmjobs.training.identity import ADAPTERS, CHAMPION, champion_version
from llmjobs.training.registry import mirror
from llmjobs.training.withdrawals import is_withdrawn, reinstate, withdraw


@dataclass(frozen=True)
class Rollback:
    """What became champion instead of what.

    Attributes:
        adapter: The champion's manifest.
        previous: The version that was champion before; empty if there was none.
        sentence: The same for people, with what MLflow said.
    """

    adapter: Manifest
    previous: str
    sentence: str


def roll_back(lake: Lake, name: str, version: str, *, reason: str) -> Rollback:
    """Make an older adapter champion again and withdraw the one that is.

    Killed anywhere, the same call again does the rest; twice is as once.

    Args:
        lake: The lake.
        name: The adapter's name.
        version: Its version, or the first digits of one.
        reason: Why; kept with the pointer and with the mark.

    Raises:
        BadData: There is no such version.
        BadConfig: The first digits are not enough.
    """
    adapter, previous = _find(lake, name, version), champion_version(lake, name)
    if previous != adapter.version:
        # Going back to a withdrawn adapter undoes its withdrawal; the one that stood in for it did nothing wrong.
        if previous and not is_withdrawn(lake, name, adapter.version):
            withdraw(lake, name, previous, reason=reason)
        lake.move_pointer(ADAPTERS, name, CHAMPION, adapter.version, reason=reason)
    reinstate(lake, name, adapter.version)
    _, note = mirror(lake, name, [])
    was = f" instead of {previous}" if previous not in {"", adapter.version} else ""
    again = "is champion already" if previous == adapter.version else f"is champion again{was}: {reason}"
    said = f"adapter {name}: version {adapter.version} {again}"
    return Rollback(adapter, previous, f"{said}; {note}" if note else said)


def _find(lake: Lake, name: str, version: str) -> Manifest:
    known = lake.versions(ADAPTERS, name)
    found = [one for one in known if one.version.startswith(version)]
    if not found:
        newest = ", ".join(one.version for one in known[:-6:-1]) or "none"
        raise BadData(f"adapter {name}: the lake has no version {version}; the newest are: {newest}")
    if len(found) > 1:
        raise BadConfig(
            f"adapter {name}: {len(found)} versions begin with {version}: {', '.join(one.version for one in found)}; "
            "give more digits"
        )
    return found[0]


def main(arguments: list[str] | None = None) -> int:
    """Roll one adapter back; return 0, or the exit code of what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m llmjobs.training.rollback", description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", required=True, help="name of the adapter, for example tickets")
    parser.add_argument("version", help="id of the version, or its first digits")
    parser.add_argument("--reason", default="rolled back from the shell", help="kept with the pointer")
    options = parser.parse_args(arguments)
    try:
        done = roll_back(Lake.from_environment(), options.adapter, options.version, reason=options.reason)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{done.sentence}. The next run of its DAG tells Airflow, or start one now.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
