"""The first lines of a report: how the refresh ended, what it did, what it cost, what is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmjobs.contracts.embeddings import MeasureConfig, MeasureResult
from llmjobs.embeddings.report.facts import Facts
from llmjobs.embeddings.report.words import many
from llmjobs.embeddings.table_checks import CHECKS

Tone = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Verdict:
    """The end in a few words, and sentences without their full stops, the most important first."""

    tone: Tone
    head: str
    sentences: list[str]


@dataclass(frozen=True)
class Check:
    """One limit or gate: whether it was kept (None: nobody looked), and a sentence with what was found and asked."""

    name: str
    passed: bool | None
    sentence: str


def verdict(facts: Facts) -> Verdict:
    """Return how the run ended."""
    result = facts.result
    failing = result.documents_waiting + result.documents_quarantined
    told = [*facts.problems, _changed(facts), _paid(result), *_trouble(result), *_beside(result)]
    if facts.problems:
        return Verdict("bad", "Published, but not as it should be", told)
    if failing or result.documents_deferred:
        return Verdict("warn", f"Refreshed but for {many(failing + result.documents_deferred, 'document')}", told)
    if result.held_back:
        return Verdict("warn", "Refreshed; the new generation does not answer yet", told)
    if facts.swapped and len(facts.generations) > 1:
        return Verdict("good", "A new generation answers", told)
    return Verdict("good", "Up to date" if result.changed else "Nothing changed", told)


def _changed(facts: Facts) -> str:
    result, holds = facts.result, f"the index holds {many(facts.result.documents, 'document')}"
    if facts.swapped and len(facts.generations) > 1:
        return f"Generation {result.generation_id} took over in this run; {holds}"
    kinds = {
        "added": result.documents_added - result.documents_moved,
        "changed": result.documents_changed,
        "moved": result.documents_moved,
        "removed": result.documents_deleted - result.documents_moved,
    }
    found = [f"{number:,} {kind}" for kind, number in kinds.items() if number]
    return f"{', '.join(found) or 'No document changed'}; {holds}"


def _paid(result: MeasureResult) -> str:
    free = f"{many(result.texts_cached, 'new passage')} came from the cache" if result.texts_cached else ""
    if not result.texts_embedded:
        return free or "Nothing was encoded"
    cost = f", which cost {result.cost:,.4g}" if result.cost else ""
    encoded = f"{many(result.texts_embedded, 'passage')} encoded ({result.tokens_embedded:,} tokens{cost})"
    return f"{encoded}; {free}" if free else encoded


def _trouble(result: MeasureResult) -> list[str]:
    told = []
    if result.documents_waiting:
        told.append(f"{many(result.documents_waiting, 'document')} failed and will be tried again")
    if result.documents_quarantined:
        told.append(f"{many(result.documents_quarantined, 'document')} in quarantine until changed")
    if result.documents_deferred:
        told.append(f"{many(result.documents_deferred, 'document')} left to another run")
    return told


def _beside(result: MeasureResult) -> list[str]:
    if not result.next_generation_id:
        return []
    beside = f"Generation {result.next_generation_id} is filled beside it"
    if result.held_back:
        return [f"{beside} and does not answer yet: {'; '.join(result.held_back)}"]
    return [f"{beside} and holds {many(result.next_documents, 'document')}"]


def checks(facts: Facts) -> list[Check]:
    """Return what the index was held against after the run; then the gates of a generation that was to take over."""
    result, watch = facts.result, facts.config.watch
    looked = result.changed or result.vector_index != "kept"
    tables = f"Great Expectations met all {len(CHECKS)} expectations on chunks and vectors"
    return [
        Check("Tables", not result.broken if looked else None, "; ".join(result.broken) or _if(looked, tables)),
        Check("Recall", _recall_passed(result, facts.config), _recall(result, watch.min_recall, looked=looked)),
        _lag(facts),
        *_gates(facts),
    ]


def _if(looked: bool, sentence: str) -> str:
    return sentence if looked else "not looked at, as nothing changed"


def _recall_passed(result: MeasureResult, config: MeasureConfig) -> bool | None:
    return None if result.recall is None else result.recall >= config.watch.min_recall


def _recall(result: MeasureResult, least: float, *, looked: bool) -> str:
    if result.recall is None:
        return _if(looked, "no vector to ask for")
    return (
        f"recall at 10 is {result.recall:.3f} of {many(result.recall_queries, 'stored vector')} "
        f"against an exact search; at least {least:g} is asked"
    )


def _lag(facts: Facts) -> Check:
    most = facts.config.watch.max_lag_hours
    oldest = min((one.first_failed_at for one in facts.failing), default=None)
    hours = max((facts.finished_at - oldest).total_seconds(), 0.0) / 3600 if oldest else 0.0
    found = f"the oldest document that fails has done so for {hours:.1f} hours" if oldest else "no document fails"
    asked = f"at most {most:g} are allowed" if most is not None else "no limit is set"
    return Check("Lag", None if most is None else facts.result.lag_hours <= most, f"{found}; {asked}")


def _gates(facts: Facts) -> list[Check]:
    asked = facts.result.next_generation_id or (facts.result.generation_id if facts.swapped else 0)
    found = next((one.gates for one in facts.generations if one.generation_id == asked), None) or []
    return [Check(f"Generation {asked}: {gate['name']}", gate["passed"], gate["sentence"]) for gate in found]
