"""Two processes over gloo: DDP and ZeRO-1, 2, 3 learn the same as one process, and ZeRO-3 resumes exactly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmjobs.contracts.environment import CONFIG, LAKE_URL, MLFLOW_URL
from llmjobs.contracts.errors import ExitCode
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.training import identity
from llmjobs.training.adapter_files import WEIGHTS, check_weights
from llmjobs.training.curves import read_curves
from llmjobs.training.stopping import StopSignal
from llmjobs.training.worker import Assignment, work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft 0.21.2
]

REPOSITORY = Path(__file__).parents[3]
RUNS = {
    "ddp": ("ddp", "bfloat16"), "zero1": ("zero1", "bfloat16"), "zero2": ("zero2", "bfloat16"),
    "zero3": ("zero3", "bfloat16"), "zero3-stopped": ("zero3", "bfloat16"),
    "ddp-float32": ("ddp", "float32"), "zero3-float32": ("zero3", "float32"),
    "packed-float32": ("ddp", "float32", "bfd"),
    "zero2-offload": ("zero2", "float32", "none", "cpu"), "zero3-offload": ("zero3", "float32", "none", "cpu"),
    "ddp-to-zero3": ("ddp", "float32"), "zero3-to-zero2": ("zero3", "float32"), "zero2-to-zero1": ("zero2", "float32"),
    "zero1-to-ddp": ("zero1", "float32"), "zero3-to-single": ("zero3", "bfloat16"),
    "single-to-zero2": ("single", "float32"),
}  # fmt: skip
STEPS = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, published: Any) -> Iterator[Path]:
    """A lake with one dataset version, and what DeepSpeed needs on a CPU."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LAKE_URL, f"file://{folder / 'lake'}")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(REPOSITORY / "jobs"))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if "TORCH_EXTENSIONS_DIR" not in os.environ:
            patch.setenv("TORCH_EXTENSIONS_DIR", str(REPOSITORY / ".cache" / "torch_extensions"))
        patch.delenv(MLFLOW_URL, raising=False)
        published(Lake.from_environment(), folder / "dataset", train=range(90, 130), test=range(140, 148))
        handler = signal.getsignal(signal.SIGTERM)
        yield folder
        signal.signal(signal.SIGTERM, handler)


def config_for(recipe: Any, model: Path, *how: str, processes: int) -> TrainConfig:
    """Eight rows a step, however many processes share them; no dropout, which each process draws for itself.

    Args:
        recipe: The fixture.
        model: Folder of the base.
        how: Strategy and number format; packing and offload where they are not none.
        processes: Their number.
    """
    strategy, dtype, packing, offload = (*how, "none", "none")[:4]
    strategy = "auto" if strategy == "single" else strategy
    version = identity.identify(recipe(model), Lake.from_environment()).config.dataset_version
    made: TrainConfig = recipe(
        model,
        dataset_version=version,
        lora={"dropout": 0.0},
        data={"packing": packing},
        train={"max_steps": STEPS, "micro_batch_size": 2},
        dist={"strategy": strategy, "processes": processes, "offload": offload},
    )
    return made.model_copy(update={"model": made.model.model_copy(update={"dtype": dtype})})


@pytest.fixture(scope="module")
def under_torchrun(world: Path, tiny_model: Path, recipe: Any, alone: Path) -> Path:
    """Every run of `RUNS`, done by one pair of processes; returns their folders' parent."""
    folder = world / "two"
    shutil.copytree(alone / "float32", folder / "single-to-zero2")
    shutil.rmtree(folder / "single-to-zero2" / "checkpoints" / f"step-{STEPS:08d}")
    runs = {name: config_for(recipe, tiny_model, *how, processes=2) for name, how in RUNS.items()}
    given = {
        "folder": str(folder),
        "model": str(tiny_model),
        "runs": {name: config.model_dump(mode="json") for name, config in runs.items()},
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, *rendezvous, str(Path(__file__).parent / "strategies.py")],
        env={**os.environ, "STRATEGIES": json.dumps(given)}, capture_output=True, text=True, check=False, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def alone(world: Path, tiny_model: Path, recipe: Any) -> Path:
    """The same training in one process: accumulation takes the place of the second process."""
    folder = world / "alone"
    for dtype in ("bfloat16", "float32"):
        config = config_for(recipe, tiny_model, "auto", dtype, processes=1)
        (folder / dtype).mkdir(parents=True)
        assignment = Assignment(
            config=config, model_path=str(tiny_model), folder=str(folder / dtype), adapter_version="alone"
        )
        work(assignment, StopSignal())
    return folder


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_curves(folder / "metrics.jsonl")]


def test_speed_is_that_of_each_process(under_torchrun: Path, alone: Path) -> None:
    last, single = (
        read_curves(folder / "metrics.jsonl")[-1] for folder in (under_torchrun / "ddp", alone / "bfloat16")
    )
    assert last["tokens_per_second_per_device"] == pytest.approx(last["tokens"] / last["step_seconds"] / 2)
    assert last["trainable_tokens"] == single["trainable_tokens"]


