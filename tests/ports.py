"""Ports for what a test starts."""

from __future__ import annotations

import contextlib
import random
import socket

LISTENING = range(20_000, 32_000)
"""Below the ports that the kernel gives to connections (from 32,768 on) and above those that Ray gives to its workers
(to 19,999): a port that is free here is still free when a process has been started to listen at it."""
_choice = random.SystemRandom()  # processes that run tests side by side choose differently, whatever seeds a test sets


def free_ports(count: int) -> list[int]:
    """Different ports of this machine at which nothing listens."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in _choice.sample(LISTENING, len(LISTENING)):
            if len(ports) == count:
                break
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
    assert len(ports) == count, f"no {count} free ports from {LISTENING.start} to {LISTENING.stop - 1}"
    return ports


def free_port() -> int:
    return free_ports(1)[0]
