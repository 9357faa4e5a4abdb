"""Configs: frozen, typed, and an unknown key says what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from llmjobs.contracts.base import JobConfig, Strict, digest
from llmjobs.contracts.errors import BadConfig


class Rule(Strict):
    field: str
    severity: str = "error"


class Train(Strict):
    learning_rate: float = Field(default=1e-3, gt=0)


class Config(JobConfig):
    name: str
    train: Train = Train()
    rules: list[Rule] = Field(default_factory=list)
    by_name: dict[str, Rule] = Field(default_factory=dict)
    maybe: Train | None = None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nme": "x", "name": "x"}, "x.yaml: nme: unknown field; did you mean 'name'?"),
        ({"name": "x", "train": {"learnin_rate": 1}}, "learnin_rate: unknown field; did you mean 'learning_rate'?"),
        ({"name": "x", "rules": [{"field": "a", "severty": 1}]}, "rules.0.severty: unknown field; did you mean"),
        ({"name": "x", "by_name": {"k": {"fild": 1}}}, "by_name.k.fild: unknown field; did you mean 'field'?"),
        ({"name": "x", "maybe": {"zzz": 1}}, "maybe.zzz: unknown field; known fields: learning_rate"),
        ({}, "x.yaml: name: is required but absent"),
        ({"name": "x", "train": {"learning_rate": -1}}, "train.learning_rate: Input should be greater than 0, got -1"),
        ({"name": "x" * 300, "train": 3}, "train: "),
        (["name"], "must hold a mapping of fields, got list"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_fix(values: object, said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        Config.from_mapping(values, origin="x.yaml")
    assert said in str(caught.value)


def test_every_wrong_field_has_its_line() -> None:
    with pytest.raises(BadConfig) as caught:
        Config.from_mapping({"a": 1, "b": 2}, origin="x.yaml")
    assert len(str(caught.value).splitlines()) == 3


def test_a_yaml_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: grün\ntrain: {learning_rate: 0.5}\n", encoding="utf-8")
    assert Config.from_yaml(tmp_path / "c.yaml") == Config(name="grün", train=Train(learning_rate=0.5))


@pytest.mark.parametrize(("text", "said"), [("a: [", "not valid YAML"), (None, "no such file")])
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadConfig, match=said) as caught:
        Config.from_yaml(path)
    assert str(path) in str(caught.value)


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(BadConfig, match="not valid YAML"):
        Config.from_yaml(tmp_path / "c.yaml")


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config(name="x").name = "y"


def test_the_digest_follows_the_content_only() -> None:
    assert Config(name="x").digest() == Config.from_mapping({"train": {}, "name": "x"}, origin="o").digest()
    assert Config(name="x").digest() != Config(name="y").digest()
    assert Config(name="x").digest(exclude={"name"}) == Config(name="y").digest(exclude={"name"})


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_the_order_of_keys_does_not_matter(values: dict[str, object]) -> None:
    assert digest(values) == digest(dict(reversed(values.items())))
