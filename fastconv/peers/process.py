"""Drives one rival's process from outside: a request, an answer, and no wait without end."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from . import Peer

# Settings that pin threads to cores. Each rival has its own pool; a pin meant for one of them puts
# all of another's threads onto one core.
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def environment_of(threads: int) -> dict[str, str]:
    """For a process that finds the modules that this one finds, with so many threads."""
    environment = {key: value for key, value in os.environ.items() if key not in PINNING}
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment


class PeerError(RuntimeError):
    """The rival's process died or stayed silent; the message ends with its last words."""


class PeerProcess:
    def __init__(
        self, peer: Peer, threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastconv.peers.worker", peer.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment_of(threads) | dict(environment or {}),
            process_group=0,  # Ctrl-C is for the parent, which then ends this process
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to one request; PeerError when the process dies or takes over `timeout` s."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=timeout)
        except OSError:  # the pipe is broken: the process died before the request
            answer = ""
        except queue.Empty:
            self._process.kill()
            raise PeerError(f"gave no answer for {timeout:.0f} s and was stopped") from None
        if not answer:
            self._process.wait()
            raise PeerError(
                f"ended with exit status {self._process.returncode}: {self._last_words()}"
            )
        return json.loads(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            with suppress(OSError):  # a request that never got through
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
