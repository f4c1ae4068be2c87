"""What all ops owe alike: torch's numbers in, torch's errors out, on real and on meta tensors."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import ops

X = torch.randn(1, 4, 5, 5)
DEPTHWISE = torch.randn(4, 1, 3, 3)
POINTWISE = torch.randn(8, 4, 1, 1)

NUMBERS = [1, (1, 2), [2, 1], (2,), torch.Size([1, 2]), np.int64(2), (np.int32(1), 2)]
NUMBERS += [torch.tensor(2), 2**31 - 1, -1, 0, (1, 0), (), (1, 1, 1)]
NUMBERS += [True, (True, 1), 1.0, (1.0, 1), (1, 0.5), np.float32(1), None, "x", range(1, 3), {1}]


def outcome(call):
    """The shape call() gives, or the type of what it raises."""
    try:
        return tuple(call().shape)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_numbers_are_taken_and_refused_as_in_torch(name, value):
    geometry = {name: value}
    if (name, value) != ("padding", 2**31 - 1):
        expected = outcome(lambda: F.conv2d(X, DEPTHWISE, groups=4, **geometry))
        assert outcome(lambda: ops.depthwise_conv2d(X, DEPTHWISE, **geometry)) == expected
        expected = outcome(lambda: F.conv2d(X, POINTWISE, **geometry))
        assert outcome(lambda: ops.conv2d(X, POINTWISE, **geometry)) == expected
        if name == "stride":
            assert outcome(lambda: ops.pointwise_conv2d(X, POINTWISE, **geometry)) == expected


def test_conv2d_checks_what_the_pointwise_kernel_does_not_take():
    for geometry in ({"stride": 2, "padding": "same"}, {"dilation": 0}, {"padding": (0, 0, 0)}):
        with pytest.raises(RuntimeError):
            ops.conv2d(X, POINTWISE, **geometry)
    assert ops.pointwise_conv2d(X, POINTWISE, stride=2**63 - 1).shape == (1, 8, 1, 1)


@pytest.mark.parametrize("number", [np.int64(3), np.float32(0.5), 2, True], ids=repr)
def test_local_response_norm_takes_numpy_numbers(number):
    y = ops.local_response_norm(X, np.int64(3), number, 0.75, number)
    torch.testing.assert_close(y, F.local_response_norm(X, 3, float(number), 0.75, float(number)))


BAD_CALLS = {
    "stride 0": lambda to: ops.depthwise_conv2d(to(X), to(DEPTHWISE), stride=0),
    "dilation 0": lambda to: ops.depthwise_conv2d(to(X), to(DEPTHWISE), dilation=0),
    "padding -1": lambda to: ops.depthwise_conv2d(to(X), to(DEPTHWISE), padding=-1),
    "channels": lambda to: ops.depthwise_conv2d(to(X), to(torch.ones(6, 1, 3, 3))),
    "grouped": lambda to: ops.depthwise_conv2d(to(X), to(torch.ones(4, 2, 3, 3))),
    "no taps": lambda to: ops.depthwise_conv2d(to(X), to(torch.ones(4, 1, 0, 3))),
    "bias": lambda to: ops.depthwise_conv2d(to(X), to(DEPTHWISE), to(torch.ones(3))),
    "depthwise dtype": lambda to: ops.depthwise_conv2d(to(X), to(DEPTHWISE).double()),
    "depthwise activation": lambda to: ops.depthwise_conv2d(to(X), to(DEPTHWISE), activation="x"),
    "pointwise stride 0": lambda to: ops.pointwise_conv2d(to(X), to(POINTWISE), stride=0),
    "pointwise dtype": lambda to: ops.pointwise_conv2d(to(X), to(POINTWISE).double()),
    "pointwise activation": lambda to: ops.pointwise_conv2d(to(X), to(POINTWISE), activation="x"),
    "residual": lambda to: ops.residual_add(to(X), to(POINTWISE)),
    "residual activation": lambda to: ops.residual_add(to(X), to(X), "x"),
    "size": lambda to: ops.local_response_norm(to(X), 0),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_fake_kernels_refuse_what_the_kernels_refuse(call, device):
    with pytest.raises(RuntimeError):
        call(lambda t: t.to(device))


def test_devices_do_not_mix():
    meta = POINTWISE.to("meta"), DEPTHWISE.to("meta"), X.to("meta")
    for call in (
        lambda: ops.pointwise_conv2d(X, meta[0]),
        lambda: ops.depthwise_conv2d(X, meta[1]),
        lambda: ops.depthwise_conv2d(meta[2], DEPTHWISE),
        lambda: ops.residual_add(X, meta[2]),
    ):
        with pytest.raises(RuntimeError, match="device"):
            call()


def test_what_does_not_fit_in_memory_says_so_and_no_file_name(capfd):
    huge = torch.ones(1, 1, 1, 1).expand(1, 1, 2**31, 2**20)
    for call in (
        lambda: ops.depthwise_conv2d(X, DEPTHWISE, padding=10**6),
        lambda: ops.depthwise_conv2d(X[:, :1, :3, :3], X[:, :1, :2, :2], padding=2**31 - 1),
        lambda: ops.local_response_norm(huge, 3),
    ):
        with pytest.raises(RuntimeError, match="not enough memory for") as raised:
            call()
        assert "/" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_traced_layer_can_be_saved_and_loaded():
    layer = fastconv.nn.PointwiseConv2d(4, 8, activation="relu")
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(layer, X), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(X), layer(X))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_calls_leave_no_memory_behind():
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def calls(count: int) -> None:
        for _ in range(count):
            ops.residual_add(X, X, "hardswish")
            ops.pointwise_conv2d(X, POINTWISE, activation="relu6")

    calls(2000)
    before = resident()
    calls(20_000)
    assert resident() - before < 2**20  # torch's unboxing of a string would have left 10 MB


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_a_backward_pass_under_autocast_computes_in_the_dtype_of_the_forward(activation):
    x = X.clone().requires_grad_()
    for y in (
        ops.depthwise_conv2d(x, DEPTHWISE, activation=activation),
        ops.pointwise_conv2d(x, POINTWISE, activation=activation),
    ):
        (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize(
    ("function", "weight"), [(ops.depthwise_conv2d, DEPTHWISE), (ops.pointwise_conv2d, POINTWISE)]
)
def test_autocast_reaches_functional_transforms(function, weight):
    with torch.autocast("cpu", torch.bfloat16):
        gradient = torch.func.grad(lambda w: function(X, w, activation="silu").sum())(weight)
    assert gradient.dtype == torch.float32
