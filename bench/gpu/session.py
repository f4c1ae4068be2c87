"""All that one visit to a GPU gives: python -m bench.gpu.session --out FOLDER [--dry] [--minutes M]
[--only STEP] [--resume FILE]

Build, tests, sanitizer and comparison, each in a process of its own and within a time of its own:
what fails or takes too long leaves the others their turn. steps.json is written after each step.
Needs torch alone for itself, so that it still speaks where the build fails.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PYTHON = sys.executable
LOST = 3  # the exit status of bench.gpu where a kernel broke the process's hold of the GPU
LEAST_SECONDS = 15  # left, or a step is not begun


@dataclass
class Step:
    """A command; `seconds` is its limit, `log` the file that takes its output."""

    name: str
    command: list[str]
    seconds: float
    variables: dict[str, str] = field(default_factory=dict)
    log: Path | None = None


def pytest(out: Path, name: str, *arguments: str, jobs: int = 1) -> list[str]:
    command = [PYTHON, "-m", "pytest", *arguments, f"--junitxml={out / f'tests-{name}.xml'}"]
    if jobs > 1 and find_spec("xdist"):
        command += ["-n", str(jobs), "--dist", "worksteal"]
    return command


def build(out: Path, architecture: str, cuda: str = "1", seconds: float = 240) -> Step:
    """For one GPU, where all take nvcc three times as long; of the CPU's kernels, this one's."""
    variables = {
        "FASTCONV_CUDA": cuda,
        "FASTCONV_CUDA_ARCHITECTURES": architecture,
        "FASTCONV_NATIVE": "1",
    }
    command = [PYTHON, "-c", "import setup; setup.build_inplace()"]
    name = "build" if cuda == "1" else "build without nvcc"
    return Step(name, command, seconds, variables, out / "build.txt")


def bench(out: Path, alone: bool, resumes: bool) -> Step:
    """The comparison; where it is wanted alone, all the time that the build leaves."""
    minutes = 7.5 if alone else 4
    command = [PYTHON, "-m", "bench.gpu", "--out", str(out), "--minutes", str(minutes)]
    return Step("bench", command + ["--resume"] * resumes, 60 * minutes + 60)


def steps_on_gpu(out: Path, only: str = "", resumes: bool = False) -> Iterator[Step]:
    """In the order of what is wanted most."""
    yield doctor(out)
    yield Step(
        "tests (cuda)", pytest(out, "cuda", "tests/test_cuda.py"), 100, {"FASTCONV_GPU": "cuda"}
    )
    yield bench(out, only == "bench", resumes)
    # Each kernel is compiled once: in several processes.
    jobs = min(8, os.cpu_count() or 1)
    compiled = pytest(out, "nvrtc", "tests/test_cuda.py", jobs=jobs)
    yield Step("tests (nvrtc)", compiled, 120, {"FASTCONV_GPU": "nvrtc"})
    yield Step("tests (triton)", pytest(out, "triton", "tests/triton", jobs=jobs), 120)
    if shutil.which("compute-sanitizer"):
        few = "test_values and (float32 or bfloat16) and not channels"
        checked = [PYTHON, "-m", "pytest", "tests/test_cuda.py", "-x", "-k", few]
        # torch asks the driver for functions that it may lack: no error of a kernel.
        quiet = ["--report-api-errors", "no", "--error-exitcode", "1"]
        command = ["compute-sanitizer", *quiet, *checked]
        # Allocations of their own, or it would not see what reads beyond one.
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        yield Step("compute-sanitizer", command, 100, uncached, out / "sanitizer.txt")
    network = ["mobilenet_v2", "--device", "cuda", "--batch", "32", "--dtype", "bfloat16"]
    yield profile(out, "profile", *network)
    if has_counters():
        yield profile(out, "profile-ncu", *network, "--ncu")


def steps_without(out: Path, *_: object) -> Iterator[Step]:
    """What can be rehearsed: kernels emulated, interpreted, compiled and read."""
    yield doctor(out)
    yield Step("tests (emulated)", pytest(out, "none", "tests/cuda", jobs=2), 1200,
               {"FASTCONV_GPU": "none"})  # fmt: skip
    interpreted = {"TRITON_INTERPRET": "1"}
    yield Step("tests (triton)", pytest(out, "triton", "tests/triton", jobs=2), 900, interpreted)
    yield Step("bench", [PYTHON, "-m", "bench.gpu", "--out", str(out), "--dry"], 600)
    yield profile(out, "profile", "lenet5", "--seconds", "0.2")


def doctor(out: Path) -> Step:
    command = [PYTHON, "-m", "fastconv", "doctor", "--json"]
    return Step("doctor", command, 60, log=out / "doctor.json")


def profile(out: Path, name: str, *arguments: str) -> Step:
    """Without the page, which needs plotly."""
    files = [f"--out={out / name}.{kind}" for kind in ("json", "md", "trace.json")]
    return Step(name, [PYTHON, "-m", "fastconv", "profile", *arguments, *files], 120)


def has_counters() -> bool:
    """Whether NVIDIA's ncu and the reader of its reports are here, as fastconv finds them."""
    ask = "from fastconv.profiling.counters import find_ncu; find_ncu()"
    return subprocess.run([PYTHON, "-c", ask], capture_output=True, check=False).returncode == 0


