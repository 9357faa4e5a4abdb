"""What the data room costs, what it finds, and what others find on the same rows.

    make bench-instructions                       # 100,000 generated rows; minutes
    NIGHTSHIFT_FULL=1 make bench-instructions     # a million and four million: the targets of the core profile count

Real files are read from ``../shared/data``; where they are absent their figures are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.benchmarks import near_duplicates, quality, tokens
from tests.benchmarks.core_profile import core_figures
from tests.benchmarks.defects import defect_figures, defect_table
from tests.benchmarks.figures import Figure, Skipped, report
from tests.benchmarks.rules_against_gx import rule_figures


def measure() -> Iterator[Figure | Skipped]:
    """Measure everything, the cheap first."""
    steps: list[Iterable[Figure | Skipped]] = [
        defect_figures(),
        rule_figures(),
        core_figures(),
        near_duplicates.figures(),
        tokens.measure(),
        quality.measure(),
    ]
    for step in steps:
        yield from step


def main() -> int:
    """Print the table of defects row by row, then the figures."""
    print(defect_table())
    return report(measure)


if __name__ == "__main__":
    raise SystemExit(main())
