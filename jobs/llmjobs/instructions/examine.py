"""Examine one source file and keep its rows in the lake, for `prepare` to pick up.

In:   the file `PrepareConfig.only_file`, one of those that `llmjobs.instructions.files` listed, and the contract.
Out:  ``parts/<name>``: the file's rows with flags, keys and repairs; nothing where an earlier run left it.
Run:  ``python -m llmjobs.instructions.examine`` with the config as JSON in ``LLMJOBS_CONFIG``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import ExamineResult, PrepareConfig
from llmjobs.instructions.examined_files import KIND, examine_file
from llmjobs.instructions.night import storage_options
from llmjobs.instructions.raw.sources import Sources
from llmjobs.lake import Lake
from llmjobs.results import main


def run(config: PrepareConfig) -> ExamineResult:
    """Examine the file.

    Raises:
        BadData: The sources have no such file any more.
    """
    lake = Lake.from_environment()
    sources = Sources(lake, config.inputs, storage_options=storage_options(), interval_end=config.interval_end)
    chosen = [file for file in sources.files if file.label == config.only_file]
    if not chosen:
        raise BadData(f"only_file: {config.only_file!r} is none of the {len(sources.files)} files of `source`")
    with tempfile.TemporaryDirectory(prefix="examine-") as scratch:
        version, cached = examine_file(lake, sources, chosen[0], config, Path(scratch))
    manifest = lake.manifest(KIND, config.name, version)
    assert manifest is not None
    return ExamineResult(
        file=config.only_file,
        part=version,
        cached=cached,
        rows_in=manifest.metrics["rows_in"],
        quarantined=manifest.metrics["quarantined"],
    )


if __name__ == "__main__":
    sys.exit(main(PrepareConfig, run))
