"""Great Expectations, quietly: one table, one list of expectations, one result as JSON."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl


def great_expectations() -> Any:
    """Import Great Expectations without its telemetry, its warnings and its chatter; takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with _uncollected(), warnings.catch_warnings():
        # Its import of `sre_constants` warns (GX 1.24.1 on Python 3.11).
        warnings.filterwarnings("ignore", message="module 'sre_.*' is deprecated", category=DeprecationWarning)
        import great_expectations as gx
    # This module sets its own logger to INFO (GX 1.24.1), to speak about its temporary folders.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return gx


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: an import leaves none, and looking is a fifth of what this one costs."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def validated(name: str, table: pl.DataFrame, expectations: list[Any]) -> dict[str, Any]:
    """Return the result of a checkpoint that holds one suite against one table, as Great Expectations writes it.

    Args:
        name: Of suite and checkpoint.
        table: The rows.
        expectations: Of `great_expectations().expectations`.
    """
    gx = great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = (
        context.data_sources.add_pandas("tables").add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
    )
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=expectations))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[definition], result_format="SUMMARY")
    result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table.to_pandas()})
    found: dict[str, Any] = next(iter(result.run_results.values())).to_json_dict()
    return found
