"""Kernels compiled for their channels, as NVRTC compiles them; the emulator has some of these."""

import pytest
import torch

from fastconv import nvrtc, reference
from fastconv.ops import inverted_residual, pointwise_conv2d, residual_add
from tests.cuda.emulator import COMPILING, emulated, launches
from tests.cuda.test_compile import REGISTERS
from tests.cuda.test_depthwise_conv2d import check
from tests.cuda.test_local_response_norm import check as check_norm
from tests.cuda.toolkit import read
from tests.helpers import assert_close, channels_last, contiguous
from tests.test_inverted_residual import assert_right
from tests.test_inverted_residual import make as make_block
from tests.test_pointwise_conv2d import expectation, make

LAYOUTS = pytest.mark.parametrize("layout", [contiguous, channels_last])


@LAYOUTS
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("kernel", [2, 4, 6])
def test_depthwise_windows_that_are_not_compiled_ahead(kernel, stride, padding, layout):
    kind = "nchw_tile" if layout is contiguous else "nhwc_tile"
    with launches(f"depthwise_conv2d_{kind}"), launches(f"depthwise_conv2d_weight_{kind}"):
        window = (kernel, stride, padding, 1, 1)
        check((24, 15, 17), window, layout, together=False, device=COMPILING)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_of_several_blocks_of_channels(stride, together):
    window = (3, stride, 1, 1, 1)
    check((72, 9, 11), window, channels_last, together=together, device=COMPILING)


@pytest.mark.parametrize(
    ("layout", "stride"), [(contiguous, (1, 1)), (channels_last, (1, 1)), (channels_last, (2, 1))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pointwise(dtype, stride, layout):
    tensors = make((2, 40, 24, 8, 8), dtype, layout, stride)
    doubles = [t.double().requires_grad_() for t in tensors]
    expected = expectation(*doubles, stride)
    grad = layout(torch.randn(expected.shape).to(dtype))
    expected.backward(grad.double())
    for tensor in tensors:
        tensor.requires_grad_()
    with emulated(device=COMPILING):
        y = pointwise_conv2d(*tensors, stride)
        y.backward(grad)
    assert_close(y.detach(), expected.detach(), terms=42, scale=4)
    for ours, theirs in zip(tensors, doubles, strict=True):
        assert_close(ours.grad, theirs.grad, terms=128, scale=40)


@pytest.mark.parametrize(
    ("shape", "window"), [((1, 24, 72, 24, 9, 11), (3, 1, 1)), ((1, 16, 40, 64, 17, 15), (5, 2, 2))]
)
def test_fused_block(shape, window):
    kernel, stride, padding = window
    tensors = make_block(shape, kernel, torch.bfloat16)
    residual = shape[1] == shape[3]
    with emulated(device=COMPILING), launches("inverted_residual_fused"):
        y = inverted_residual(*tensors, stride, padding, "relu6", residual)
    assert_right(y, tensors, stride, padding, "relu6", residual)


def test_normalisation():
    x = channels_last(torch.randn(2, 40, 3, 5))
    with launches("local_response_norm_nhwc"), launches("local_response_norm_backward_nhwc"):
        check_norm(x, 4, 0.5, device=COMPILING)


@LAYOUTS
def test_shortcut(layout):
    x, r = layout(torch.randn(1, 40, 3, 5)), layout(torch.randn(1, 24, 6, 9))
    with emulated(device=COMPILING):
        y = residual_add(x, r)
    assert_close(y, reference.residual_add(x.double(), r.double(), "relu"), scale=4)


# Kernel, arguments for any channels, channels; the share of the instructions that are left.
SHARES = [
    ("depthwise_conv2d", "nhwc_tile", (2, 3, 1, -1), (144,), 0.97),
    ("depthwise_conv2d", "gradients_nhwc_tile", (2, 3), (144,), 0.98),
    ("depthwise_conv2d", "weight_nhwc_tile", (2, 3, 1), (144,), 0.96),
    ("inverted_residual", "fused", (2, 3, 1, 32), (24, 144, 24), 0.96),
    ("local_response_norm", "nhwc", (2, 5, 1), (96,), 0.75),
    ("local_response_norm", "backward_nhwc", (2, 5, 1), (96,), 0.85),
    ("pointwise_conv2d", "mma", (2, 0, 8, 128), (64, 384), 0.82),
    ("pointwise_conv2d", "mma", (2, 1, 8, 32), (144, 24), 0.62),
    ("pointwise_conv2d", "mma", (2, 1, 8, 64), (64, 384), 0.57),
    ("pointwise_conv2d", "simt", (0, 1, 4), (64, 384), 0.97),
    ("pointwise_conv2d", "weight_gradient_simt", (0, 1), (64, 384), 0.93),
    ("pointwise_conv2d", "weight_gradient_sum", (2,), (64, 384), 0.47),
    ("pointwise_conv2d", "spread", (2,), (64, 384), 0.78),
    ("residual_add", "shortcut", (2,), (64, 32), 0.88),
]


@pytest.mark.parametrize(("op", "name", "arguments", "channels", "share"), SHARES)
def test_constants_save_instructions(op, name, arguments, channels, share, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path))
    file = tmp_path / "kernel.cubin"

    def compiled(*arguments):
        kernel = f"fastconv::cuda::{op}_{name}<{', '.join(map(str, arguments))}>"
        file.write_bytes(nvrtc.compile_cubin(op, kernel, "sm_90")[1])
        (found,) = read(file)
        return found

    of_any, known = compiled(*arguments), compiled(*arguments, *channels)
    assert known.stack == 0
    assert known.registers <= REGISTERS[known.kernel]
    took = len(known.sass) / len(of_any.sass)
    assert took <= share, f"{took:.3f} of the instructions"
