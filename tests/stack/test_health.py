"""A DAG that cannot load is not waited for: its import error says why, and the rest of the stack is well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest.mock import create_autospec

import pytest

from embedded.api import Api
from embedded.health import Health, _check_dags, expected_dags, said_of

BEGAN = datetime(2026, 11, 23, 2, tzinfo=UTC)
BEFORE, AFTER = ((BEGAN + timedelta(minutes=minutes)).isoformat() for minutes in (-1, 1))
WRONG = "train_adapter_tickets"
SAID = "configs/train_adapter/tickets.yaml: nmae: unknown field; did you mean 'name'?"
TRACE = f"""Traceback (most recent call last):
  File "/bundle/check_configs.py", line 14, in <module>
llmjobs.contracts.errors.BadConfig: {SAID}
configs/train_adapter/tickets.yaml: name: is required but absent
"""


def looked(errors: dict[str, str], *, when: str = AFTER) -> Health:
    """What a look finds when every DAG but `WRONG` is parsed, which has been only before this start."""
    parsed = dict.fromkeys(expected_dags(), AFTER) | {WRONG: BEFORE}
    answers = {
        "dags": {"dags": [{"dag_id": dag, "last_parsed_time": moment} for dag, moment in parsed.items()]},
        "importErrors": {
            "import_errors": [
                {"filename": name, "stack_trace": trace, "timestamp": when} for name, trace in errors.items()
            ]
        },
    }
    api = create_autospec(Api, instance=True)
    api.get.side_effect = lambda path, **_: answers[path]
    health = Health()
    _check_dags(api, health, BEGAN)
    return health


def test_missing_dag_is_waited_for() -> None:
    assert looked({}).waiting_for == [f"DAG {WRONG}"]


@pytest.mark.parametrize(("file", "trace"), [("check_configs.py", TRACE), ("train_adapter.py", "SyntaxError: no")])
def test_dag_with_an_import_error_is_not_waited_for(file: str, trace: str) -> None:
    health = looked({file: trace})
    assert health.waiting_for == []
    assert health.import_errors == {file: trace}


@pytest.mark.parametrize("other", ["train_adapter/tickets_2", "train_adapter/my_tickets", "refresh_embeddings/guide"])
def test_error_of_another_config_excuses_nothing(other: str) -> None:
    trace = TRACE.replace("train_adapter/tickets", other)
    assert looked({"check_configs.py": trace}).waiting_for == [f"DAG {WRONG}"]


def test_error_of_an_earlier_start_may_be_mended() -> None:
    health = looked({"check_configs.py": TRACE}, when=BEFORE)
    assert health.waiting_for == [f"DAG {WRONG}"]
    assert health.import_errors == {}


def test_every_sentence_on_a_config_is_found() -> None:
    config = expected_dags()[WRONG]
    assert config == "configs/train_adapter/tickets.yaml"
    assert said_of(config, {"check_configs.py": TRACE}) == [SAID, f"{config}: name: is required but absent"]
