"""What the row rules cost beside Great Expectations on pandas, which names the same rows by the same rules.

    python -m tests.benchmarks.rules_against_gx

Rows are generated; one in forty has one planted defect. Each side runs in a process of its own over rows that are in
memory already, as each needs them: frames of `tables.READ` for us, a pandas frame for Great Expectations. CPU seconds
are those of the whole process, all threads, user and system. Both must name exactly the planted rows, or the benchmark
fails. Great Expectations gets the short English expressions that find them, which pandas 3 hands to RE2; our rules try
all that they know, Chinese too.

The second comparison is of all that a verdict takes: imports, rules and `expectations.judge` on our side; imports and
checkpoint on the other. Imports cost some seconds whatever the number of rows, and Great Expectations' context and
suite half a second, a fifth of what it takes for 100,000 rows: the targets of both comparisons hold for a million.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, Skipped, report

FULL = os.environ.get("NIGHTSHIFT_FULL") == "1"
ROWS = 1_000_000 if FULL else 100_000
PEER = "Great Expectations {} on pandas, all row ids"
RULES_TARGET, VERDICT_TARGET = 0.2, 0.6
PLANTED_EVERY = 40

EXPRESSIBLE = (
    "broken_encoding",
    "control_characters",
    "no_input_marker",
    "empty_answer",
    "placeholder_answer",
    "empty_code_block",
    "url_only_input",
    "refusal",
    "speaks_as_ai",
    "unrendered_template",
    "merged_instructions",
    "image_request",
    "too_long",
)
"""Rules that Great Expectations can express with its own expectations on text columns."""

APART = ("language_mismatch", "too_many_tokens")
"""Rules that need a model, whose cost is told apart."""

_SUBJECTS = (
    "the history of {}", "a healthy diet for {}", "the difference between {} and {}", "a small business that sells {}",
    "how {} affects {}", "three ways to improve {}", "the life cycle of {}", "a trip to see {}", "an essay about {}",
)  # fmt: skip
_THINGS = (
    "bees", "public transport", "solar panels", "coffee", "teamwork", "the water cycle", "old books", "mountain bikes",
    "machine learning", "sports in schools", "small gardens", "city parks", "remote work", "sleep", "ocean currents",
    "jazz", "renewable energy", "data structures", "volcanoes", "customer service", "a sales contract", "bread",
)  # fmt: skip
_ASKS = ("Describe {}.", "Explain {} in simple words.", "Write a short text about {}.", "List the main points of {}.")
_SENTENCES = (
    "One of the most important things to know about {} is that it takes time and practice.",
    "Many people think of {} first, but {} matters just as much.",
    "In recent years, {} has changed the way we live and work.",
    "It's worth looking at {} from several sides before you decide.",
    "For example, {} can be combined with {} at little cost (about $20 a month).",
    "However, there are also risks: {} may fail when nobody takes care of it.",
    "A study of 1,200 people found that 63% of them preferred {} to {}.",
    "Finally, remember that {} isn't the same everywhere.",
    "If you don't have much time, begin with {} and come back to {} later.",
)
_ON_AI = ("AI can help with {}, as a good assistant would.", "Some say that artificial intelligence will change {}.")
"""Sentences that a rule must look at twice."""

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_CODE = (
    "Here is an example:\n\n```python\ndef count(items):\n    return {{item: items.count(item) for item in items}}\n```"
    "\n\nIt counts {}."
)


def generated_rows(count: int, seed: int = 7) -> Iterator[tuple[dict[str, str], str]]:
    """Yield Alpaca rows of some 500 characters, each with the rule that it breaks; the rule is empty of a good row.

    The shares of lists, code and talk about AI are those of 999 real rows (``alpaca_en_demo.json``).
    """
    chance = random.Random(seed)
    for number in range(count):
        row = _good_row(chance, number)
        rule = EXPRESSIBLE[number // PLANTED_EVERY % len(EXPRESSIBLE)] if number % PLANTED_EVERY == 0 else ""
        yield (row | _PLANTS[rule](row), rule) if rule else (row, rule)


def _good_row(chance: random.Random, number: int) -> dict[str, str]:
    def filled(text: str) -> str:
        return text.format(*chance.choices(_THINGS, k=2))

    ask = chance.choice(_ASKS).format(filled(chance.choice(_SUBJECTS)))
    sentences = [filled(text) for text in chance.choices(_SENTENCES, k=chance.randint(2, 8))]
    if chance.random() < 0.06:
        sentences.append(filled(chance.choice(_ON_AI)))
    kind = chance.random()
    if kind < 0.25:
        answer = "\n".join(f"{place}. {text}" for place, text in enumerate(sentences, 1))
    elif kind < 0.29:
        answer = _CODE.format(chance.choice(_THINGS))
    else:
        answer = " ".join(sentences)
    given = filled("Notes: {}, {}, and what else comes to mind.") if chance.random() < 0.4 else ""
    return {"instruction": f"{ask} (for {_name(number)})", "input": given, "output": answer}


def _name(number: int) -> str:
    """Return a made-up name, another for each number: digits in every row would make each one look like a telephone."""
    syllables: list[str] = []
    while number or not syllables:
        number, rest = divmod(number, len(_CONSONANTS) * len(_VOWELS))
        syllables.append(_CONSONANTS[rest // len(_VOWELS)] + _VOWELS[rest % len(_VOWELS)])
    return "".join(syllables).capitalize()


_PLANTS: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "broken_encoding": lambda row: {"output": row["output"] + " Itâ€™s true."},
    "control_characters": lambda row: {"output": row["output"] + "\x1b[31m Done.\x1b[0m"},
    "no_input_marker": lambda _: {"input": "No input."},
    "empty_answer": lambda _: {"output": " \n"},
    "placeholder_answer": lambda _: {"output": "<No Output>"},
    "empty_code_block": lambda row: {"output": f"{row['output']}\n\n```python\n```\n"},
    "url_only_input": lambda _: {"input": "https://www.example.com/articles/2020/09/a-title.html"},
    "refusal": lambda _: {"output": "I'm sorry, but I cannot help with that."},
    "speaks_as_ai": lambda row: {"output": "As an AI language model, I have a view of it. " + row["output"]},
    "unrendered_template": lambda row: {"output": f"Dear {{{{ customer_name }}}}, {row['output']}"},
    "merged_instructions": lambda row: {
        "output": f"{row['output']}\n##\n18. Instruction: Name a noun.\n18. Input:\nA."
    },
    "image_request": lambda row: {"instruction": f"Create an image of {row['instruction'][-9:]}, please."},
    "too_long": lambda row: {"output": row["output"] + " And so on." * 2_000},
}


def rule_figures(rows: int = ROWS) -> Iterable[Figure | Skipped]:
    """Yield the CPU of the rules, and of rules and verdict, each as a share of Great Expectations'."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        path = Path(folder, "rows.jsonl")
        planted = _write(path, rows)
        theirs = _measured("great_expectations", path)
        peer = PEER.format(version("great-expectations"))
        for side, what in (
            ("expressible", f"the {len(EXPRESSIBLE)} row rules that it can express"),
            ("all", "all row rules"),
        ):
            ours = _measured(side, path)
            _check(ours["found"], planted, side)
            target = RULES_TARGET if side == "expressible" and rows >= 1_000_000 else None
            yield _figure(f"{what}, {rows:,} rows, CPU", ours["rules"], theirs["rules"], peer, target)
            if side == "all":
                total = sum(ours[step] for step in ("imports", "rules", "verdict"))
                metric = f"{what}, the verdict and imports, {rows:,} rows, CPU"
                target = VERDICT_TARGET if rows >= 1_000_000 else None
                yield _figure(metric, total, theirs["imports"] + theirs["rules"], peer, target)
        _check(theirs["found"], planted, peer)


