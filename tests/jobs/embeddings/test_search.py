from __future__ import annotations

import pytest

from llmjobs.contracts.embeddings import PUBLIC
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.model import Vectors
from llmjobs.embeddings.search import Hit, search
from tests.jobs.embeddings.night import CountingModel, Night

FRUITS = ("apples", "pears", "plums", "cherries", "quinces")


@pytest.fixture
def indexed(night: Night) -> Night:
    for place in ("north", "south"):
        for fruit in FRUITS:
            night.write(**{f"{place}/{fruit}": f"# Trees\n\n## {fruit}\n\nThere are {fruit} in the {place}."})
    night.refresh()
    return night


def find(night: Night, connection: Connection, query: str, k: int = 3, within: str = "") -> list[Hit]:
    return search(
        connection, night.config.name, query, k, tenants=[PUBLIC], within=within, encoder=night.model, mode="vector"
    )


def test_the_passage_comes_with_its_source(indexed: Night, connection: Connection) -> None:
    hit = find(indexed, connection, "There are plums in the north.")[0]
    assert (hit.document, hit.heading, hit.text) == (
        "north/plums.md",
        "Trees > plums",
        "There are plums in the north.",
    )
    text = (indexed.folder / hit.document).read_text()
    assert text[hit.start_char : hit.end_char] == hit.text
    assert 0.5 < hit.score <= 1


def test_hits_come_the_closest_first_and_at_most_k(indexed: Night, connection: Connection) -> None:
    hits = find(indexed, connection, "pears", k=7)
    assert len(hits) == 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert {hit.document for hit in hits[:2]} == {"north/pears.md", "south/pears.md"}


def test_a_filter_never_costs_hits(indexed: Night, connection: Connection) -> None:
    hits = find(indexed, connection, "There are apples in the north.", k=10, within="south/")
    assert len(hits) == len(FRUITS)
    assert {hit.document.split("/")[0] for hit in hits} == {"south"}
    assert hits[0].document == "south/apples.md"


def test_the_filter_is_text_not_a_pattern(indexed: Night, connection: Connection) -> None:
    assert find(indexed, connection, "apples", within="%") == []


def test_an_empty_index_names_the_dag_that_fills_it(night: Night, connection: Connection) -> None:
    with pytest.raises(BadData, match="'notes' is empty: run the DAG refresh_embeddings_notes"):
        find(night, connection, "apples")


def test_a_generation_that_is_being_built_does_not_answer(indexed: Night, connection: Connection) -> None:
    before = find(indexed, connection, "apples")
    encoder, indexed.model = indexed.model, CountingModel(name="other", dimensions=24)
    planned = indexed.plan(connection)
    for work in planned.shards:
        indexed.embed(connection, planned.run_id, work.shard)
    assert search(connection, "notes", "apples", 3, tenants=[PUBLIC], encoder=encoder, mode="vector") == before
    indexed.finalise(connection, planned.run_id)
    assert {hit.generation_id for hit in find(indexed, connection, "apples")} == {planned.generation_id}


class Watching(CountingModel):
    """Looks at the index through another connection while the night encodes."""

    connection: Connection
    eye: CountingModel
    seen: list[set[str]]

    def encode(self, texts: list[str]) -> Vectors:
        hits = search(self.connection, "notes", "There are apples", 20, tenants=[PUBLIC], encoder=self.eye)
        self.seen.append({hit.text for hit in hits if hit.document == "north/apples.md"})
        return super().encode(texts)


def test_a_reader_sees_the_old_document_while_the_new_one_is_encoded(indexed: Night, connection: Connection) -> None:
    watching = Watching()
    watching.connection, watching.eye, watching.seen = connection, CountingModel(), []
    indexed.model = watching
    indexed.write(**{"north/apples": "# Trees\n\nNew first.\n\n## apples\n\nNew second."})
    indexed.refresh()
    assert watching.seen == [{"There are apples in the north."}]
    now = {hit.text for hit in find(indexed, connection, "apples", 20) if hit.document == "north/apples.md"}
    assert now == {"New first.", "New second."}
