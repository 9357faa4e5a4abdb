from __future__ import annotations

import pytest

from llmjobs.contracts.embeddings import RolloutConfig
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.gates import Gate, gates, golden_questions
from llmjobs.embeddings.generations import Generation, active_generation, generation
from tests.jobs.embeddings.night import CountingModel, Night

GOLDEN = """
- question: apple tree blossom
  documents: [fruit.md]
- question: engine piston valve
  documents: [cars.md, trucks.md]
"""


@pytest.fixture
def pair(night: Night, connection: Connection) -> tuple[Generation, Generation, CountingModel]:
    """A filled generation of another model beside the one that answers, and that model."""
    night.write(fruit="The apple tree is in blossom", cars="An engine has a piston and a valve", sea="Waves and wind")
    night.refresh_on(connection)
    active, night.model = active_generation(connection, "notes"), CountingModel(name="other", dimensions=24)
    planned = night.plan(connection)
    for work in planned.shards:
        night.embed(connection, planned.run_id, work.shard)
    candidate = generation(connection, planned.generation_id)
    assert active is not None
    assert candidate is not None
    assert active.generation_id != candidate.generation_id
    return active, candidate, night.model


def decide(
    connection: Connection, night: Night, pair: tuple[Generation, Generation, CountingModel], **limits: object
) -> dict[str, Gate]:
    active, candidate, _ = pair
    models = {active.generation_id: CountingModel(), candidate.generation_id: pair[2]}
    rollout = RolloutConfig.model_validate(limits)
    found = gates(
        connection,
        night.lake,
        candidate=candidate,
        active=active,
        rollout=rollout,
        load=lambda one: models[one.generation_id],
    )
    return {gate.name: gate for gate in found}


def test_a_whole_generation_passes(
    night: Night, connection: Connection, pair: tuple[Generation, Generation, CountingModel]
) -> None:
    found = decide(connection, night, pair)
    assert {name: gate.passed for name, gate in found.items()} == {"coverage": True, "tables": True, "recall": True}


def test_a_generation_that_lacks_a_document_is_held_back(
    night: Night, connection: Connection, pair: tuple[Generation, Generation, CountingModel]
) -> None:
    candidate = pair[1]
    connection.execute(f"delete from chunk_vector_{candidate.generation_id}".encode())
    for table in ("chunk", "document_state"):
        one = "(select document_id from document where key = 'sea.md')"
        connection.execute(
            f"delete from {table} where generation_id = {candidate.generation_id} and document_id = {one}".encode()
        )
    found = decide(connection, night, pair)
    assert not found["coverage"].passed
    assert "holds 2 of 3 documents (66.7%), rollout.min_coverage is 100.0%" in found["coverage"].sentence
    assert not found["tables"].passed
    assert decide(connection, night, pair, min_coverage=0.6)["coverage"].passed


def test_golden_questions_hold_back_a_generation_that_answers_worse(
    night: Night, connection: Connection, pair: tuple[Generation, Generation, CountingModel]
) -> None:
    night.lake.write_text("golden/notes.yaml", GOLDEN)
    assert decide(connection, night, pair, golden="golden/notes.yaml")["golden"].passed
    night.write(**{f"other{number}": f"something else {number}" for number in range(40)})
    planned = night.plan(connection)
    for work in planned.shards:
        night.embed(connection, planned.run_id, work.shard)
    zero = "array_fill(0.0::real, array[24])::vector"
    vectors = f"chunk_vector_{pair[1].generation_id}"
    turned = f"update {vectors} set embedding = {zero} - embedding where document_id in"
    connection.execute(f"{turned} (select document_id from document where key in ('fruit.md', 'cars.md'))".encode())
    found = decide(connection, night, pair, golden="golden/notes.yaml")
    assert not found["golden"].passed
    assert "100.0% with the generation that answers; rollout.max_golden_drop is 2.0%" in found["golden"].sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "golden/x.yaml is not in the lake"),
        ("a: [", "golden/x.yaml is no YAML"),
        ("[]", "must hold a list"),
        ("- question: why?", "entry 1 of golden/x.yaml needs `question`"),
        ("- {question: why, documents: [a.md]}\n- text", "entry 2 of golden/x.yaml"),
    ],
)
def test_a_wrong_golden_file_is_named(night: Night, text: str | None, message: str) -> None:
    if text is not None:
        night.lake.write_text("golden/x.yaml", text)
    with pytest.raises(BadData, match=message):
        golden_questions(night.lake, "golden/x.yaml")
