"""Which forms of an adapter are in the lake. No torch."""

from __future__ import annotations

from llmjobs.contracts.exporting import Export, ExportedForm, Format
from llmjobs.lake import Lake

EXPORTS = "exports"


def existing(lake: Lake, name: str, adapter_version: str, export: Export) -> dict[Format, ExportedForm]:
    """Return the forms that the settings ask for and that are there."""
    found = {form: lake.manifest(EXPORTS, name, export.version(adapter_version, form)) for form in export.formats}
    return {
        form: ExportedForm.model_validate({**manifest.metrics, "reused": True})
        for form, manifest in found.items()
        if manifest is not None
    }


def all_there(lake: Lake, name: str, adapter_version: str, export: Export) -> bool:
    """Whether every form that the settings ask for is there; true where they ask for none."""
    return len(existing(lake, name, adapter_version, export)) == len(export.formats)
