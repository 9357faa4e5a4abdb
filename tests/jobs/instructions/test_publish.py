"""The job that follows an approval."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PublishConfig
from llmjobs.instructions import publish as job
from llmjobs.instructions import takedown, versions
from llmjobs.lake import Lake

Publish = Callable[..., str]


def run(version: str) -> tuple[str, bool]:
    result = job.run(PublishConfig(name="rows", version=version, reason="approved by admin"))
    return result.previous, result.changed


def test_it_makes_the_version_current_once(lake: Lake, publish: Publish) -> None:
    publish("v1", ["one"])
    assert run("v1") == ("", True)
    assert run("v1") == ("v1", False)
    pointer = lake.pointer("datasets", "rows", "current")
    assert pointer is not None
    assert (pointer.version, pointer.reason) == ("v1", "approved by admin")


def test_a_person_may_publish_what_was_withdrawn(lake: Lake, publish: Publish) -> None:
    for version in ("v1", "v2"):
        publish(version, [version])
        run(version)
    versions.roll_back(lake, "rows", "v1", "wrong")
    assert run("v2") == ("v1", True)
    assert versions.is_withdrawn(lake, "rows", "v2") is None


def test_a_version_that_is_not_there_is_refused(lake: Lake) -> None:
    with pytest.raises(BadData, match="no such version"):
        run("v1")


def test_rows_taken_down_while_the_approval_waited_stop_it(lake: Lake, publish: Publish) -> None:
    publish("v1", ["Jane Roe lives here"])
    takedown.take_down(lake, "rows", texts=["jane  roe"], reason="asked")
    with pytest.raises(BadData, match=r"holds 1 row\(s\) that were taken down"):
        run("v1")
    assert lake.pointer("datasets", "rows", "current") is None
