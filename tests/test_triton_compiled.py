"""What Triton makes of the kernels for an A100, H100 and B200: registers, spills, wide accesses.

A call is planned as on the GPU and its kernels are compiled as Triton would at the first launch.
"""

import math
from typing import Any

import pytest
import torch

from fastconv.ops import pack_depthwise_weight
from fastconv.triton_kernels import KERNELS
from tests import test_triton_compiled_products
from tests.compiled import compile_for, nchw, nhwc


def bits(*sizes):
    return torch.empty(sizes, dtype=torch.uint8, device="meta")


X, X32 = nchw(32, 256, 56, 56), nchw(32, 256, 56, 56, dtype=torch.float32)

# The op and its arguments; of its first launch, the registers a thread may take, which say how many
# threads a processor holds (65536 registers), and its accesses of 16 bytes from and to memory. They
# hold with Triton 3.6 too.
CALLS: dict[str, tuple[str, tuple[Any, ...], int, int, int]] = {
    "residual_add": ("residual_add", (X, X, "relu"), 64, 16, 8),
    "residual_add, float32": ("residual_add", (X32, X32, "relu"), 64, 16, 8),
    "residual_add, ragged": ("residual_add", (*[nchw(3, 5, 7, 7)] * 2, "silu"), 128, 8, 4),
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


def depthwise(op, channels, size, k, stride=1, layout=nhwc, dtype=torch.bfloat16, packed=False):
    """The arguments of a depthwise op on a layer of a network at batch 32."""
    x, w = layout(32, channels, size, size, dtype=dtype), nchw(channels, 1, k, k, dtype=dtype)
    w = pack_depthwise_weight(w) if packed else w
    side = (size - 1) // stride + 1
    g = layout(32, channels, side, side, dtype=dtype)
    window = ((stride,) * 2, (k // 2,) * 4, (1, 1))
    if op == "":
        return x, w, nchw(channels, dtype=dtype), *window, "relu6"
    return g, x, w, *window


# Layers of MobileNet v2 (3x3), EfficientNet-B0 (5x5), ConvNeXt-T (7x7) and RepLKNet (31x31).
for op, name, layer, limits in [
    ("", "3x3", dict(channels=96, size=112, k=3), (255, 31, 8)),
    ("", "3x3, packed", dict(channels=96, size=112, k=3, packed=True), (255, 40, 8)),
    ("", "3x3, float32", dict(channels=96, size=112, k=3, dtype=torch.float32), (128, 31, 8)),
    ("", "3x3, stride", dict(channels=144, size=56, k=3, stride=2), (232, 28, 4)),
    ("", "3x3, planes", dict(channels=96, size=112, k=3, layout=nchw), (128, 10, 8)),
    ("", "3x3, planes of 14x14", dict(channels=576, size=14, k=3, layout=nchw), (200, 0, 0)),
    ("", "5x5, packed", dict(channels=240, size=28, k=5, packed=True), (200, 81, 7)),
    ("", "7x7, packed", dict(channels=384, size=14, k=7, packed=True), (128, 26, 7)),
    ("", "7x7, planes", dict(channels=96, size=56, k=7, layout=nchw), (136, 0, 0)),
    ("", "7x7, float32", dict(channels=96, size=56, k=7, dtype=torch.float32), (255, 13, 8)),
    ("", "31x31", dict(channels=128, size=56, k=31, packed=True), (128, 26, 7)),
    ("_backward_input", "3x3", dict(channels=96, size=112, k=3), (255, 30, 8)),
    ("_backward_input", "3x3, planes", dict(channels=96, size=56, k=3, layout=nchw), (128, 10, 8)),
    ("_backward_input", "3x3, stride", dict(channels=144, size=56, k=3, stride=2), (232, 24, 7)),
    ("_backward_input", "7x7", dict(channels=384, size=14, k=7), (128, 26, 7)),
    ("_backward_weight", "3x3", dict(channels=576, size=14, k=3), (255, 34, 0)),
    ("_backward_weight", "5x5", dict(channels=240, size=28, k=5), (232, 29, 0)),
    ("_backward_weight", "5x5, planes", dict(channels=240, size=28, k=5, layout=nchw), (240, 0, 0)),
]:
    op_name = f"depthwise_conv2d{op}"
    CALLS[f"{op_name}, {name}"] = (op_name, depthwise(op, **layer), *limits)

# The windows of AlexNet and GoogLeNet.
for name, x, limits in [
    ("planes", nchw(128, 64, 56, 56, dtype=torch.float32), (128, 0, 0)),
    ("planes, bfloat16", nchw(128, 96, 55, 55), (168, 0, 0)),
    ("channels_last", nhwc(128, 64, 56, 56), (64, 1, 1)),
    ("channels_last, float32", nhwc(128, 64, 56, 56, dtype=torch.float32), (64, 1, 1)),
]:
    forward = ("local_response_norm", (x, 5, 1e-4, 0.75, 2.0), *limits)
    CALLS[f"local_response_norm, {name}"] = forward
    backward = ("local_response_norm_backward", (x, x, 5, 1e-4, 0.75, 2.0), *limits)
    CALLS[f"local_response_norm_backward, {name}"] = backward
CALLS["local_response_norm_backward, wide"] = (
    "local_response_norm_backward",
    (nhwc(128, 64, 56, 56), nhwc(128, 64, 56, 56), 11),
    *(64, 0, 0),
)

# Every kernel for an H100; one call of each op for the others, a compilation takes a second.
FIRST = {name: call for call, (name, *_) in reversed(CALLS.items())}.values()
BUILDS = [(90, call) for call in CALLS] + [(sm, call) for sm in (80, 100) for call in FIRST]


# Bytes that Triton 3.6 keeps on the stack, two registers.
STACK = {"depthwise_conv2d, 7x7, packed": 8, "depthwise_conv2d_backward_input, 7x7": 8}


@pytest.mark.parametrize(("architecture", "call"), BUILDS)
def test_registers_spills_and_wide_accesses(architecture, call):
    name, arguments, registers, loads, stores = CALLS[call]
    main, *others = (compile_for(architecture, launch) for launch in KERNELS[name].plan(*arguments))
    assert main.registers <= registers
    assert main.count(r"LDG\S*\.128\S*") >= loads
    assert main.count(r"STG\S*\.128\S*") >= stores
    assert all(kernel.stack <= STACK.get(call, 0) for kernel in (main, *others))


def outputs_of_thread(launch):
    """Of a tile, each row of which is a tile of its own."""
    columns = ("ITEMS", "TARGETS") if "ITEMS" in launch.options else ("GROUP", "COLUMNS")
    sizes = [launch.options.get(name, 1) for name in ("ROWS", *columns, "CHANNELS")]
    return math.prod(sizes) // (32 * launch.options["num_warps"])


# What padding owes to infinite weights is among them, and runs only for those. Triton 3.6 needs one
# in a hundred more than 3.9.
INSTRUCTIONS = {
    "depthwise_conv2d, 3x3": 44,
    "depthwise_conv2d, 3x3, packed": 41,
    "depthwise_conv2d, 3x3, planes": 27,
    "depthwise_conv2d, 5x5, packed": 69,
    "depthwise_conv2d, 7x7, packed": 40,
    "depthwise_conv2d, 7x7, planes": 31,
    "depthwise_conv2d_backward_input, 3x3": 34,
    "depthwise_conv2d_backward_input, 3x3, planes": 24,
}


@pytest.mark.parametrize("call", INSTRUCTIONS)
def test_instructions_an_output(call):
    """Of unrolled kernels, whose listing is what runs."""
    name, arguments, *_ = CALLS[call]
    (launch,) = KERNELS[name].plan(*arguments)
    instructions = sum(compile_for(90, launch).instructions.values())
    assert instructions / outputs_of_thread(launch) <= INSTRUCTIONS[call]


LARGE = {"7x7, packed": (80, 90, 100), "7x7, planes": (90,), "31x31": (90,)}


@pytest.mark.parametrize(
    ("architecture", "call"), [(sm, call) for call, sms in LARGE.items() for sm in sms]
)
def test_large_filters_are_multiplied_by_tensor_cores(architecture, call):
    name, arguments, registers, *_ = CALLS[f"depthwise_conv2d, {call}"]
    (launch,) = KERNELS[name].plan(*arguments)
    compiled = compile_for(architecture, launch)
    # Of seven rows of a filter at a time: a product each for 128 outputs, 4 a thread.
    assert compiled.count(r"HMMA\.16816\..*") * 4 == outputs_of_thread(launch) * 7
    assert compiled.registers <= registers


def test_rows_of_28_pixels_are_read_8_bytes_at_a_time():
    (launch,) = KERNELS["depthwise_conv2d"].plan(*depthwise("", 192, 28, 3, layout=nchw))
    compiled = compile_for(90, launch)
    assert compiled.count(r"LDG\S*\.64\S*") >= 16
    assert compiled.count(r"STG\S*\.64\S*") >= 14
    assert compiled.stack == 0


def test_every_kernel_has_a_row():
    products = {name for name, *_ in test_triton_compiled_products.CALLS.values()}
    in_turn = {"depthwise_conv2d_backward"}  # launches the kernels of two others
    assert {name for name, *_ in CALLS.values()} | products | in_turn == set(KERNELS)
