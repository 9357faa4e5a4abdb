"""Trainings whose loss was no number: kept in the lake, so that a sweep can go on without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from llmjobs.contracts.errors import Diverged
from llmjobs.lake import Lake
from llmjobs.training.identity import DIVERGENCES, AdapterIdentity


@contextmanager
def divergence_kept(lake: Lake, adapter: AdapterIdentity) -> Iterator[None]:
    """Record in the lake that the training inside diverged, before the error goes on."""
    try:
        yield
    except Diverged as error:
        with TemporaryDirectory() as scratch:
            (Path(scratch) / "divergence.txt").write_text(f"{error}\n", encoding="utf-8")
            lake.publish(
                Path(scratch),
                kind=DIVERGENCES,
                name=adapter.config.name,
                version=adapter.version,
                metrics={"sentence": str(error)},
                inputs={"dataset_version": adapter.config.dataset_version, "base_revision": adapter.base_revision},
            )
        raise


def divergence_of(lake: Lake, adapter: AdapterIdentity) -> str:
    """Return how an adapter's training diverged, with the step; empty where it did not."""
    found = lake.manifest(DIVERGENCES, adapter.config.name, adapter.version)
    return str(found.metrics["sentence"]) if found else ""
