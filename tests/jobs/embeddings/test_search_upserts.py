"""Documents that programs write themselves: found at once, and left alone by the nights that follow."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings import embed
from llmjobs.embeddings import plan as planning
from llmjobs.embeddings.documents.direct import Given
from llmjobs.embeddings.search import collections, search, upserts
from llmjobs.embeddings.search.__main__ import main
from llmjobs.embeddings.search.upserts import Upserted, upsert
from llmjobs.embeddings.survey import survey
from tests.jobs.embeddings.night import CountingModel, Night

INDEX = "notes"
LETTER = Given("letter", "# Zanzibar\n\nThe island has cloves.", metadata={"kind": "letter"}, language="en")


@pytest.fixture
def filled(night: Night) -> Night:
    night.write(one="# One\n\nApples.", two="# Two\n\nPears.")
    night.refresh()
    night.model.encoded.clear()
    return night


def held(connection: Connection) -> list[tuple[Any, ...]]:
    """Return source, key and passage of every chunk of the generation that answers."""
    return connection.execute(
        "select d.source, d.key, c.content from chunk c join document d using (document_id)"
        " join generation g using (generation_id) where g.state = 'active' order by 1, 2, c.ordinal"
    ).fetchall()


def keys(connection: Connection, question: str, **more: Any) -> list[str]:
    more = {"tenants": ["public"], "mode": "text"} | more
    return [hit.document for hit in search(connection, INDEX, question, encoder=CountingModel(), **more)]


def test_a_document_is_found_at_once_and_paid_once(filled: Night, connection: Connection) -> None:
    assert upsert(connection, INDEX, [LETTER], model=filled.model) == Upserted(1, 0, 1)
    assert keys(connection, "cloves") == keys(connection, "cloves", filter={"kind": "letter"}) == ["letter"]
    assert upsert(connection, INDEX, [LETTER], model=filled.model) == Upserted(0, 1, 0)
    moved = Given("copy", LETTER.text, language="en")
    assert upsert(connection, INDEX, [LETTER, moved], model=filled.model) == Upserted(1, 1, 0)
    assert len(filled.model.encoded) == 1


def test_another_text_replaces_the_former_and_another_tenant_hides_it(filled: Night, connection: Connection) -> None:
    upsert(connection, INDEX, [LETTER], model=filled.model)
    upsert(connection, INDEX, [Given("letter", "Now of pepper.", tenant="a", language="en")], model=filled.model)
    assert [row for row in held(connection) if row[0] == "direct"] == [("direct", "letter", "Now of pepper.")]
    assert keys(connection, "pepper") == keys(connection, "cloves") == []
    assert keys(connection, "pepper", tenants=["a"]) == ["letter"]


@pytest.mark.parametrize("everything", [1, 100])
def test_the_nights_that_follow_leave_it_alone(filled: Night, connection: Connection, everything: int) -> None:
    upsert(connection, INDEX, [LETTER], model=filled.model)
    before = held(connection)
    config = RefreshConfig.model_validate(filled.config.model_dump() | {"rehash_every": everything})
    for _ in range(3):
        assert not filled.refresh_on(connection, config).changed
    filled.write(one="# One\n\nPlums.")
    assert filled.refresh_on(connection, config).documents_deleted == 0
    assert [row for row in held(connection) if row[0] == "direct"] == [row for row in before if row[0] == "direct"]
    assert collections.count(connection, INDEX, tenants=["public"]) == 3


def test_a_night_that_listed_before_it_deletes_nothing(
    filled: Night, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsert(connection, INDEX, [LETTER], model=filled.model)
    filled.write(one="# One\n\nPlums.")
    look = survey

    def then_written(*arguments: Any, **more: Any) -> Any:
        found = look(*arguments, **more)
        if found.source == "direct":
            upsert(connection, INDEX, [Given("late", "Of saffron.", language="en")], model=filled.model)
        return found

    monkeypatch.setattr(planning, "survey", then_written)
    config = RefreshConfig.model_validate(filled.config.model_dump() | {"rehash_every": 1})
    assert filled.refresh_on(connection, config).documents_deleted == 0
    assert sorted(keys(connection, "saffron cloves plums")) == ["late", "letter", "one.md"]


def test_a_new_chunker_and_a_new_model_read_it_again(filled: Night, connection: Connection) -> None:
    upsert(connection, INDEX, [LETTER], model=filled.model)
    values = filled.config.model_dump() | {"chunks": {"max_tokens": 40}}
    filled.config = RefreshConfig.model_validate(values)
    assert filled.refresh_on(connection).documents == 3
    assert ("direct", "letter", "The island has cloves.") in held(connection)
    filled.model = filled.models["other"] = CountingModel(name="other")
    assert filled.refresh_on(connection).documents == 3
    assert "Zanzibar\n\nThe island has cloves." in filled.model.encoded


def test_a_delete_is_for_good(filled: Night, connection: Connection) -> None:
    upsert(connection, INDEX, [LETTER], model=filled.model)
    filled.refresh_on(connection)
    assert collections.delete(connection, INDEX, ["letter"], tenants=["public"]) == 1
    filled.refresh_on(connection)
    assert keys(connection, "cloves") == []
    assert connection.execute("select count(*) from direct_document").fetchone() == (0,)
    assert upsert(connection, INDEX, [LETTER], model=filled.model) == Upserted(1, 0, 0)
    assert keys(connection, "cloves") == ["letter"]


def test_all_or_nothing(filled: Night, connection: Connection) -> None:
    filled.model.poison = "arsenic"
    with pytest.raises(BadData, match="bad: the provider will not have it"):
        upsert(connection, INDEX, [LETTER, Given("bad", "Of arsenic.", language="en")], model=filled.model)
    with pytest.raises(BadData, match="nul: the text holds a NUL"):
        upsert(connection, INDEX, [LETTER, Given("nul", "a\0b", language="en")], model=filled.model)
    assert {source for source, *_ in held(connection)} == {"documents"}
    with pytest.raises(BadConfig, match="'letter' is there twice"):
        upsert(connection, INDEX, [LETTER, LETTER], model=filled.model)
    wrong: list[dict[str, Any]] = [{"text": 5}, {"metadata": {"a": {"b": 1}}}, {"tenant": " "}, {"form": "pdf"}]
    for values in wrong:
        given = Given(**{"key": "x", "text": "t", **values})
        with pytest.raises(BadConfig, match=f"document 'x'.*{next(iter(values))}"):
            upsert(connection, INDEX, [given], model=filled.model)
    with pytest.raises(BadConfig, match="1 to 1000 documents a call, got 0"):
        upsert(connection, INDEX, [], model=filled.model)
    with pytest.raises(BadConfig, match="gives other vectors"):
        upsert(connection, INDEX, [LETTER], model=CountingModel(name="other"))
    with pytest.raises(BadData, match="'elsewhere' is empty"):
        upsert(connection, "elsewhere", [LETTER], model=filled.model)


def test_a_writer_that_was_overtaken_writes_on_top_of_the_other(
    filled: Night, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken: list[int] = []

    def slowly(*arguments: Any) -> Any:
        if not overtaken:
            overtaken.append(1)
            upsert(connection, INDEX, [Given("letter", "Of nutmeg.", language="en")], model=filled.model)
        return embed.encode(*arguments)

    monkeypatch.setattr(upserts, "encode", slowly)
    assert upsert(connection, INDEX, [LETTER], model=filled.model).written == 1
    assert (keys(connection, "cloves"), keys(connection, "nutmeg")) == (["letter"], [])


def test_a_source_may_not_take_its_name(filled: Night) -> None:
    values = filled.config.model_dump() | {"source": {"url": "documents/notes", "name": "direct"}}
    with pytest.raises(ValueError, match="`direct` is that of documents written by upsert"):
        RefreshConfig.model_validate(values)


def test_the_command_reads_lines(
    filled: Night, connection: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", filled.url)
    monkeypatch.setattr(upserts, "reopened", lambda settings: filled.model)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"key": "a", "text": "Of mace.", "language": "en"}) + "\n"))
    assert main(["upsert", INDEX, "-"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": 1, "unchanged": 0, "texts_embedded": 1}
    assert keys(connection, "mace") == ["a"]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "no key"}\n'))
    assert main(["upsert", INDEX, "-"]) == 65
    assert "line 1 is no document" in capsys.readouterr().err
