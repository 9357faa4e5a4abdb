"""Several nodes: who is who, how they find each other, and that all of them come to one end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import CONFIG, LAKE_URL, MLFLOW_URL, WORK_FOLDER
from llmjobs.contracts.errors import BadConfig, ExitCode, JobError
from llmjobs.contracts.training import Limits, TrainConfig
from llmjobs.lake import Lake
from llmjobs.training import nodes, train
from llmjobs.training.estimating.amount import Amount, bill_of
from llmjobs.training.estimating.machine import machine_of
from llmjobs.training.estimating.throughput import Throughput
from llmjobs.training.identity import AdapterIdentity
from llmjobs.training.meeting import LOST_AFTER_SECONDS, Invitation, Meeting, opened
from llmjobs.training.rendezvous import DEFAULT_PORT, Rendezvous, rendezvous_of
from llmjobs.training.sharding import layout_for

REPOSITORY = Path(__file__).parents[3]
SECOND = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.7"}


# --- who is who


@pytest.mark.parametrize(
    ("environ", "port"),
    [
        (SECOND, DEFAULT_PORT),
        ({**SECOND, "NNODES": "2", "MASTER_PORT": "4000"}, 4000),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "10.0.0.7", "PET_MASTER_PORT": "4000"}, 4000),
        ({"JOB_COMPLETION_INDEX": "1", "NODE_RANK": " ", "MASTER_ADDR": "10.0.0.7"}, DEFAULT_PORT),
    ],
)
def test_the_environment_says_which_node_this_is(environ: dict[str, str], port: int) -> None:
    assert rendezvous_of(2, environ) == Rendezvous(2, 1, "10.0.0.7", port)


def test_one_node_needs_no_environment_and_minds_none() -> None:
    assert rendezvous_of(1, {}) is None
    assert rendezvous_of(1, {**SECOND, "NNODES": "1"}) is None


@pytest.mark.parametrize(
    ("nodes", "environ", "says"),
    [
        (2, {**SECOND, "NNODES": "3"}, r"NNODES \(3\) and dist.nodes \(2\) clash"),
        (1, {"PET_NNODES": "2"}, r"PET_NNODES \(2\) and dist.nodes \(1\) clash"),
        (2, {**SECOND, "NNODES": "2:4"}, "NNODES is '2:4': set it to how many nodes there are, a number from 1 to 64"),
        (2, {"MASTER_ADDR": "a"}, "NODE_RANK is not set: set it to which of the 2 nodes this is, a number from 0 to 1"),
        (2, {**SECOND, "NODE_RANK": "2"}, "NODE_RANK is '2'"),
        (2, {"NODE_RANK": "0"}, r"dist.nodes \(2\) needs MASTER_ADDR"),
        (2, {**SECOND, "MASTER_PORT": "0"}, "MASTER_PORT is '0': .* a number from 1 to 65535"),
    ],
)
def test_what_does_not_add_up_is_refused_by_name(nodes: int, environ: dict[str, str], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        rendezvous_of(nodes, environ)


# --- what follows from their number


def _config(**sections: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"name": "t", "dataset": "t", "model": "m", **sections}, origin="test")


def test_the_global_batch_is_shared_by_the_processes_of_all_nodes() -> None:
    batch = {"global_batch_size": 16, "micro_batch_size": 2}
    layout = layout_for(_config(dist={"nodes": 2}, train=batch), gpus=2, cores=8)
    assert (layout.strategy, layout.nodes, layout.processes_per_node) == ("ddp", 2, 2)
    assert layout.batching.model_dump() == {"processes": 4, "micro_batch_size": 2, "accumulation": 2}
    alone = layout_for(_config(dist={"nodes": 2, "processes": 1}, train=batch), gpus=0, cores=8)
    assert (alone.strategy, alone.batching.processes, alone.threads) == (
        "ddp", 2, int(os.environ.get("OMP_NUM_THREADS", "8"))
    )  # fmt: skip


def test_a_batch_that_the_nodes_cannot_share_is_refused_with_the_numbers() -> None:
    with pytest.raises(BadConfig, match=r"global_batch_size \(8\) cannot be shared evenly by 6 processes"):
        _config(dist={"nodes": 3, "processes": 2}, train={"global_batch_size": 8})


def test_where_it_is_computed_does_not_change_the_adapter() -> None:
    assert _config(dist={"nodes": 2}).recipe() == _config().recipe()


@pytest.mark.usefixtures("no_gpu")
def test_the_estimate_counts_the_processes_of_all_nodes_and_the_memory_of_one() -> None:
    there = {"gpus": 2, "gpu": "h100"}
    gpus = machine_of(_config(dist={"nodes": 4}, resources=there))
    assert (gpus.processes, gpus.processes_per_node, gpus.nodes) == (8, 2, 4)
    batch = {"global_batch_size": 12}
    cpus = machine_of(_config(dist={"nodes": 3, "processes": 2}, train=batch, resources={"memory_gib": 8}))
    assert (cpus.processes, cpus.room_bytes) == (6, 4 * 2**30)


def test_each_machine_of_a_run_without_gpus_has_its_price() -> None:
    rate, limits = Throughput(1000, "given"), Limits(price_per_hour=2.0)
    bill = bill_of(Amount(100, 14_400_000), rate, 4, limits, on_gpu=False, nodes=2)
    assert (bill.hours, bill.cost) == (1.0, 4.0)


def test_beside_a_remote_lake_the_nodes_need_a_folder_to_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote(Lake):
        def working_folder(self, *_parts: str) -> Path | None:
            return None

    config = _config(dist={"nodes": 2})
    with pytest.raises(BadConfig, match=r"dist.nodes \(2\) needs a lake in a folder that every node mounts"):
        train._working_folder(Remote(f"file://{tmp_path}"), AdapterIdentity(config, "b", "v"))
    monkeypatch.setenv(WORK_FOLDER, str(tmp_path / "claim"))
    found = train._working_folder(Remote(f"file://{tmp_path}"), AdapterIdentity(config, "b", "v"))
    assert found == tmp_path / "claim" / "adapters" / "t" / "v"
    assert found.is_dir()


# --- how they find each other


class Clock:
    """Seconds that pass when we say so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_a_meeting_that_is_seen_to_live_is_joined_and_once(tmp_path: Path) -> None:
    yesterday = opened(tmp_path, nodes=2)
    invitation = Invitation(tmp_path, nodes=2, node=1)
    assert invitation.joined() is None
    assert invitation.joined() is None
    yesterday.beat()
    ours = invitation.joined()
    assert ours
    assert ours.nonce == yesterday.nonce
    assert yesterday.complete
    yesterday.beat()
    assert Invitation(tmp_path, nodes=2, node=1).joined() is None, "another run's node is there"


