from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.search import search
from llmjobs.embeddings.search.filters import compiled, parsed
from tests.fixtures.postgres import database_name, new_database
from tests.jobs.embeddings.night import CountingModel
from tests.jobs.embeddings.shelf import BOOKS, INDEX, put, rows_of


@pytest.fixture(scope="module")
def shelf(postgres_server: str, migrated_database_url: str) -> Iterator[Connection]:
    with (
        new_database(postgres_server, template=database_name(migrated_database_url)) as url,
        connect(url) as connection,
    ):
        put(connection, rows_of(BOOKS))
        yield connection


def found(connection: Connection, wanted: dict[str, Any] | None, **arguments: Any) -> str:
    hits = search(
        connection, INDEX, "trees", 20, tenants=["public"], filter=wanted, encoder=CountingModel(), **arguments
    )
    return " ".join(sorted(hit.document.split("/")[1] for hit in hits))


EVERY = "apples chalk granite pears plums"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, EVERY),
        ({}, EVERY),
        ({"kind": "stone"}, "chalk granite"),
        ({"kind": {"$eq": "stone"}, "year": "2021"}, "chalk"),
        ({"year": 2021}, "pears"),
        ({"year": {"$ne": 2021}}, "apples chalk granite plums"),
        ({"fresh": {"$ne": True}}, "chalk granite pears plums"),
        ({"fresh": True}, "apples"),
        ({"fresh": 1}, ""),
        ({"year": {"$in": [2020, "2021"]}}, "apples chalk"),
        ({"year": {"$in": []}}, ""),
        ({"year": {"$nin": [2020, "2021"]}}, "granite pears plums"),
        ({"year": {"$gt": 2020}}, "granite pears plums"),
        ({"year": {"$gte": 2020, "$lt": 2021}}, "apples granite"),
        ({"year": {"$lte": "2021"}}, "chalk"),
        ({"fresh": {"$exists": True}}, "apples plums"),
        ({"fresh": {"$exists": False}}, "chalk granite pears"),
        ({"$or": [{"fresh": False}, {"kind": "stone"}]}, "chalk granite plums"),
        ({"$and": [{"kind": "fruit"}, {"year": {"$gt": 2020}}]}, "pears plums"),
        ({"$not": {"kind": "fruit"}}, "chalk granite"),
        ({"$not": {"$or": [{"kind": "stone"}, {"fresh": True}]}}, "pears plums"),
        ({"$and": [{"kind": "fruit"}, {"kind": "stone"}]}, ""),
        ({"absent": {"$gt": 0}}, ""),
        ({"x' or true --": "y"}, ""),
        ({'"; drop table chunk; --': {"$exists": False}}, EVERY),
        ({"kind": "stone' or '1'='1"}, ""),
        ({"kind": "%s %(ids)s {} \\"}, ""),
        ({"kind": {"$in": ["x') or true --", "stone"]}}, "chalk granite"),
        ({"k%s": {"$ne": "%"}}, EVERY),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_what_a_filter_leaves(shelf: Connection, wanted: dict[str, Any] | None, expected: str, mode: str) -> None:
    assert found(shelf, wanted, mode=mode) == expected


def test_the_words_arm_obeys_the_filter(shelf: Connection) -> None:
    assert found(shelf, {"fresh": False}, mode="text") == "plums"
    assert found(shelf, None, mode="text") == "apples pears plums"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"within": "stone/"}, "chalk granite"),
        ({"within": "%"}, ""),
        ({"source": "books"}, EVERY),
        ({"source": "books' or true"}, ""),
        ({"language": "de"}, ""),
        ({"language": "en", "within": "fruit/p"}, "pears plums"),
    ],
)
def test_documents_can_be_chosen_by_key_source_and_language(
    shelf: Connection, given: dict[str, str], expected: str
) -> None:
    assert found(shelf, None, **given) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"year": {"$near": 3}}, r"filter\.year: there is no operator '\$near'; there are \$eq, \$ne, \$in"),
        ({"$nor": [{"a": 1}]}, r"there is no operator '\$nor'; there are \$and, \$or, \$not"),
        ({"year": {"$gt": True}}, r"filter\.year\.\$gt: a number or a text is needed, got True: use \$eq"),
        ({"year": {"$gt": [1]}}, r"filter\.year\.\$gt: a text, a number or true or false is needed, got \[1\]"),
        ({"year": None}, "a text, a number or true or false is needed, got None"),
        ({"year": [1]}, "is needed, got"),
        ({"year": {}}, r"filter\.year: a condition is needed"),
        ({"year": float("nan")}, "got nan"),
        ({"year": {"$in": "2020"}}, r"\$in: a list of values is needed"),
        ({"fresh": {"$exists": 1}}, r"\$exists: true or false is needed, got 1"),
        ({"$and": []}, r"filter\.\$and: a list of conditions is needed"),
        ({"$or": [{}]}, r"filter\.\$or\[0\]: \{field: condition\} is needed"),
        ({"$not": "x"}, r"filter\.\$not: \{field: condition\} is needed"),
        ({3: 4}, "names of fields are texts, got 3"),
        ({"kind": "a\0b"}, "NUL"),
        ({"kind": "\ud800"}, "surrogates"),
        ({"kind": {"$in": list(range(2000))}}, "more than 1000"),
    ],
)
def test_what_is_no_filter_is_told_by_its_place(wanted: dict[Any, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        compiled(wanted)


def test_a_filter_cannot_be_nested_without_end() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(100):
        deep = {"$not": deep}
    with pytest.raises(BadConfig, match="more than 20 deep"):
        compiled(deep)


def test_a_filter_of_the_command_line_is_a_json_object() -> None:
    assert parsed("") is None
    assert parsed('{"a": 1}') == {"a": 1}
    with pytest.raises(BadConfig, match="it is no JSON"):
        parsed("{a: 1}")
    with pytest.raises(BadConfig, match="a JSON object is needed"):
        parsed("[1]")
