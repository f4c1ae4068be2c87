import pytest
import torch

from fastconv.ops import (
    SqueezeExcitation,
    inverted_residual,
    pack_pointwise_weight,
    separable_conv2d,
)
from tests.cuda.emulator import ORDERS, SMALL_H100, emulated, launches, recorded
from tests.helpers import ACTIVATIONS, DTYPES, channels_last, contiguous
from tests.test_inverted_residual import assert_right, make

HALVES = [torch.bfloat16, torch.float16]
FUSED = "inverted_residual_fused"

# batch, in, hidden, out, height, width: about a slice of 32 hidden channels, a chunk of the input,
# a tile of the projection, a rectangle of pixels.
SHAPES = [
    (2, 8, 24, 8, 15, 17),
    (1, 16, 96, 24, 16, 16),
    (1, 40, 64, 40, 8, 30),
    (2, 72, 40, 128, 17, 15),
    (1, 8, 32, 72, 1, 150),
]
WINDOWS = [  # kernel, stride, padding
    (3, 1, 1),
    (3, 2, 1),
    (5, 2, (1, 2, 3, 0)),
    ((3, 5), (2, 1), (1, 2)),
]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fused(shape, window, dtype):
    kernel, stride, padding = window
    tensors = make(shape, kernel, dtype)
    residual = stride == 1 and shape[1] == shape[3]
    with emulated(), launches(FUSED):
        y = inverted_residual(*tensors, stride, padding, "relu6", residual)
    assert_right(y, tensors, stride, padding, "relu6", residual)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", [(3, 1, 1), (5, 2, (1, 2, 3, 0)), (4, 1, (1, 1, 2, 2))])
def test_by_parts(window, layout, dtype):
    kernel, stride, padding = window
    tensors = make((2, 6, 18, 6, 9, 8), kernel, dtype, layout)
    with emulated(), launches(f"pointwise_conv2d_{'mma' if dtype in HALVES else 'simt'}"):
        y = inverted_residual(*tensors, stride, padding, "relu6", kernel == 3)
    assert_right(y, tensors, stride, padding, "relu6", kernel == 3)
    assert y.stride() == layout(y).stride()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biases", [[0, 2, 4], [1, 3, 5]])
def test_activations_and_missing_biases(activation, biases):
    x, *weights = make((1, 16, 40, 16, 9, 12), dtype=torch.float16)
    some = [w if i in biases or i % 2 == 0 else None for i, w in enumerate(weights)]
    with emulated(), launches(FUSED):
        y = inverted_residual(3 * x, *some, 1, 1, activation, True)
    assert_right(y, (3 * x, *some), 1, 1, activation, True)


def test_any_strides_of_the_weights():
    x, expand, b1, filters, b2, project, b3 = make((1, 24, 40, 16, 9, 12), dtype=torch.bfloat16)
    expected = (x, expand, b1, filters, b2, project, b3)
    sparse = torch.zeros(80, 48, 1, 1, dtype=x.dtype)[::2, ::2].copy_(expand)
    flipped = filters.transpose(2, 3).contiguous().transpose(2, 3)
    for e, f, p in [
        (pack_pointwise_weight(expand), flipped, pack_pointwise_weight(project)),
        (sparse, filters, project),
    ]:
        with emulated(), launches(FUSED):
            y = inverted_residual(x, e, b1, f, b2, p, b3, 1, 1)
        assert_right(y, expected, 1, 1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_separable(stride, padding, dilation, dtype):
    x, _, _, filters, b2, project, b3 = make((2, 40, 40, 24, 16, 15), dtype=dtype)
    arguments = (x, filters, b2, project, b3)
    plain = separable_conv2d(*(t.double() for t in arguments), None, stride, padding, dilation)
    residual = channels_last(torch.randn(plain.shape).to(dtype))
    options = (stride, padding, dilation, "relu", "silu")
    expected = separable_conv2d(*(t.double() for t in arguments), residual.double(), *options)
    with emulated(), launches(FUSED):
        y = separable_conv2d(*arguments, residual, *options)
    error = (y.double() - expected).abs().max()
    assert error <= 16 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("stride", [1, 2])
def test_infinite_weight_makes_no_nan_in_the_padding(stride):
    x, expand, b1, filters, b2, project, b3 = make((1, 8, 32, 8, 17, 17), dtype=torch.float16)
    filters[3, 0, 0, 0] = float("inf")
    b1[3] = 6  # so that what the tap meets inside the image is above zero
    expand[3] = 0
    tensors = (x, expand, b1, filters, b2, project, b3)
    with emulated(), launches(FUSED):
        y = inverted_residual(*tensors, stride, 1, "relu")
    by_parts = inverted_residual(*(t.float() for t in tensors), stride, 1, "relu")
    assert torch.equal(y.isfinite(), by_parts.isfinite())
    assert not y.isnan().any()
    assert y[0, :, 0, 0].isfinite().all()


@pytest.mark.parametrize("order", ORDERS)
def test_threads_take_turns_in_any_order(order):
    tensors = make((1, 40, 72, 40, 10, 13), dtype=torch.bfloat16)
    with emulated():
        expected = inverted_residual(*tensors, 1, 1, "silu", True)
    with emulated(order):
        assert torch.equal(inverted_residual(*tensors, 1, 1, "silu", True), expected)


def test_small_maps_and_squeeze_and_excitation_go_by_parts():
    tensors = make((1, 16, 32, 16, 7, 7), dtype=torch.bfloat16)
    shapes = ((8, 32, 1, 1), (8,), (32, 8, 1, 1), (32,))
    squeeze = SqueezeExcitation(*(torch.randn(s, dtype=torch.bfloat16) / 4 for s in shapes))
    larger = make((1, 16, 32, 16, 9, 8), dtype=torch.bfloat16)
    expected = inverted_residual(*larger, 1, 1, "silu", True, squeeze)
    with recorded(SMALL_H100) as planned:
        inverted_residual(*tensors, 1, 1)
    assert FUSED not in [launch.kernel for launch in planned]
    with emulated(), launches("pointwise_conv2d_mma"):
        y = inverted_residual(*larger, 1, 1, "silu", True, squeeze)
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("channels", "hidden", "outs", "size", "stride"),
    [(16, 96, 24, 112, 2), (24, 144, 24, 56, 1), (32, 192, 32, 28, 1), (96, 576, 96, 14, 1)],
)
def test_blocks_of_mobilenet_are_fused(channels, hidden, outs, size, stride):
    tensors = make((4, channels, hidden, outs, size, size), dtype=torch.bfloat16)
    with recorded(SMALL_H100) as planned:
        inverted_residual(*tensors, stride, 1)
    (launch,) = planned
    assert launch.kernel == FUSED
    # Pixels of the output a block: 128 at most, and a stride of 2 needs four times as many inputs.
    assert 4 * (size // stride) ** 2 / launch.blocks >= (96 if stride == 1 else 49)
