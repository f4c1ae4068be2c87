"""python -m bench.gpu --out FOLDER [--dry] [--only TEXT] [--minutes M] [--resume]"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

import fastconv
from bench.cases import Case
from bench.gpu.measure import measure, told
from bench.gpu.rivals import NETWORKS, all_cases
from bench.gpu.session import LOST
from bench.gpu.timing import ROUNDS
from fastconv import gpu, kept
from fastconv.gpu_probe import copy_rate, product_rate


def machine(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "fastconv": fastconv.__version__,
        "ways": [way for way in gpu.WAYS if gpu.missing(way) is None],
    }
    with contextlib.suppress(ImportError):
        import triton

        found["triton"] = triton.__version__
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "architecture": f"sm_{properties.major}{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def small(case: Case) -> bool:
    """What the CPU can rehearse in a second."""
    return case.bytes < 1 << 19


def pairs(
    batches: list[int], networks: list[str], dtypes: list[str]
) -> Iterator[tuple[Case, Case]]:
    """Each case, and the same with one image more."""
    more = [batch + 1 for batch in batches]
    return zip(
        *(all_cases(sizes, networks, dtypes) for sizes in (batches, more)),
        strict=True,
    )


def in_turns(cases: list[tuple[Case, Case]]) -> list[tuple[Case, Case]]:
    """One of each op, direction and dtype, then a second of each: a cut leaves some of all."""
    groups: dict[tuple[str, ...], list[tuple[Case, Case]]] = {}
    for pair in cases:
        groups.setdefault((pair[0].op, pair[0].direction, pair[0].dtype_name), []).append(pair)
    rounds = itertools.zip_longest(*groups.values())
    return [pair for each in rounds for pair in each if pair is not None]


def is_lost() -> bool:
    """Whether a kernel's fault has left the process without its GPU for good."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


@contextlib.contextmanager
def empty_caches() -> Iterator[None]:
    """A first call finds nothing on disk that was compiled before, only what was tuned."""
    tuned = kept.folder("tuned")
    with tempfile.TemporaryDirectory() as name:
        for variable in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FASTCONV_CACHE"):
            os.environ[variable] = str(Path(name) / variable)
        if tuned.exists():
            shutil.copytree(tuned, kept.folder("tuned"))
        yield


def line(row: dict[str, Any]) -> str:
    variants = row["variants"]
    if row["ours"] is None:
        return f"{row['case']:<70} {row.get('failed', 'nothing of ours ran')}"
    text = f"{row['case']:<70} {variants[row['ours']]['seconds'] * 1e6:9.1f} us {row['ours']:<14}"
    text += f" {row['share_of_copy']:5.2f} of copy"
    for name in ("first_call", "new_shape"):
        if seconds := variants[row["ours"]].get(f"{name}_seconds"):
            text += f", {name.replace('_', ' ')} {seconds * 1e3:.1f} ms"
    return text + (f"  {row['ratio']:5.2f}x {row['rival']}" if "ratio" in row else "")


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The geometric mean and the least ratio of each op, direction and dtype."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if "ratio" in row:
            key = (row["op"], row["direction"], row["dtype"])
            groups.setdefault(key, []).append(row["ratio"])
    return [
        f"{' '.join(key):<48} {geometric_mean(ratios):5.2f}x the best rival, least "
        f"{min(ratios):.2f}, {len(ratios)} shapes"
        for key, ratios in groups.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="where results go")
    parser.add_argument(
        "--dry", action="store_true", help="rehearse on the CPU; times mean nothing"
    )
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--minutes", type=float, default=5.0, help="no case begins after these")
    parser.add_argument("--resume", action="store_true", help="go on after the cases in FOLDER")
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        print("torch sees no GPU; --dry rehearses without one", file=sys.stderr)
        return 1
    device = torch.device("cpu" if options.dry else "cuda")
    torch.backends.cudnn.benchmark = True
    batches, dtypes = ([1], ["float32"]) if options.dry else ([128, 1, 32], ["bfloat16", "float16"])
    cases = [pair for pair in pairs(batches, NETWORKS, dtypes) if options.only in str(pair[0])]
    if options.dry:
        cases = [pair for pair in cases if small(pair[0])][::6]
    elif not options.only:
        cases.extend(pairs([128], NETWORKS[:1], ["float32"]))
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "kernels.json"
    result: dict[str, Any] = json.loads(file.read_text()) if options.resume else {}
    if not result:
        result = {
            "machine": machine(device),
            "copy_bytes_a_second": copy_rate(device, (16 if options.dry else 2048) << 20),
            "matrix_flops_a_second": product_rate(device, 128 if options.dry else 8192),
            "rows": [],
        }
    rows: list[dict[str, Any]] = result["rows"]
    had = {row["case"] for row in rows}
    cases = [pair for pair in in_turns(cases) if str(pair[0]) not in had]
    began = time.monotonic()
    for i, (case, larger) in enumerate(cases):
        if time.monotonic() - began > 60 * options.minutes:
            result["left_out"] = len(cases) - i
            print(f"{result['left_out']} cases left out after {options.minutes} minutes")
            break
        rounds = 2 if options.dry else ROUNDS
        try:
            row = measure(case, larger, device, result["copy_bytes_a_second"], rounds)
        except Exception as reason:  # no memory for its oracle, say
            row = {"case": str(case), "ours": None, "variants": {}, "failed": told(reason)}
        rows.append(row)
        print(line(row), flush=True)
        file.write_text(json.dumps(result, indent=1) + "\n")  # what is there survives a cut
        if device.type == "cuda" and is_lost():
            print("a kernel broke this process's hold of the GPU; another goes on")
            return LOST
    print("\n".join(summary(rows)))
    failed = [row["case"] for row in rows if row["ours"] is None]
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    with empty_caches():
        code = main()
    sys.exit(code)
