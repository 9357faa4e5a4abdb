"""The host name that Airflow's components of the embedded stack give for themselves."""

from __future__ import annotations


def loopback() -> str:
    """Return the loopback address: all components are here, and a machine's name need not resolve."""
    return "127.0.0.1"
