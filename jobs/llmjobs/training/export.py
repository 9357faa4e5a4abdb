"""Job: an adapter -> other forms of it in the lake: merged 16-bit safetensors, GGUF.

    python -m llmjobs.training.export                                          (config as JSON in LLMJOBS_CONFIG)
    python -m llmjobs.training.export NAME[@VERSION] --format gguf --gguf-type q8_0   (without a version: the champion)

Each form is loaded back and measured on held-out rows before any is published, so a form in the lake is one that says
what the adapter says. One that is there is not made again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import get_args

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.contracts.exporting import Export, ExportResult, Format
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.logs import configure_logging
from llmjobs.results import main
from llmjobs.training.exporting.making import make
from llmjobs.training.exporting.versions import existing
from llmjobs.training.identity import adapter_manifest, identify
from llmjobs.training.registry import tag
from llmjobs.training.sharding import wait_without_spinning
from llmjobs.training.stopping import StopSignal

logger = logging.getLogger(__name__)


def run(config: TrainConfig) -> ExportResult:
    """Export the adapter that `config` means in every form that it asks for and that is not there.

    Raises:
        BadData: The adapter is not there, or no row is left to measure it on.
        BadConfig: No form is named, a form cannot hold the model, or is worse than the config allows.
        JobError: A form's files are not the model.
    """
    StopSignal().install()
    wait_without_spinning()
    lake = Lake.from_environment()
    adapter = identify(config, lake)
    return export_adapter(lake, config.name, adapter.version, config.export)


def export_adapter(lake: Lake, name: str, version: str, export: Export) -> ExportResult:
    """Export one adapter of the lake.

    Args:
        lake: Where it is, and where its forms go.
        name: Of the adapter.
        version: Of the adapter; empty: the champion.
        export: The settings.

    Raises:
        JobError: As `run`.
    """
    if not export.formats:
        raise BadConfig(f"adapter {name}: export.formats names no form; give safetensors or gguf")
    version = adapter_manifest(lake, name, version).version
    forms = existing(lake, name, version, export)
    missing = tuple(form for form in export.formats if form not in forms)
    if missing:
        with tempfile.TemporaryDirectory() as scratch:
            forms |= make(lake, name, version, export.model_copy(update={"formats": missing}), Path(scratch))
    exports = [forms[form] for form in export.formats]
    note = tag(lake, name, version, {f"export.{one.format}": one.url for one in exports})
    for one in exports:
        logger.info(one.sentence)
    said = f"adapter {name}, version {version}: {'' if missing else 'nothing to export: '}"
    return ExportResult(
        name=name,
        adapter_version=version,
        exports=exports,
        sentence=said + "; ".join(one.sentence for one in exports),
        notes=[note] if note else [],
    )


def by_hand(arguments: list[str]) -> int:
    """Export what the command line names; return 0, or the exit code of the refusal."""
    parser = argparse.ArgumentParser(prog="python -m llmjobs.training.export", description=__doc__.splitlines()[0])
    parser.add_argument("adapter", metavar="NAME[@VERSION]", help="without a version: the champion")
    parser.add_argument("--format", action="append", required=True, choices=get_args(Format), dest="formats")
    for field in ("dtype", "gguf_type"):
        about = Export.model_fields[field]
        choices = get_args(about.annotation)
        parser.add_argument(f"--{field.replace('_', '-')}", default=about.default, choices=choices, help=about.title)
    options = parser.parse_args(arguments)
    configure_logging()
    StopSignal().install()
    name, _, version = options.adapter.partition("@")
    formats = tuple(dict.fromkeys(options.formats))
    export = Export(formats=formats, dtype=options.dtype, gguf_type=options.gguf_type)
    try:
        done = export_adapter(Lake.from_environment(), name, version, export)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    sys.stdout.write("".join(f"{one.url}\n  {one.sentence}\n" for one in done.exports))
    return 0


if __name__ == "__main__":
    sys.exit(by_hand(sys.argv[1:]) if sys.argv[1:] else main(TrainConfig, run))
