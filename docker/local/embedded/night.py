"""Drives one night through Airflow's REST API, as a person in the web page would, and prints what happens."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from embedded.api import Api, Refused, segment
from embedded.environment import airflow_url, stack_environment
from embedded.errors import StackError
from embedded.health import expected_dags, said_of
from embedded.home import PYTHON, REPOSITORY, Home
from embedded.stack import Started
from embedded.tables import Answer, Figures, print_summary
from embedded.watch import Followed, Watch

PREPARE = "prepare_instructions_tickets"
TRAIN = "train_adapter_tickets"
REFRESH = "refresh_embeddings_guide"
ANNOUNCE = "announce"
QUESTION = "How do I stop every process that make run started?"
ASSET_PATIENCE_SECONDS = 90.0
ACTIVE = ("queued", "running")


class NightFailed(StackError):
    """A task failed. The text names it, says why, and where its log is."""


@dataclass
class Night:
    """One `make run`.

    Attributes:
        home: The stack's home.
        api: Airflow's API.
        say: Prints one line.
    """

    home: Home
    api: Api
    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    runs: dict[str, str] = field(default_factory=dict)

    def drive(self) -> Figures:
        """Run the night to its end and return its figures.

        Raises:
            NightFailed: A task failed.
        """
        prepare = self.start(PREPARE)
        self.follow([prepare])
        others = [self.training_after(prepare), self.start(REFRESH)]
        self.follow(others)
        self.say("asking the index one question")
        return self.figures(ask(self.home, QUESTION))

    def start(self, dag_id: str) -> Followed:
        """Trigger `dag_id`, or take the run that is under way: one night at a time."""
        if self.api.get(f"dags/{dag_id}")["is_paused"]:
            self.say(f"{dag_id} was paused; it is switched on for this run")
            self.api.patch(f"dags/{dag_id}", {"is_paused": False})
        active = self.latest_run(dag_id, state=list(ACTIVE))
        if active is not None:
            self.say(f"{dag_id}: a run is under way already ({active['dag_run_id']}); following it")
            return self.followed(dag_id, active["dag_run_id"])
        body = {"logical_date": None, "note": "started by make run"}
        return self.followed(dag_id, self.api.post(f"dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def training_after(self, prepare: Followed) -> Followed:
        """Return the training run of this night.

        A newly announced version starts one through its asset. Otherwise the night starts one as cron does in
        production: its first task sees whether anything is left to do, an earlier failed training for example.
        """
        if not self.announced(prepare):
            return self.start(TRAIN)
        self.say("a new dataset version was announced; waiting for the training that its asset starts")
        deadline = time.monotonic() + ASSET_PATIENCE_SECONDS
        while time.monotonic() < deadline:
            run = self.latest_run(TRAIN, run_type="asset_triggered", run_after_gte=prepare.started)
            if run is not None:
                return self.followed(TRAIN, run["dag_run_id"])
            time.sleep(1.0)
        raise NightFailed(
            f"the asset event of {PREPARE} started no run of {TRAIN} within {ASSET_PATIENCE_SECONDS:.0f} s;"
            f" see {self.home.logs / 'scheduler.log'}"
        )

    def announced(self, prepare: Followed) -> bool:
        """Return whether the run emitted its asset event, rather than finding that Airflow holds one already."""
        tasks = self.api.get(prepare.path + "/taskInstances", limit=1000)["task_instances"]
        return any(t["task_id"].split(".")[-1] == ANNOUNCE and t["state"] == "success" for t in tasks)

    def latest_run(self, dag_id: str, **query: Any) -> dict[str, Any] | None:
        """Return the newest run that fits `query`, or None."""
        found = self.api.get(f"dags/{dag_id}/dagRuns", order_by="-run_after", limit=1, **query)["dag_runs"]
        return dict(found[0]) if found else None

    def followed(self, dag_id: str, run_id: str) -> Followed:
        """Return the run as something to watch, and remember it for the figures."""
        self.runs[dag_id] = run_id
        run = self.api.get(f"dags/{dag_id}/dagRuns/{segment(run_id)}")
        return Followed(dag_id, run_id, started=run["run_after"])

    def follow(self, runs: list[Followed]) -> None:
        """Watch `runs` to their end.

        Raises:
            NightFailed: One of them failed.
        """
        failed = Watch(self.api, self.say, began=self.began).until_done(runs)
        if failed:
            raise NightFailed("\n".join(self.reason(run) for run in failed))

    def reason(self, run: Followed) -> str:
        """Return which task of a failed run failed, why, and where its log is."""
        tasks = self.api.get(run.path + "/taskInstances", limit=1000)["task_instances"]
        failed = [task for task in tasks if task["state"] == "failed"]
        if not failed:
            return f"{run.dag_id}: the run failed without a failed task; see {run.page(airflow_url(self.home.ports()))}"
        return "\n".join(self.reason_of_task(run, task) for task in failed)

    def reason_of_task(self, run: Followed, task: dict[str, Any]) -> str:
        """Return one failed task's sentence and the place of its log."""
        index = f"/{task['map_index']}" if task["map_index"] >= 0 else ""
        sentence = last_error(read_log(self.api, run, task))
        name = f"{run.dag_id} / {task['task_id']}{index}"
        return f"{name} failed: {sentence}\n  log: {log_file(self.home, run, task)}"

    def figures(self, answer: Answer) -> Figures:
        """Collect the figures from the tasks' results; those of the last training when this night trained nothing."""
        tonight = {dag_id: merged(self.results(dag_id, run_id)) for dag_id, run_id in self.runs.items()}
        trained = "exact_match_base" in tonight[TRAIN]
        training = tonight[TRAIN] if trained else {**self.last_training(), "sentence": tonight[TRAIN].get("sentence")}
        return Figures(tonight[PREPARE], training, tonight[REFRESH], answer, trained=trained)

    def last_training(self) -> dict[str, Any]:
        """Return the results of the newest run that measured an adapter."""
        runs = self.api.get(f"dags/{TRAIN}/dagRuns", order_by="-run_after", limit=25, state="success")["dag_runs"]
        for run in runs:
            found = merged(self.results(TRAIN, run["dag_run_id"]))
            if "exact_match_base" in found:
                return found
        return {}

    def results(self, dag_id: str, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield what the run's tasks handed back, in the order in which they ended."""
        path = f"dags/{dag_id}/dagRuns/{segment(run_id)}/taskInstances"
        tasks = self.api.get(path, limit=1000)["task_instances"]
        done = [task for task in tasks if task["state"] == "success" and task["map_index"] < 0]
        for task in sorted(done, key=lambda task: str(task["end_date"])):
            try:
                value = self.api.get(f"{path}/{segment(task['task_id'])}/xcomEntries/return_value")["value"]
            except Refused as error:
                if error.status != 404:
                    raise
                continue
            if isinstance(value, dict):
                yield value


def drive(home: Home, started: Started) -> int:
    """Drive a night on the stack at `home`, print its table, and return the exit code."""
    night = Night(home, Api.of(home, started.ports), lambda text: print(text, flush=True))
    refuse_broken_dags(started)
    try:
        figures = night.drive()
    except NightFailed as failure:
        print(f"\nThe night stopped.\n{failure}\n")
        return 1
    print_summary(figures, seconds=time.monotonic() - night.began)
    return 0


def refuse_broken_dags(started: Started) -> None:
    """Check that the DAGs of the night load.

    Raises:
        StackError: One of them does not; says what is wrong with its config.
    """
    errors = started.health.import_errors
    dags = (PREPARE, TRAIN, REFRESH)
    broken = [name for name in errors if any(dag.startswith(file_stem(name)) for dag in dags)]
    if broken:
        raise StackError(f"the night cannot run while {', '.join(broken)} does not load; the reason is above")
    wrong = [said for dag, config in expected_dags().items() if dag in dags for said in said_of(config, errors)]
    if wrong:
        raise StackError("\n".join(["the night cannot run while a config of its own is wrong:", *wrong]))


def file_stem(name: str) -> str:
    """Return a DAG file's name without folder and ending."""
    return name.rsplit("/", 1)[-1].removesuffix(".py")


def ask(home: Home, question: str) -> Answer:
    """Ask the index `question` as `make ask` does."""
    done = subprocess.run(
        [str(PYTHON), "-m", "llmjobs.embeddings.ask", question],
        env=stack_environment(home), capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    if done.returncode != 0:
        raise NightFailed(f"the question was not answered: {(done.stderr or done.stdout).strip()[-500:]}")
    return Answer(question, done.stdout.strip())


def merged(results: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return all fields of all results; a later task's field wins."""
    together: dict[str, Any] = {}
    for result in results:
        together |= result
    return together


def read_log(api: Api, run: Followed, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the log of a task's last try as structured lines."""
    path = f"{run.path}/taskInstances/{segment(task['task_id'])}/logs/{max(task['try_number'], 1)}"
    answer = api.get(path, full_content="true", map_index=task["map_index"])
    return [line if isinstance(line, dict) else {"event": str(line)} for line in answer.get("content", [])]


def last_error(lines: list[dict[str, Any]]) -> str:
    """Return the sentence of the last exception in a log, or its last line of level error."""
    for line in reversed(lines):
        details = line.get("error_detail") or []
        if details:
            return str(details[-1].get("exc_value") or details[-1].get("exc_type"))
    errors = [str(line["event"]) for line in lines if str(line.get("level", "")).lower() in {"error", "critical"}]
    return errors[-1] if errors else "its log holds no error"


def log_file(home: Home, run: Followed, task: dict[str, Any]) -> str:
    """Return the path of a task's log."""
    folder = home.logs / "tasks" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}" / f"task_id={task['task_id']}"
    index = f"map_index={task['map_index']}" if task["map_index"] >= 0 else ""
    return str(folder / index / f"attempt={max(task['try_number'], 1)}.log")
