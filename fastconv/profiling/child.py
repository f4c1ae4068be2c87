"""A command in a process of its own, its words kept."""

import subprocess
from collections.abc import Sequence

from fastconv.peers.process import environment_of


def run_child(
    command: Sequence[str], threads: int, timeout: float
) -> "subprocess.CompletedProcess[str]":
    """What became of it. Raises what subprocess.run raises where it does not start or end."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env=environment_of(threads),
        stdin=subprocess.DEVNULL,
    )
