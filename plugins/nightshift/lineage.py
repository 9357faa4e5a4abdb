"""What a job read and wrote, for OpenLineage: datasets with version, schema, counts and data-quality facets.

Airflow's OpenLineage provider asks each operator after its task (`get_openlineage_facets_on_complete`), and only where
a transport is configured. Everything here comes from the job's config and result, so that nothing is read again.

    job                            inputs                             output
    -----------------------------  ---------------------------------  ------------------------------
    llmjobs.instructions.prepare   the source files, with the rules'  nightshift://dataset/<name>
                                   counts and the budgets
    llmjobs.instructions.publish                                      nightshift://dataset/<name>
    llmjobs.training.train         nightshift://dataset/<name>        nightshift://adapter/<name>
    llmjobs.training.export        nightshift://adapter/<name>        nightshift://export/<name>/<form>
    llmjobs.embeddings.finalise    the documents                      nightshift://index/<name>
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from llmjobs.contracts.base import JobConfig

ROW = {
    "row_id": ("string", "SHA-256 of the messages"),
    "group_id": ("string", "Rows of one group are on one side of the split"),
    "messages": ("list<struct<role, content, tool_calls>>", "The turns"),
    "source_file": ("string", "File that the row is from"),
    "source_line": ("int64", "Its line there, from 1"),
}
"""Columns that every version of a dataset has: name -> type, meaning."""

_SEVERE = {"quarantine", "fail"}


def lineage_of(module: str, config: JobConfig, result: Any) -> Any:
    """Return the `OperatorLineage` of a finished job; an empty one for a job that says nothing of its data.

    Args:
        module: The job.
        config: The config that it ran with.
        result: What it handed back, a mapping.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    tell = _TELLERS.get(module)
    if tell is None or not isinstance(result, dict):
        return OperatorLineage()
    inputs, outputs = tell(config, result)
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _of_prepare(config: Any, result: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Sources -> dataset. The quality facets are those of the sources together: the rules saw them all at once."""
    from openlineage.client.event_v2 import InputDataset

    sources = [_source(line, _lake_of(result["report_url"], "audits")) for line in config.globs]
    quality = _quality(config, result)
    if len(sources) == 1:
        return [InputDataset(*sources[0], inputFacets=quality)], _published(result)
    together = InputDataset("nightshift://source", config.name, inputFacets=quality)
    return [together, *(InputDataset(*source) for source in sources)], _published(result)


def _of_publish(_config: Any, result: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    from openlineage.client.event_v2 import OutputDataset

    return [], [OutputDataset("nightshift://dataset", result["name"], facets=_version(result["version"]))]


def _of_train(_config: Any, result: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    version = _version(result["dataset_version"])
    read = InputDataset("nightshift://dataset", result["dataset"], facets=version)
    return [read], [OutputDataset("nightshift://adapter", result["name"], facets=_version(result["version"]))]


def _of_export(_config: Any, result: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    read = InputDataset("nightshift://adapter", result["name"], facets=_version(result["adapter_version"]))
    return [read], [
        OutputDataset("nightshift://export", f"{result['name']}/{one['format']}", facets=_version(one["version"]))
        for one in result["exports"]
    ]


def _of_refresh(config: Any, result: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=result.get("chunks"))
    written = OutputDataset(
        "nightshift://index",
        result["name"],
        facets=_version(result["version"]),
        outputFacets={"outputStatistics": counted},
    )
    places = [getattr(source, "url", source.name) for source in config.inputs]
    return [InputDataset(*_source(place, "")) for place in places], [written]


_TELLERS: dict[str, Callable[[Any, dict[str, Any]], tuple[list[Any], list[Any]]]] = {
    "llmjobs.instructions.prepare": _of_prepare,
    "llmjobs.instructions.publish": _of_publish,
    "llmjobs.training.train": _of_train,
    "llmjobs.training.export": _of_export,
    "llmjobs.embeddings.finalise": _of_refresh,
}


def _published(result: dict[str, Any]) -> list[Any]:
    """Return the dataset that a preparation made, or nothing after a dry run."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset, schema_dataset

    if result.get("verdict") == "dry_run":
        return []
    fields = [
        schema_dataset.SchemaDatasetFacetFields(name=name, type=kind, description=said)
        for name, (kind, said) in ROW.items()
    ]
    counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=result["published"])
    return [
        OutputDataset(
            "nightshift://dataset",
            result["name"],
            facets={**_version(result["version"]), "schema": schema_dataset.SchemaDatasetFacet(fields=fields)},
            outputFacets={"outputStatistics": counted},
        )
    ]


def _quality(config: Any, result: dict[str, Any]) -> dict[str, Any]:
    from openlineage.client.facet_v2 import data_quality_assertions_dataset, data_quality_metrics_input_dataset

    metrics = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
        rowCount=result["rows_in"], columnMetrics={}
    )
    assertion = data_quality_assertions_dataset.Assertion
    found = [assertion(**values) for values in (*_budgets(config, result), *_rules(config, result))]
    assertions = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions=found)
    return {"dataQualityMetrics": metrics, "dataQualityAssertions": assertions}


def _rules(config: Any, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one assertion for each rule that put rows aside: the result names no others."""
    severities = config.contract.severities()
    return [
        {
            "assertion": rule,
            "name": rule,
            "success": count == 0,
            "severity": "error" if severities.get(rule) in _SEVERE else "warn",
            "expected": "0",
            "actual": str(count),
        }
        for rule, count in result["reasons"].items()
    ]


def _budgets(config: Any, result: dict[str, Any]) -> list[dict[str, Any]]:
    budgets = config.contract.budgets
    share = result["quarantined"] / result["rows_in"] if result["rows_in"] else 0.0
    most, least = budgets.max_quarantined_share, budgets.min_rows
    found = [
        ("max_quarantined_share", share <= most, "error", f"at most {most:g}", f"{share:.6g}"),
        ("min_rows", result["published"] >= least, "error", f"at least {least}", str(result["published"])),
    ]
    if budgets.warn_quarantined_share is not None:
        warn = budgets.warn_quarantined_share
        found.append(("warn_quarantined_share", share <= warn, "warn", f"at most {warn:g}", f"{share:.6g}"))
    names = ("name", "success", "severity", "expected", "actual")
    return [{"assertion": values[0], **dict(zip(names, values, strict=True))} for values in found]


def _version(version: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)}


def _source(line: str, lake: str) -> tuple[str, str]:
    """Return namespace and name of one source line, as OpenLineage names files and objects."""
    parts = urlsplit(f"{lake}/{line}" if lake and "://" not in line else line)
    if parts.scheme in {"", "file"}:
        return "file", parts.path
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.lstrip("/")


def _lake_of(url: str, kind: str) -> str:
    """Return the lake's URL: what stands before the folder of a kind, in the URL of one of its versions."""
    return url.rpartition(f"/{kind}/")[0]
