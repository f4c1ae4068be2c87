"""Result files: known to be writable before hours of measuring, and never left half written."""

import os
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


def write_whole(path: Path, text: str) -> None:
    """Replaces the file in one step, so that a run cut short leaves the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
