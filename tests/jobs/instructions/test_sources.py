"""Sources: globs, folders and dates, in the lake, on disk and on a real S3 server; and files that change."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.contracts.instructions import PrepareConfig, Source
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.raw.sources import SourceFile, Sources, _filesystem
from llmjobs.lake import Lake

Write = Callable[..., None]


@pytest.fixture
def s3_options(s3_endpoint: str) -> dict[str, Any]:
    """What reaches the S3 server."""
    return {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": s3_endpoint}}


@pytest.fixture(params=["file", "memory", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """A lake on each filesystem; the tests also read it as files that lie elsewhere."""
    name = f"lake-{uuid.uuid4().hex[:8]}"
    if request.param == "file":
        return Lake(f"file://{tmp_path}/elsewhere")
    if request.param == "memory":
        return Lake(f"memory://{name}")
    lake = Lake(f"s3://{name}/lake", **request.getfixturevalue("s3_options"))
    lake.fs.mkdir(name)
    return lake


def put(lake: Lake, *paths: str, content: bytes = b'{"instruction": "A", "output": "a"}\n') -> None:
    for path in paths:
        full = f"{lake._root}/{path}"
        lake.fs.makedirs(full.rpartition("/")[0], exist_ok=True)
        lake.fs.pipe_file(full, content)


def found_in(lake: Lake, *lines: str, **how: Any) -> Sources:
    return Sources(lake, [Source(name="rows", files="\n".join(lines))], **how)


def labels(lake: Lake, *lines: str, **how: Any) -> list[str]:
    return [file.label for file in found_in(lake, *lines, **how).files]


def read(sources: Sources, file: SourceFile) -> bytes:
    with sources.open(file) as stream:
        return stream.read()


def test_globs_folders_and_several_lines(anywhere: Lake) -> None:
    put(anywhere, "raw/a.jsonl", "raw/deep/b.csv.gz", "raw/deep/notes.txt", "raw/deep/er/c.parquet", "raw/d.json")
    everything = ["raw/a.jsonl", "raw/d.json", "raw/deep/b.csv.gz", "raw/deep/er/c.parquet"]
    assert labels(anywhere, "raw/*.json*") == ["raw/a.jsonl", "raw/d.json"]
    assert labels(anywhere, "raw") == labels(anywhere, "raw/") == everything
    assert labels(anywhere, " raw/deep \n\nraw/a.jsonl\nraw/deep/notes.txt") == [
        "raw/a.jsonl",
        "raw/deep/b.csv.gz",
        "raw/deep/er/c.parquet",
        "raw/deep/notes.txt",
    ]
    assert labels(anywhere, "raw/**/*.parquet") == ["raw/deep/er/c.parquet"]


def test_urls_are_read_from_elsewhere(anywhere: Lake, s3_options: dict[str, Any]) -> None:
    put(anywhere, "raw/a.jsonl", "raw/b.jsonl")
    options = s3_options if anywhere.url.startswith("s3") else {}
    sources = found_in(Lake("memory://nothing"), f"{anywhere.url}/raw/*.jsonl", storage_options=options)
    assert [file.label.rpartition("/")[2] for file in sources.files] == ["a.jsonl", "b.jsonl"]
    assert all("://" in file.label for file in sources.files)
    with sources.open(sources.files[1]) as stream:
        (frame,) = read_frames(stream, name=sources.files[1].label)
    assert frame["instruction"].to_list() == ["A"]


def test_dates_before_the_end_of_the_interval(anywhere: Lake) -> None:
    days = ["2026-11-21", "20261122", "2026-11-23", "2026-02-30", "latest"]
    put(anywhere, *(f"raw/{day}/part-{n}.jsonl" for day in days for n in (1, 2)), "raw/rows-20261101.csv")
    found = ["raw/2026-11-21/part-1.jsonl", "raw/20261122/part-1.jsonl"]
    end = "2026-11-23T00:00:00+00:00"
    assert labels(anywhere, "raw/{date}/part-1.jsonl", interval_end=end) == found
    assert labels(anywhere, "raw/{date}/part-[1].jsonl") == [found[0], "raw/2026-11-23/part-1.jsonl", found[1]]
    assert len(labels(anywhere, "raw/{date}/", interval_end=end)) == 4
    assert labels(anywhere, "r*/rows-{date}.c?v", interval_end=end) == ["raw/rows-20261101.csv"]
    with pytest.raises(BadData, match=r"'raw/\{date\}/x' matches no file of a day before 2026-11-23"):
        labels(anywhere, "raw/{date}/x", interval_end=end)


def test_a_file_of_two_sources_belongs_to_the_first(anywhere: Lake) -> None:
    put(anywhere, "raw/a.jsonl", "raw/b.jsonl", "raw/c.jsonl")
    some, all_of_them = Source(name="some", files="raw/[bc].jsonl", weight=2), Source(name="all", files="raw")
    files = Sources(anywhere, [some, all_of_them]).files
    assert [(file.label, file.source.name) for file in files] == [
        ("raw/a.jsonl", "all"),
        ("raw/b.jsonl", "some"),
        ("raw/c.jsonl", "some"),
    ]
    assert files[1].source == some


def test_errors_name_the_field(anywhere: Lake) -> None:
    config = {"name": "rows", "contract": {"owner": "tests"}}
    plain = PrepareConfig.from_mapping({**config, "source": "raw/none*"}, origin="test")
    named = [{"name": "web", "files": "raw/none*"}, {"name": "own", "files": "raw"}]
    mixed = PrepareConfig.from_mapping({**config, "sources": named}, origin="test")
    with pytest.raises(BadData, match=r"^source: 'raw/none\*' matches no file in .*; put the files there or change"):
        Sources(anywhere, plain.inputs)
    with pytest.raises(BadData, match=r"^sources\[web\].files: 'raw/none\*' matches no file"):
        Sources(anywhere, mixed.inputs)
    for path in ("/etc/*.json", "raw/../../*.json"):
        with pytest.raises(BadConfig, match=r"source: .* is no place below the lake; write file://"):
            found_in(anywhere, path)
    with pytest.raises(BadConfig, match="interval_end: 'tonight' is no date"):
        found_in(anywhere, "raw", interval_end="tonight")


def test_a_file_is_what_it_was(anywhere: Lake) -> None:
    content = json.dumps([{"instruction": "A", "output": "a"}] * 3000).encode()
    put(anywhere, "raw/a.json", content=content)
    sources = found_in(anywhere, "raw/a.json")
    (file,) = sources.files
    assert file.bytes == len(content)
    with sources.open(file) as stream:
        assert stream.read(10) == content[:10]
        assert stream.read() == content[10:]
    assert read(sources, file) == content


@pytest.mark.parametrize("changed", [b"", b"{}", b"x" * 40_000])
def test_a_file_that_changes_while_it_is_read_is_noticed(anywhere: Lake, changed: bytes) -> None:
    put(anywhere, "raw/a.json", content=b"y" * 40_000)
    sources = found_in(anywhere, "raw/a.json")
    put(anywhere, "raw/a.json", content=changed)
    anywhere.fs.invalidate_cache()
    with pytest.raises(JobError, match=r"raw/a.json: changed while it was read; the next try starts over"):
        read(sources, sources.files[0])
    with pytest.raises(JobError, match="changed"), sources.open(sources.files[0]) as stream:
        stream.read(1)  # a reader that stops early is told too
    with pytest.raises(JobError, match="changed"), sources.open(sources.files[0]) as stream:
        list(read_frames(stream, name="a.json.zst"))


def test_a_scheme_that_nobody_knows_is_named(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with pytest.raises(
        BadConfig, match=r"^source: no filesystem has the scheme 'foo' of 'foo://x/y.jsonl'; write file"
    ):
        found_in(lake, "foo://x/y.jsonl")


def test_a_scheme_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(BadConfig, match=r"^source: the scheme 's3' of 's3://x' needs a package: Install s3fs"):
        _filesystem("s3://x", {}, "source")


def test_sources_of_something_else_name_its_field(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"^leaks\.sets\[gsm8k\]\.source: 'no/\*\.jsonl' matches no file"):
        found_in(Lake(str(tmp_path)), "no/*.jsonl", field="leaks.sets[gsm8k].source")
