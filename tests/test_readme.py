"""The README and CONTRIBUTING are true: every file, command and link that they name exists."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / page).read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if "://" not in link and not (REPOSITORY / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_named_paths_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:dags|plugins|jobs|tests|docker|docs)/[\w./-]*)`", text)
    missing = [path for path in named if not (REPOSITORY / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_named_make_targets_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)\b(?=[`\s])", text)) & set(
        re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)
    )
    assert targets
    for target in sorted(targets):
        run = subprocess.run(
            ["make", "--dry-run", target, "q=x"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{page} names `make {target}`: {run.stderr}"
