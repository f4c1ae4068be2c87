"""Both gradients of depthwise_conv2d in one pass, over the edges of the tiles."""

from contextlib import contextmanager

import pytest
import torch

from fastconv import _C
from fastconv.ops import depthwise_conv2d
from tests.cuda.emulator import (
    COMPILING,
    ORDERS,
    emulated,
    launch_counts,
    launches,
    recorded,
)
from tests.cuda.test_depthwise_conv2d import apart, check
from tests.cuda.test_depthwise_conv2d_tiles import TYPES
from tests.helpers import channels_last, contiguous
from tests.test_depthwise_conv2d import fits, reference_arguments, tensors

KERNELS = {
    contiguous: "depthwise_conv2d_gradients_nchw_tile",
    channels_last: "depthwise_conv2d_gradients_nhwc_tile",
}
BOTH = pytest.mark.parametrize("layout", KERNELS)
# Below, at and above the tiles of a thread (2 x 7; 7 x 4, 4 x 4) and of a block.
SIZES = {
    channels_last: [(16, 7, 7), (40, 14, 13), (32, 3, 31), (24, 33, 8), (72, 8, 57), (16, 5, 5)],
    contiguous: [(3, 7, 7), (40, 14, 13), (5, 9, 30), (2, 90, 28), (3, 40, 100), (1, 5, 510)],
}
PADDINGS = ["same", 0, (0, 1, 1, 0), 1]
CASES = [
    (layout, size, (kernel, 1, padding, 1, 1), TYPES[(i + j + kernel) % 3])
    for layout, sizes in SIZES.items()
    for kernel in (3, 5)
    for i, size in enumerate(sizes)
    for j, padding in enumerate(PADDINGS)
]


@contextmanager
def in_one_pass(layout):
    """Asserts that no other kernel made a gradient."""
    before = launch_counts()["depthwise_conv2d_weight_sum"]
    with launches(KERNELS[layout]):
        yield
    assert launch_counts()["depthwise_conv2d_weight_sum"] == before + 1


@pytest.mark.parametrize(("layout", "size", "window", "dtype"), [c for c in CASES if fits(*c[1:3])])
def test_values(layout, size, window, dtype):
    with in_one_pass(layout):
        check(size, window, layout, dtype)


@BOTH
@pytest.mark.parametrize("order", ORDERS)
def test_threads_take_turns_in_any_order(layout, order):
    with in_one_pass(layout):
        check((24, 17, 19), (3, 1, 1, 1, 1), layout, torch.bfloat16, order=order)


@BOTH
@pytest.mark.parametrize("kernel", [2, 4])
def test_kernels_compiled_at_run_time(kernel, layout):
    with in_one_pass(layout):
        check((24, 15, 17), (kernel, 1, "same", 1, 1), layout, device=COMPILING)


@BOTH
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["input", "weight", "grad_output"])
def test_what_is_not_finite_meets_no_padding(where, bad, kernel, layout):
    """The tiles take the padding as zeros, and a zero times infinity would be NaN."""
    window = (kernel, 1, "same", 1, 1)
    x, w, _ = tensors((24, 9, 11), window, layout)
    g = torch.randn_like(x)
    tensor = {"input": x, "weight": w, "grad_output": g}[where]
    tensor[0, :, 0, 0] = tensor[-1, :, -1, -1] = bad
    arguments = reference_arguments(w, window)
    expected = torch.ops.fastconv.depthwise_conv2d_backward(g, x, w, *arguments)
    with emulated(), in_one_pass(layout):
        gradients = torch.ops.fastconv.depthwise_conv2d_backward(g, x, w, *arguments)
    for ours, cpus in zip(gradients, expected, strict=True):
        assert torch.equal(ours.isnan(), cpus.isnan())
        assert torch.equal(ours.isinf(), cpus.isinf())
        torch.testing.assert_close(ours, cpus, rtol=1e-4, atol=1e-3, equal_nan=True)


@BOTH
def test_the_same_bits_each_time(layout):
    x, w, _ = tensors((40, 30, 30), (3, 1, 1, 1, 1), layout, torch.bfloat16)
    g, arguments = torch.randn_like(x), reference_arguments(w, (3, 1, 1, 1, 1))
    runs = []
    for order in ORDERS:
        with emulated(order):
            runs.append(torch.ops.fastconv.depthwise_conv2d_backward(g, x, w, *arguments))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize(
    ("window", "dtype", "chosen"),
    [
        ((3, 1, 1, 1, 1), torch.bfloat16, True),
        ((5, 1, (3, 2, 1, 2), 1, 1), torch.float32, False),  # rows that no pixel of input meets
        ((3, 2, 1, 1, 1), torch.float32, False),
        ((7, 1, 3, 1, 1), torch.float32, False),
        ((3, 1, 1, 1, 2), torch.float32, False),
        ((3, 1, 1, 1, 1), torch.float64, False),
    ],
)
@BOTH
def test_choice(layout, window, dtype, chosen):
    x, w, _ = tensors((24, 20, 20), window, layout, dtype)
    y = depthwise_conv2d(x, w, None, *window[1:4])
    with recorded(_C.gpu.Device()) as planned:
        arguments = reference_arguments(w, window)
        torch.ops.fastconv.depthwise_conv2d_backward(y, x, w, *arguments)
    assert (planned[0].kernel == KERNELS[layout]) == chosen
    assert planned[-1].kernel == "depthwise_conv2d_weight_sum"
    assert len(planned) == (2 if chosen else 3)


@BOTH
def test_one_gradient_alone(layout):
    x, w, _ = tensors((24, 9, 9), (3, 1, 1, 1, 1), layout)
    with recorded(_C.gpu.Device()) as planned:
        for leaf in (x, w):
            y = depthwise_conv2d(*(t.requires_grad_(t is leaf) for t in (x, w)), None, 1, 1)
            y.sum().backward()
    assert KERNELS[layout] not in {launch.kernel for launch in planned}


@BOTH
@pytest.mark.parametrize("kernel", [3, 5])
def test_agrees_with_gradients_apart(kernel, layout):
    window = (kernel, 1, "same", 1, 1)
    x, w, _ = tensors((32, 20, 23), window, layout)
    g = torch.randn_like(x)
    with emulated():
        both = torch.ops.fastconv.depthwise_conv2d_backward(
            g, x, w, *reference_arguments(w, window)
        )
        one_by_one = apart(g, x, w, window)
    for ours, other in zip(both, one_by_one, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-3)
