"""Builds fastconv._C: each kernel once per instruction set, adapters on torch's stable ABI.

The kernels need different compiler flags for each instruction set, which setuptools cannot say, so
the build writes a ninja file; ninja rebuilds only what changed.
"""

import platform
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"

COMMON_FLAGS = "-O3 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi -ffp-contract=fast"
# g++ 12 warns inside its own AVX-512 headers (GCC bug 105593).
COMMON_FLAGS += " -Wno-maybe-uninitialized -Wno-uninitialized"
ISA_FLAGS = {"scalar": ""}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = "-mavx2 -mfma -mf16c"
    ISA_FLAGS["avx512"] = (
        "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512"
    )
# fastconv runs on every torch from this version on; see torch/csrc/stable.
TORCH_TARGET_VERSION = "0x020a000000000000"


def require_build_tools():
    """torch and pybind11 as the build sees them, or one sentence that says how to get them."""
    try:
        import ninja
        import pybind11
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(
            f"fastconv needs {error.name} to build: install torch, pybind11 and ninja first, then "
            "`pip install --no-build-isolation .`"
        ) from None
    library = Path(torch.__file__).parent / "lib"
    return ninja, pybind11.get_include(), cpp_extension.include_paths(), library


class BuildKernels(build_ext):
    """Compiles with ninja, then leaves the shared object where setuptools expects it."""

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        ninja = self.write_ninja_file(build_dir / "build.ninja", target)
        subprocess.run([str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(build_dir)], check=True)

    def write_ninja_file(self, path, target):
        ninja, pybind_include, torch_includes, torch_library = require_build_tools()
        from ninja import ninja_syntax

        python_include = sysconfig.get_paths()["include"]
        includes = [pybind_include, python_include, *torch_includes]
        objects = []
        with open(path, "w") as file:
            writer = ninja_syntax.Writer(file)
            writer.variable("cxx", self.compiler_name())
            writer.rule(
                "compile",
                command=f"$cxx -MMD -MF $out.d {COMMON_FLAGS} $flags -c $in -o $out",
                depfile="$out.d",
                deps="gcc",
                description="compile $out",
            )
            writer.rule("link", command="$cxx -shared $in -o $out $flags", description="link $out")

            def compile(source, suffix, flags):
                name = f"{source.relative_to(CSRC).with_suffix('')}{suffix}.o"
                writer.build(name, "compile", str(source), variables={"flags": flags})
                objects.append(name)

            for source in sorted((CSRC / "kernels" / "cpu").glob("*.cpp")):
                if source.stem == "registry":
                    compile(source, "", "-std=c++17")
                    continue
                for isa, flags in ISA_FLAGS.items():
                    compile(source, f".{isa}", f"-std=c++17 -DFASTCONV_ISA={isa} {flags}")

            host_flags = " ".join(f"-isystem {include}" for include in includes)
            host_flags += f" -std=c++20 -DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"
            for source in [*sorted((CSRC / "ops").glob("*.cpp")), CSRC / "bindings.cpp"]:
                compile(source, "", host_flags)

            link = f"-L{torch_library} -ltorch -ltorch_cpu -lc10"
            writer.build(str(target), "link", objects, variables={"flags": link})
        return ninja

    def compiler_name(self):
        import os

        return os.environ.get("CXX", "g++")


setup(
    ext_modules=[Extension("fastconv._C", sources=[])],
    cmdclass={"build_ext": BuildKernels},
)
