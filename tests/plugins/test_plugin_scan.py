"""What Airflow's plugin scan executes, seen in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"

SCAN = """
import json, sys
from airflow import plugins_manager
before = set(sys.modules)
plugins, errors = plugins_manager._get_plugins()
heavy = ("fastapi", "jinja2", "fsspec", "torch", "transformers", "pandas", "polars", "great_expectations", "mlflow")
here = sys.argv[1]
print(json.dumps({
    "plugins": [p.name for p in plugins], "errors": errors,
    "modules": sorted(n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(here)),
    "heavy": [name for name in heavy if name in sys.modules and name not in before],
}))
"""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    home = tmp_path_factory.mktemp("airflow")
    env = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": str(PLUGINS.parent / "jobs"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCAN, str(PLUGINS)], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_scan_executes_one_file(scan: dict[str, list[str]]) -> None:
    top = {name.split(".")[0] for name in scan["modules"]}
    assert top == {"nightshift_plugin", "nightshift"}
    assert "nightshift" in scan["plugins"]
    assert not scan["errors"]


def test_only_what_the_plugin_itself_needs_is_loaded(scan: dict[str, list[str]]) -> None:
    assert set(scan["modules"]) == {
        "nightshift_plugin",
        "nightshift",
        "nightshift.links",
        "nightshift.views",
        "nightshift.views.mount",
    }


def test_nothing_heavy_comes_with_it(scan: dict[str, list[str]]) -> None:
    assert not scan["heavy"]