def test_a_name_that_nobody_knows_ends_the_node_and_tells_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nodes._known("127.0.0.1")
    monkeypatch.setattr(nodes, "NAME_WITHIN_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "_known", lambda address: address == "node-0.there")
    ours = opened(tmp_path, nodes=2)
    nodes._wait_for_name(ours, Rendezvous(2, 0, "node-0.there", 1))
    with pytest.raises(JobError, match=r"^MASTER_ADDR \(node-0\.nowhere\) could not be looked up .* on node 0"):
        nodes._wait_for_name(ours, Rendezvous(2, 0, "node-0.nowhere", 1))
    assert json.loads((ours.folder / "0.json").read_text())["state"] == "ended"


def test_node_0_clears_away_what_an_earlier_run_left(tmp_path: Path) -> None:
    former = opened(tmp_path, nodes=2).folder
    new = opened(tmp_path, nodes=2).folder
    assert [path.name for path in tmp_path.iterdir()] == [new.name] != [former.name]


def test_a_node_that_ends_or_falls_silent_is_trouble_and_one_that_is_done_is_not(tmp_path: Path) -> None:
    clock = Clock()
    first, second = (Meeting(tmp_path, nodes=2, node=node, clock=clock) for node in (0, 1))
    assert first.trouble() == ""
    clock.now += LOST_AFTER_SECONDS
    second.beat()
    assert first.trouble() == ""
    clock.now += LOST_AFTER_SECONDS + 1
    assert first.trouble() == "node 1 was not heard of for 60 s"
    second.tell(state="ended", signalled=True)
    assert first.trouble() == "node 1 has ended"
    assert first.all_ended
    assert first.signalled
    second.tell(state="done", signalled=False)
    clock.now += 2 * LOST_AFTER_SECONDS
    assert first.trouble() == ""


# --- that they come to one end: two real launchers, torchrun's place taken by a stand-in


class Node:
    """A process that is one of the two nodes."""

    def __init__(self, folder: Path, rank: int, how: str) -> None:
        self.reason = folder / f"failure-{rank}.json"
        program = str(Path(__file__).parent / "one_node.py")
        self.process = subprocess.Popen(
            [sys.executable, program, str(folder), str(rank), how], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY / "jobs")},
        )  # fmt: skip

    def begun(self) -> None:
        """Wait until its processes are at work."""
        _wait_for(self.reason.with_suffix(".begun").exists, [self.process], seconds=60)

    def ends(self) -> tuple[int, str]:
        """Return its exit code and what it said."""
        out, errors = self.process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        return self.process.returncode, out


