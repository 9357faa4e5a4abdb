"""One YAML, one DAG; a wrong YAML is refused alone, with file, field and fix."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

DAG_FILE = """
    from __future__ import annotations

    from airflow.sdk import DAG
    from llmjobs.contracts.base import JobConfig, Strict
    from nightshift.configs import each_config


    class Train(Strict):
        learning_rate: float = 0.1


    class Toy(JobConfig):
        name: str
        train: Train = Train()


    for name, config in each_config(__file__, Toy):
        with DAG(dag_id=f"toy_{name}", schedule=None):
            pass
"""

Load = Callable[[dict[str, str]], BundleDagBag]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Parse a bundle with one DAG file and the given YAML files, the way the DAG processor does."""

    def parse(configs: dict[str, str]) -> BundleDagBag:
        folder = tmp_path / "configs" / "toy"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy.py").write_text(textwrap.dedent(DAG_FILE))
        for name, text in configs.items():
            (folder / name).write_text(text)
        return BundleDagBag(bundle_path=tmp_path, bundle_name="test", dag_folder=str(tmp_path))

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
def test_a_wrong_yaml_is_an_import_error_and_the_others_load(load: Load, text: str, said: str) -> None:
    bag = load({"good.yaml": "name: good", "wrong.yaml": text})
    assert set(bag.dags) == {"toy_good"}
    assert list(bag.import_errors) == ["toy.py"]
    assert f"configs/toy/wrong.yaml: {said}" in bag.import_errors["toy.py"]


def test_every_wrong_yaml_is_named_at_once(load: Load) -> None:
    bag = load({"one.yaml": "nme: x", "two.yaml": "name: 3"})
    assert not bag.dags
    assert "one.yaml: nme: unknown field; did you mean 'name'?" in bag.import_errors["toy.py"]
    assert "one.yaml: name: is required but absent" in bag.import_errors["toy.py"]
    assert "two.yaml: name: Input should be a valid string" in bag.import_errors["toy.py"]


def test_a_mended_yaml_loads_again(load: Load) -> None:
    assert load({"a.yaml": "nme: a"}).import_errors
    bag = load({"a.yaml": "name: a"})
    assert set(bag.dags) == {"toy_a"}
    assert not bag.import_errors
