"""Write the sample dataset: messages about a batch system and the JSON ticket that each should become.

    python docker/local/samples/make_tickets.py

The output is the same on every machine. Every field of a ticket follows from its message: the phrase decides
issue and team, the tone decides `urgent`, and `run` is copied. Like the real files that teams collect, it holds
a sprinkle of defects, so that the first night has something to refuse; `DEFECTS` says how many of each.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FOLDER = Path(__file__).parent / "raw" / "tickets"
INSTRUCTION = "Turn the message into a ticket: JSON with team, issue, urgent and run."
ALPACA_ROWS, LINES_ROWS, CHAT_ROWS = 330, 330, 100

# issue -> (team, phrases)
ISSUES: dict[str, tuple[str, list[str]]] = {
    "over_budget": (
        "data",
        [
            "more rows went to quarantine than the budget allows",
            "the gate refused the dataset because too many rows were bad",
            "the share of quarantined rows jumped over the limit",
            "half of the new export ended up in quarantine",
        ],
    ),
    "broken_file": (
        "data",
        [
            "one of the raw files is cut off in the middle",
            "the export from the help desk is not valid JSON",
            "a source file cannot be read past line 300",
            "the uploaded file has broken encoding",
        ],
    ),
    "duplicates": (
        "data",
        [
            "the same conversations appear twice in the dataset",
            "we found a lot of duplicate rows in the new version",
            "the export repeats every row of last week",
            "identical instructions show up again and again",
        ],
    ),
    "out_of_memory": (
        "training",
        [
            "the training job ran out of memory",
            "the pod was killed with OOMKilled at the first long batch",
            "the GPU memory was not enough for the batch size",
            "training stops with a CUDA out of memory error",
        ],
    ),
    "preempted": (
        "training",
        [
            "the spot machine was taken away during training",
            "the node was preempted and the job did not resume",
            "training was evicted halfway through the epoch",
            "we lost the spot instance again and the run stopped",
        ],
    ),
    "diverged": (
        "training",
        [
            "the loss went to NaN",
            "the loss shoots up after the warm-up and never comes back",
            "the training loss diverged",
            "gradients explode and the loss is infinite",
        ],
    ),
    "stale_index": (
        "search",
        [
            "the search still shows last week's documents",
            "the embeddings were not refreshed last night",
            "deleted pages still turn up in the answers",
            "the index does not know the new handbook yet",
        ],
    ),
    "wrong_answer": (
        "search",
        [
            "the assistant quotes the wrong document",
            "answers cite a page that says the opposite",
            "the bot invents a source that does not exist",
            "the retrieved passage has nothing to do with the question",
        ],
    ),
    "slow_query": (
        "search",
        [
            "a simple question takes ten seconds to answer",
            "the vector search has become very slow",
            "queries time out since this morning",
            "the latency of the search went up by a lot",
        ],
    ),
    "disk_full": (
        "platform",
        [
            "the disk of the lake is full",
            "there is no space left on the device",
            "checkpoints have filled the whole volume",
            "the database volume is at one hundred percent",
        ],
    ),
    "login_failed": (
        "platform",
        [
            "nobody can log in to the Airflow page",
            "the web interface rejects my password",
            "my token is refused by the API",
            "the login page returns an error for everyone",
        ],
    ),
    "pod_pending": (
        "platform",
        [
            "the pod has been pending for an hour",
            "no node with a free GPU was found and the pod waits",
            "the job is queued forever because the quota is used up",
            "the cluster does not schedule our pod",
        ],
    ),
}

OPENERS = [
    "Hi team,",
    "Hello,",
    "Good morning,",
    "Hey,",
    "Dear support,",
    "Hi all,",
    "FYI:",
    "Hello Nightshift team,",
    "Hi there,",
    "Morning,",
]
RUN_PHRASES = ["in run {run}", "since run {run}", "(run {run})", "and it is run {run}", "while looking at run {run}"]
URGENT = [
    "Please fix this right away, production is down.",
    "This is urgent, customers are waiting.",
    "We need this today before the release.",
    "It blocks everybody, please hurry.",
    "ASAP please!",
    "Drop everything else, this is an emergency.",
]
CALM = [
    "No hurry, next week is fine.",
    "Whenever you find the time.",
    "It is not blocking us, just so you know.",
    "Low priority from our side.",
    "Can wait until the next sprint.",
    "Nothing urgent, thank you.",
]
SIGN_OFFS = ["", " Thanks, {name}", " Best, {name}", " {name}", " Regards, {name}"]
NAMES = [
    "Ana",
    "Bo",
    "Chen",
    "Dara",
    "Emre",
    "Fatou",
    "Goran",
    "Hana",
    "Ines",
    "Jun",
    "Kofi",
    "Lena",
    "Mika",
    "Nia",
    "Oskar",
    "Priya",
    "Rosa",
    "Sami",
    "Tomas",
    "Uma",
    "Vera",
    "Wanda",
    "Yusuf",
    "Zoe",
]

NO_INPUT = ["<noinput>", "No input", "no input.", "N/A", "(no input)", "None"]
REFUSALS = [
    "As an AI language model, I cannot create tickets.",
    "I'm sorry, but I can't help with that request.",
    "As an AI assistant I do not have access to your ticket system.",
]

MERGED = "\n\n18. Instruction: Summarise the ticket.\n18. Output: A short summary."

DEFECTS = {
    "empty_output": 6,
    "no_input_spelling": 6,
    "duplicate": 14,
    "url_input": 5,
    "refusal": 6,
    "merged": 2,
    "template": 4,
    "control": 4,
    "truncated": 6,
    "wrong_team": 3,
    "missing_key": 3,
    "image": 2,
}


def main() -> None:
    """Write the three files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)


