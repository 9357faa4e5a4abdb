"""List the files of a preparation, so that each can be examined in a task of its own.

In:   the files that `PrepareConfig` names.
Out:  nothing in the lake; the labels, sorted, go to `llmjobs.instructions.examine`.
Run:  ``python -m llmjobs.instructions.files`` with the config as JSON in ``LLMJOBS_CONFIG``.
"""

from __future__ import annotations

import sys

from llmjobs.contracts.instructions import FilesResult, PrepareConfig
from llmjobs.instructions.night import storage_options
from llmjobs.instructions.raw.sources import Sources
from llmjobs.lake import Lake
from llmjobs.results import main


def run(config: PrepareConfig) -> FilesResult:
    """Return the files.

    Raises:
        BadData: A glob matches no file.
    """
    if config.rollback_to or config.replay:
        return FilesResult(files=[], bytes=0)
    lake = Lake.from_environment()
    sources = Sources(lake, config.inputs, storage_options=storage_options(), interval_end=config.interval_end)
    return FilesResult(files=[file.label for file in sources.files], bytes=sum(file.bytes for file in sources.files))


if __name__ == "__main__":
    sys.exit(main(PrepareConfig, run))
