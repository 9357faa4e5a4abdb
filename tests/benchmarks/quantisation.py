"""What QLoRA costs in quality: held-out loss of an adapter trained on an NF4 base beside one on the bf16 base.

    python -m tests.benchmarks.quantisation     (NIGHTSHIFT_FULL=1: a training of 40 steps instead of 12)

Real GSM8K rows go through the jobs themselves, each in a process of its own: prepare, then train and evaluate twice,
with the same rows, order, seed and recipe but for `quantisation.type`. Each adapter is measured on the base that it was
trained on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmjobs.contracts import environment
from tests.benchmarks.figures import Figure, Skipped, report

FULL = os.environ.get("NIGHTSHIFT_FULL") == "1"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILE = Path(__file__).parents[3] / "shared" / "data" / "instructions" / "gsm8k_train.jsonl"
ROWS, STEPS = (700, 40) if FULL else (300, 12)
LARGEST_DIFFERENCE, LONGEST_TRAINING = 0.01, 600.0

RECIPE: dict[str, Any] = {
    "dataset": "gsm8k",
    "model": MODEL,
    "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
    "data": {"max_length_tokens": 512, "on_overflow": "drop", "max_dropped_share": 0.1},
    "train": {"max_steps": STEPS, "global_batch_size": 8, "learning_rate": 5e-4, "warmup_steps": 3},
    "evaluate": {"metric": "loss"},
}


def measure() -> Iterator[Figure | Skipped]:
    """Train and measure both; yield losses, their difference, seconds and rates."""
    if not FILE.is_file():
        yield Skipped("training", "NF4 beside bf16", f"the real rows are not beside the repository ({FILE.name})")
        return
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        source = Path(folder, "gsm8k.jsonl")
        source.write_text("".join(FILE.read_text(encoding="utf-8").splitlines(keepends=True)[:ROWS]), encoding="utf-8")
        contract = {"owner": "benchmarks", "mapping": {"instruction": "question", "output": "answer"}}
        _job(folder, "instructions.prepare", {"name": "gsm8k", "source": f"file://{source}", "contract": contract})
        losses = {}
        for kind in ("nf4", "none"):
            config = RECIPE | {"name": f"gsm8k-{kind}", "quantisation": {"type": kind}}
            trained = _job(folder, "training.train", config)
            measured = _job(folder, "training.evaluate", config)
            losses[kind] = measured["adapter"]["loss"]
            yield from _figures("NF4" if kind == "nf4" else "bf16", trained, measured)
        difference = abs(losses["nf4"] / losses["none"] - 1)
        target = LARGEST_DIFFERENCE if FULL else None
        yield Figure(
            "training", "held-out loss of QLoRA against bf16 LoRA, relative difference", round(difference, 4), "",
            target=target,
        )  # fmt: skip


def _figures(base: str, trained: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[Figure]:
    what = f"{base} base, {trained['steps']} steps of 8 GSM8K rows"
    target = LONGEST_TRAINING if FULL and base == "NF4" else None
    yield Figure("training", f"{what}: training", round(trained["seconds"], 1), "s", target=target)
    yield Figure("training", f"{what}: rate", round(trained["tokens_per_second"], 1), "tokens/s")
    rows = measured["adapter"]["rows"]
    yield Figure("training", f"{what}: held-out loss before, {rows} rows", round(measured["base"]["loss"], 4), "nats")
    yield Figure("training", f"{what}: held-out loss after", round(measured["adapter"]["loss"], 4), "nats")


def _job(folder: str, module: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job as Airflow does; return its result.

    Raises:
        RuntimeError: It failed.
    """
    result = Path(folder, "result.json")
    given = {
        environment.LAKE_URL: f"file://{folder}/lake",
        environment.CONFIG: json.dumps(config),
        environment.RESULT: str(result),
        "GX_ANALYTICS_ENABLED": "false",
    }
    command = [sys.executable, "-m", f"llmjobs.{module}"]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-2_000:]}{done.stdout[-2_000:]}")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    raise SystemExit(report(measure))
