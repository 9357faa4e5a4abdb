"""The lock is complete, plain, and still satisfies requirements.in."""

from __future__ import annotations

from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from embedded.home import REPOSITORY


def read(path: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (REPOSITORY / path).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


WANTED = read("requirements.in")
LOCKED = {canonicalize_name(one.name): one for one in read("requirements.txt")}


def version(name: str) -> Version:
    (only,) = LOCKED[canonicalize_name(name)].specifier
    assert only.operator == "=="
    return Version(only.version)


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_lock_satisfies_requirement(wanted: Requirement) -> None:
    assert canonicalize_name(wanted.name) in LOCKED, f"{wanted.name} is not locked: make lock"
    assert wanted.specifier.contains(version(wanted.name)), f"{wanted} but locked at {version(wanted.name)}: make lock"


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_lock_holds_what_the_requirement_needs(wanted: Requirement) -> None:
    """Direct needs of each package, extras included, as the installed package states them."""
    for text in requires(wanted.name) or []:
        need = Requirement(text)
        extras = ("", *wanted.extras)
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if is_cuda(need.name):
            continue
        assert canonicalize_name(need.name) in LOCKED, f"{wanted.name} needs {need}, which is not locked"
        assert need.specifier.contains(version(need.name), prereleases=True), f"{wanted.name} needs {need}"


def is_cuda(name: str) -> bool:
    """torch from the index brings these itself, pinned by itself; the CPU wheel has none."""
    return name.startswith(("nvidia-", "cuda-", "triton")) and name != "nvidia-ml-py"


def test_every_requirement_has_a_reason() -> None:
    lines = [line for line in (REPOSITORY / "requirements.in").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if "#" not in line] == []


def test_lock_is_plain() -> None:
    text = (REPOSITORY / "requirements.txt").read_text()
    assert "torch==2.13.0\n" in text
    for unwanted in ("--hash", "--find-links", "--index", "file:", "http:", "https:", "+cpu"):
        assert unwanted not in text
    assert not [name for name in LOCKED if is_cuda(name)]


def test_models_are_no_part_of_the_lock() -> None:
    models = read("docker/local/models.txt")
    assert models
    assert [one.name for one in models if canonicalize_name(one.name) in LOCKED] == []
