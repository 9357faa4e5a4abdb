"""Checks that the ports are free, and says who has them."""

from __future__ import annotations

import socket
from dataclasses import asdict
from itertools import islice
from random import SystemRandom

import psutil

from embedded.environment import LOOPBACK
from embedded.errors import StackError
from embedded.home import PORT_VARIABLES, Ports


def check_free(ports: Ports) -> None:
    """Check that nobody listens on `ports` and that no two are the same.

    Raises:
        StackError: Names the port, the process that has it, and the variable to set.
    """
    numbers = asdict(ports)
    if len(set(numbers.values())) < len(numbers):
        raise StackError(f"the ports must differ: {', '.join(f'{PORT_VARIABLES[n]}={p}' for n, p in numbers.items())}")
    for name, port in numbers.items():
        if not is_free(port):
            raise StackError(f"port {port} is taken by {_owner(port)}; set {PORT_VARIABLES[name]} to a free port")


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_ports() -> Ports:
    """Return three ports that are free now, for a stack of a test.

    Below the ephemeral ports (from 32768 on Linux, 49152 on macOS): a client's socket could take one of those between
    the choice and its use.
    """
    shuffled = SystemRandom().sample(range(20_000, 32_000), 12_000)
    return Ports(*islice(filter(is_free, shuffled), 3))


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,)
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return "a process of another user"
