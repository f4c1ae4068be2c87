"""The table by which fastconv chooses a backend, from what `make gpu` measured.

python -m bench.gpu.choices build/gpu/kernels.json ... [--write]

Prints the table, or with --write puts it where fastconv reads it. Of a GPU that is measured anew
all old rows go; those of other GPUs stay.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cases import DTYPES, Case
from bench.gpu.calls import calls_of
from bench.gpu.measure import FORMATS
from bench.gpu.rivals import NETWORKS, all_cases
from fastconv.dispatch import Call
from fastconv.dispatch.measured import PATH, VERSION

# What a measured variant is called there, and the backend it speaks for: torch's own ops, eager and
# in the layout of the input, are what the reference runs.
BACKENDS = {"cuda": "cuda", "nvrtc": "nvrtc", "triton": "triton", "torch": "reference"}
BATCHES = [128, 1, 32]


def call_of(case: Case, layout: str) -> Call:
    """The call that a case makes in a layout; nothing is computed."""
    op, arguments = calls_of(case, layout)[0]
    return Call.of(op, arguments, device="cuda")


def rows_of(result: dict[str, Any], cases: dict[str, Case]) -> Iterable[dict[str, Any]]:
    """The rows of one file of results: a case in a layout, with the time of each backend."""
    for row in result["rows"]:
        for layout in FORMATS:
            found = {
                backend: row["variants"].get(f"{name} {layout}", {})
                for name, backend in BACKENDS.items()
            }
            found["nvrtc"] = found["nvrtc"] or found["cuda"]  # left out where only constants differ
            times = {
                backend: round(1e6 * variant["seconds"], 2)
                for backend, variant in found.items()
                if "seconds" in variant
            }
            if len(times) < 2 or row["case"] not in cases:
                continue
            call = call_of(cases[row["case"]], layout)
            yield {
                "gpu": result["machine"]["device"],
                "op": call.op,
                "dtype": row["dtype"],
                "layout": call.layout,
                "arguments": call.arguments,
                "microseconds": times,
            }


def table(results: list[dict[str, Any]], old: dict[str, Any]) -> dict[str, Any]:
    """The whole table: new rows, and the old ones of other GPUs."""
    cases = {str(case): case for case in all_cases(BATCHES, NETWORKS, list(DTYPES))}
    new = [row for result in results for row in rows_of(result, cases)]
    return {"version": VERSION, "rows": renewed(old["rows"], new)}


def renewed(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, and the old ones of GPUs that have no new ones."""
    measured = {row["gpu"] for row in new}
    return [row for row in old if row["gpu"] not in measured] + new


def as_json(table: dict[str, Any]) -> str:
    """A line a row, so that a diff shows which calls changed."""
    rows = ",\n".join(f"    {json.dumps(row)}" for row in table["rows"])
    body = f"[\n{rows}\n  ]" if rows else "[]"
    return f'{{\n  "version": {table["version"]},\n  "rows": {body}\n}}\n'


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.choices", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="kernels.json of `make gpu`")
    parser.add_argument("--write", action="store_true", help=f"to {PATH.name} of fastconv.dispatch")
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in options.results]
    if any("device" not in result["machine"] for result in results):
        print("these results are of a rehearsal: they measured nothing", file=sys.stderr)
        return 1
    text = as_json(table(results, json.loads(PATH.read_text())))
    if options.write:
        PATH.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
