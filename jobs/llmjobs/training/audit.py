"""Job: a dataset version as the trainer takes it, counted and shown before a GPU is asked for.

    python -m llmjobs.training.audit        (config as JSON in LLMJOBS_CONFIG)

All rows are tokenised with the functions that the training uses (`llmjobs.training.data.splits`), so what passes here
passes there. What must not be trained on is refused; the rest is published as ``training_audits/<name>/<version>``,
whose ``metrics`` are the `AuditResult`: the estimate reads tokens and trainable tokens per epoch there, by
`audit_of`. Personal data was masked by the dataset's contract before the version was published: the report shows rows
as the version holds them.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median_low, quantiles
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.training import AUDIT_SCHEMA, TrainConfig
from llmjobs.contracts.training_results import AuditResult, SplitAudit
from llmjobs.lake import Lake
from llmjobs.models import resolve_model
from llmjobs.rendering import load_tokenizer
from llmjobs.results import main
from llmjobs.training.data.rows import content_hash
from llmjobs.training.data.splits import Split, read_rows, tokenised_split
from llmjobs.training.data.tokenisation import Tokenised, answers, end_tokens, ended
from llmjobs.training.identity import AdapterIdentity, identify
from llmjobs.training.reports.audit import write_report
from llmjobs.training.reports.audit_examples import Example, examples
from llmjobs.training.reports.page import REPORT

logger = logging.getLogger(__name__)

AUDITS = "training_audits"
SUMMARY = "audit.json"
SPLITS = ("train", "validation", "test")

_MOST_BARS = 24


def run(config: TrainConfig) -> AuditResult:
    """Audit the dataset version that `config` means under its base's tokenizer, unless that was done.

    Raises:
        BadConfig: The base is not to be had, or its tokenizer or chat template cannot be masked.
        BadData: The rows must not be trained on; the sentence names file, line or number, and the fix.
    """
    lake = Lake.from_environment()
    adapter = identify(config, lake)
    existing = audit_of(adapter, lake)
    if existing is not None:
        logger.info("dataset version %s was audited already", existing.dataset_version)
        logger.info(existing.sentence)
        return existing.model_copy(update={"reused": True})
    base = resolve_model(adapter.config.model.name, adapter.config.model.revision)
    tokenizer = load_tokenizer(base.path)
    splits = _splits(adapter.config, tokenizer, lake)
    refuse_overlap(adapter.config, splits)
    result = _result(lake, adapter, splits, tokenizer, Path(base.path))
    with tempfile.TemporaryDirectory() as scratch:
        _publish(lake, Path(scratch), adapter.config, result, examples(splits["train"], tokenizer))
    logger.info(result.sentence)
    return result


def audit_of(adapter: AdapterIdentity, lake: Lake) -> AuditResult | None:
    """Return the audit of an adapter's rows, None where there is none yet."""
    config = adapter.config
    version = config.audit_version(config.dataset_version, adapter.base_revision)
    manifest = lake.manifest(AUDITS, config.name, version)
    return None if manifest is None else AuditResult.model_validate(manifest.metrics)


def _splits(config: TrainConfig, tokenizer: Any, lake: Lake) -> dict[str, Split]:
    """Return the splits as tokens; a version may have no rows beside its train rows."""
    read = {split: read_rows(config, lake, split) for split in SPLITS}
    return {
        split: tokenised_split(config, tokenizer, rows, split)
        for split, rows in read.items()
        if rows or split == "train"
    }


