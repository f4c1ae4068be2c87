"""Builds fastconv._C: each kernel once per instruction set, adapters on torch's stable ABI.

`build_emulator` builds the library that runs the CUDA kernels on the CPU, for tests.

The kernels need different compiler flags for each instruction set, which setuptools cannot say, so
the build writes a ninja file; ninja rebuilds only what changed.

Environment:
    CXX                   the compiler, g++ where unset; may carry a prefix ("ccache g++")
    FASTCONV_CUDA=1, 0    with the CUDA kernels, or without, rather than as torch was built
    FASTCONV_CUDA_ARCHITECTURES=90    for these GPUs alone, as nvcc numbers them
    CUDA_HOME             where nvcc is, beside PATH and what pip installed
    FASTCONV_NATIVE=1     kernels for this machine alone: its best instruction set and plain C++
    FASTCONV_SANITIZE=1   AddressSanitizer and UBSan, in a build folder of its own, with
                          FASTCONV_NATIVE: `make sanitize`
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"

CXX = os.environ.get("CXX") or "g++"
SANITIZE = os.environ.get("FASTCONV_SANITIZE") == "1"
NATIVE = SANITIZE or os.environ.get("FASTCONV_NATIVE") == "1"
# One folder a Python and kind of build, so that `pip install .`, an editable install and
# `build_ext --inplace` share their objects.
BUILD_DIR = ROOT / "build" / f"{sys.implementation.cache_tag}{'-sanitize' if SANITIZE else ''}"

COMMON_FLAGS = "-fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi -ffp-contract=fast"
# g++ 12 warns inside its own AVX-512 headers (GCC bug 105593).
COMMON_FLAGS += " -Wno-maybe-uninitialized -Wno-uninitialized"
SANITIZE_FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
COMMON_FLAGS += f" -O1 -g -fno-omit-frame-pointer {SANITIZE_FLAGS}" if SANITIZE else " -O3"

ISA_FLAGS = {"scalar": ""}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = "-mavx2 -mfma -mf16c"
    ISA_FLAGS["avx512"] = (
        "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512"
    )
    ISA_FLAGS["avx512_bf16"] = ISA_FLAGS["avx512"] + " -mavx512bf16"
# Matrix tiles, of the processor and in plain C++, for the kernels that have a use for them; every
# processor with tiles so far computes in float16 too. Without exceptions, which kernels never
# throw, giving the tiles back in a destructor needs no unwinding.
TILE_FLAGS = {"amx_emulated": "-DFASTCONV_EMULATES_TILES"}
if "avx512_bf16" in ISA_FLAGS:
    TILE_FLAGS["amx"] = (
        ISA_FLAGS["avx512_bf16"] + " -mamx-tile -mamx-bf16 -mavx512fp16 -fno-exceptions"
    )
TILED = {
    "gemm_bfloat16_amx",
    "inverted_residual_bfloat16",
    "inverted_residual_bfloat16_hidden",
    "inverted_residual_half_amx",
    "inverted_residual_half_depthwise_amx",
    "inverted_residual_strips",
    "pointwise_conv2d_backward_tiles",
    "pointwise_conv2d_bfloat16",
    "pointwise_conv2d_bfloat16_nchw",
    "probe_bfloat16",
    "stem_conv2d",
    "stem_conv2d_bfloat16",
}
OPTIONAL_ISAS = ["avx2", "avx512", "avx512_bf16", "amx"]
EMULATOR = "libfastconv_emulator.so"
# fastconv runs on every torch from this version on; see torch/csrc/stable.
TORCH_TARGET_VERSION = "0x020b000000000000"


def native_isas():
    """The instruction sets that a build for this machine has, as the compiler knows it."""
    command = [*shlex.split(CXX), "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    isas = ["scalar", "amx_emulated"]
    for isa, macro in (
        ("avx512_bf16", "__AVX512BF16__"),
        ("avx512", "__AVX512VL__"),
        ("avx2", "__AVX2__"),
    ):
        if f" {macro} " in macros:
            isas.append(isa)
            break
    tiles = " __AMX_BF16__ " in macros and " __AVX512FP16__ " in macros
    return [*isas, "amx"] if tiles else isas


def compiler_knows(flags):
    """Whether it takes them: g++ 11 has no AVX512-FP16, which `amx` wants."""
    command = [*shlex.split(CXX), *flags.split(), "-E", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def kernel_builds():
    """Each source of a kernel with each instruction set it is built for and the flags of that."""
    known = [isa for isa, flags in (ISA_FLAGS | TILE_FLAGS).items() if compiler_knows(flags)]
    wanted = native_isas() if NATIVE else known
    for source in sorted((CSRC / "kernels" / "cpu").glob("*.cpp")):
        if source.stem == "registry":
            continue
        builds = {} if source.stem.endswith("_amx") else dict(ISA_FLAGS)
        if source.stem in TILED:
            builds |= TILE_FLAGS
        for isa in filter(wanted.__contains__, builds):
            yield source, isa, f"-std=c++17 -DFASTCONV_ISA={isa} {builds[isa]}"


def check_setuptools():
    version = setuptools.__version__
    if int(version.split(".")[0]) < 77:
        raise SystemExit(
            f"fastconv needs setuptools 77 or newer to build, and {version} is installed: "
            "`pip install -U setuptools`"
        )


def package_folder(name):
    """Where a package is installed, None where it is not; found without the cost of an import."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec else None