def _wait_for(done: Callable[[], Any], processes: list[Any], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Callable[[str, str], list[Node]]]:
    """Start both nodes, and leave none behind."""
    started: list[Node] = []

    def start(first: str, second: str) -> list[Node]:
        # Yesterday's: neither is a reason for what happens today, nor a meeting to join.
        (tmp_path / "failure-1.json").write_text(json.dumps({"exit_code": 78, "sentence": "yesterday"}))
        opened(tmp_path, nodes=2)
        started.extend([Node(tmp_path, 1, second), Node(tmp_path, 0, first)])
        return [started[1], started[0]]

    yield start
    for node in started:
        node.process.kill()
        node.process.communicate()


def test_both_are_done(two: Any) -> None:
    first, second = two("works", "works")
    assert (first.ends()[0], second.ends()[0]) == (0, 0)


def test_one_that_diverges_ends_the_other_for_the_same_reason(two: Any) -> None:
    first, second = two("waits", "diverges")
    assert first.ends() == second.ends() == (ExitCode.DIVERGED, "ended with 70\n")


def test_a_signal_to_one_interrupts_both(two: Any) -> None:
    first, second = two("waits", "waits")
    first.begun()
    second.begun()
    second.process.send_signal(signal.SIGTERM)
    assert (first.ends()[0], second.ends()[0]) == (ExitCode.INTERRUPTED, ExitCode.INTERRUPTED)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_node_leaves_no_other_waiting_for_it(two: Any, killed: int) -> None:
    nodes = two("deaf", "deaf")
    for node in nodes:
        node.begun()
    nodes[killed].process.kill()
    code, says = nodes[1 - killed].ends()
    assert code == ExitCode.UNKNOWN
    assert ("without a reason" if killed else "node 0 ended without a word") in says


# --- the whole job


MAX_STEPS = 40


class Training:
    """Launches of the job over one lake."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.folder, self._config = folder, config

    def start(self, *, nodes: int) -> list[subprocess.Popen[bytes]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        dist = self._config.dist.model_copy(update={"nodes": nodes, "processes": 2 // nodes})
        config = self._config.model_copy(update={"dist": dist}).model_dump_json()
        environment = {**os.environ, LAKE_URL: f"file://{self.folder / 'lake'}", CONFIG: config}
        meet = {"NNODES": str(nodes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started = []
        for rank in range(nodes):
            with self.log(rank).open("ab") as stream:
                started.append(subprocess.Popen(
                    [sys.executable, "-m", "llmjobs.training.train"], stdout=stream, stderr=stream,
                    env={**environment, **meet, "NODE_RANK": str(rank)}, start_new_session=True,
                ))  # fmt: skip
        return started

    def ends(self, processes: list[subprocess.Popen[bytes]]) -> list[int]:
        return [process.wait(timeout=400) for process in processes]

    def log(self, rank: int) -> Path:
        return self.folder / f"log-{rank}.txt"

    def said(self) -> str:
        return "\n".join(self.log(rank).read_text() for rank in range(2) if self.log(rank).exists())

    def checkpoints(self) -> list[Path]:
        return list(self.folder.glob("lake/work/adapters/*/*/checkpoints/step-*"))

    def metrics(self) -> list[dict[str, Any]]:
        found = self.folder.glob("lake/adapters/*/versions/*/manifest.json")
        return [json.loads(path.read_text())["metrics"] for path in found]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, offline: Any) -> Iterator[Path]:
    """A lake with one dataset version."""
    with (
        offline(tmp_path_factory.mktemp("world"), train=range(90, 130), test=range(140, 148)) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(REPOSITORY / "jobs"))
        patch.delenv(MLFLOW_URL, raising=False)
        yield folder


@pytest.fixture(scope="module")
def begin(world: Path, tiny_model: Path, recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that makes a lake of its own for a training."""
    config = recipe(tiny_model, train={"max_steps": MAX_STEPS})

    def make(strategy: str = "auto") -> Training:
        folder = tmp_path_factory.mktemp("training")
        shutil.copytree(world / "lake" / "datasets", folder / "lake" / "datasets")
        dist = config.dist.model_copy(update={"strategy": strategy})
        return Training(folder, config.model_copy(update={"dist": dist}))

    return make


