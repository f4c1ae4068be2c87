"""Every kernel against torch's own on the shapes of a network: forward, and forward with backward.

A group is one shape; its rows are fastconv and torch in either layout. Each checks its own result
before it is timed. `pytest bench -k depthwise --benchmark-group-by=group --benchmark-sort=mean`.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.shapes import Shape, read
from fastconv import ops, reference

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
IMAGENET_LRN = [(96, 55), (256, 27)]  # AlexNet's two


def torch_convolution(x: Tensor, w: Tensor, b: Tensor, s: Shape) -> Tensor:
    groups = s.channels if s.op == "depthwise_conv2d" else 1
    return F.relu6(F.conv2d(x, w, b, s.stride, s.kernel // 2, 1, groups))


def our_convolution(x: Tensor, w: Tensor, b: Tensor, s: Shape) -> Tensor:
    if s.op == "depthwise_conv2d":
        return ops.depthwise_conv2d(x, w, b, s.stride, s.kernel // 2, 1, "relu6")
    return ops.pointwise_conv2d(x, w, b, None, s.stride, "relu6")


def run(
    benchmark, rival: str, functions: dict[str, Callable], tensors: list[Tensor], backward: bool
):
    """Times functions[rival], after it agreed with the reference in float64."""
    function = functions[rival]
    expected = functions["torch"](*(t.detach().double() for t in tensors))
    error = (function(*tensors).double() - expected).abs().max()
    assert error <= 1e-4 * expected.abs().max(), float(error)
    if not backward:
        with torch.no_grad():
            benchmark(function, *tensors)
        return
    gradient = torch.ones_like(function(*tensors))
    wanted = [t for t in tensors if t.requires_grad]
    benchmark(lambda: torch.autograd.grad(function(*tensors), wanted, gradient))


@pytest.mark.parametrize("rival", ["torch", "fastconv"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("shape", read("efficientnet_lite0"), ids=lambda s: f"{s.op}-{s}")
def test_convolution(benchmark, shape, batch, direction, layout, rival):
    benchmark.group = f"{shape.op} {shape} n{batch} {direction}"
    depthwise = shape.op == "depthwise_conv2d"
    x = torch.randn(batch, shape.channels, shape.height, shape.width)
    kernel = (1 if depthwise else shape.channels, shape.kernel, shape.kernel)
    tensors = [
        x.contiguous(memory_format=LAYOUTS[layout]),
        torch.randn(shape.out_channels, *kernel),
        torch.randn(shape.out_channels),
    ]
    training = direction == "training"
    functions = {
        "torch": lambda x, w, b: torch_convolution(x, w, b, shape),
        "fastconv": lambda x, w, b: our_convolution(x, w, b, shape),
    }
    run(benchmark, rival, functions, [t.requires_grad_(training) for t in tensors], training)


@pytest.mark.parametrize("rival", ["torch", "fastconv"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize(("channels", "size"), IMAGENET_LRN)
def test_local_response_norm(benchmark, channels, size, direction, layout, rival):
    benchmark.group = f"local_response_norm {channels}x{size}x{size} n16 {direction}"
    x = torch.randn(16, channels, size, size).contiguous(memory_format=LAYOUTS[layout])
    training = direction == "training"
    functions = {
        "torch": lambda x: F.local_response_norm(x, 5),
        "fastconv": lambda x: ops.local_response_norm(x, 5),
    }
    run(benchmark, rival, functions, [x.requires_grad_(training)], training)


@pytest.mark.parametrize("rival", ["torch", "fastconv"])
@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize("batch", [1, 16])
def test_residual_add(benchmark, batch, direction, rival):
    benchmark.group = f"residual_add 256x56x56 n{batch} {direction}"
    training = direction == "training"
    tensors = [torch.randn(batch, 256, 56, 56, requires_grad=training) for _ in range(2)]
    functions = {
        "torch": lambda x, r: reference.residual_add(x, r, "relu"),
        "fastconv": lambda x, r: ops.residual_add(x, r, "relu"),
    }
    run(benchmark, rival, functions, tensors, training)
