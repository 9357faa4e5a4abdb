"""Taking rows down: a list of ids only, and where the rows are already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.instructions import corrections, prepare, takedown
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import Good, MakeConfig, Raw, audit_file, audit_lines, prompts_of, rows_of

Publish = Callable[..., str]
SECRET = "Jane Roe of Springfield asked this"


def listed(lake: Lake) -> str:
    path = Path(lake.url.removeprefix("file://"), "takedowns/rows.jsonl")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def row_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def history(lake: Lake, publish: Publish, tmp_path: Path) -> None:
    """Two versions with the row and one without; an adapter and a rendered text of the first, and audits."""
    publish("v1", ["harmless", SECRET])
    publish("v2", [SECRET, "other"])
    publish("v3", ["other"])
    lake.move_pointer("datasets", "rows", "current", "v2")
    folder = tmp_path / "made"
    folder.mkdir()
    for kind, name, version, dataset_version in (
        ("adapters", "small", "a1", "v1"), ("adapters", "small", "a3", "v3"), ("renders", "rows", "r2", "v2"),
        ("adapters", "foreign", "a9", "v1"),
    ):  # fmt: skip
        dataset = "others" if name == "foreign" else "rows"
        inputs = {"dataset": dataset, "dataset_version": dataset_version}
        lake.publish(folder, kind=kind, name=name, version=version, inputs=inputs)
    raw = json.dumps({"instruction": SECRET.upper(), "output": "an answer"})
    lines = [json.dumps({"raw": raw}), json.dumps({"raw": "{broken"})]
    (folder / "quarantine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pl.DataFrame({"row_id": [row_id("other")], "kept": [1]}).write_parquet(folder / "set_aside.parquet")
    (folder / "report.html").write_text(f"<p>{SECRET.replace(' ', '</b> <i>', 1)} &amp; more</p>", encoding="utf-8")
    lake.publish(folder, kind="audits", name="rows", version="quotes")
    (folder / "quarantine.jsonl").write_text(json.dumps({"raw": "something else"}), encoding="utf-8")
    (folder / "report.html").unlink()
    lake.publish(folder, kind="audits", name="rows", version="quotes_not")
    part = tmp_path / "part"
    part.mkdir()
    pl.DataFrame({"row_id": [bytes.fromhex(row_id("other"))]}).write_ipc(part / "0.rows.arrow")
    lake.publish(part, kind="parts", name="rows", version="examined")


@pytest.mark.usefixtures("history")
def test_a_text_finds_its_rows_and_everything_that_holds_them(lake: Lake) -> None:
    found = takedown.take_down(lake, "rows", texts=["jane roe   OF springfield"], reason="asked by the author")
    assert found.row_ids == found.added == [row_id(SECRET)]
    assert found.versions == {"v1": 1, "v2": 1}
    assert found.current == "v2"
    assert [(one.kind, one.name, one.version) for one in found.made] == [
        ("adapters", "small", "a1"),
        ("renders", "rows", "r2"),
    ]
    assert found.copies == {"audits/rows/versions/quotes": ["quarantine.jsonl", "report.html"]}
    assert takedown.taken_down(lake, "rows") == {row_id(SECRET)}


@pytest.mark.usefixtures("history")
def test_a_row_id_finds_the_same(lake: Lake) -> None:
    by_id = takedown.take_down(lake, "rows", row_ids=[row_id(SECRET)], reason="asked")
    assert (by_id.versions, by_id.current) == ({"v1": 1, "v2": 1}, "v2")
    # The quarantined row has another answer, so it is not this row; the report shows pieces, and one is enough.
    assert by_id.copies == {"audits/rows/versions/quotes": ["report.html"]}
    of_other = takedown.take_down(lake, "rows", row_ids=[row_id("other")], reason="asked")
    assert of_other.copies == {
        "audits/rows/versions/quotes": ["set_aside.parquet"],
        "audits/rows/versions/quotes_not": ["set_aside.parquet"],
        "parts/rows/versions/examined": ["0.rows.arrow"],
    }


@pytest.mark.usefixtures("history")
def test_neither_the_list_nor_the_command_quotes_the_text(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--dataset", "rows", "--containing", "Springfield", "--reason", "asked by the author"]
    assert takedown.main(command) == 0
    said = capsys.readouterr().out
    assert "version  v2: 1 row(s)  <- current" in said
    assert "adapter  small a1" in said
    assert "copy     audits/rows/versions/quotes: quarantine.jsonl" in said
    assert "retrain" in said
    row, aside = map(json.loads, listed(lake).splitlines())
    assert sorted(row) == ["reason", "row_id", "when", "who"]
    assert row["reason"] == aside["reason"] == "asked by the author"
    assert aside["raw_sha256"] == row_id(json.dumps({"instruction": SECRET.upper(), "output": "an answer"}))
    assert "springfield" not in (said + listed(lake)).lower()


@pytest.mark.usefixtures("history")
def test_a_second_takedown_adds_nothing_and_still_answers(lake: Lake) -> None:
    takedown.take_down(lake, "rows", texts=["springfield"], reason="asked")
    before = listed(lake)
    again = takedown.take_down(lake, "rows", row_ids=[row_id(SECRET)], reason="asked again")
    assert again.added == []
    assert again.versions == {"v1": 1, "v2": 1}
    assert listed(lake) == before


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("question", "error", "said"),
    [
        ({"row_ids": ["no such", row_id(SECRET)]}, BadData, "no version holds row no such; give whole row ids"),
        ({"texts": ["nobody said this"]}, BadData, r"no row of its 3 version\(s\) holds the text"),
        ({}, BadConfig, "at least one row id or text"),
    ],
)
def test_what_is_nowhere_is_refused_and_nothing_written(
    lake: Lake, question: dict[str, list[str]], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        takedown.take_down(lake, "rows", reason="asked", **question)
    assert listed(lake) == ""


def test_nothing_is_taken_down_where_there_is_no_list(lake: Lake) -> None:
    assert takedown.taken_down(lake, "rows") == frozenset()


def test_a_broken_list_stops_the_night_instead_of_publishing(lake: Lake) -> None:
    path = Path(lake.url.removeprefix("file://"), "takedowns/rows.jsonl")
    path.parent.mkdir(parents=True)
    path.write_text('{"row_id": "a"}\n{"row": "b"}\n', encoding="utf-8")
    with pytest.raises(BadData, match=r"takedowns/rows\.jsonl line 2"):
        takedown.taken_down(lake, "rows")


def test_what_only_an_audit_or_a_correction_holds_is_never_published(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, capsys: pytest.CaptureFixture[str]
) -> None:
    mail = "jane.roe@example.com"
    bad = good(50, output=f"As an AI, I wrote to {mail}.")
    raw("a.json", [*(good(number) for number in range(10)), bad, good(51, output="")])
    first = prepare.run(config())
    assert (first.published, first.quarantined) == (10, 2)
    wrong = next(row for row in audit_lines(lake, first.audit_version, "quarantine.jsonl") if mail not in row["raw"])
    corrections.record(lake, "rows", [json.dumps({**wrong, "raw": json.dumps(good(51, output=mail * 2))})], who="me")
    assert takedown.main(["--dataset", "rows", "--containing", mail.upper(), "--reason", "asked"]) == 0
    said = capsys.readouterr().out
    assert "2 row(s) are taken down, 2 of them now" in said
    assert f"copy     audits/rows/versions/{first.audit_version}: quarantine.jsonl" in said
    assert "copy     corrections/rows.jsonl: line 1" in said
    assert mail not in (said + listed(lake)).lower()
    again = takedown.take_down(lake, "rows", texts=[mail], reason="asked")
    assert (len(again.raws), again.added_raws, again.row_ids) == (2, [], [])
    loose = config(rules={"speaks_as_ai": "warn"})
    for replay in ("last", ""):
        after = prepare.run(loose.model_copy(update={"replay": replay}))
        assert (after.published, after.quarantined, after.reasons) == (10, 2, {"taken_down": 2})
        rows = audit_lines(lake, after.audit_version, "quarantine.jsonl")
        assert [(row["raw"], row["reasons"]) for row in rows] == [(None, [{"rule": "taken_down"}])] * 2
        folder = audit_file(lake, after.audit_version, "")
        assert not [path.name for path in folder.iterdir() if mail.encode() in path.read_bytes()]


def test_a_row_nested_too_deeply_is_searched_as_a_text(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = f'{{"instruction": "Who is Jane Roe?", "output": {"[" * 100_000}{"]" * 100_000}}}'
    rows = [*(json.dumps(good(number)) for number in range(10)), deep]
    raw("a.jsonl", "\n".join(rows).encode())
    first = prepare.run(config())
    assert (first.published, first.quarantined) == (10, 1)
    other = good(3)["instruction"]
    for text, ids, raws in ((other, 1, 0), ("who is JANE roe?", 0, 1)):
        found = takedown.take_down(lake, "rows", texts=[text], reason="asked")
        assert (len(found.row_ids), len(found.raws)) == (ids, raws)
    assert takedown.main(["--dataset", "rows", "--containing", "Jane Roe", "--reason", "asked"]) == 0
    assert f"copy     audits/rows/versions/{first.audit_version}: quarantine.jsonl" in capsys.readouterr().out
    after = prepare.run(config())
    assert (after.published, after.reasons) == (9, {"taken_down": 2})


def test_a_leak_and_a_row_left_out_are_taken_down_by_their_id(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good
) -> None:
    raw("held.jsonl", [good(number) for number in range(10)])
    raw("a.json", [good(number) for number in range(40)])
    sets = [{"name": "held", "source": "raw/rows/held.jsonl"}]
    where = {"source": "raw/rows/a.json"}
    tight = config(leaks={"sets": sets}, quality={"score": True, "budget": {"rows": 5}}).model_copy(update=where)
    first = prepare.run(tight)
    leak = audit_lines(lake, first.audit_version, "quarantine.jsonl")[0]
    aside = pl.read_parquet(audit_file(lake, first.audit_version, "set_aside.parquet"))
    texts = [json.loads(leak["raw"])["messages"][0]["content"], aside["messages"][0][0]["content"]]
    found = takedown.take_down(lake, "rows", texts=texts, reason="asked")
    assert aside["row_id"][0] in found.row_ids
    second = prepare.run(config().model_copy(update=where))
    assert (second.published, second.reasons) == (38, {"taken_down": 2})
    assert not set(texts) & set(prompts_of(rows_of(lake, second.version)))
