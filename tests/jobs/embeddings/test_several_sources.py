"""Several sources in one index, what is read of them, and what of a document costs what."""

from __future__ import annotations

import os
from typing import Any

import pytest

from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from tests.jobs.embeddings.memory import Shelf, page
from tests.jobs.embeddings.night import Night, check_sound


def with_sources(night: Night, *names: str, **more: Any) -> RefreshConfig:
    """Return the night's config with one folder a name."""
    values = night.config.model_dump() | more
    values |= {"source": None, "sources": [{"name": name, "url": f"documents/{name}"} for name in names]}
    return RefreshConfig.model_validate(values)


@pytest.fixture
def two(night: Night) -> Night:
    """A handbook of four documents and a wiki of one, whose key is one of the handbook's."""
    night.config = with_sources(night, "handbook", "wiki")
    for number in range(4):
        night.write(**{f"../handbook/page{number}": f"# Page {number}\n\nHandbook {number}."})
    night.write(**{"../wiki/page0": "# Page 0\n\nThe wiki's own."})
    night.refresh()
    night.model.encoded.clear()
    return night


@pytest.fixture
def shelf(night: Night) -> Shelf:
    """A source in memory, indexed: a container of three documents and one of one."""
    shelf = Shelf()
    shelf.put(*(page("many", f"many#{number}", f"# Number {number}\n\nText {number}.") for number in range(3)))
    shelf.put(page("one", "one", "# One\n\nAlone."))
    night.shelves = [shelf]
    night.refresh()
    shelf.hashed.clear()
    night.model.encoded.clear()
    return shelf


def names(connection: Connection) -> list[tuple[str, str]]:
    return connection.execute("select source, key from document order by 1, 2").fetchall()


def vectors(connection: Connection) -> list[Any]:
    """Return the versions of all vector rows, which change with every write."""
    row = connection.execute("select max(generation_id) from generation").fetchone()
    assert row is not None
    return connection.execute(
        f"select ctid::text, xmin::text from chunk_vector_{row[0]} order by 1".encode()
    ).fetchall()


def test_equal_keys_of_two_sources_are_two_documents(two: Night, connection: Connection) -> None:
    assert len(names(connection)) == 5
    check_sound(connection, two)
    two.write(**{"../wiki/page0": "# Page 0\n\nEdited."})
    result = two.refresh()
    assert (result.documents_changed, result.documents_unchanged, result.texts_embedded) == (1, 4, 1)
    check_sound(connection, two)


def test_a_source_that_the_config_drops_takes_its_documents_along(two: Night, connection: Connection) -> None:
    two.config = with_sources(two, "handbook")
    result = two.refresh()
    assert (result.documents, result.documents_deleted) == (4, 1)
    assert connection.execute("select source from source_state").fetchall() == [("handbook",)]
    check_sound(connection, two)
    two.config = with_sources(two, "handbook", "wiki")
    assert (two.refresh().texts_embedded, two.model.encoded) == (0, [])


def test_dropping_most_of_an_index_by_config_is_guarded(two: Night) -> None:
    two.config = with_sources(two, "wiki")
    with pytest.raises(BadData, match=r"4 of 5 indexed documents .* no longer names handbook.*allow_mass_delete"):
        two.refresh()


def test_each_source_has_a_guard_of_its_own(two: Night, connection: Connection) -> None:
    (two.folder / "../wiki/page0.md").unlink()
    with pytest.raises(BadData, match="1 of 1 indexed documents are no longer in source wiki"):
        two.refresh()
    assert len(names(connection)) == 5
    assert two.refresh(with_sources(two, "handbook", "wiki", allow_mass_delete=True)).documents_deleted == 1


def test_a_copied_and_renamed_text_costs_nothing(two: Night, connection: Connection) -> None:
    text = (two.folder / "../handbook/page3.md").read_text()
    two.write(**{"../handbook/copy": text, "../wiki/other": text})
    (two.folder / "../handbook/page3.md").rename(two.folder / "../handbook/renamed.md")
    result = two.refresh()
    assert (result.documents_added, result.documents_deleted) == (3, 1)
    assert (result.texts_embedded, result.texts_cached, two.model.encoded) == (0, 3, [])
    check_sound(connection, two)


