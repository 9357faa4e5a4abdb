"""Evidence of an out-of-memory kill: counters of both versions of control groups, and the kernel's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightshift.runners.memory import OomWatch

V1 = "4:memory:/box/1\n0::/\n"
V2 = "0::/box/1\n"


def watch(root: Path, text: str) -> OomWatch:
    (root / "own").write_text(text)
    return OomWatch(cgroup_root=root, own_cgroups=root / "own", kernel_log=root / "kmsg")


@pytest.mark.parametrize(
    ("groups", "counter"),
    [
        (V1, "memory/box/1/memory.oom_control"),
        (V1, "memory/memory.oom_control"),  # in a container the path is the host's
        (V2, "box/1/memory.events"),
        (V2, "memory.events"),
    ],
)
def test_a_counter_that_grew_is_evidence(tmp_path: Path, groups: str, counter: str) -> None:
    path = tmp_path / counter
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("low 0\noom_kill 5\n")
    unchanged = watch(tmp_path, groups)
    assert unchanged.evidence(1) == ""
    grown = watch(tmp_path, groups)
    path.write_text("low 0\noom_kill 7\noom_group_kill 1\n")
    assert "counted 2 out-of-memory" in grown.evidence(1)


def test_the_kernels_log_is_evidence_for_the_process_that_it_names(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("3,1,1,-;Out of memory: Killed process 77 (python)\n")
    before = watch(tmp_path, V2)
    assert before.evidence(77) == "", "what stood there before is another run's"
    with_lines = watch(tmp_path, V2), watch(tmp_path, V2)
    with log.open("a") as stream:
        stream.write("3,2,2,-;Memory cgroup out of memory: Killed process 78 (python) total-vm:1kB\n")
    assert "killed process 78" in with_lines[0].evidence(78)
    assert with_lines[1].evidence(77) == ""


def test_nothing_to_read_is_no_evidence(tmp_path: Path) -> None:
    assert OomWatch(tmp_path / "a", tmp_path / "b", tmp_path / "c").evidence(1) == ""


def test_this_machine_can_be_watched() -> None:
    assert OomWatch().evidence(-1) == ""
