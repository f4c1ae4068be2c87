"""The settings that a call takes: those tuned for its GPU and sizes, else the kernel's default.

Tuned settings ship with fastconv for the GPUs they were measured on (tuned.json, which
bench/gpu/settings.py writes and nobody edits), and a search on this machine keeps its own, which
come first: they are of this very GPU, of these sources and of this Triton. A file that is of
another, or broken, is left alone with one warning.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastconv import kept
from fastconv.triton_kernels._settings import SPACES, Bucket, S, Space

SHIPPED = Path(__file__).with_name("tuned.json")
VERSION = 1


class Row(NamedTuple):
    """The settings of a bucket, with the median time of a call with them and with the default."""

    settings: Any
    microseconds: float
    default_microseconds: float


@dataclass
class Trial:
    """What a search has the launchers take, and the buckets that they asked for."""

    settings: dict[Bucket, Any] = field(default_factory=dict)
    asked: list[Bucket] = field(default_factory=list)


_trial: ContextVar[Trial | None] = ContextVar("fastconv_trial", default=None)


@contextmanager
def trial(settings: Mapping[Bucket, Any] | None = None) -> Iterator[Trial]:
    """Has the launches of this thread within the block take settings where they are of a bucket."""
    now = Trial(dict(settings or {}))
    token = _trial.set(now)
    try:
        yield now
    finally:
        _trial.reset(token)


def is_trial() -> bool:
    """Whether this thread is within a trial."""
    return _trial.get() is not None


def settings_for(space: Space[S], input: Tensor, sizes: Sequence[int], **kind: Any) -> S:
    """The settings of a launch on input's device, plain integers whatever is traced.

    Args:
        sizes: what the best settings may depend on, of the call.
        kind: likewise, but what must be the same for two calls to share settings; the dtype of
            input is of the kind without a word.
    """
    now, rows = _trial.get(), rows_on(input.device)
    if now is None and not rows:
        return space.default
    bucket = Bucket.of(space.name, sizes, {"dtype": input.dtype, **kind})
    if now is not None:
        now.asked.append(bucket)
        if bucket in now.settings:
            return now.settings[bucket]
    return rows[bucket].settings if bucket in rows else space.default


@cache
def rows_on(device: torch.device) -> dict[Bucket, Row]:
    """All rows of a device; a search adds to them."""
    gpu = name_of(device)
    return {} if gpu is None else _rows_of(gpu)


@cache
def _rows_of(gpu: str) -> dict[Bucket, Row]:
    return {**_shipped(gpu), **_kept(gpu)}


def name_of(device: torch.device) -> str | None:
    """What tuned settings are kept under; None for a device that has none."""
    if device.type == "cpu" and triton.knobs.runtime.interpret:
        return "the interpreter"
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(device)


def written(bucket: Bucket, row: Row) -> dict[str, Any]:
    """A row for JSON."""
    return {**bucket._asdict(), **row._asdict(), "settings": asdict(row.settings)}


def read(row: Mapping[str, Any]) -> tuple[Bucket, Row]:
    """The inverse of written. Raises ValueError or KeyError for what is none."""
    if row["space"] not in SPACES:
        raise ValueError(f"no kernel has settings named {row['space']!r}")
    settings = SPACES[row["space"]].read(row["settings"])
    times = (float(row[name]) for name in Row._fields[1:])
    return Bucket(row["space"], row["kind"], tuple(row["sizes"])), Row(settings, *times)


def _shipped(gpu: str) -> dict[Bucket, Row]:
    rows = json.loads(SHIPPED.read_text())["rows"]
    return dict(read(row) for row in rows if row["gpu"] == gpu)


def path_of(gpu: str) -> Path:
    return kept.folder("tuned") / f"{gpu.replace(' ', '-').replace('/', '-')}.json"


@cache
def _sources() -> str:
    """A digest of the kernels and their launchers."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def head_of(gpu: str) -> dict[str, Any]:
    """What a file is to be of, in the order in which it is compared."""
    return {
        "version": VERSION,
        "gpu": gpu,
        "Triton": triton.__version__,
        "kernel sources": _sources(),
    }


def rows_in(path: Path, head: Mapping[str, Any]) -> dict[Bucket, Row]:
    """The rows of a file, none where there is none. Raises ValueError where it is not of head."""
    if (body := kept.read(path)) is None:
        return {}
    try:
        data = json.loads(body)
        for what, wanted in head.items():
            if data[what] != wanted:
                raise ValueError(f"{path} is of another {what}")
        return dict(map(read, data["rows"]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no file of tuned settings: {error!r}") from error


def _kept(gpu: str) -> dict[Bucket, Row]:
    try:
        return rows_in(path_of(gpu), head_of(gpu))
    except ValueError as error:
        kept.warn_once(f"tuned settings are not used, `fastconv tune` makes new ones: {error}")
        return {}


def keep(device: torch.device, rows: Mapping[Bucket, Row]) -> None:
    """For calls from now on, and on disk beside what other processes put there meanwhile.

    Raises OSError where the disk takes none.
    """
    gpu = name_of(device)
    assert gpu is not None, device
    rows_on(device).update(rows)
    path = path_of(gpu)
    with kept.alone(path):
        try:
            old = rows_in(path, head_of(gpu))
        except ValueError:
            old = {}  # warned of when it was first read
        lines = [written(*item) for item in {**old, **rows}.items()]
        kept.write(path, json.dumps({**head_of(gpu), "rows": lines}, indent=1).encode())