def find_torch():
    folder = package_folder("torch")
    if folder is None:
        raise SystemExit(
            "fastconv builds against the torch it will run with, and this Python has none: "
            "`pip install torch`, `pip install -U setuptools pybind11 ninja`, then "
            "`pip install --no-build-isolation .`"
        )
    version = importlib.metadata.version("torch")
    if tuple(map(int, version.split(".")[:2])) < (2, 11):
        raise SystemExit(f"fastconv needs torch 2.11 or newer to build, and {version} is installed")
    return folder


def find_ninja():
    package = package_folder("ninja")
    scripts = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    found = shutil.which("ninja", path=os.pathsep.join(scripts))
    if found is None and package is not None:  # installed with --target or --user
        found = shutil.which("ninja", path=str(package.parent / "bin"))
    if found is None:
        raise SystemExit("fastconv needs ninja to build: `pip install ninja`")
    return found


def find_nvcc():
    """nvcc of CUDA_HOME, of PATH, or as pip installs it; None where there is none."""
    homes = [os.environ.get("CUDA_HOME")] if os.environ.get("CUDA_HOME") else []
    nvidia = package_folder("nvidia")
    folders = [f"{home}/bin" for home in homes] + [os.environ.get("PATH", "")]
    folders += [str(nvidia / "cu13" / "bin")] if nvidia else []
    found = shutil.which("nvcc", path=os.pathsep.join(folders))
    return Path(found).resolve() if found else None


def cuda_compiler(torch):
    """nvcc where the CUDA kernels are to be built, else None."""
    wanted = os.environ.get("FASTCONV_CUDA")
    if wanted is None:
        built_for = re.search(r"^cuda\b.*= '", (torch / "version.py").read_text(), re.MULTILINE)
        return find_nvcc() if built_for else None
    if wanted == "0":
        return None
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit(
            "FASTCONV_CUDA=1 needs nvcc, which was not found: install NVIDIA's CUDA toolkit and "
            "name its folder in CUDA_HOME, or `pip install --group cuda` in a checkout"
        )
    return nvcc


def cuda_architectures(nvcc):
    """As nvcc numbers them."""
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", version)
    known = tuple(map(int, release.groups())) if release else (0, 0)
    if known < (12, 0):
        raise SystemExit(f"fastconv needs nvcc 12.0 or newer, and {nvcc} is {known[0]}.{known[1]}")
    wanted = os.environ.get("FASTCONV_CUDA_ARCHITECTURES", "").replace(",", " ").split()
    return wanted or ["80", "90", *(["100"] if known >= (12, 8) else [])]


