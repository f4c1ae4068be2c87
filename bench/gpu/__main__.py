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
from bench.gpu.calls import compiled_anew
from bench.gpu.measure import FORMATS, measure, ours_of, told
from bench.gpu.rivals import NETWORKS, Rival, all_cases, compiled_of, rivals_of
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


# Of the minutes, kept for torch.compile's searches: ten to twenty seconds a case.
COMPILED_SHARE = 0.35


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


def kind_of(case: Case) -> tuple[str, str, str]:
    return case.op, case.direction, case.dtype_name


def kernel_of(case: Case) -> tuple[Any, ...]:
    return *kind_of(case), case.layer.kernel, case.layer.stride


def in_turns(cases: list[tuple[Case, Case]]) -> list[tuple[Case, Case]]:
    """One of each kind, then a second of each with another kernel or stride: a cut leaves some of
    all.
    """
    for key in (kernel_of, kind_of):
        groups: dict[tuple[Any, ...], list[tuple[Case, Case]]] = {}
        for pair in cases:
            groups.setdefault(key(pair[0]), []).append(pair)
        rounds = itertools.zip_longest(*groups.values())
        cases = [pair for each in rounds for pair in each if pair is not None]
    return cases


def variants_of(case: Case, first: bool, device: torch.device) -> dict[str, Rival]:
    """Ours, and the rivals that start at once. What NVRTC compiles as nvcc did, but for known
    channels, is timed in the first case of a kernel and stride only, for what these are worth.
    """
    ours = ours_of(case)
    if not first and all(f"{way} {layout}" in ours for way in gpu.WAYS for layout in FORMATS):
        major, minor = torch.cuda.get_device_capability(device)
        for layout in FORMATS:
            if not compiled_anew(case, layout, 10 * major + minor):
                del ours[f"nvrtc {layout}"]  # choices.py lets cuda's time speak for it
    return ours | rivals_of(case)


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


class Run:
    """The rows of a run, in a file that has each as soon as it is there."""

    def __init__(self, file: Path, device: torch.device, minutes: float, resumes: bool) -> None:
        self.file, self.device, self.seconds = file, device, 60 * minutes
        self.rounds = ROUNDS if device.type == "cuda" else 2
        self.began = time.monotonic()
        self.result: dict[str, Any] = json.loads(file.read_text()) if resumes else {}
        if not self.result:
            big = device.type == "cuda"
            self.result = {
                "machine": machine(device),
                "copy_bytes_a_second": copy_rate(device, (2048 if big else 16) << 20),
                "matrix_flops_a_second": product_rate(device, 8192 if big else 128),
                "rows": [],
            }
        self.rows: list[dict[str, Any]] = self.result["rows"]

    def has(self, share: float) -> bool:
        """Whether less than this share of the time is gone."""
        return time.monotonic() - self.began < share * self.seconds

    def keep(self, row: dict[str, Any]) -> None:
        print(line(row), flush=True)
        self.file.write_text(json.dumps(self.result, indent=1) + "\n")
        if self.device.type == "cuda" and is_lost():
            print("a kernel broke this process's hold of the GPU; another goes on")
            raise SystemExit(LOST)

    def time(self, cases: list[tuple[Case, Case]]) -> None:
        """Each case with all but torch.compile."""
        had = {row["case"] for row in self.rows}
        seen = {of(case) for case, _ in cases if str(case) in had for of in (kind_of, kernel_of)}
        cases = [pair for pair in cases if str(pair[0]) not in had]
        rate = self.result["copy_bytes_a_second"]
        for i, (case, larger) in enumerate(cases):
            self.result["left_out"] = len(cases) - i
            if not self.has(1 - COMPILED_SHARE):
                print(f"{len(cases) - i} cases are left for another run, with --resume")
                return
            wider = larger if kind_of(case) not in seen else None
            try:
                variants = variants_of(case, kernel_of(case) not in seen, self.device)
                seen |= {kind_of(case), kernel_of(case)}
                row = measure(case, wider, variants, self.device, rate, self.rounds)
            except Exception as reason:  # no memory for its oracle, say
                row = {"case": str(case), "ours": None, "variants": {}, "failed": told(reason)}
            self.rows.append(row)
            self.keep(row)
        self.result["left_out"] = 0

    def time_compiled(self, cases: list[tuple[Case, Case]]) -> None:
        """torch.compile in the rows that have none yet, as far as the time goes."""
        by_name = {str(case): case for case, _ in cases}
        for row in self.rows:
            case = by_name.get(row["case"])
            had = any(name.startswith("compile") for name in row["variants"])
            if not case or not row["ours"] or had or not compiled_of(case):
                continue
            if not self.has(1):
                return
            try:
                self.add_compiled(row, case)
            except Exception as reason:
                row["variants"]["compile"] = {"failed": told(reason)}
            self.keep(row)

    def add_compiled(self, row: dict[str, Any], case: Case) -> None:
        """In turn with the best of ours and of the rivals that the row has."""
        variants = variants_of(case, True, self.device)
        chosen = {name: variants[name] for name in (row["ours"], row["rival"]) if name}
        rate = self.result["copy_bytes_a_second"]
        every = chosen | compiled_of(case)
        again = measure(case, None, every, self.device, rate, self.rounds)
        for name, variant in again.pop("variants").items():
            if name in chosen:  # it was compiled before
                variant.pop("first_call_seconds", None)
            row["variants"].setdefault(name, {}).update(variant)
        row |= again


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
    run = Run(options.out / "kernels.json", device, options.minutes, options.resume)
    run.time(in_turns(cases))
    run.time_compiled(cases)
    print("\n".join(summary(run.rows)))
    failed = [row["case"] for row in run.rows if row["ours"] is None]
    return 1 if failed or not run.rows else 0


if __name__ == "__main__":
    with empty_caches():
        code = main()
    sys.exit(code)
