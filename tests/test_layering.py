"""The borders between the rooms: who may include, import, emit and grow how much."""

import ast
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT, SETUP

KERNELS = ROOT / "csrc" / "kernels"
BUILDS = pytest.mark.parametrize(
    ("path", "isa", "flags"),
    [pytest.param(*build, id=f"{build[0].stem}-{build[1]}") for build in SETUP["kernel_builds"]()],
)
COMPILER = shlex.split(os.environ.get("CXX") or "g++")


def sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


def test_kernels_include_only_the_standard_library_and_each_other():
    for path in sources(KERNELS, ".h", ".cpp", ".cu", ".cuh", ".def"):
        for line in path.read_text().splitlines():
            if match := re.match(r'\s*#\s*include\s+([<"])(.+)[>"]', line):
                bracket, name = match.groups()
                standard = bracket == "<" and re.fullmatch(
                    r"\w+|\w*intrin\.h|cuda_\w+\.h|cpuid\.h|unistd\.h|sys/syscall\.h", name
                )
                folders = [path.parent, KERNELS]
                ours = bracket == '"' and any((folder / name).exists() for folder in folders)
                assert standard or ours, f"{path}: {line}"


@pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C++ compiler")
@BUILDS
def test_kernels_compile_alone(path, isa, flags):
    flags = f"{flags} -Wall -Wextra -Werror"
    command = [*COMPILER, *flags.split(), "-fsyntax-only", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"


def test_adapters_take_of_torch_what_the_oldest_has():
    """Torch 2.11 lacks these of the stable headers, which the torch installed here has."""
    newer = re.compile(r"\bSTABLE_TORCH_ERROR_CODE_CHECK\b|torch/csrc/stable/generator")
    for path in sources(ROOT / "csrc", ".h", ".cpp"):
        assert not newer.search(path.read_text()), path


# What a kernel may call beside kernels of its own instruction set: memory moves and arithmetic, so
# nothing that allocates, prints, throws or ends the process. The compiler emits the moves itself.
MAY_CALL = re.compile(
    r"mem(cpy|move|set|cmp)|_GLOBAL_OFFSET_TABLE_"
    r"|(exp|exp2|expm1|log|log2|log1p|logb|pow|sqrt|tanh|fma|scalbn|ldexp|frexp"
    r"|floor|ceil|rint|nearbyint|trunc|round|fmin|fmax)f?"
)


@BUILDS
def test_objects_of_an_instruction_set_share_and_call_nothing(path, isa, flags):
    built = SETUP["BUILD_DIR"] / path.relative_to(ROOT / "csrc").with_suffix(f".{isa}.o")
    if not built.exists() or shutil.which("nm") is None:
        pytest.skip("built elsewhere, or no nm")
    output = subprocess.run(["nm", str(built)], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in output.splitlines()]
    own = f"fastconv{len(isa)}{isa}"  # namespace fastconv::<isa>, mangled
    # The linker keeps one copy of a weak or unique symbol: a scalar path could then run AVX-512.
    shared = [name for kind, name in symbols if kind in "wWvVu" and own not in name]
    assert not shared, f"mark these FASTCONV_INLINE or put them in an unnamed namespace: {shared}"
    called = [name for kind, name in symbols if kind == "U" and own not in name]
    called = [name for name in called if not MAY_CALL.fullmatch(name)]
    assert not called, f"kernels may not call {called}"


def imports(path: Path) -> set[str]:
    """The modules a file imports: fastconv.<part> of our own, else the top name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path}: import another folder by its full name"
            if node.level == 1:
                continue
            if node.module == "fastconv":
                found.update(f"fastconv.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return {".".join(name.split(".")[: 2 if name.startswith("fastconv.") else 1]) for name in found}


# The parts of fastconv that each part may import beside itself; parts not named import freely.
MAY_IMPORT = {
    "layout": set(),
    "packed_weights": set(),
    "reference": {"layout", "packed_weights"},
    "dispatch": {"_C", "gpu", "layout"},
    "gpu": {"_C", "nvrtc"},
    "ops": {"_C", "dispatch", "layout", "packed_weights", "reference"},
    "nn": {"ops", "reference"},
    "data": set(),
    "models": {"nn", "ops", "data", "reference"},
    "optimize": {"_C", "cost", "dispatch", "layout", "nn", "ops", "packed_weights", "reference"},
}


def test_imports_point_one_way():
    for path in sources(ROOT / "fastconv", ".py"):
        part = path.relative_to(ROOT / "fastconv").parts[0].removesuffix(".py")
        if part not in MAY_IMPORT:
            continue
        ours = {name.removeprefix("fastconv.") for name in imports(path) if "fastconv." in name}
        assert ours <= MAY_IMPORT[part] | {part}, f"{path} imports {ours}"


def test_no_model_zoo_is_imported():
    for path in sources(ROOT / "fastconv", ".py"):
        assert not imports(path) & {"torchvision", "timm"}, path


DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))

LIMITS = [  # folder, files, lines
    ("csrc/kernels", "*.h", 300),
    ("csrc/kernels", "*.cuh", 300),
    ("csrc/kernels", "*.cpp", 300),
    ("triton_kernels", "*.py", 300),
    ("fastconv/nn", "*.py", 60),
    ("tests", "*.py", 400),
]


@pytest.mark.parametrize(("folder", "pattern", "limit"), LIMITS)
def test_files_stay_small(folder, pattern, limit):
    for path in (ROOT / folder).rglob(pattern):
        lines = len(path.read_text().splitlines())
        assert lines <= limit, f"{path} has {lines} lines; split it by idea"


def test_lines_fit_and_are_ascii():
    for folder in ("csrc", "fastconv", "tests", "triton_kernels"):
        for path in sources(ROOT / folder, ".h", ".cpp", ".cu", ".cuh", ".def", ".py"):
            for number, line in enumerate(path.read_bytes().splitlines(), 1):
                assert len(line) <= 100, f"{path}:{number}"
                assert line.isascii(), f"{path}:{number}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *DOCS])
def test_paths_in_the_manuals_exist(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    for quoted in re.findall(r"`([^`\n]+)`", text):
        path = quoted.replace("<op>", "residual_add")
        if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", path) and ("/" in path or "." in path):
            folder = path.partition("/")[0]
            if (ROOT / folder).exists():
                assert list(ROOT.glob(path.rstrip("/"))), f"{name} names {quoted}"
