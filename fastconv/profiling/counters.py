"""The GPU's own counters for each layer, by NVIDIA's Nsight Compute and its Python reader.

`ncu` runs fastconv.profiling.counted and writes a report; `ncu_report`, which NVIDIA ships with it
and on PyPI, reads that. The NVTX range of a kernel says to which stretch of work it belongs.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from fastconv.peers import install_command
from fastconv.profiling.child import run_child
from fastconv.profiling.counted import SIDES

# Ours, and NVIDIA's name. Only these are asked for: a set of sections replays a kernel more often.
METRICS = {
    "ms": "gpu__time_duration.sum",
    "dram_bytes": "dram__bytes.sum",
    "dram_percent": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "sm_percent": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}
MILLISECONDS = {"ns": 1e-6, "nsecond": 1e-6, "us": 1e-3, "usecond": 1e-3}  # by the metric's unit
NO_PERMISSION = "ERR_NVGPUCTRPERM"
TIMEOUT = 600.0

Counters = dict[str, float]
Stretches = dict[str, list[tuple[str, list[Counters]]]]  # of each side: owner, and its kernels


class CountersError(RuntimeError):
    """The counters cannot be had; the message says why, and what mends it."""


def find_ncu() -> Path:
    """NVIDIA's profiler, once its reader is known to be there too."""
    found = shutil.which("ncu")
    if found is None:
        raise CountersError(
            "there is no ncu on PATH: it comes with Nsight Compute, which CUDA's toolkit holds"
        )
    reader(Path(found))
    return Path(found)


def reader(ncu: Path) -> ModuleType:
    """The module ncu_report, installed by pip or as it lies beside ncu."""
    beside = ncu.resolve().parent / "extras" / "python"
    toolkit = ncu.resolve().parents[1]  # CUDA's has a script for ncu, and a folder for each version
    folders = [beside, *sorted(toolkit.glob("nsight-compute*/extras/python"), reverse=True)]
    before = list(sys.path)
    sys.path += [str(folder) for folder in folders if folder.is_dir()]
    try:
        return importlib.import_module("ncu_report")
    except ImportError as error:
        command = install_command(["ncu-report"])
        raise CountersError(f"the reports of ncu need ncu_report ({error}): {command}") from error
    finally:
        sys.path[:] = before


def run_ncu(ncu: Path, job: dict[str, Any]) -> Stretches:
    """The counters of one call on each side, in stretches between marks."""
    with tempfile.TemporaryDirectory(prefix="fastconv-") as folder:
        question, answer = Path(folder, "job.json"), Path(folder, "answer.json")
        report = Path(folder, "counters.ncu-rep")
        question.write_text(json.dumps(job))
        command = [str(ncu), "--nvtx", "--profile-from-start", "off", "--force-overwrite"]
        command += ["--metrics", ",".join(METRICS.values()), "--export", str(report)]
        command += [sys.executable, "-m", "fastconv.profiling.counted", str(question), str(answer)]
        try:
            ended = run_child(command, job["threads"], TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CountersError(f"{ncu} does not run: {error}") from error
        said = f"{ended.stdout}\n{ended.stderr}"
        if NO_PERMISSION in said:
            raise CountersError(
                f"this user may not read the GPU's counters ({NO_PERMISSION}): "
                "developer.nvidia.com/ERR_NVGPUCTRPERM says how an administrator allows it"
            )
        if ended.returncode != 0 or not report.exists() or not answer.exists():
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            words = lines[-1] if lines else "it said nothing"
            raise CountersError(f"ncu ended with exit status {ended.returncode}: {words}")
        owners = json.loads(answer.read_text())
        found = joined(owners, kernels_in(reader(ncu).load_report(os.fspath(report))))
    if not any(kernels for stretches in found.values() for _, kernels in stretches):
        raise CountersError("the report of ncu holds no kernel of the network")
    return found


def kernels_in(report: Any) -> Iterable[tuple[list[str], Counters]]:
    """Each kernel of a report: the NVTX ranges around it, and its counters."""
    for group in report:
        for action in group:
            yield ranges_around(action), counters_in(action)


def ranges_around(action: Any) -> list[str]:
    state = action.nvtx_state()
    if state is None:
        return []
    domains = (state.domain_by_id(domain) for domain in state.domains())
    return [name for domain in domains for name in domain.push_pop_ranges()]


def counters_in(action: Any) -> Counters:
    found = {}
    for name, metric_name in METRICS.items():
        metric = action.metric_by_name(metric_name)
        if metric is not None and metric.has_value():
            scale = MILLISECONDS.get(metric.unit(), 1.0) if name == "ms" else 1.0
            found[name] = scale * metric.as_double()
    return found


def joined(
    owners: dict[str, list[str]], kernels: Iterable[tuple[list[str], Counters]]
) -> Stretches:
    """The kernels of each stretch by the number in the name of its range."""
    found: Stretches = {side: [(owner, []) for owner in owners[side]] for side in SIDES}
    for ranges, counters in kernels:
        for side, _, number in (name.partition(",") for name in ranges):
            if side in found and number.isdigit() and int(number) < len(found[side]):
                found[side][int(number)][1].append(counters)
    return found


def merged(kernels: Iterable[Counters]) -> Counters:
    """Of a layer: times and bytes add up, shares are means over time, registers the most."""
    rows = [row for row in kernels if row.get("ms")]
    whole: Counters = {}
    for name in METRICS:
        known = [row for row in rows if name in row]
        if not known:
            continue
        if name.endswith("percent"):
            weights = sum(row["ms"] for row in known)
            whole[name] = sum(row[name] * row["ms"] for row in known) / weights
        elif name == "registers":
            whole[name] = max(row[name] for row in known)
        else:
            whole[name] = sum(row[name] for row in known)
    return whole
