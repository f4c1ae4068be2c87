"""Triton kernels compiled ahead of time for a GPU that is not there, and what came out of it."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from fastconv.triton_kernels import Launch

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
# An address in a comment, a predicate perhaps, and the name: /*0a10*/ @!P0 LDG.E.128 R4, ...
INSTRUCTION = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)"
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture: registers a thread, bytes, and instructions by mnemonic."""

    registers: int
    stack: int
    shared: int
    instructions: Counter[str]

    def count(self, pattern: str) -> int:
        return sum(n for name, n in self.instructions.items() if re.fullmatch(pattern, name))


def compile_for(architecture: int, launch: Launch) -> Compiled:
    """The launch's kernel as Triton would compile it at its first run on that architecture."""
    source = _source(launch)
    target = GPUTarget("cuda", architecture, 32)
    names = launch.kernel.arg_names
    options = {key: value for key, value in launch.options.items() if key not in names}
    options["enable_fp_fusion"] = True
    kernel = triton.compile(source, target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, listing = (_cuobjdump(what, file.name) for what in ("-res-usage", "-sass"))
    figures = {key: int(n) for key, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    stack = figures["STACK"] + figures.get("LOCAL", 0)
    instructions = Counter(re.findall(INSTRUCTION, listing, re.MULTILINE))
    return Compiled(figures["REG"], stack, kernel.metadata.shared, instructions)


def _source(launch: Launch) -> ASTSource:
    """The signature that the arguments make, specialised as Triton specialises them."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    given = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False))
    given |= {k: v for k, v in launch.options.items() if k in launch.kernel.arg_names}
    for position, parameter in enumerate(launch.kernel.params):
        value = given[parameter.name]
        fixed = parameter.do_not_specialize
        is_one = type(value) is int and value == 1 and not fixed
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        if isinstance(value, TensorDescriptor):
            element = TYPES[value.base.dtype].removeprefix("*")
            signature[parameter.name] = f"tensordesc<{element}{list(value.block_shape)}>"
            aligned = False
        elif isinstance(value, Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            aligned = True  # torch's allocations are
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
            aligned = False
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0 and not fixed
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def _cuobjdump(*arguments: str) -> str:
    command = [str(CUOBJDUMP), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def nchw(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor to plan with."""
    return torch.empty(sizes, dtype=dtype, device="meta")


def nhwc(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return nchw(*sizes, dtype=dtype).contiguous(memory_format=torch.channels_last)
