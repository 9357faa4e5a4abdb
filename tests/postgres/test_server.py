"""The server of these tests runs as the stack's does: beside private folders, not through them."""

from __future__ import annotations

from pathlib import Path

import psycopg

from embedded.home import PYTHON
from tests.fixtures.postgres import new_server


def test_no_parent_of_the_home_or_of_the_binaries_changes_its_mode(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    home = private / "home"
    parents = {path: path.stat().st_mode for path in (*home.parents, *PYTHON.parents)}
    with new_server(home) as url, psycopg.connect(url) as connection:
        assert connection.execute("show fsync").fetchone() == ("off",)
    assert {path: path.stat().st_mode for path in parents} == parents
