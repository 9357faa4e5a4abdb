"""How many near-duplicates are found, of those that comparing all with all finds, and at what cost.

Real rows hold few near-duplicates, so some are planted: of real rows with one to three words (in Chinese pairs of
characters) replaced, or two neighbouring sentences swapped. Peer of all recall figures is brute force: the sets of
shingles, spelt out by other code than ours, of every two rows. The files of ``../shared/data/instructions`` are
needed for it; the costs are measured on generated rows of about 500 characters.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from tests.benchmarks.figures import Figure, Skipped, report

DATA = Path(__file__).parents[3] / "shared" / "data" / "instructions"
THRESHOLDS = (0.7, 0.8, 0.9)
ENGLISH_AND_CHINESE = (
    "alpaca_en_demo.json",
    "alpaca_zh_demo.json",
    "self_instruct_seed_tasks.jsonl",
    "gsm8k_train.jsonl",
)
WORDS = 80

_UNSPACED = (
    r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]"
)
_TOKEN = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})[^\s\x1c-\x1f])+")
_SENTENCE_END = r"(?<=[.!?\u3002\uff01\uff1f])\s*"
_PEER = "brute-force Jaccard"


def figures() -> Iterator[Figure | Skipped]:
    """Yield recall and precision on real rows, then the cost on generated ones."""
    yield from quality_figures()
    yield from cost_figures()


def quality_figures() -> Iterator[Figure | Skipped]:
    """Yield recall and precision on 5,000 rows of four files, and on Chinese ones alone."""
    if not DATA.is_dir():
        yield Skipped("instructions", "near-duplicates: recall", "real data not beside the repository", _PEER)
        return
    for files, real, planted in ((ENGLISH_AND_CHINESE, 4_250, 750), (("alpaca_zh_demo.json",), 1_000, 500)):
        texts = real_texts(DATA, files, real, planted)
        natural = len(brute_force(texts[:real], min(THRESHOLDS)))
        what = f"{real} real rows ({natural} natural near pairs) + {planted} planted, {' '.join(files)}"
        for threshold in THRESHOLDS:
            recall, precision, pairs = quality(texts, threshold)
            metric = f"near-duplicates, similarity {threshold}, {pairs} pairs: {{}}; {what}"
            unit, none = "share", None
            yield Figure("instructions", metric.format("recall"), recall, unit, none, none, 0.95, "higher")
            yield Figure("instructions", metric.format("precision"), precision, unit, none, none, 0.99, "higher")


def cost_figures() -> Iterator[Figure]:
    """Yield CPU seconds and memory of 100,000 generated rows; of a million with ``NIGHTSHIFT_FULL=1``."""
    rows = 1_000_000 if os.environ.get("NIGHTSHIFT_FULL") == "1" else 100_000
    measure = (
        f"import json; from tests.benchmarks import near_duplicates as n; print(json.dumps(n.measure_costs({rows})))"
    )
    measured = json.loads(subprocess.check_output([sys.executable, "-c", measure], text=True))
    said = f"{rows} rows of {measured['characters']} characters, 5% of them near-duplicates"
    seconds, more = measured["cpu_seconds"], measured["bytes_a_row"]
    scaled = round(seconds * 1_000_000 / rows, 1)
    metric = f"near-duplicates, CPU for a million rows; measured on {said}"
    yield Figure("instructions", metric, scaled, "s", target=60.0)
    yield Figure("instructions", f"near-duplicates, peak memory beyond the texts; {said}", more, "B/row", target=1_000)
    yield Figure(
        "instructions",
        f"near-duplicates found of those planted; {said}",
        measured["found"],
        "share",
        None,
        None,
        0.95,
        "higher",
    )


def quality(texts: Sequence[str], threshold: float) -> tuple[float, float, int]:
    """Return recall, precision and the number of pairs that brute force finds.

    Rows with the same shingles count with all their neighbours, as `near_pairs` says.
    """
    from llmjobs.instructions.alike.links import resolved, standing
    from llmjobs.instructions.alike.near import near_pairs

    near = near_pairs(
        [(np.arange(len(texts)), texts)], lambda rows: {row: texts[row] for row in rows.tolist()}, threshold=threshold
    )
    members: dict[int, list[int]] = {}
    for row, same in standing(near).rows():
        members.setdefault(same, []).append(row)
    ours = {tuple(sorted((a, b))) for one in members.values() for a in one for b in one if a != b}
    for one, other in resolved(near).rows():
        ours |= {tuple(sorted((a, b))) for a in members[one] for b in members[other]}
    truth = brute_force(texts, threshold)
    return len(ours & truth) / max(len(truth), 1), len(ours & truth) / max(len(ours), 1), len(truth)


def brute_force(texts: Sequence[str], threshold: float) -> set[tuple[int, ...]]:
    """Return all pairs of texts whose sets of shingles are at least so similar, by comparing all with all."""
    names: dict[tuple[str, ...], int] = {}
    sets = [sorted({names.setdefault(piece, len(names)) for piece in by_hand(text)}) for text in texts]
    sizes = np.array([len(one) for one in sets], dtype=np.int64)
    columns = np.array([name for one in sets for name in one], dtype=np.int64)
    table = csr_array(
        (np.ones(len(columns), np.int32), columns, np.append(0, np.cumsum(sizes))), (len(texts), max(len(names), 1))
    )
    common = (table @ table.T).tocoo()
    similar = common.data >= threshold * (sizes[common.row] + sizes[common.col] - common.data) - 1e-9
    wanted = similar & (common.row < common.col)
    return set(zip(common.row[wanted].tolist(), common.col[wanted].tolist(), strict=True))


def by_hand(text: str) -> list[tuple[str, ...]]:
    """Return the shingles of a text, read by a regular expression: pairs of tokens, or the only token."""
    tokens = _TOKEN.findall(text)
    return list(itertools.pairwise(tokens)) if len(tokens) > 1 else [tuple(tokens)] * len(tokens)


def real_texts(folder: Path, files: Sequence[str], real: int, planted: int) -> list[str]:
    """Return so many real rows, the same number of each file as far as it has them, and changed ones of them."""
    read = [_texts(folder / name) for name in files]
    chance = random.Random(5)
    rows: list[str] = []
    for number, texts in enumerate(read):
        rows += texts[: (real - len(rows)) // (len(read) - number)]
    return rows + [changed(text, chance) for text in chance.sample(rows, planted)]


def changed(text: str, chance: random.Random) -> str:
    """Return a text with one to three words replaced, or two sentences swapped."""
    spaced = text.count(" ") > len(text) / 20
    sentences = re.split(_SENTENCE_END, text)
    if len(sentences) > 3 and chance.random() < 0.25:
        at = chance.randrange(len(sentences) - 2)
        sentences[at : at + 2] = reversed(sentences[at : at + 2])
        return (" " if spaced else "").join(sentences)
    parts = text.split() if spaced else re.findall(r"..?", text)
    for _ in range(chance.randint(1, 3)):
        parts[chance.randrange(len(parts))] = f"new{chance.randrange(99)}" if spaced else chance.choice("改新换别") * 2
    return (" " if spaced else "").join(parts)


def _texts(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = (
        json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    )
    texts = []
    for row in rows:
        parts = row | row.get("instances", [{}])[0]
        said = [parts.get(name) or "" for name in ("instruction", "question", "input", "output", "answer")]
        texts.append(" ".join(unicodedata.normalize("NFC", " ".join(said)).lower().split()))
    return texts


def measure_costs(count: int) -> dict[str, float]:
    """Return what finding the near-duplicates among generated rows costs this process, which should be a new one."""
    from llmjobs.instructions.alike.near import near_pairs

    def search(texts: list[str]) -> int:
        batches = (
            (np.arange(begin, min(begin + 50_000, len(texts))), texts[begin : begin + 50_000])
            for begin in range(0, len(texts), 50_000)
        )
        return len(near_pairs(batches, lambda rows: {row: texts[row] for row in rows.tolist()}, threshold=0.8))

    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopq", k=chance.randint(2, 9))) for _ in range(20_000)]
    texts = [" ".join(chance.choices(words, k=WORDS)) for _ in range(count - count // 20)]
    texts += [changed(text, chance) for text in texts[: count // 20]]
    search(texts[:100])  # imports, tables
    held, begin = _memory_bytes("VmRSS"), time.process_time()
    found = search(texts)
    return {
        "cpu_seconds": time.process_time() - begin,
        "bytes_a_row": round((_memory_bytes("VmHWM") - held) / count),
        "found": round(found / (count // 20), 4),
        "characters": round(sum(map(len, texts)) / count),
    }


def _memory_bytes(field: str) -> int:
    """Return VmRSS (now) or VmHWM (peak) of this process; `resource` would tell the peak of its parent too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    raise SystemExit(report(figures))