def _heed_interrupts() -> None:
    """A shell's background job ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(step: Step, seconds: float) -> int | str:
    """The exit status, or 'took too long'. Ctrl-C first: pytest then writes what it has."""
    print(f"--- {step.name}, at most {seconds:.0f} s", flush=True)
    log = step.log.open("w") if step.log else None
    process = subprocess.Popen(
        step.command,
        env=os.environ | step.variables,
        stdout=log,
        stderr=subprocess.STDOUT if log and step.log.suffix == ".txt" else None,  # type: ignore[union-attr]
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        for sign in (signal.SIGINT, signal.SIGKILL):
            os.killpg(process.pid, sign)
            try:
                process.wait(15)
                break
            except subprocess.TimeoutExpired:
                continue
        return "took too long"
    finally:
        if log:
            log.close()


class Session:
    """Runs steps while time is left, and keeps what became of each."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.file, self.end = out / "steps.json", time.monotonic() + 60 * minutes
        self.rows: list[dict[str, Any]] = []

    def take(self, step: Step) -> int | str:
        began = time.monotonic()
        left = self.end - began
        result = run(step, min(step.seconds, left)) if left > LEAST_SECONDS else "no time left"
        seconds = round(time.monotonic() - began, 1)
        self.rows.append({"step": step.name, "result": result, "seconds": seconds})
        self.file.write_text(json.dumps(self.rows, indent=1) + "\n")
        if result != 0 and step.log:
            print("\n".join(step.log.read_text().splitlines()[-30:]))
        return result

    def report(self) -> bool:
        for row in self.rows:
            result = "done" if row["result"] == 0 else f"FAILED ({row['result']})"
            print(f"{row['step']:<20} {row['seconds']:7.1f} s  {result}")
        return all(row["result"] == 0 for row in self.rows)


def pack(out: Path) -> None:
    """Logs and profiles into one archive beside the results: machines give back few files."""
    results = {"steps.json", "kernels.json", "logs.tar.gz"}
    others = [file for file in sorted(out.iterdir()) if file.is_file() and file.name not in results]
    with tarfile.open(out / "logs.tar.gz", "w:gz") as archive:
        for file in others:
            archive.add(file, file.name)
    for file in others:
        file.unlink()


def put_toolkit_on_path() -> None:
    """Behind what is there already: CUDA's installer leaves its programs to the user to find."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{home}/bin"


def architecture() -> str:
    """This GPU's, as nvcc numbers it."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU; make gpu DRY=1 rehearses without one")
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.session", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="where results go")
    parser.add_argument("--dry", action="store_true", help="rehearse without a GPU")
    parser.add_argument("--minutes", type=float, help="of all; 9, or 60 with --dry")
    parser.add_argument("--only", default="", help="the steps whose name has this")
    parser.add_argument("--resume", type=Path, help="kernels.json of a run, for bench to go on")
    options = parser.parse_args()
    if options.resume and not options.resume.is_file():
        parser.error(f"--resume: there is no file {options.resume}")
    number = "90" if options.dry else architecture()
    put_toolkit_on_path()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.resume:
        (options.out / "kernels.json").write_bytes(options.resume.read_bytes())
    session = Session(options.out, options.minutes or (60 if options.dry else 9))
    # Without nvcc's kernels NVRTC's and Triton's are there still.
    if options.dry:  # on few cores, and without hurry
        session.take(build(options.out, number, seconds=900))
    elif session.take(build(options.out, number)) != 0:
        session.take(build(options.out, number, cuda="0"))
    steps = steps_without if options.dry else steps_on_gpu
    for step in steps(options.out, options.only, options.resume is not None):
        if options.only in step.name:
            while session.take(step) == LOST and step.name == "bench":
                step.command = [*step.command, "--resume"]
    pack(options.out)
    return 0 if session.report() else 1


if __name__ == "__main__":
    sys.exit(main())
