"""One YAML, one DAG; a wrong YAML is refused alone, with file, field and fix."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

DAG_FILE = """
    from airflow.sdk import DAG
    from nightshift.configs import each_config
    from tests.fixtures.toy_config import Toy

    for name, config in each_config(__file__, Toy):
        with DAG(dag_id=f"toy_{name}", schedule=None):
            pass
"""
CHECKER = """
    # Airflow reads files that speak of a DAG.
    from nightshift.configs import refuse_wrong_configs
    from tests.fixtures.toy_config import Toy

    refuse_wrong_configs(__file__, {"toy": Toy})
"""

Load = Callable[[dict[str, str]], BundleDagBag]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with one DAG file, the checker and no config yet."""
    (tmp_path / "configs" / "toy").mkdir(parents=True)
    (tmp_path / "toy.py").write_text(textwrap.dedent(DAG_FILE))
    (tmp_path / "check_configs.py").write_text(textwrap.dedent(CHECKER))
    return tmp_path


@pytest.fixture
def load(bundle: Path) -> Load:
    """Return a function that writes YAML files and parses the bundle, the way the DAG processor does."""

    def parse(configs: dict[str, str]) -> BundleDagBag:
        for name, text in configs.items():
            (bundle / "configs" / "toy" / name).write_text(text)
        return BundleDagBag(bundle_path=bundle, bundle_name="test", dag_folder=str(bundle))

    return parse


def test_each_yaml_is_a_dag(load: Load) -> None:
    bag = load({"a.yaml": "name: a", "b.yaml": "name: b", "notes.txt": "no config"})
    assert set(bag.dags) == {"toy_a", "toy_b"}
    assert not bag.import_errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{name: x, train: {learning_rte: 1}}", "train.learning_rte: unknown field; did you mean 'learning_rate'?"),
        ("{train: {learning_rate: 1}}", "name: is required but absent"),
        ("{name: x, train: {learning_rate: fast}}", "train.learning_rate: Input should be a valid number"),
        ("name: [", "not valid YAML"),
        ("just text", "must hold a mapping of fields"),
        ("", "must hold a mapping of fields"),
    ],
)
def test_a_wrong_yaml_is_an_import_error_of_the_checker_and_the_others_load(load: Load, text: str, said: str) -> None:
    bag = load({"good.yaml": "name: good", "wrong.yaml": text})
    assert set(bag.dags) == {"toy_good"}
    # Not of toy.py: Airflow would stop the good DAG too.
    assert list(bag.import_errors) == ["check_configs.py"]
    assert f"configs/toy/wrong.yaml: {said}" in bag.import_errors["check_configs.py"]


def test_every_wrong_yaml_is_named_at_once(load: Load) -> None:
    bag = load({"one.yaml": "nme: x", "two.yaml": "name: 3"})
    assert not bag.dags
    said = bag.import_errors["check_configs.py"]
    assert "one.yaml: nme: unknown field; did you mean 'name'?" in said
    assert "one.yaml: name: is required but absent" in said
    assert "two.yaml: name: Input should be a valid string" in said


def test_a_mended_yaml_loads_again(load: Load) -> None:
    assert load({"a.yaml": "nme: a"}).import_errors
    bag = load({"a.yaml": "name: a"})
    assert set(bag.dags) == {"toy_a"}
    assert not bag.import_errors


def test_configs_that_nobody_checks_are_an_error_too(load: Load, bundle: Path) -> None:
    (bundle / "configs" / "answer_batch").mkdir()
    said = load({"a.yaml": "name: a"}).import_errors["check_configs.py"]
    assert "configs/answer_batch: check_configs.py names no config model for it (toy)" in said


@pytest.mark.parametrize("name", ["b.yml", "b.YAML"])
def test_a_yaml_file_with_another_ending_is_an_error(load: Load, name: str) -> None:
    bag = load({"a.yaml": "name: a", name: "name: b"})
    assert set(bag.dags) == {"toy_a"}
    assert f"configs/toy/{name}: is not read; rename it to b.yaml" in bag.import_errors["check_configs.py"]


def test_without_the_checker_the_dag_file_itself_fails(load: Load, bundle: Path) -> None:
    (bundle / "check_configs.py").unlink()
    bag = load({"good.yaml": "name: good", "wrong.yaml": "nme: x"})
    assert "wrong.yaml: nme: unknown field" in bag.import_errors["toy.py"]
