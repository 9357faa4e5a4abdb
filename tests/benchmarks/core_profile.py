"""What a whole preparation costs: generated Alpaca rows from file to version, in a process of its own.

    python -m tests.benchmarks.core_profile

The core profile reads, applies every row rule that needs no model and looks for personal data, drops exact duplicates,
checks for leaks between the sides by prompt, splits, judges, publishes, and writes quarantine and report. One row in
forty has a defect, one in fifty repeats an earlier one. ``near`` adds near-duplicates by MinHash.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, Skipped, report
from tests.benchmarks.rules_against_gx import generated_rows

FULL = os.environ.get("NIGHTSHIFT_FULL") == "1"
ROWS = 1_000_000 if FULL else 100_000
MANY = 4 * ROWS
REPEATED_EVERY = 50

CPU_SECONDS, PEAK_GB, GROWTH = 30.0, 2.5, 1.5
NEAR_CPU_SECONDS, NEAR_BYTES_A_ROW = 60.0, 1_024.0

CORE: dict[str, Any] = {
    "owner": "benchmarks",
    "budgets": {"max_quarantined_share": 0.2},
    "rules": {"language_mismatch": "off"},
    "leaks": {"near_threshold": None},
}
PROFILES: dict[str, dict[str, Any]] = {"core": CORE, "near": CORE | {"dedupe": {"near_threshold": 0.9}}}


def core_figures() -> Iterator[Figure | Skipped]:
    """Yield CPU and memory of the profiles; the targets are for a million rows."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        small, large = Path(folder, "small.jsonl"), Path(folder, "large.jsonl")
        write_rows(small, ROWS)
        core = run_profile("core", small)
        counts = {key: core[key] for key in ("rows_in", "published", "quarantined", "duplicates")}
        sys.stderr.write(f"core profile: {counts}\n")
        yield _figure(f"core profile, {ROWS:,} rows, CPU", core["cpu_seconds"], "s", CPU_SECONDS)
        yield _figure(f"core profile, {ROWS:,} rows, peak memory", core["peak_bytes"] / 1e9, "GB", PEAK_GB)
        near = run_profile("near", small)
        more = near["cpu_seconds"] - core["cpu_seconds"]
        yield _figure(f"near-duplicates, {ROWS:,} rows, CPU more", more, "s", NEAR_CPU_SECONDS)
        bytes_more = max(0, near["peak_bytes"] - core["peak_bytes"]) / ROWS
        yield _figure(f"near-duplicates, {ROWS:,} rows, memory more", bytes_more, "bytes a row", NEAR_BYTES_A_ROW)
        write_rows(large, MANY)
        many = run_profile("core", large)
        growth = many["peak_bytes"] / core["peak_bytes"]
        yield _figure(f"core profile, peak at {MANY:,} rows against {ROWS:,}", growth, "times", GROWTH)


def _figure(metric: str, value: float, unit: str, target: float) -> Figure:
    return Figure("instructions", metric, round(value, 3), unit, target=target if FULL else None)


def write_rows(path: Path, count: int) -> None:
    """Write generated rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        kept = ""
        for number, (row, rule) in enumerate(generated_rows(count)):
            line = json.dumps(row, ensure_ascii=False) + "\n"
            if number % REPEATED_EVERY == 1 and kept:
                line = kept
            elif not rule:
                kept = line
            file.write(line)


def run_profile(name: str, path: Path) -> dict[str, Any]:
    """Prepare the rows of a file; return the counts, CPU seconds and peak memory of the process.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-lake-") as lake:
        env = os.environ | {"LLMJOBS_LAKE_URL": f"file://{lake}", "GX_ANALYTICS_ENABLED": "false"}
        command = [sys.executable, "-m", "tests.benchmarks.core_profile", name, str(path)]
        done = subprocess.run(
            command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"the profile {name} failed:\n{done.stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(name: str, path: str) -> None:
    """Prepare, and print what it took."""
    from llmjobs.contracts.instructions import PrepareConfig
    from llmjobs.instructions.prepare import run

    values = {"name": "bench", "source": f"file://{path}", "contract": PROFILES[name]}
    result = run(PrepareConfig.from_mapping(values, origin="benchmark"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    took = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": _peak_bytes()}
    print(json.dumps(result.model_dump(mode="json") | took))


def _peak_bytes() -> int:
    """Return the peak of this program; that of `resource` begins with what the process that started it held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        raise SystemExit(report(core_figures))
