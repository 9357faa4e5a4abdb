"""The report of a refresh: its figures are the database's, it names documents and never shows their text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.embeddings import MeasureConfig, MeasureResult, RefreshConfig
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings import changes
from llmjobs.embeddings.measure import measure, run
from llmjobs.embeddings.report import timeline
from llmjobs.embeddings.report.facts import NIGHTS, Facts, Night, facts_of, hidden
from llmjobs.embeddings.report.page import write_report
from llmjobs.embeddings.report.publication import NEWEST, REFRESHES, publish_report
from llmjobs.embeddings.report.verdict import checks, verdict
from llmjobs.embeddings.report.words import duration, size
from nightshift.views.mount import report_path
from tests.jobs.embeddings.example_refresh import example
from tests.jobs.embeddings.example_refresh import measured as example_result
from tests.jobs.embeddings.night import CountingModel
from tests.jobs.embeddings.night import Night as Nights

POISON = "poison"


@pytest.fixture
def loaded(night: Nights) -> Nights:
    """Twelve documents are in the index; one of them is called like a tag."""
    for number in range(11):
        night.write(**{f"note{number:02}": f"# Note {number}\n\nTreasure {number}.\n\n## More\n\nMore {number}."})
    night.write(**{"<b>bold & 'q'": "# Bold\n\nTreasure 99."})
    night.model.poison = POISON
    night.refresh()
    return night


def measured(night: Nights, connection: Connection, run_id: int, **watch: float) -> tuple[MeasureConfig, MeasureResult]:
    values = night.config.model_dump() | {"run_id": run_id, "watch": {"min_recall": 0.5, "queries": 5, **watch}}
    config = MeasureConfig.model_validate(values)
    return config, measure(connection, config)


def facts(night: Nights, connection: Connection, run_id: int, **watch: float) -> Facts:
    return facts_of(connection, *measured(night, connection, run_id, **watch), [])


def page_of(found: Facts, folder: Path) -> str:
    path = folder / "report.html"
    write_report(path, found)
    return path.read_text(encoding="utf-8")


def eventful(night: Nights) -> int:
    """Add two, change one, move two, remove one, break one; return the run."""
    night.write(new="# New\n\nTreasure new.", note01="# Note 1\n\nTreasure edited.\n\n## More\n\nMore 1.")
    (night.folder / "note02.md").rename(night.folder / "moved.md")
    (night.folder / "note03.md").rename(night.folder / "away.md")
    (night.folder / "note04.md").unlink()
    night.write(note05=f"# Note 5\n\nTreasure {POISON}.", absent=f"# Absent\n\n{POISON}.")
    return night.refresh().run_id


def test_the_page_tells_what_the_database_holds(loaded: Nights, connection: Connection, tmp_path: Path) -> None:
    run_id = eventful(loaded)
    found = facts(loaded, connection, run_id)
    result = found.result
    assert (result.documents_added, result.documents_deleted, result.documents_moved) == (3, 3, 2)
    assert [(one.operation, one.key, one.old_key) for one in found.changes] == [
        ("move", "away.md", "note03.md"),
        ("move", "moved.md", "note02.md"),
        ("add", "new.md", ""),
        ("change", "note01.md", ""),
        ("delete", "note04.md", ""),
    ]
    assert [(one.key, one.served) for one in found.failing] == [("absent.md", False), ("note05.md", True)]
    assert [(one.source, one.documents) for one in found.sources] == [("documents", 12)]
    assert connection.execute("select count(*) from document").fetchone() == (12,)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page_of(found, tmp_path)))
    assert "Refreshed but for 2 documents" in text
    assert "1 added, 1 changed, 2 moved, 1 removed; the index holds 12 documents." in text
    assert f"{result.texts_embedded} passages encoded ({result.tokens_embedded} tokens); " in text
    for row in (["Documents", 1, 1, 2, 1, 8, 12], ["Passages", result.chunks_added, result.chunks_changed]):
        assert " ".join(map(str, row)) in text
    assert "Moved: 2 documents" in text
    assert result.recall is not None
    assert f"recall at 10 is {result.recall:.3f}".capitalize() in text


def test_no_text_of_a_document_is_shown_and_names_are_escaped(
    loaded: Nights, connection: Connection, tmp_path: Path
) -> None:
    first = page_of(facts(loaded, connection, 1), tmp_path)
    assert "&lt;b&gt;bold &amp; &#39;q&#39;.md" in first
    eventful(loaded)
    connection.execute("update document_failure set error = 'row \"Treasure 5\" of <i>ann@example.org</i> is ''bad'''")
    page = page_of(facts(loaded, connection, 2), tmp_path)
    assert "row &#39;…&#39; of &lt;i&gt;[e-mail]&lt;/i&gt; is &#39;…&#39;" in page
    for either in (first, page):
        assert "Treasure" not in either
        assert "example.org" not in either
        assert "<b>bold" not in either
    assert hidden("inbox/ann.b+c@mail.example.org#7") == "inbox/[e-mail]#7"


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = page_of(example(str), tmp_path)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in page
    body = page.replace(style, "")
    assert not re.search(r"<script|<link|<img|<iframe|\sstyle=|\son\w+=|src=|https?:|url\(|@import", body)
    assert not re.search(r"https?:|url\(|@import", style)
    assert len(page.encode()) < 60_000


def test_whatever_a_name_holds_it_stays_a_name(tmp_path: Path) -> None:
    page = page_of(example(lambda text: f'<script>"{text}"</script> & ann@example.org'), tmp_path)
    assert "<script" not in page
    assert "example.org" not in page
    assert "&lt;script&gt;&#34;add/0.md&#34;&lt;/script&gt; &amp; [e-mail]" in page
    for tag in ("table", "tr", "td", "section", "details", "svg", "div", "p", "dl"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


@pytest.mark.parametrize(
    ("more", "head"),
    [
        ({}, "Refreshed but for 203 documents"),
        ({"documents_waiting": 0, "documents_quarantined": 0, "documents_deferred": 1}, "Refreshed but for 1 document"),
        ({"documents_waiting": 0, "documents_quarantined": 0}, "Refreshed; the new generation does not answer yet"),
        ({"documents_waiting": 0, "documents_quarantined": 0, "held_back": []}, "Up to date"),
        ({"documents_waiting": 0, "documents_quarantined": 0, "held_back": [], "changed": False}, "Nothing changed"),
    ],
)
def test_the_verdict_names_what_matters_most(more: dict[str, Any], head: str) -> None:
    found = replace(example(str), problems=[], result=example_result(**more))
    assert verdict(found).head == head
    assert verdict(example(str)).tone == "bad"


def test_few_names_are_kept_and_all_are_counted(
    loaded: Nights, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_NAMED", 3)
    for number in range(10):
        loaded.write(**{f"more{number}": f"# More {number}\n\nOther {number}."})
    for number in range(6):
        (loaded.folder / f"note{number:02}.md").unlink()
    found = facts(loaded, connection, loaded.refresh().run_id)
    assert [one.operation for one in found.changes] == ["add"] * 3 + ["delete"] * 3
    page = page_of(found, tmp_path)
    assert (page.count("And 7 more."), page.count("And 3 more.")) == (1, 1)
    connection.execute("delete from refresh_change")
    assert page_of(facts(loaded, connection, 2), tmp_path).count("Their names were not kept.") == 2


def test_copies_and_exchanged_contents_are_paired_once(loaded: Nights, connection: Connection) -> None:
    loaded.write(one="# Same\n\nSame.", two="# Same\n\nSame.")
    loaded.refresh()
    for name in ("one", "two"):
        (loaded.folder / f"{name}.md").unlink()
    loaded.write(three="# Same\n\nSame.")
    result = loaded.refresh()
    assert (result.documents_added, result.documents_deleted, result.documents_moved) == (1, 2, 1)
    kept = [(one.operation, one.key, one.old_key) for one in changes.changes_of(connection, result.run_id)]
    assert kept == [("move", "three.md", "one.md"), ("delete", "two.md", "")]


def published(night: Nights, connection: Connection, run_id: int, problems: list[str]) -> str:
    config, result = measured(night, connection, run_id)
    return publish_report(connection, night.lake, config, result, problems)


def test_a_quiet_night_leads_to_the_last_page_and_writes_nothing(loaded: Nights, connection: Connection) -> None:
    url = published(loaded, connection, 1, [])
    assert Path(url.removeprefix("file://")).is_file()
    assert published(loaded, connection, 1, []) == url, "a retried task writes the same page"
    before = connection.execute("select count(*) from refresh_change").fetchone()
    quiet = loaded.refresh().run_id
    assert published(loaded, connection, quiet, []) == url
    assert len(loaded.lake.versions(REFRESHES, "notes")) == 1
    assert connection.execute("select count(*) from refresh_change").fetchone() == before
    assert connection.execute("select count(*) from refresh_run where measured is null").fetchone() == (1,)
    # A limit that is passed is news.
    assert published(loaded, connection, quiet, ["a document has failed for long"]) != url


def test_what_stops_failing_without_a_change_of_the_index_is_news(loaded: Nights, connection: Connection) -> None:
    loaded.write(absent=f"# Absent\n\n{POISON}.")
    url = published(loaded, connection, loaded.refresh().run_id, [])
    (loaded.folder / "absent.md").unlink()
    result = loaded.refresh()
    assert (result.changed, result.documents_waiting) == (False, 0)
    assert published(loaded, connection, result.run_id, []) != url


def test_the_task_leads_to_the_report_also_where_it_fails(
    loaded: Nights, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", loaded.url)
    monkeypatch.setenv("LLMJOBS_LAKE_URL", loaded.lake.url)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, _ = measured(loaded, connection, 1)
    url = run(config).report_url
    newest = loaded.lake.pointer(REFRESHES, "notes", NEWEST)
    assert newest is not None
    assert url.endswith(f"/refreshes/notes/versions/{newest.version}/report.html")
    assert report_path(url).startswith("nightshift/reports/refreshes/notes/")
    manifest = loaded.lake.manifest(REFRESHES, "notes", newest.version)
    assert manifest is not None
    assert manifest.metrics["sentence"] == "Up to date: 12 added; the index holds 12 documents"
    loaded.write(absent=f"# Absent\n\n{POISON}.")
    run_id = loaded.refresh().run_id
    connection.execute("update document_failure set first_failed_at = now() - interval '50 hours'")
    with pytest.raises(BadData, match=r"failed for 50\.0 hours .* report: \S+/report\.html$") as error:
        run(MeasureConfig.model_validate(config.model_dump() | {"run_id": run_id, "watch": {"max_lag_hours": 48}}))
    page = Path(str(error.value).rpartition("report: file://")[2]).read_text(encoding="utf-8")
    assert "Published, but not as it should be" in page
    assert "✗ not kept" in page


def test_a_record_stays_small_and_growth_is_told(loaded: Nights, connection: Connection) -> None:
    assert measured(loaded, connection, 1)[1].growth_bytes is None
    quiet = loaded.refresh().run_id
    assert measured(loaded, connection, quiet)[1].growth_bytes == 0
    generation = "(select max(generation_id) from generation)"
    row = connection.execute(f"select {generation}").fetchone()
    assert row is not None
    connection.execute(
        f"insert into chunk_vector_{row[0]} select gen_random_uuid(), document_id, tenant, embedding"
        f" from chunk_vector_{row[0]}, generate_series(1, 40)".encode()
    )
    assert (measured(loaded, connection, quiet)[1].growth_bytes or 0) > 8192
    size_of = "select max(pg_column_size(r.*)) from refresh_run r"
    assert (connection.execute(size_of).fetchone() or (9999,))[0] <= 1024


def test_a_new_generation_and_its_gates_are_told(loaded: Nights, connection: Connection, tmp_path: Path) -> None:
    loaded.model = CountingModel(name="other", dimensions=24)
    loaded.models["other"] = loaded.model
    loaded.config = RefreshConfig.model_validate(loaded.config.model_dump() | {"rollout": {"documents_per_run": 8}})
    beside = facts(loaded, connection, loaded.refresh().run_id)
    assert verdict(beside).head == "Refreshed; the new generation does not answer yet"
    told = {one.name: one.passed for one in checks(beside)}
    assert told["Generation 2: coverage"] is False
    assert told["Tables"] is None
    assert "holds 8 of 12 documents" in page_of(beside, tmp_path)
    after = facts(loaded, connection, loaded.refresh().run_id)
    assert verdict(after).head == "A new generation answers"
    assert "Generation 2 took over in this run; the index holds 12 documents" in verdict(after).sentences
    assert [(one.generation_id, one.state, one.documents) for one in after.generations] == [
        (2, "active", 12),
        (1, "former", 12),
    ]
    assert {one.passed for one in checks(after)} == {True, None}  # no limit of the lag is set


def test_bars_are_as_high_as_their_figures(loaded: Nights, connection: Connection) -> None:
    eventful(loaded)
    loaded.refresh()
    for run_id in (1, 2):
        measured(loaded, connection, run_id)
    nights = facts(loaded, connection, 3).nights
    texts, tokens, seconds, space = timeline.charts(nights)
    assert [one.kind for one in texts.bars] == ["encoded", "encoded", "cached", "nothing"]
    full = timeline.BASE - timeline.TOP
    first, second = (night.count("texts_embedded") for night in nights[:2])
    assert texts.bars[0].height == full
    assert texts.bars[1].height == pytest.approx(full * second / first, abs=0.1)
    assert (len(tokens.bars), len(seconds.bars), len(space.bars)) == (3, 3, 3)
    # A run that changed nothing measures no size, so the bar is that of the last one.
    assert space.bars[2].height == space.bars[1].height
    assert {round(one.x + one.width) for one in space.bars[-1:]} == {timeline.WIDTH - 2}
    assert timeline.charts([Night(1, nights[0].finished_at, 0.0, {}, None)])[0].bars[0].x > timeline.WIDTH * 0.9
    assert len(nights) <= NIGHTS


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (size(0), "0 B"), (size(-2048), "-2.0 KiB"), (size(300 * 1024**2), "300 MiB"), (size(5 * 1024**4), "5.0 TiB"),
        (duration(3.21), "3.2 s"), (duration(119.8), "2 min 0 s"), (duration(3 * 3600 + 61), "3 h 1 min"),
    ],
)  # fmt: skip
def test_figures_in_words(told: str, expected: str) -> None:
    assert told == expected