TORCHRUN = """
import json, os, subprocess, sys
worker = "import sys; from llmjobs.training.utilisation import Utilisation; sys.stdin.readline();" \
    "print(*[one.pid for one in Utilisation()._others], flush=True); sys.stdin.readline()"
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
count = int(os.environ["LOCAL_WORLD_SIZE"])
started = [subprocess.Popen([sys.executable, "-c", worker], **pipes) for _ in range(count)]
for one in started:
    print("look", file=one.stdin, flush=True)
seen = [[int(pid) for pid in one.stdout.readline().split()] for one in started]
for one in started:
    one.communicate("end")
print(json.dumps([[one.pid for one in started], seen]))
"""


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_utilisation_looks_at_all_processes_of_the_node(processes: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "jobs"), "LOCAL_WORLD_SIZE": str(processes)}
    command = [sys.executable, "-c", TORCHRUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    pids, seen = json.loads(done.stdout)
    assert [sorted(others) for others in seen] == [sorted(set(pids) - {pid}) for pid in pids]


def weights(folder: Path) -> Path:
    return folder / "checkpoints" / f"step-{STEPS:08d}" / WEIGHTS


@pytest.mark.parametrize("name", ["ddp", "zero1", "zero2", "zero3"])
def test_every_strategy_learns_what_one_process_learns(under_torchrun: Path, alone: Path, name: str) -> None:
    assert losses(under_torchrun / name) == pytest.approx(losses(alone / "bfloat16"), abs=0.03)
    assert check_weights(weights(under_torchrun / name)).tensors == 2 * 2 * 7


@pytest.mark.parametrize("name", ["ddp-float32", "zero3-float32", "packed-float32", "zero2-offload", "zero3-offload"])
def test_in_float32_they_agree_closely(under_torchrun: Path, alone: Path, name: str) -> None:
    assert losses(under_torchrun / name) == pytest.approx(losses(alone / "float32"), abs=1e-3)


@pytest.mark.parametrize("name", ["zero3-float32", "packed-float32", "zero2-offload", "zero3-offload"])
def test_the_adapter_is_the_one_that_ddp_saves(under_torchrun: Path, name: str) -> None:
    from safetensors.torch import load_file

    ddp, other = (load_file(weights(under_torchrun / each)) for each in ("ddp-float32", name))
    assert ddp.keys() == other.keys()
    for key, tensor in ddp.items():
        assert tensor.shape == other[key].shape
        assert float((tensor.float() - other[key].float()).abs().max()) < 1e-3


def test_a_signal_on_one_process_stops_both_and_zero3_resumes_exactly(under_torchrun: Path) -> None:
    stopped = under_torchrun / "zero3-stopped"
    assert sorted(path.name for path in stopped.glob("interrupted-*")) == ["interrupted-0", "interrupted-1"]
    assert json.loads((stopped / "outcome.json").read_text())["resumed_from_step"] == 3
    assert losses(stopped) == losses(under_torchrun / "zero3")
    ours, whole = check_weights(weights(stopped)), check_weights(weights(under_torchrun / "zero3"))
    assert ours.sha256 == whole.sha256


@pytest.mark.parametrize("name", [name for name in RUNS if "-to-" in name])
def test_a_run_goes_on_under_another_strategy_and_number_of_processes(
    under_torchrun: Path, alone: Path, tiny_model: Path, recipe: Any, name: str
) -> None:
    folder, dtype = under_torchrun / name, RUNS[name][1]
    if name.endswith("-to-single"):
        config = config_for(recipe, tiny_model, "auto", dtype, processes=1)
        work(
            Assignment(config=config, model_path=str(tiny_model), folder=str(folder), adapter_version=name),
            StopSignal(),
        )
    whole = losses(alone / dtype)
    assert losses(folder) == pytest.approx(whole, abs=1e-3 if dtype == "float32" else 0.03)
    assert json.loads((folder / "outcome.json").read_text())["resumed_from_step"] in {3, 4}
    manifest = json.loads((weights(folder).parent / "MANIFEST.json").read_text())
    before, after = manifest["layouts"]
    assert (before["strategy"], after["strategy"]) == tuple(name.split("-to-"))
    assert after["from_step"] in {3, 4}
    assert manifest["cursor"] == {"epoch": 1, "samples": 24}
    files = {path.suffix for path in weights(folder).parent.iterdir()}
    assert files <= {".safetensors", ".json", ".jinja", ".md"}, "nothing is pickled"


def test_the_job_launches_two_processes_stops_and_goes_on(
    world: Path, tiny_model: Path, recipe: Any, tmp_path: Path
) -> None:
    config = recipe(tiny_model, train={"max_steps": 60}, dist={"processes": 2}, checkpoint={"every_steps": 4})
    shutil.copytree(world / "lake" / "datasets", tmp_path / "lake" / "datasets")
    environment = {**os.environ, LAKE_URL: f"file://{tmp_path / 'lake'}", CONFIG: config.model_dump_json()}
    log = tmp_path / "log.txt"
    command = [sys.executable, "-m", "llmjobs.training.train"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "lake" / "work").glob("adapters/*/*/checkpoints/step-*")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=200) == ExitCode.INTERRUPTED, log.read_text()
    assert not list(tmp_path.glob("lake/adapters/*/versions/*"))

    # Killed without a warning, it takes torchrun and its processes along: none of them outlives the lock.
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family = _wait_for_family(process, members=4)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["steps"] == 60
    assert 0 < result["resumed_from_step"] < 60
    assert "ddp, 1 of 2 processes" in done.stdout


def _wait_for_family(process: subprocess.Popen[bytes], *, members: int) -> list[psutil.Process]:
    """Wait until the job, torchrun and its processes are there; return them."""
    deadline = time.monotonic() + 120
    while True:
        one = psutil.Process(process.pid)
        family = [one, *one.children(recursive=True)]
        workers = [each for each in family if "llmjobs.training.worker" in " ".join(each.cmdline()[-2:])]
        if len(family) >= members and len(workers) >= members - 2:
            return family
        assert process.poll() is None
        assert time.monotonic() < deadline, family
        time.sleep(0.05)