def test_a_touched_file_is_read_and_nothing_is_written_of_it(two: Night, connection: Connection) -> None:
    before = vectors(connection)
    stamps = "select container, stamp from source_container where source = 'handbook' order by 1"
    stamped = connection.execute(stamps).fetchall()
    os.utime(two.folder / "../handbook/page1.md", (1, 1))
    planned = two.plan(connection)
    assert planned.shards == []
    result = two.finalise(connection, planned.run_id)
    assert (result.changed, result.documents_unchanged) == (False, 5)
    changed = {row[0] for row in set(connection.execute(stamps).fetchall()) - set(stamped)}
    assert (changed, vectors(connection)) == ({"page1.md"}, before)


def test_only_what_another_stamp_names_is_read(night: Night, shelf: Shelf) -> None:
    night.refresh()
    assert shelf.hashed == []
    shelf.put(page("one", "one", "# One\n\nNo more alone."), stamp="2")
    result = night.refresh()
    assert (shelf.hashed, result.documents_changed, result.documents_unchanged) == (["one"], 1, 3)


def test_an_edit_that_its_stamp_hides_is_found_when_all_is_read_again(night: Night, shelf: Shelf) -> None:
    night.config = night.config.model_copy(update={"rehash_every": 3})
    shelf.put(page("one", "one", "# One\n\nChanged in secret."))
    assert [night.refresh().documents_changed for _ in range(4)] == [0, 0, 1, 0]
    assert shelf.hashed == ["many", "one"]


def test_settings_that_change_let_all_be_read_again(night: Night, shelf: Shelf) -> None:
    shelf.settings_digest = b"1" * 32
    assert night.refresh().changed is False
    assert shelf.hashed == ["many", "one"]
    assert (night.refresh().changed, len(shelf.hashed)) == (False, 2)


def test_a_line_that_left_its_file_is_deleted(night: Night, shelf: Shelf, connection: Connection) -> None:
    shelf.put(*shelf.pages["many"][:2], stamp="2")
    assert night.refresh().documents_deleted == 1
    assert [key for _, key in names(connection)] == ["many#0", "many#1", "one"]


def test_an_incremental_listing_deletes_nothing_that_it_does_not_name(night: Night, shelf: Shelf) -> None:
    shelf.take("one")
    shelf.only = ["many"]
    shelf.put(page("many", "many#0", "# Number 0\n\nNew text."), *shelf.pages["many"][1:], stamp="2")
    result = night.refresh()
    assert (result.documents_changed, result.documents_deleted, result.documents) == (1, 0, 4)
    # The next begins where this one ended, and what it names again is not read again.
    assert night.refresh().changed is False
    assert (shelf.scans[-1], shelf.hashed) == (("w2", False), ["many"])


def test_metadata_touch_no_vector_and_a_tenant_only_its_own(night: Night, shelf: Shelf, connection: Connection) -> None:
    before = vectors(connection)
    shelf.put(page("one", "one", "# One\n\nAlone.", metadata={"team": "blue"}, title="First"), stamp="2")
    result = night.refresh()
    assert (result.documents_changed, result.chunks_unchanged, night.model.encoded) == (1, 4, [])
    assert connection.execute("select title, metadata from document where key = 'one'").fetchone() == (
        "First",
        {"team": "blue"},
    )
    assert vectors(connection) == before
    shelf.put(page("one", "one", "# One\n\nAlone.", tenant="acme"), stamp="3")
    night.refresh()
    assert len(set(vectors(connection)) - set(before)) == 1
    assert night.model.encoded == []
    check_tenants = "select count(*) from chunk join document using (document_id) where chunk.tenant <> document.tenant"
    assert connection.execute(check_tenants).fetchone() == (0,)
    check_sound(connection, night)