def cuda_flags(architectures):
    """What to compile for: each architecture's own code, and PTX for those to come."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    codes.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    host = shlex.quote(shlex.split(CXX)[-1])
    return f"-std=c++17 -O3 -ccbin {host} -Xcompiler -fPIC,-fvisibility=hidden {' '.join(codes)}"


def check_compiler():
    program = shlex.split(CXX)[0]
    if shutil.which(program) is None:
        raise SystemExit(
            f"fastconv needs a C++20 compiler to build, and {program!r} was not found: install g++ "
            "(`apt install g++`, `dnf install gcc-c++`) or name another in the variable CXX"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise SystemExit(
            f"fastconv needs Python's headers to build, and {header} is missing: install them "
            "(`apt install python3-dev`, `dnf install python3-devel`)"
        )


def include_folders(torch):
    pybind11 = package_folder("pybind11")
    folders = [sysconfig.get_path("include"), torch / "include"]
    if pybind11 is not None:  # torch carries a pybind11 as well, which serves where it is missing
        folders.insert(0, pybind11 / "include")
    return folders


def escape(path):
    """A path as ninja reads it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def cuda_libraries(nvcc):
    """CUDA's runtime, linked in: the library must load where there is none."""
    # Its own word for where it is: the one on PATH may be a script. Without an input it refuses.
    plan = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True
    ).stderr
    top = re.search(r"^#\$ TOP=(.*)$", plan, re.MULTILINE)
    home = Path(top[1]).resolve() if top else nvcc.parent.parent
    folders = [home / name for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
    found = [folder for folder in folders if (folder / "libcudart_static.a").exists()]
    if not found:
        raise SystemExit(
            f"fastconv's CUDA kernels need libcudart_static.a, which is not beside {nvcc}"
        )
    return f"-L{shlex.quote(str(found[0]))} -lcudart_static -ldl -lrt -lpthread".replace("$", "$$")


def cuda_sources():
    """The CUDA kernels, but for what only nvcc compiles."""
    files = sorted((CSRC / "kernels" / "cuda").glob("*.cu"))
    return [file for file in files if file.stem != "launcher"]


def ninja_file(target):
    """The build of target as the text of a ninja file, paths relative to BUILD_DIR."""
    torch = find_torch()
    # -MD, not -MMD: a torch upgraded in place must rebuild what includes its headers.
    lines = [
        "rule compile",
        f"  command = {CXX} -MD -MF $out.d {COMMON_FLAGS} $flags -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $out",
        "rule link",
        f"  command = {CXX} -shared {SANITIZE_FLAGS if SANITIZE else ''} $in -o $out $flags",
        "  description = link $out",
    ]
    objects = []

    def compile(source, suffix, flags):
        name = f"{source.relative_to(CSRC).with_suffix('')}{suffix}.o"
        lines.extend([f"build {escape(name)}: compile {escape(source)}", f"  flags = {flags}"])
        objects.append(escape(name))

    builds = list(kernel_builds())
    for source, isa, flags in builds:
        compile(source, f".{isa}", flags)
    built = {isa for _, isa, _ in builds}
    has = [f"-DFASTCONV_HAS_{isa}={int(isa in built)}" for isa in OPTIONAL_ISAS]
    compile(CSRC / "kernels" / "cpu" / "registry.cpp", "", " ".join(["-std=c++17", *has]))

    for source in sorted((CSRC / "kernels" / "cuda").glob("*_plan.cpp")):
        compile(source, "", "-std=c++17")

    includes = " ".join(f"-isystem {shlex.quote(str(folder))}" for folder in include_folders(torch))
    adapter_flags = f"-std=c++20 -DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION} {includes}"
    nvcc = cuda_compiler(torch)
    architectures = cuda_architectures(nvcc) if nvcc else []
    with_cuda = f" -DFASTCONV_WITH_CUDA='\"{' '.join(architectures)}\"'" if nvcc else ""
    for source in [*sorted((CSRC / "ops").glob("*.cpp")), *sorted(CSRC.glob("*.cpp"))]:
        flags = adapter_flags.replace("$", "$$")
        compile(source, "", flags + with_cuda if source.stem == "gpu" else flags)

    if nvcc:
        lines.append("rule compile_cuda")
        lines.append(f"  command = {shlex.quote(str(nvcc))} -MD -MF $out.d $flags -c $in -o $out")
        lines.extend(["  depfile = $out.d", "  deps = gcc", "  description = nvcc $out"])
        for source in sorted((CSRC / "kernels" / "cuda").glob("*.cu")):
            name = escape(f"{source.relative_to(CSRC)}.o")
            lines.append(f"build {name}: compile_cuda {escape(source)}")
            lines.append(f"  flags = {cuda_flags(architectures)}".replace("$", "$$"))
            objects.append(name)

    emulated = []
    emulator = CSRC / "emulator"
    words = f"-std=c++17 -Wno-unknown-pragmas -include {shlex.quote(str(emulator / 'cuda.h'))}"
    for source in [*cuda_sources(), *sorted(emulator.glob("*.cpp"))]:
        name = escape(f"{source.relative_to(CSRC)}.emulated.o")
        lines.append(f"build {name}: compile {escape(source)}")
        lines.append(f"  flags = {words} -x c++".replace("$", "$$"))
        emulated.append(name)
    lines.append(f"build {EMULATOR}: link {' '.join(emulated)}")

    library = shlex.quote(str(torch / "lib")).replace("$", "$$")
    lines.append(f"build {escape(target)}: link {' '.join(objects)}")
    cuda = f" {cuda_libraries(nvcc)}" if nvcc else ""
    lines.append(f"  flags = -L{library} -ltorch -ltorch_cpu -lc10{cuda}")
    lines.append(f"default {escape(target)}")
    return "\n".join(lines) + "\n"


def run_ninja(extension, *targets):
    ninja = find_ninja()
    check_compiler()
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    (BUILD_DIR / "build.ninja").write_text(ninja_file(extension))
    try:
        subprocess.run([ninja, "-C", str(BUILD_DIR), *targets], check=True)
    except subprocess.CalledProcessError:
        raise SystemExit("fastconv did not compile: the compiler's message is above") from None


class BuildKernels(build_ext):
    """Compiles with ninja, then leaves the shared object where setuptools expects it."""

    def build_extension(self, ext):
        wanted = Path(self.get_ext_fullpath(ext.name))
        run_ninja(wanted.name)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(BUILD_DIR / wanted.name), str(wanted))
        if not self.inplace and not self.editable_mode:  # there NVRTC reads them in the checkout
            kernels = wanted.parent / "csrc" / "kernels"
            only_cuda = shutil.ignore_patterns("cpu", "*.cpp")
            shutil.copytree(CSRC / "kernels", kernels, ignore=only_cuda, dirs_exist_ok=True)


def build_inplace():
    """As `build_ext --inplace`, without setuptools, which refuses to read pyproject.toml where it
    is old: for `make gpu`, which installs nothing.
    """
    name = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    run_ninja(name)
    shutil.copy2(BUILD_DIR / name, ROOT / "fastconv" / name)


class BuildEmulator(build_ext):
    """The CUDA kernels for the CPU, left in BUILD_DIR."""

    def build_extension(self, ext):
        run_ninja(Path(self.get_ext_fullpath(ext.name)).name, EMULATOR)


if __name__ == "__main__":  # the tests read ISA_FLAGS from here
    check_setuptools()
    setuptools.setup(
        ext_modules=[setuptools.Extension("fastconv._C", sources=[])],
        cmdclass={"build_ext": BuildKernels, "build_emulator": BuildEmulator},
    )
