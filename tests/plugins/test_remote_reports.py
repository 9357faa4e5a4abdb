"""The pages show the reports of a lake in an object store, as those of a disk."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from llmjobs.lake import Lake
from nightshift.views.lake_files import LakeFiles


def test_a_report_in_an_object_store_is_listed_and_read(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**variables, "AWS_ENDPOINT_URL": s3_endpoint, "LLMJOBS_LAKE_URL": f"s3://{bucket}/all"}.items():
        monkeypatch.setenv(name, value)
    lake = Lake.from_environment()
    lake.fs.mkdir(bucket)
    (tmp_path / "report.html").write_text("<p>All is well.</p>", encoding="utf-8")
    lake.publish(tmp_path, kind="audits", name="rows", version="a1")
    (entry,) = LakeFiles().reports()
    assert (entry.name, entry.version) == ("rows", "a1")
    media_type, pieces = LakeFiles().read(entry.path)
    assert media_type.startswith("text/html")
    assert b"".join(pieces) == b"<p>All is well.</p>"
    with pytest.raises(FileNotFoundError):
        LakeFiles().read("audits/rows/versions/a1/nothing.html")