def _figure(metric: str, ours: float, theirs: float, peer: str, target: float | None) -> Figure:
    named = f"{peer} ({theirs:.2f} s)"
    return Figure("instructions", metric, round(ours, 3), "s", named, round(ours / theirs, 3), target)


def _write(path: Path, rows: int) -> dict[str, list[int]]:
    """Write the rows as JSON lines; return rule -> the numbers of the rows that break it, from 0."""
    planted: dict[str, list[int]] = {rule: [] for rule in EXPRESSIBLE}
    with path.open("w", encoding="utf-8") as file:
        for number, (row, rule) in enumerate(generated_rows(rows)):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if rule:
                planted[rule].append(number)
    return planted


def _check(found: dict[str, list[int]], planted: dict[str, list[int]], side: str) -> None:
    """Fail where a side does not name exactly the planted rows: it would not have done the same work.

    Raises:
        RuntimeError: It does not.
    """
    for rule, numbers in planted.items():
        odd = set(found[rule]) ^ set(numbers)
        if odd:
            raise RuntimeError(f"{side}: {rule} differs from what was planted on {len(odd)} rows, first {min(odd)}")


def _measured(side: str, path: Path) -> dict[str, Any]:
    """Run one side in a process of its own; return its CPU seconds by step, and rule -> rows found."""
    command = [sys.executable, "-m", "tests.benchmarks.rules_against_gx", side, str(path)]
    env = os.environ | {"GX_ANALYTICS_ENABLED": "false"}
    done = subprocess.run(command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the side {side} failed:\n{done.stderr[-2_000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run_ours(path: Path, *, only: Iterable[str] | None) -> dict[str, Any]:
    """Examine the rows of a file, and judge the whole.

    Args:
        path: Its JSON lines.
        only: The rules to apply; None applies all but those `APART`.
    """
    start = _cpu()
    import polars as pl

    from llmjobs.contracts.data_contract import DataContract
    from llmjobs.contracts.data_rules import PII_KINDS, RULES
    from llmjobs.instructions.raw.reading import read_frames
    from llmjobs.instructions.rules.examination import examine

    rules = {*RULES} - {*APART} if only is None else {*only}
    contract = DataContract.model_validate(
        {
            "owner": "benchmark",
            # What is never off is a matter of the reading.
            "rules": {rule: "off" for rule in RULES if rule not in rules and rule not in {"unreadable", "wrong_shape"}},
            "pii": dict.fromkeys(PII_KINDS, "off"),
        }
    )
    imports = _cpu() - start
    with path.open("rb") as file:
        frames = list(read_frames(file, name=path.name))
    start = _cpu()
    tables = [examine(frame, contract).rows.select(*RULES, "quarantined") for frame in frames]
    spent = _cpu() - start
    table = pl.concat(tables)
    verdict = _judged(table, contract)
    found = {rule: table[rule].arg_true().to_list() for rule in EXPRESSIBLE}
    return {"imports": imports, "rules": spent, "verdict": verdict, "found": found}


def _judged(table: Any, contract: Any) -> float:
    """Return the CPU seconds of the stored verdict, the import of Great Expectations included."""
    import polars as pl

    from llmjobs.contracts.data_rules import FLAGS
    from llmjobs.instructions.expectations import FIGURES, judge

    table = table.with_columns(pl.lit(value=False).alias(flag) for flag in FLAGS if flag not in table.columns)
    published = float((~table["quarantined"]).sum())
    start = _cpu()
    judge(table, dict.fromkeys(FIGURES) | {"published": published}, contract, "rows")
    return _cpu() - start


def run_great_expectations(path: Path) -> dict[str, Any]:
    """Validate the rows of a file with one suite, and collect the ids of all rows that fail."""
    start = _cpu()
    classes = expectation_classes()
    import polars as pl

    imports = _cpu() - start
    table = pl.read_ndjson(io.BytesIO(path.read_bytes())).with_row_index("row").to_pandas()
    suite = _suite(classes)
    start = _cpu()
    found = unexpected_rows(table, suite)
    return {"imports": imports, "rules": _cpu() - start, "found": found}


def expectation_classes() -> Any:
    """Return ``great_expectations.expectations``, imported without its warning about Python's own modules."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
    return gx.expectations


def unexpected_rows(table: Any, suite: dict[str, list[Any]]) -> dict[str, list[int]]:
    """Validate a pandas frame; return rule -> the values of its column ``row`` that break an expectation of the rule.

    Args:
        table: With a column ``row``.
        suite: Rule -> its expectations.
    """
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all")
    for rule, expectations in suite.items():
        for expectation in expectations:
            expectation.meta = {"rule": rule}
    every = [expectation for expectations in suite.values() for expectation in expectations]
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name="rows", data=batch, suite=context.suites.add(gx.ExpectationSuite("rows", expectations=every))
        )
    )
    complete = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
    found: dict[str, set[int]] = {rule: set() for rule in suite}
    for result in definition.run(batch_parameters={"dataframe": table}, result_format=complete).results:
        if "unexpected_count" not in result.result:
            raise RuntimeError(f"Great Expectations could not compute {result.expectation_config}")
        hits = result.result.get("unexpected_index_list") or []
        found[result.expectation_config.meta["rule"]].update(int(hit["row"]) for hit in hits)
    return {rule: sorted(rows) for rule, rows in found.items()}


def _suite(expectations: Any) -> dict[str, list[Any]]:
    """Return the rules of `EXPRESSIBLE` as expectations, as a team would write them that knows what RE2 is fast at.

    (A word boundary at the start of an expression makes one rule cost as much as all others: 2.2 s on 100,000 rows.)
    """
    no_match, length = expectations.ExpectColumnValuesToNotMatchRegex, expectations.ExpectColumnValueLengthsToBeBetween

    def nowhere(pattern: str, *columns: str) -> list[Any]:
        return [no_match(column=column, regex=pattern) for column in columns]

    texts = ("instruction", "input", "output")
    return {
        "broken_encoding": nowhere("\ufffd|â€[™œ“”]|Ã[©¨¤¶¼]", *texts),
        "control_characters": nowhere(r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F]", *texts),
        "no_input_marker": nowhere(r"(?i)^[\s<`]*(?:no ?input|n/a|none)[\s>`.]*$", "input"),
        "empty_answer": nowhere(r"^\s*$", "output"),
        "placeholder_answer": nowhere(r"(?i)^<?(?:no output|no answer|n/a)>?$", "output"),
        "empty_code_block": nowhere(r"```\w*\s*```\s*$", "output"),
        "url_only_input": nowhere(r"^(?:https?://|www\.)\S+$", "input"),
        "refusal": nowhere(r"(?i)^(?:i'm|i am) sorry", "output"),
        "speaks_as_ai": nowhere(r"(?i)as an ai language model", "output"),
        "unrendered_template": nowhere(r"\{\{\s*\w+\s*\}\}|<\|\w+\|>|\[/?INST\]", *texts),
        "merged_instructions": nowhere(r"\n#*\s*\d+\. ?Instruction:", *texts),
        "image_request": nowhere(
            r"(?i)\b(?:create|draw|design|generate) an? (?:\w+ )?(?:image|picture|logo|photo)\b", "instruction"
        ),
        "too_long": [length(column="output", max_value=20_000)],
    }


def _run(side: str, path: Path) -> dict[str, Any]:
    if side == "great_expectations":
        return run_great_expectations(path)
    return run_ours(path, only=EXPRESSIBLE if side == "expressible" else None)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(_run(sys.argv[1], Path(sys.argv[2]))) + "\n")
        raise SystemExit(0)
    raise SystemExit(report(rule_figures))
