"""The trigger form says what the model says."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from airflow.sdk.exceptions import ParamValidationError
from pydantic import Field

from llmjobs.contracts.base import JobConfig, Strict
from llmjobs.contracts.errors import BadConfig
from nightshift.params import choice_for, chosen_values, form_for, form_values


class Train(Strict):
    learning_rate: float = Field(default=1e-3, gt=0, le=0.01, title="Learning rate", description="Step size.")
    precision: Literal["bf16", "fp32"] = "bf16"
    max_steps: int | None = Field(default=None, ge=1)
    scheduler: Literal["cosine", "linear"] | None = None
    targets: list[str] = Field(default_factory=lambda: ["q_proj"])


class Toy(JobConfig):
    name: str = "toy"
    dry_run: bool = False
    dataset_version: str = ""
    train: Train = Train()
    second: Train | None = None
    only: Literal["this"] = "this"


CONFIG = Toy(train=Train(learning_rate=0.002, max_steps=7))


def schema(path: str, config: Toy = CONFIG) -> dict[str, Any]:
    return dict(form_for(config, [path])[path].schema)


def test_the_default_is_what_the_yaml_says() -> None:
    form = form_for(CONFIG, ("train.learning_rate", "train.max_steps", "train.targets", "second.max_steps"))
    assert {path: param.value for path, param in form.items()} == {
        "train.learning_rate": 0.002,
        "train.max_steps": 7,
        "train.targets": ["q_proj"],
        "second.max_steps": None,
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train.learning_rate", {"type": "number", "exclusiveMinimum": 0, "maximum": 0.01, "title": "Learning rate"}),
        ("train.precision", {"type": "string", "enum": ["bf16", "fp32"], "section": "Train"}),
        ("train.max_steps", {"type": ["integer", "null"], "minimum": 1}),
        ("train.scheduler", {"type": ["string", "null"], "enum": ["cosine", "linear", None]}),
        ("train.targets", {"type": "array", "items": {"type": "string"}}),
        ("second.precision", {"enum": ["bf16", "fp32"], "section": "Second"}),
        ("dry_run", {"type": "boolean", "section": "Run"}),
        ("only", {"type": "string", "enum": ["this"]}),
    ],
)
def test_limits_come_from_the_model(path: str, expected: dict[str, Any]) -> None:
    assert schema(path).items() >= expected.items()


def test_the_description_is_the_models() -> None:
    assert form_for(CONFIG, ["train.learning_rate"])["train.learning_rate"].description == "Step size."


@pytest.mark.parametrize(
    ("path", "value"),
    [("train.learning_rate", 0.5), ("train.precision", "fp8"), ("train.max_steps", 0), ("dry_run", "yes")],
)
def test_airflow_refuses_what_the_model_refuses(path: str, value: Any) -> None:
    with pytest.raises(ParamValidationError):
        form_for(CONFIG, [path])[path].resolve(value)


@pytest.mark.parametrize("path", ["train.learning_rte", "trane.max_steps", "name.first"])
def test_a_field_that_is_not_there_is_refused(path: str) -> None:
    with pytest.raises(BadConfig, match="the form asks for"):
        form_for(CONFIG, [path])


def test_a_text_that_may_stay_empty_is_not_asked_for() -> None:
    param = form_for(CONFIG, ["dataset_version"])["dataset_version"]
    assert param.value is None
    assert param.schema["type"] == ["string", "null"]


def test_the_form_as_it_is_changes_nothing() -> None:
    paths = ["dataset_version", "train.max_steps", "train.scheduler", "train.learning_rate", "dry_run"]
    untouched = {path: param.value for path, param in form_for(CONFIG, paths).items()}
    assert form_values(CONFIG, untouched) == {
        "train.max_steps": 7,
        "train.scheduler": None,
        "train.learning_rate": 0.002,
        "dry_run": False,
    }


def test_a_field_that_can_be_null_is_emptied_by_the_form() -> None:
    assert form_values(CONFIG, {"train.max_steps": None}) == {"train.max_steps": None}


def test_params_of_other_tasks_are_left_out() -> None:
    assert form_values(CONFIG, {"chunks.max_tokens": 3, "name": "x"}) == {"name": "x"}


class Contract(JobConfig):
    owner: str = "me"
    limits: Train = Train()
    fields: dict[str, str] = {}  # noqa: RUF012  pydantic copies it


class Gate(JobConfig):
    contract: Contract = Contract(limits=Train(max_steps=300), fields={"team": "string"})
    dry_run: bool = False


GATE = Gate()
CHOICES = {"contract": {"ours": GATE.contract, "other": Contract(owner="you", limits=Train(max_steps=5))}}


def sections(**params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return chosen_values(GATE, params, CHOICES)


def test_a_section_is_picked_by_name() -> None:
    param = choice_for(GATE, "contract", CHOICES["contract"])["contract"]
    assert param.value == "ours"
    assert param.schema["enum"] == ["other", "ours"]
    with pytest.raises(ParamValidationError):
        param.resolve("a third")


def test_a_section_that_is_none_of_the_choices_is_refused() -> None:
    with pytest.raises(BadConfig, match="its contract is none of: other"):
        choice_for(GATE, "contract", {"other": Contract()})


def test_the_own_section_stays_with_what_was_changed_in_it() -> None:
    assert sections(contract="ours", **{"contract.limits.max_steps": 7}) == ({}, {"contract.limits.max_steps": 7})
    assert sections(dry_run=True) == ({}, {"dry_run": True})


def test_another_section_counts_whole_but_for_what_was_changed() -> None:
    untouched = {"contract.limits.max_steps": 300, "contract.limits.learning_rate": 0.009, "dry_run": True}
    found, left = sections(contract="other", **untouched)
    assert found == {"contract": Contract(owner="you", limits=Train(max_steps=5)).model_dump(mode="json")}
    assert left == {"contract.limits.learning_rate": 0.009, "dry_run": True}


def test_a_section_of_no_such_name_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"contract: there is no 'third' \(known: other, ours\)"):
        sections(contract="third")
