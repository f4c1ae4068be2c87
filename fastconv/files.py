"""Files: known to be writable before hours of measuring, and never left half written."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def require_writable(path: Path) -> None:
    """Makes the folders of a file that will be written. Raises ValueError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with open(path, "a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside path to write to, which becomes path in one step when all went well.

    So nobody reads half of it, and what fails or is cut short leaves what was there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replaces the file in one step."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")