@pytest.fixture(scope="module")
def one_node(begin: Any) -> dict[str, Any]:
    """What one node with two processes publishes."""
    training = begin()
    assert training.ends(training.start(nodes=1)) == [0], training.said()
    (metrics,) = training.metrics()
    return dict(metrics)


@pytest.mark.long
def test_two_nodes_train_the_adapter_of_one_node_with_two_processes(begin: Any, one_node: dict[str, Any]) -> None:
    training = begin()
    assert training.ends(training.start(nodes=2)) == [0, 0], training.said()
    (metrics,) = training.metrics()
    assert metrics["adapter_sha256"] == one_node["adapter_sha256"]
    assert '"node_rank":1' in training.log(1).read_text()


@pytest.mark.long
def test_zero_3_shards_over_two_nodes_as_over_two_processes(begin: Any) -> None:
    found = []
    for count in (1, 2):
        training = begin("zero3")
        assert training.ends(training.start(nodes=count)) == [0] * count, training.said()
        found += [metrics["adapter_sha256"] for metrics in training.metrics()]
    assert found[0] == found[1]


@pytest.mark.long
def test_sigterm_on_one_node_before_it_has_loaded_anything_stops_both(begin: Any) -> None:
    training = begin()
    first, second = training.start(nodes=2)
    meetings = "lake/work/adapters/*/*/meeting-*/1.json"
    _wait_for(lambda: list(training.folder.glob(meetings)), [first, second], seconds=300)
    second.send_signal(signal.SIGTERM)
    assert training.ends([first, second]) == [ExitCode.INTERRUPTED] * 2, training.said()
    assert training.checkpoints() == training.metrics() == []


@pytest.mark.long
def test_sigterm_on_one_node_stops_both_and_they_go_on(begin: Any, one_node: dict[str, Any]) -> None:
    training = begin()
    first, second = training.start(nodes=2)
    _wait_for(training.checkpoints, [first, second], seconds=300)
    second.send_signal(signal.SIGTERM)
    assert training.ends([first, second]) == [ExitCode.INTERRUPTED] * 2, training.said()
    assert training.metrics() == []
    assert training.ends(training.start(nodes=2)) == [0, 0], training.said()
    (metrics,) = training.metrics()
    assert 0 < metrics["resumed_from_step"] < MAX_STEPS
    assert metrics["adapter_sha256"] == one_node["adapter_sha256"]


@pytest.mark.long
def test_a_killed_node_ends_the_other_to_be_tried_again(begin: Any, one_node: dict[str, Any]) -> None:
    training = begin()
    first, second = training.start(nodes=2)
    _wait_for(training.checkpoints, [first, second], seconds=300)
    os.killpg(second.pid, signal.SIGKILL)
    assert training.ends([first, second]) == [ExitCode.UNKNOWN, -signal.SIGKILL], training.said()
    assert training.metrics() == []
    assert training.ends(training.start(nodes=2)) == [0, 0], training.said()
    (metrics,) = training.metrics()
    assert metrics["adapter_sha256"] == one_node["adapter_sha256"]
