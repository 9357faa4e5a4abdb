"""Make a version that is there the current one: what follows a person's approval.

In:   a complete version of ``datasets/<name>``, which `prepare` published but did not make current.
Out:  ``current`` of ``datasets/<name>`` points at it; its mark, if it was withdrawn, is gone; the interval that it was
      approved for is noted, so that no backfill of an earlier one takes its place.
Run:  ``python -m llmjobs.instructions.publish`` with the config as JSON in ``LLMJOBS_CONFIG``.

A second run changes nothing.
"""

from __future__ import annotations

import logging
import sys

from llmjobs.contracts.instructions import PublishConfig, PublishResult
from llmjobs.instructions import versions
from llmjobs.lake import Lake
from llmjobs.results import main

logger = logging.getLogger(__name__)


def run(config: PublishConfig) -> PublishResult:
    """Move the pointer.

    Raises:
        BadData: There is no such version, or it holds rows that were taken down meanwhile.
    """
    lake = Lake.from_environment()
    result = versions.make_current(lake, config.name, config.version, config.reason)
    versions.note_interval(lake, config.name, config.version, config.interval_end)
    logger.info("%s: version %s is current%s: %s", config.name, config.version,
                "" if result.changed else " already", config.reason)  # fmt: skip
    return result


if __name__ == "__main__":
    sys.exit(main(PublishConfig, run))
