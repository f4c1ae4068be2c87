"""The settings that ship with fastconv's Triton kernels, from what `fastconv tune` found.

python -m bench.gpu.settings FILE ... [--write]

FILE is as `fastconv tune` says where it keeps them. Prints the table, or with --write puts it where
fastconv reads it. Of a GPU that was tuned anew all old rows go; those of other GPUs stay. Another
Triton will do, for the GPU may be in another machine; other kernels will not.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.gpu.choices import as_json, renewed
from fastconv import kept
from fastconv.triton_kernels import _tuned


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of one file. Raises ValueError where it is broken, or of other kernels."""
    body = kept.read(path)
    if body is None:
        raise ValueError(f"there is no {path}")
    data = json.loads(body)
    head = _tuned.head_of(data["gpu"]) | {"Triton": data["Triton"]}
    rows = _tuned.rows_in(path, head)
    return [{"gpu": data["gpu"], **_tuned.written(*item)} for item in rows.items()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.settings", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--write", action="store_true", help=f"to {_tuned.SHIPPED.name}")
    options = parser.parse_args()
    try:
        new = [row for path in options.files for row in rows_of(path)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    old = json.loads(_tuned.SHIPPED.read_text())["rows"]
    text = as_json({"version": _tuned.VERSION, "rows": renewed(old, new)})
    if options.write:
        _tuned.SHIPPED.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
