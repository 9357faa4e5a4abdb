"""The forms of one adapter: written, loaded back, measured, and published when all are good."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.exporting import EXPORT_SCHEMA, Export, ExportedForm, Format
from llmjobs.lake import Lake
from llmjobs.models import ResolvedModel, resolve_model
from llmjobs.rendering import load_tokenizer
from llmjobs.training.data.tokenisation import TokenRow, tokenise
from llmjobs.training.exporting.checking import Said, ask, refuse_other
from llmjobs.training.exporting.gguf_file import GGUF_FILE, refuse_unsupported, rope_type, write_gguf
from llmjobs.training.exporting.versions import EXPORTS
from llmjobs.training.measuring.contestants import Contestant, contestant, held_out
from llmjobs.training.publication.provenance import package_versions
from llmjobs.training.sharding import visible_gpus


@dataclass(frozen=True)
class _Source:
    """What is exported, how, and the rows that it is measured on.

    Attributes:
        device: Of the adapter on the base as trained; ``wide``: of everything in 16 bits.
    """

    adapter: Contestant
    base: ResolvedModel
    export: Export
    rows: list[TokenRow]
    device: str
    wide: str


def make(lake: Lake, name: str, version: str, export: Export, scratch: Path) -> dict[Format, ExportedForm]:
    """Make every form that `export` names, measure each, and publish them when all are good.

    Args:
        lake: Where the adapter is, and where its forms go.
        name: Of the adapter.
        version: Of the adapter.
        export: The settings.
        scratch: Empty folder, large enough for the forms.

    Raises:
        JobError: As `llmjobs.training.export.run`.
    """
    from llmjobs.training.base_model import quiet_libraries

    quiet_libraries()
    adapter = contestant(lake, name, "adapter", version, scratch)
    base = resolve_model(adapter.config.model.name, adapter.base_revision)
    if "gguf" in export.formats:
        _refuse_unsupported(base, adapter)
    rows = _rows(lake, adapter, export.rows)
    source = _Source(adapter, base, export, rows, "cuda:0" if visible_gpus() else "cpu", device_in_16_bits(base.path))
    told, unmerged = _write(source, scratch)
    forms = {form: _measured(source, lake, form, scratch / form, (told, unmerged)) for form in export.formats}
    for form, figures in forms.items():
        _publish(source, lake, figures, scratch / form)
    return forms


def _refuse_unsupported(base: ResolvedModel, adapter: Contestant) -> None:
    from transformers import AutoConfig

    refuse_unsupported(AutoConfig.from_pretrained(base.path, trust_remote_code=False), adapter.folder)


def device_in_16_bits(folder: str) -> str:
    """Return where a base and a fifth more fits: a GPU that takes its 4-bit weights may be too small for these.

    Args:
        folder: Of the base, whose files are taken to be in 16 bits; in 32 they count double.
    """
    if not visible_gpus():
        return "cpu"
    import torch

    needed = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    free, _ = torch.cuda.mem_get_info()
    return "cuda:0" if free > 1.2 * needed else "cpu"


def _rows(lake: Lake, adapter: Contestant, count: int) -> list[TokenRow]:
    """Return held-out rows to ask: those of the lowest ids, which are hashes, so a fair draw."""
    config = adapter.config
    kept = sorted(held_out(lake, config, [adapter], "test").kept, key=lambda row: row.row_id)
    longest = config.data.max_length_tokens
    tokenizer = load_tokenizer(str(adapter.folder))
    rows = tokenise(kept, tokenizer, max_length_tokens=longest, model=config.model.name).rows
    if not rows:
        raise BadData(f"every one of the {len(kept)} test rows is longer than data.max_length_tokens ({longest})")
    return rows[:count]


def _write(source: _Source, scratch: Path) -> tuple[Said, Said]:
    """Write the files of each form, and return what the adapter says as trained and on the 16-bit base."""
    from llmjobs.training.exporting.merging import as_trained, in_16_bits, merged, save_merged

    adapter, path, export = source.adapter, source.base.path, source.export
    told = _asked(source, lambda: as_trained(adapter, path, source.device))
    _free_memory(source.device)
    model = in_16_bits(adapter, path, export.dtype, source.wide)
    unmerged = ask(model, source.rows)
    whole = merged(model)
    for form in export.formats:
        folder = scratch / form
        folder.mkdir()
        if form == "safetensors":
            save_merged(whole, folder, adapter.folder)
        else:
            title = f"{adapter.config.name} {adapter.version}"
            write_gguf(whole, adapter.folder, folder / GGUF_FILE, gguf_type=export.gguf_type, name=title)
    return told, unmerged


def _asked(source: _Source, load: Callable[[], Any]) -> Said:
    """Load a model, ask it, and let go of it: two models at once would take the memory twice."""
    _free_memory(source.device)
    return ask(load(), source.rows)


def _free_memory(device: str) -> None:
    import torch

    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _measured(source: _Source, lake: Lake, form: Format, folder: Path, before: tuple[Said, Said]) -> ExportedForm:
    """Return the figures of one form, loaded back from its files; `before` is what `_write` returned.

    Raises:
        JobError: As `refuse_other`.
    """
    (told, unmerged), export, adapter = before, source.export, source.adapter
    said = _asked(source, lambda: _loaded(folder, form, source))
    rows, version = len(source.rows), export.version(adapter.version, form)
    refuse_other(form, export, files=said, unmerged=unmerged, adapter=told)
    return ExportedForm(
        format=form,
        type=export.number_type(form),
        version=version,
        url=lake.version_url(EXPORTS, adapter.config.name, version),
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        rows=rows,
        loss_adapter=told.loss,
        loss_unmerged=unmerged.loss,
        loss=said.loss,
        top1_agreement=said.agreement(told),
    )


def _loaded(folder: Path, form: Format, source: _Source) -> Any:
    """Return a form as its user would load it, without its adapter and without this package."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    how: dict[str, Any] = {"gguf_file": GGUF_FILE} if form == "gguf" else {"use_safetensors": True}
    config = AutoConfig.from_pretrained(source.base.path)
    if form == "gguf" and rope_type(config) != "default":
        how["config"] = config  # transformers 5.23 does not read the divisors that llama.cpp reads
    dtype = getattr(torch, source.export.dtype)
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, trust_remote_code=False, **how)
    return model.to(source.wide)


def _publish(source: _Source, lake: Lake, figures: ExportedForm, folder: Path) -> None:
    adapter, base = source.adapter, source.base
    (folder / "README.md").write_text(_card(source, figures), encoding="utf-8")
    lake.publish(
        folder,
        kind=EXPORTS,
        name=adapter.config.name,
        version=figures.version,
        metrics=figures.model_dump(mode="json", exclude={"reused"}),
        inputs={
            "adapter_version": adapter.version,
            "base_model": base.name,
            "base_revision": base.revision,
            "dataset": adapter.config.dataset,
            "dataset_version": adapter.config.dataset_version,
            "export": source.export.model_dump(mode="json"),
            "job_schema": EXPORT_SCHEMA,
            "packages": package_versions(),
        },
    )


def _card(source: _Source, figures: ExportedForm) -> str:
    adapter, base = source.adapter, source.base
    return f"""---
base_model: {base.name}
pipeline_tag: text-generation
tags: [merged, sft, nightshift]
---

# {adapter.config.name}, version {adapter.version}, as {figures.format} ({figures.type})

The adapter added to the 16-bit weights of `{base.name}` (revision `{base.revision}`), not to the quantised ones.
Loaded back before it was published: {figures.sentence}.
"""
