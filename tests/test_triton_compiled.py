"""What Triton makes of the kernels for GPUs that are not there: registers, spills, wide accesses.

A call is planned as on the GPU and its kernels are compiled as Triton would at the first launch.
"""

from typing import Any

import pytest
import torch

from fastconv.triton_kernels import KERNELS
from tests.compiled import compile_for

ARCHITECTURES = [80, 90, 100]  # A100, H100, B200


def nchw(*sizes, dtype=torch.bfloat16):
    return torch.empty(sizes, dtype=dtype, device="meta")


def nhwc(*sizes, dtype=torch.bfloat16):
    return nchw(*sizes, dtype=dtype).contiguous(memory_format=torch.channels_last)


def bits(*sizes):
    return torch.empty(sizes, dtype=torch.uint8, device="meta")


X, X32 = nchw(32, 256, 56, 56), nchw(32, 256, 56, 56, dtype=torch.float32)

# The op and its arguments; the registers a thread that its launches may take, which set how many
# threads a processor holds (65536 registers); the accesses of 16 bytes from and to global memory.
CALLS: dict[str, tuple[str, tuple[Any, ...], int, int, int]] = {
    "residual_add": ("residual_add", (X, X, "relu"), 64, 16, 8),
    "residual_add, float32": ("residual_add", (X32, X32, "relu"), 64, 16, 8),
    "residual_add, ragged": ("residual_add", (*[nchw(3, 5, 7, 7)] * 2, "silu"), 112, 8, 4),
    "residual_add, shortcut": (
        "residual_add",
        (nhwc(32, 128, 28, 28), nhwc(32, 64, 56, 56), "relu"),
        *(64, 4, 2),
    ),
    "residual_add_with_mask": ("residual_add_with_mask", (X, X, "relu"), 64, 16, 8),
    "activation_backward": ("activation_backward", (X, X, "silu"), 64, 16, 8),
    "activation_backward_from_mask": (
        "activation_backward_from_mask",
        (X, bits(X.numel() // 8), False),
        *(64, 8, 8),
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_spills_and_wide_accesses(call, architecture):
    name, arguments, registers, loads, stores = CALLS[call]
    for launch in KERNELS[name].plan(*arguments):
        compiled = compile_for(architecture, launch)
        assert compiled.stack == 0
        assert compiled.registers <= registers
        assert compiled.count(r"LDG\S*\.128\S*") >= loads
        assert compiled.count(r"STG\S*\.128\S*") >= stores


def test_every_kernel_has_a_row():
    assert {name for name, *_ in CALLS.values()} == set(KERNELS)
