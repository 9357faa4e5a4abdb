"""Contracts and configs: what is misspelt is refused when it is read, with the fix."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.instructions import PrepareConfig

DAGS = Path(__file__).parents[3] / "dags"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a `dags` folder with one good contract and one good config."""
    for part in ("contracts", "configs/prepare_instructions"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "contracts" / "good.yaml").write_text("owner: me\nrules: {refusal: warn}\n")
    write_config(tmp_path, contract="good")
    return tmp_path


def write_config(folder: Path, **values: Any) -> Path:
    path = folder / "configs" / "prepare_instructions" / "rows.yaml"
    path.write_text(yaml.safe_dump({"name": "rows", "source": "raw/rows/*.json", **values}))
    return path


def test_a_config_brings_its_contract(folder: Path) -> None:
    config = PrepareConfig.from_yaml(folder / "configs" / "prepare_instructions" / "rows.yaml")
    assert config.contract.rules.refusal == "warn"
    assert PrepareConfig.from_mapping(config.model_dump(mode="json"), origin="json") == config


@pytest.mark.parametrize(
    ("contract", "sentence"),
    [
        ("rules: {refusals: warn}", "contracts/good.yaml: rules.refusals: unknown field; did you mean 'refusal'?"),
        (
            "rules: {refusal: quarantin}",
            "good.yaml: rules.refusal: Input should be 'off', 'warn', 'quarantine' or 'fail'",
        ),
        ("rules: {refusal: fix}", "good.yaml: rules.refusal: Input should be"),
        ("budget: {min_rows: 1}", "good.yaml: budget: unknown field; did you mean 'budgets'?"),
        (
            "budgets: {max_quarantined_share: 20}",
            "budgets.max_quarantined_share: Input should be less than or equal to 1",
        ),
        ("split: {train: 0.9, validation: 0.2, test: 0.1}", "they add up to 1.2"),
        (
            "budgets: {max_lost_share: 0.1, warn_lost_share: 0.1}",
            "warn_lost_share (0.1) must be below max_lost_share (0.1), or nobody is ever asked",
        ),
        ("drift: {topic: {warn: 0.5, fail: 0.2}}", "warn (0.5) must be below fail (0.2)"),
        ("quality: {budget: {rows: 5}}", "quality.budget needs quality.score: true"),
        ("quality: {score: true, budget: {rows: 5, tokens: 5}}", "budget must hold either `rows` or `tokens`"),
        ("limits: {max_tokens: 5}", "limits.max_tokens (5) needs limits.tokenizer"),
        ("mapping: {instruction: q}", "mapping must name either `messages`, or `instruction` and `output`"),
        (
            "leaks: {sets: [{name: a, source: x}, {name: b, source: y}, {name: a, source: z}]}",
            "leaks.sets: 2 sets have one name (a: x; a: z); rename one",
        ),
        ("format: alpaca\nmapping: {messages: m}", "mapping and format (alpaca) clash"),
        ("answer: {fields: {a: {type: string}}}", "answer.fields names 1 fields, which needs answer.format: json"),
        ("answer: {format: json, fields: {a: {type: text}}}", "answer.fields.a.type: Input should be 'string'"),
    ],
)
def test_a_wrong_contract_says_what_was_meant(folder: Path, contract: str, sentence: str) -> None:
    (folder / "contracts" / "good.yaml").write_text(f"owner: me\n{contract}\n")
    with pytest.raises(BadConfig) as caught:
        PrepareConfig.from_yaml(folder / "configs" / "prepare_instructions" / "rows.yaml")
    assert sentence in str(caught.value)


def test_a_contract_that_is_not_there_names_those_that_are(folder: Path) -> None:
    path = write_config(folder, contract="goods")
    with pytest.raises(BadConfig, match=r"there is no 'goods.yaml' in .*contracts \(known: good\)"):
        PrepareConfig.from_yaml(path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "Tickets!"}, "name: String should match pattern"),
        ({"sorce": "x"}, "sorce: unknown field; did you mean 'source'?"),
        ({"source": ""}, "give either `source` or `sources`"),
        ({"sources": [{"name": "a", "files": "x"}]}, "give either `source` or `sources`"),
        (
            {"source": "", "sources": [{"name": "a", "files": "x"}, {"name": "a", "files": "y"}]},
            "two sources have one name: a, a",
        ),
    ],
)
def test_a_wrong_config_says_what_was_meant(folder: Path, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfig) as caught:
        PrepareConfig.from_yaml(write_config(folder, contract="good", **values))
    assert sentence in str(caught.value)


def test_prose_and_budgets_do_not_make_another_version() -> None:
    plain = DataContract(owner="me")
    wordy = DataContract.model_validate({"owner": "you", "description": "words", "budgets": {"min_rows": 7}})
    strict = DataContract.model_validate({"owner": "me", "rules": {"refusal": "warn"}})
    assert plain.publishing_digest() == wordy.publishing_digest() != strict.publishing_digest()


@pytest.mark.parametrize("path", sorted(DAGS.rglob("configs/prepare_instructions/*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    config = PrepareConfig.from_yaml(path)
    assert config.name == path.stem


@pytest.mark.parametrize("path", sorted((DAGS / "contracts").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_contracts_are_valid(path: Path) -> None:
    assert DataContract.from_yaml(path).owner


def test_a_bare_off_is_the_word() -> None:
    text = "{owner: o, rules: {refusal: off}, pii: {email: off}, leaks: {severity: off}}"
    severities = DataContract.from_mapping(yaml.safe_load(text), origin="test").severities()
    assert [severities[flag] for flag in ("refusal", "pii_email", "leak")] == ["off"] * 3
