"""The arrows of the house: dags -> plugins/nightshift -> llmjobs.contracts <- llmjobs.<room>, and no weight."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
JOBS = REPOSITORY / "jobs" / "llmjobs"

HEAVY = {
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "great_expectations", "mlflow", "pandas", "peft", "polars",
    "pyarrow", "scipy", "sentence_transformers", "torch", "transformers", "trl",
}  # fmt: skip
SLOW_TO_IMPORT = HEAVY - {"polars", "pyarrow", "scipy"}
CONTRACTS_MAY_IMPORT = {"llmjobs", "pydantic", "yaml"}
DAGS_MAY_IMPORT = ("airflow.sdk", "airflow.providers.standard", "nightshift", "llmjobs.contracts")
SHARED = {"contracts"}
"""Packages of llmjobs that every room may import; single modules (lake, results, models ...) may be imported too."""
LIBRARIES = {"database"}
"""Packages of llmjobs that hold no job: named modules beside the rooms that two rooms need."""
GENERIC = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "core", "lib"}


@dataclass(frozen=True)
class Import:
    """One imported module, with the place where it is imported."""

    module: str
    place: str
    at_top: bool

    def is_below(self, *packages: str) -> bool:
        return any(self.module == package or self.module.startswith(f"{package}.") for package in packages)


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path, root: Path = REPOSITORY) -> Iterator[Import]:
    """Yield every import of a file, relative ones as ``.``; `at_top` means that importing the file runs it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types_only(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        for module in _modules(node):
            yield Import(module, f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}", id(node) not in lazy)


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return ["."]
        # "from llmjobs import training" imports a room as much as "import llmjobs.training" does.
        whole = node.module or ""
        parts = [f"{whole}.{alias.name}" for alias in node.names] if whole.split(".")[0] == "llmjobs" else []
        return parts if whole == "llmjobs" else [whole, *parts]
    return []


def wrong_in_dags(found: Import) -> bool:
    return found.module.split(".")[0] not in sys.stdlib_module_names and not found.is_below(*DAGS_MAY_IMPORT)


def wrong_in_plugins(found: Import) -> bool:
    heavy = found.at_top and found.module.split(".")[0] in HEAVY
    return heavy or (found.is_below("llmjobs") and not found.is_below("llmjobs.contracts"))


def wrong_in_jobs(found: Import) -> bool:
    return found.is_below("airflow", "nightshift")


def wrong_in_contracts(found: Import) -> bool:
    top = found.module.split(".")[0]
    if top == "llmjobs":
        return not found.is_below("llmjobs.contracts")
    return top not in sys.stdlib_module_names | CONTRACTS_MAY_IMPORT


def room_of(path: Path, jobs: Path = JOBS) -> str:
    """Return the job room of a file, or an empty text for contracts and the modules that rooms share."""
    parts = path.relative_to(jobs).parts
    return parts[0] if len(parts) > 1 and parts[0] not in SHARED else ""


def wrong_between_rooms(found: Import, room: str, rooms: set[str]) -> bool:
    other = found.module.split(".")[1] if found.is_below("llmjobs") and "." in found.module else ""
    # A shared module must not know the rooms either, else it leads from one to another.
    return other in rooms - {room} and other not in LIBRARIES


def rooms_of(jobs: Path = JOBS) -> set[str]:
    return {path.name for path in jobs.iterdir() if path.is_dir() and sources(path)} - SHARED


def test_dags_import_only_what_a_data_engineer_needs() -> None:
    assert [i for p in sources(REPOSITORY / "dags") for i in imports_of(p) if wrong_in_dags(i)] == []


def test_plugins_are_light_and_know_only_the_contracts() -> None:
    files = sources(REPOSITORY / "plugins")
    assert len(files) > 5
    assert [i for p in files for i in imports_of(p) if wrong_in_plugins(i)] == []


def test_jobs_never_import_airflow() -> None:
    files = sources(JOBS)
    assert len(files) > 5
    assert [i for p in files for i in imports_of(p) if wrong_in_jobs(i)] == []


def test_contracts_import_the_standard_library_pydantic_and_yaml() -> None:
    assert [i for p in sources(JOBS / "contracts") for i in imports_of(p) if wrong_in_contracts(i)] == []


def test_one_job_never_imports_another() -> None:
    rooms = rooms_of()
    found = [(room_of(path), i) for path in sources(JOBS) for i in imports_of(path)]
    assert [i for room, i in found if wrong_between_rooms(i, room, rooms)] == []


def test_heavy_packages_are_loaded_only_where_they_are_used() -> None:
    """Ruff (TID253) asks a module with a heavy import at its top for a reason; only functions may then import it."""
    assert loading_heavy({_module_name(p): {i.module for i in imports_of(p) if i.at_top} for p in sources(JOBS)}) == {}


def loading_heavy(at_top: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the light modules that import a heavy one, from what each imports at its top."""
    heavy = {name for name, imports in at_top.items() if {i.split(".")[0] for i in imports} & SLOW_TO_IMPORT}
    return {name: imports & heavy for name, imports in at_top.items() if imports & heavy and name not in heavy}


def test_loading_a_heavy_module_is_seen() -> None:
    modules = {"llmjobs.a": {"torch.nn"}, "llmjobs.b": {"llmjobs.a", "json"}, "llmjobs.c": {"json"}}
    assert loading_heavy(modules) == {"llmjobs.b": {"llmjobs.a"}}


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(JOBS.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("folder", ["dags", "plugins", "jobs", "tests"])
def test_nothing_is_imported_relatively(folder: str) -> None:
    assert [i for path in sources(REPOSITORY / folder) for i in imports_of(path) if i.module == "."] == []


@pytest.mark.parametrize("folder", ["plugins", "jobs", "dags", "tests"])
def test_a_root_is_no_package(folder: str) -> None:
    assert not (REPOSITORY / folder / "__init__.py").exists()


def test_modules_say_what_they_are_about() -> None:
    files = [path for folder in ("dags", "plugins", "jobs") for path in sources(REPOSITORY / folder)]
    names = {path: {path.stem, path.parent.name} for path in files}
    assert [path for path, of_file in names.items() if of_file & GENERIC] == []


def test_no_module_hides_one_of_the_standard_library() -> None:
    tops = [path for folder in ("dags", "plugins", "jobs") for path in (REPOSITORY / folder).iterdir()]
    assert [path for path in tops if path.stem in sys.stdlib_module_names] == []


# --- each rule can fail

WRONG = [
    (wrong_in_dags, "import torch"),
    (wrong_in_dags, "from airflow.models import DagModel"),
    (wrong_in_dags, "from llmjobs.lake import Lake"),
    (wrong_in_dags, "import nightshiftish"),
    (wrong_in_plugins, "import mlflow.pytorch"),
    (wrong_in_plugins, "try:\n    import torch\nexcept ImportError: ..."),
    (wrong_in_plugins, "from llmjobs.lake import Lake"),
    (wrong_in_plugins, "from llmjobs import training"),
    (wrong_in_jobs, "def f():\n    import airflow"),
    (wrong_in_jobs, "from nightshift.assets import announce"),
    (wrong_in_contracts, "import fsspec"),
    (wrong_in_contracts, "from llmjobs.lake import Lake"),
]
RIGHT = [
    (wrong_in_dags, "from airflow.sdk import dag\nimport json\nfrom nightshift.operators.job import JobOperator"),
    (wrong_in_plugins, "def f():\n    import pandas"),
    (wrong_in_plugins, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    (wrong_in_plugins, "from llmjobs.contracts.base import JobConfig"),
    (wrong_in_jobs, "import torch"),
    (wrong_in_contracts, "import yaml, json, pydantic\nfrom llmjobs.contracts import base"),
]


@pytest.mark.parametrize(("rule", "text"), WRONG)
def test_a_wrong_arrow_is_seen(rule: object, text: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(text)
    assert callable(rule)
    assert [found for found in imports_of(tmp_path / "x.py", tmp_path) if rule(found)]


@pytest.mark.parametrize(("rule", "text"), RIGHT)
def test_a_right_arrow_is_left_alone(rule: object, text: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(text)
    assert callable(rule)
    assert not [found for found in imports_of(tmp_path / "x.py", tmp_path) if rule(found)]


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("training/train.py", "from llmjobs.embeddings.chunks import split", True),
        ("training/train.py", "from llmjobs import embeddings", True),
        ("lake.py", "import llmjobs.training.train", True),
        ("training/train.py", "from llmjobs.training.masking import mask", False),
        ("training/train.py", "from llmjobs.lake import Lake", False),
        ("training/train.py", "from llmjobs.database.connection import connect", False),
    ],
)
def test_one_job_importing_another_is_seen(file: str, text: str, wrong: bool, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    rooms = {"training", "embeddings", "database"}
    found = [wrong_between_rooms(i, room_of(path, tmp_path), rooms) for i in imports_of(path, tmp_path)]
    assert any(found) is wrong