def refuse_overlap(config: TrainConfig, splits: dict[str, Split]) -> None:
    """Refuse a version in which a held-out row is a train row, too, or a test row a validation row.

    Raises:
        BadData: Names the splits, the first row and how many there are.
    """
    hashes = {name: {content_hash(row) for row in split.rows} for name, split in splits.items()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        both = hashes.get(one, set()) & hashes.get(other, set())
        if both:
            first = next(row for row in splits[other].rows if content_hash(row) in both)
            raise BadData(
                f"dataset {config.dataset}, version {config.dataset_version}: {len(both)} {other} rows are {one} rows, "
                f"too, the first is {first.origin or first.row_id}; prepare the dataset again, which keeps equal rows "
                "on one side"
            )


# --- figures


def split_audit(name: str, split: Split, ends: Iterable[int]) -> SplitAudit:
    """Count one split.

    Args:
        name: ``train``, ``validation`` or ``test``.
        split: Its rows and tokens.
        ends: The tokens that end an answer.
    """
    tokenised, ends = split.tokenised, frozenset(ends)
    lengths = [len(row.input_ids) for row in tokenised.rows]
    turns = {row.row_id: answers(row) for row in split.rows}
    return SplitAudit.model_validate(
        {
            "split": name,
            "rows": len(tokenised.rows),
            "over_long_rows": len(tokenised.over_long),
            "truncated_rows": len(tokenised.truncated),
            "tokens": tokenised.tokens,
            "trainable_tokens": tokenised.trainable_tokens,
            "answers": sum(turns[row.row_id] for row in tokenised.rows),
            "ended_answers": sum(min(ended(row, ends), turns[row.row_id]) for row in tokenised.rows),
            "median_tokens": median_low(lengths),
            "p95_tokens": int(quantiles(lengths, n=20, method="inclusive")[-1]) if len(lengths) > 1 else lengths[0],
            "longest_tokens": max(lengths),
            "histogram": histogram(whole_lengths(tokenised)),
        }
    )


def whole_lengths(tokenised: Tokenised) -> list[int]:
    """Return the length in tokens of every row before anything was cut or left out."""
    kept = [tokenised.truncated.get(row.row_id, len(row.input_ids)) for row in tokenised.rows]
    return [*kept, *tokenised.over_long.values()]


def histogram(lengths: list[int]) -> dict[int, int]:
    """Return upper end of a range -> lengths in it; ranges of one power of two each, none missing, at most 24."""
    width = 1
    while -(-max(lengths) // width) > _MOST_BARS:
        width *= 2
    counts = dict.fromkeys(range(width, max(lengths) + width, width), 0)
    for length in lengths:
        counts[-(-length // width) * width] += 1
    return counts


def _result(lake: Lake, adapter: AdapterIdentity, splits: dict[str, Split], tokenizer: Any, base: Path) -> AuditResult:
    config = adapter.config
    version = config.audit_version(config.dataset_version, adapter.base_revision)
    ends = end_tokens((row for split in splits.values() for row in split.tokenised.rows), tokenizer)
    counted = [split_audit(name, split, ends) for name, split in splits.items()]
    train = counted[0]
    return AuditResult(
        name=config.name,
        version=version,
        reused=False,
        dataset=config.dataset,
        dataset_version=config.dataset_version,
        base_model=config.model.name,
        base_revision=adapter.base_revision,
        splits=counted,
        tokens_per_epoch=train.tokens,
        trainable_tokens_per_epoch=train.trainable_tokens,
        longest_tokens=train.longest_tokens,
        ends=sorted(map(str, tokenizer.convert_ids_to_tokens(sorted(ends)))),
        notes=_notes(config, counted, ends - stop_tokens(tokenizer, base), tokenizer),
        sentence=_sentence(config, train),
        report_url=lake.version_url(AUDITS, config.name, version, REPORT),
    )


def stop_tokens(tokenizer: Any, base: Path) -> set[int]:
    """Return the tokens at which generation stops: the tokenizer's, and those of the base's generation config."""
    found = {tokenizer.eos_token_id}
    path = base / "generation_config.json"
    if path.is_file():
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") or []
        found |= set(named if isinstance(named, list) else [named])
    return found


def _notes(config: TrainConfig, counted: list[SplitAudit], unstopped: set[int], tokenizer: Any) -> list[str]:
    there = {split.split for split in counted}
    notes = [f"the {split} split has no rows" for split in SPLITS if split not in there]
    for one in counted:
        if one.over_long_rows:
            notes.append(f"{one.split}: {one.over_long_rows} rows are over-long and left out")
        if one.truncated_rows:
            notes.append(f"{one.split}: {one.truncated_rows} rows lost the beginning of their first question")
    if unstopped:
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(unstopped))))
        notes.append(
            f"answers end with {names}, at which generation does not stop by itself: neither the tokenizer's "
            f"end-of-text token nor the generation config of {config.model.name} is it; name it as a stop token in use"
        )
    return notes


def _sentence(config: TrainConfig, train: SplitAudit) -> str:
    return (
        f"dataset {config.dataset}, version {config.dataset_version}: {train.rows} train rows, {train.tokens} tokens, "
        f"{train.trainable_tokens} of them learnt ({train.masked_share:.1%} masked); {train.over_long_rows} rows left "
        f"out and {train.truncated_rows} cut as longer than {config.data.max_length_tokens} tokens; every answer "
        "teaches its end"
    )


def _publish(lake: Lake, folder: Path, config: TrainConfig, result: AuditResult, shown: list[Example]) -> None:
    (folder / SUMMARY).write_text(result.model_dump_json(indent=1), encoding="utf-8")
    write_report(folder / REPORT, result, shown, limit=config.data.max_length_tokens)
    lake.publish(
        folder,
        kind=AUDITS,
        name=result.name,
        version=result.version,
        metrics=result.model_dump(mode="json"),
        inputs={
            "dataset": result.dataset,
            "dataset_version": result.dataset_version,
            "base_revision": result.base_revision,
            "job_schema": AUDIT_SCHEMA,
        },
    )


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
