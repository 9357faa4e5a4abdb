"""Drives one night through Airflow's REST API."""

from __future__ import annotations

from embedded.home import Home
from embedded.stack import Started


def drive(home: Home, started: Started) -> int:
    """Run the night."""
    raise NotImplementedError
