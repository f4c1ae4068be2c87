"""What processes keep for each other on disk: whole files, checked when they are read.

A file is the SHA-256 of the rest in hexadecimal digits, a line end, and the rest. It is written
beside its place and then moved there, so that nobody reads half of it.
"""

import fcntl
import functools
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastconv.files import whole

_log = logging.getLogger("fastconv")


def folder(kind: str) -> Path:
    """Where files of a kind are: in FASTCONV_CACHE, else XDG_CACHE_HOME or ~/.cache, fastconv."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FASTCONV_CACHE") or Path(base) / "fastconv") / kind


def read(path: Path) -> bytes | None:
    """What was written there, None where nothing was. Raises ValueError where it is broken."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"{path} is broken")
    return body


def write(path: Path, body: bytes) -> None:
    """Whole or not at all. Raises OSError, as on a full or read-only disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as beside:
        beside.touch(0o600)
        beside.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Has others who ask for the same path wait: for a change of what is there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file lets the next one in


@functools.cache
def warn_once(message: str) -> None:
    _log.warning(message)
