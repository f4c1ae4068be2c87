"""nvcc and cuobjdump as pip installs them, and what they say of a kernel."""

import functools
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.helpers import ROOT

KERNELS = ROOT / "csrc" / "kernels" / "cuda"
EMULATOR = ROOT / "csrc" / "emulator" / "cuda.h"
CXX = shlex.split(os.environ.get("CXX") or "g++")
INSTRUCTION_BYTES = 16
ARCHITECTURES = ["80", "90a", "100"]


@functools.cache
def toolkit() -> Path:
    spec = find_spec("nvidia")
    assert spec is not None, "pip install --group cuda"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "cu13"


def run(program: str, *arguments: object) -> str:
    programs = toolkit() / "bin"
    result = subprocess.run(
        [str(programs / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
    )
    assert result.returncode == 0, f"{program}: {result.stderr}"
    return result.stdout + result.stderr


def templates_of(path: Path) -> set[str]:
    """The kernels that a .cu file has instances of, by its preprocessed text."""
    flags = ["-E", "-P", "-std=c++17", "-x", "c++", "-include", str(EMULATOR)]
    text = subprocess.run([*CXX, *flags, str(path)], capture_output=True, text=True, check=True)
    return set(re.findall(r"&\s*(\w+)<", text.stdout.rpartition("_table() {")[2]))


@dataclass
class Compiled:
    """One instance of a kernel template for one architecture."""

    kernel: str  # the template's name
    arguments: tuple[int, ...]
    registers: int
    stack: int  # bytes in local memory; spills lie there
    sass: list[str]  # instructions

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in self.sass)

    def main_run(self, product: str = "FFMA") -> tuple[int, int]:
        """Instructions and products of the stretch without branch or barrier that has most."""
        ends = re.compile(r"\b(BRA|BRX|EXIT|RET|CALL|BSSY|BSYNC|BAR|WARPSYNC)\b")
        length, products, best = 0, 0, (0, 0)
        for line in [*self.sass, "EXIT"]:
            if ends.search(line):
                best = max(best, (products, length))
                length = products = 0
            else:
                length += 1
                products += product in line
        return best[1], best[0]

    def main_loop(self, product: str = "FFMA") -> tuple[int, int]:
        """Instructions and products of the shortest loop that has the most products."""
        best = (0, 0)
        for end, line in enumerate(self.sass):
            target = re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", line)
            start = int(target[1], 16) // INSTRUCTION_BYTES if target else end + 1
            body = self.sass[start : end + 1]
            best = max(best, (sum(product in line for line in body), -len(body)))
        return -best[1], best[0]


def _name(symbol: str) -> tuple[str, tuple[int, ...]]:
    match = re.match(r"_ZN8fastconv4cuda(\d+)", symbol)
    assert match, symbol
    start = match.end()
    name = symbol[start : start + int(match[1])]
    rest = symbol[start + int(match[1]) :]
    arguments = re.match(r"I((?:Li(?:n?\d+)E)+)E", rest)
    assert arguments, symbol
    values = re.findall(r"Li(n?\d+)E", arguments[1])
    return name, tuple(int(value.replace("n", "-")) for value in values)


def compile_file(path: Path, architecture: str, folder: Path, *options: str) -> list[Compiled]:
    """The kernels of a .cu file as nvcc compiles them."""
    built = folder / f"{path.stem}.{architecture}.o"
    # -arch=sm_90a would compile for compute_90 besides: 3.7 s in place of 5.7 for a small file.
    only = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    kind = [] if "-cubin" in options else ["-c"]
    run("nvcc", "-std=c++17", "-O3", only, *kind, *options, "-o", built, path)
    return read(built)


def read(built: Path) -> list[Compiled]:
    """The kernels of an object file or a cubin."""
    usage = run("cuobjdump", "-res-usage", built)
    rows = re.findall(r"Function (\w+):\s*REG:(\d+) STACK:(\d+)", usage)
    sass: dict[str, list[str]] = {}
    for line in run("cuobjdump", "-sass", built).splitlines():
        if match := re.search(r"Function : (\w+)", line):
            current = sass.setdefault(match[1], [])
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            current.append(match[1])
    return [
        Compiled(*_name(symbol), int(registers), int(stack), sass[symbol])
        for symbol, registers, stack in rows
    ]
