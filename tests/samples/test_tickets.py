"""The sample dataset is what its script writes, and its tickets follow from their messages."""

import json
import runpy
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "docker" / "local" / "samples"


def test_shipped_files_are_what_the_script_writes() -> None:
    script = runpy.run_path(str(SAMPLES / "make_tickets.py"))
    written = script["files"]()
    shipped = {path.name: path.read_bytes() for path in (SAMPLES / "raw" / "tickets").iterdir()}
    assert shipped == written


def test_fields_follow_from_the_message() -> None:
    script = runpy.run_path(str(SAMPLES / "make_tickets.py"))
    rows = [json.loads(line) for line in (SAMPLES / "raw" / "tickets" / "chat.jsonl").read_text().splitlines()]
    checked = 0
    for row in rows:
        answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        message = next(m["content"] for m in row["messages"] if m["role"] == "user" and m["content"])
        ticket = json.loads(answers[0])
        team, phrases = script["ISSUES"][ticket["issue"]]
        assert ticket["team"] == team
        assert any(phrase in message for phrase in phrases)
        assert str(ticket["run"]) in message
        assert any(tone in message for tone in script["URGENT" if ticket["urgent"] else "CALM"])
        checked += 1
    assert checked == script["CHAT_ROWS"]