def files() -> dict[str, bytes]:
    """Return file name -> content: an Alpaca array, Alpaca lines, and chat lines."""
    rng = random.Random(20261123)  # noqa: S311 - sample text, no secret
    rows = [_row(rng) for _ in range(ALPACA_ROWS + LINES_ROWS + CHAT_ROWS)]
    alpaca, lines = rows[:ALPACA_ROWS], rows[ALPACA_ROWS : ALPACA_ROWS + LINES_ROWS]
    chat = [_as_chat(row) for row in rows[-CHAT_ROWS:]]
    for defect, count in DEFECTS.items():
        for index in range(count):
            target = alpaca if index % 2 else lines
            target.insert(rng.randrange(len(target)), _broken(rng, defect, index, target))
    chat[17]["messages"].reverse()
    chat[58]["messages"].insert(1, {"role": "user", "content": ""})
    return {
        "2026-10.json": (json.dumps(alpaca, indent=1, ensure_ascii=False) + "\n").encode(),
        "2026-11.jsonl": _broken_lines(lines),
        "chat.jsonl": _lines(chat),
    }


def _row(rng: random.Random) -> Row:
    issue = rng.choice(sorted(ISSUES))
    team, phrases = ISSUES[issue]
    run, urgent = rng.randrange(1000, 10000), rng.random() < 0.5
    sentence = f"{rng.choice(phrases)} {rng.choice(RUN_PHRASES).format(run=run)}."
    parts = [rng.choice(OPENERS), sentence, rng.choice(URGENT if urgent else CALM)]
    message = " ".join(parts) + rng.choice(SIGN_OFFS).format(name=rng.choice(NAMES))
    return {"instruction": INSTRUCTION, "input": message, "output": _ticket(team, issue, urgent, run)}


def _ticket(team: str, issue: str, urgent: bool, run: int) -> str:
    return json.dumps({"team": team, "issue": issue, "urgent": urgent, "run": run}, separators=(",", ":"))


def _as_chat(row: Row) -> Row:
    user = {"role": "user", "content": f"{row['instruction']}\n\n{row['input']}"}
    return {"messages": [user, {"role": "assistant", "content": row["output"]}]}


def _broken(rng: random.Random, defect: str, index: int, rows: list[Row]) -> Row:
    """Return one row with the defect; a duplicate repeats a row of `rows`."""
    row = _row(rng)
    ticket = json.loads(row["output"])
    if defect == "duplicate":
        return dict(rng.choice([r for r in rows if r["output"].endswith("}") and r["instruction"] == INSTRUCTION]))
    if defect == "no_input_spelling":
        return {
            **row,
            "instruction": f"{INSTRUCTION} Message: {row['input']}",
            "input": NO_INPUT[index % len(NO_INPUT)],
        }
    changed: dict[str, Row] = {
        "empty_output": {"output": "" if index % 2 else "   "},
        "url_input": {"input": f"https://tickets.example.com/browse/{ticket['run']}"},
        "refusal": {"output": REFUSALS[index % len(REFUSALS)]},
        "merged": {
            "output": f"{row['output']}\n\n18. Instruction: Summarise the ticket.\n18. Output: A short summary."
        },
        "template": {"input": row["input"].replace(str(ticket["run"]), "{{ run_number }}")},
        "control": {"input": row["input"].replace(" ", "\u200b ", 1) + "\x08"},
        "truncated": {"output": row["output"][: len(row["output"]) // 2]},
        "wrong_team": {"output": row["output"].replace(ticket["team"], "sales")},
        "missing_key": {
            "output": json.dumps({k: v for k, v in ticket.items() if k != "urgent"}, separators=(",", ":"))
        },
        "image": {"input": "Draw me a picture of the failed run.", "output": "<image>"},
    }
    return {**row, **changed[defect]}


def _lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _broken_lines(rows: list[Row]) -> bytes:
    """Return JSON lines with three that no reader can parse: cut off, not UTF-8, and no object."""
    lines = _lines(rows).splitlines(keepends=True)
    lines.insert(41, lines[40][:70] + b"\n")
    lines.insert(120, lines[119].replace(b"message", b"mess\xff\xfeage", 1))
    lines.insert(200, b'"just a string"\n')
    return b"".join(lines)


if __name__ == "__main__":
    main()
