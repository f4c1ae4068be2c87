"""The kernels of separable_conv2d and inverted_residual against their references."""

import pytest
import torch

from fastconv import ops
from fastconv.triton_kernels import KERNELS
from fastconv.triton_kernels.inverted_residual import inverted_residual_kernel
from fastconv.triton_kernels.pointwise_conv2d import panel_kernel
from fastconv.triton_kernels.separable_conv2d import separable_kernel
from tests.helpers import channels_last, contiguous
from tests.triton.helpers import DTYPES, LAYOUTS, assert_agrees, expect

NO_SQUEEZE = (None,) * 4


def separable(shape, outputs, k, dtype=torch.float32, layout=contiguous, **options):
    """Arguments of separable_conv2d."""
    stride = options.get("stride", (1, 1))
    padding = options.get("padding", (k // 2,) * 4)
    dilation = options.get("dilation", (1, 1))
    channels = shape[1]
    hidden = channels * options.get("multiplier", 1)
    x = layout(torch.randn(shape)).to(dtype)
    dw = options.get("pack", contiguous)(torch.randn(hidden, 1, k, k).to(dtype) / k)
    pw = torch.randn(outputs, hidden, 1, 1).to(dtype)
    biases = torch.randn(hidden).to(dtype), torch.randn(outputs).to(dtype)
    arguments = [x, dw, biases[0], pw, biases[1], None, *NO_SQUEEZE, stride, padding, dilation]
    arguments += ["relu6", options.get("pointwise_activation", "relu")]
    if options.get("residual"):
        size = torch.ops.fastconv.separable_conv2d(*on_meta(arguments)).shape
        arguments[5] = layout(torch.randn(size)).to(dtype)
    return arguments


def on_meta(arguments):
    return [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]


def agree(name, *arguments):
    """A hidden value is rounded once more than in float64, and its error multiplied by weights."""
    dtype = arguments[0].dtype
    rounding = 1 if dtype == torch.float32 else torch.finfo(dtype).eps / torch.finfo().eps / 16
    assert_agrees(name, *arguments, terms=64, scale=16 * max(1.0, rounding))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_separable_values(dtype, layout):
    agree("separable_conv2d", *separable((2, 40, 7, 9), 24, 3, dtype, layout))


def test_float32_vectors_beside_bfloat16():
    arguments = separable((2, 40, 7, 9), 24, 3, torch.bfloat16, channels_last)
    wide = [a.float() if i in (1, 2, 4) else a for i, a in enumerate(arguments)]
    agree("separable_conv2d", *wide)


@pytest.mark.parametrize(("channels", "outputs"), [(5, 130), (16, 3)])
def test_separable_sizes(channels, outputs):
    agree("separable_conv2d", *separable((2, channels, 5, 6), outputs, 3, layout=channels_last))


GEOMETRIES = [
    {"k": 3, "stride": (2, 2)},
    {"k": 5, "stride": (1, 2), "padding": (0, 1, 3, 2)},
    {"k": 3, "dilation": (2, 3), "padding": (2, 3, 2, 3)},
    {"k": 1, "residual": True},
    {"k": 3, "residual": True, "pack": ops.pack_depthwise_weight},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=" ".join)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_separable_windows(geometry, layout):
    agree("separable_conv2d", *separable((2, 24, 9, 8), 16, layout=layout, **geometry))


def inverted(shape, hidden, outputs, k, dtype=torch.float32, layout=contiguous, **options):
    """Arguments of inverted_residual."""
    channels = shape[1]
    x = layout(torch.randn(shape)).to(dtype)
    weights = (torch.randn(hidden, channels, 1, 1), torch.randn(hidden, 1, k, k) / k)
    expand, dw = (w.to(dtype) for w in weights)
    project = torch.randn(outputs, hidden, 1, 1).to(dtype)
    biases = [torch.randn(n).to(dtype) for n in (hidden, hidden, outputs)]
    packed = options.get("pack", contiguous)(expand)
    arguments = [x, packed, biases[0], dw, biases[1], project, biases[2], *NO_SQUEEZE]
    arguments += [options.get("stride", (2, 2)), options.get("padding", (k // 2,) * 4)]
    return [*arguments, options.get("activation", "relu6"), options.get("residual", False)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_inverted_values(dtype, layout):
    agree("inverted_residual", *inverted((2, 16, 9, 8), 40, 24, 3, dtype, layout))
    agree("inverted_residual", *inverted((2, 5, 5, 6), 21, 3, 3, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inverted_windows(layout):
    for options in ({"padding": (0, 1, 2, 1)}, {"stride": (1, 3)}, {"activation": "silu"}):
        agree("inverted_residual", *inverted((1, 16, 7, 8), 32, 8, 3, layout=layout, **options))
    packed = inverted((1, 16, 7, 8), 32, 8, 3, layout=layout, pack=ops.pack_pointwise_weight)
    agree("inverted_residual", *packed)
    one = inverted((1, 16, 4, 5), 32, 16, 1, layout=layout, stride=(1, 1), residual=True)
    agree("inverted_residual", *one)


def test_stride_1_expands_in_a_kernel_of_its_own():
    arguments = inverted(
        (1, 16, 6, 5), 96, 16, 3, layout=channels_last, stride=(1, 1), residual=True
    )
    agree("inverted_residual", *arguments)
    large = inverted((1, 16, 56, 56), 160, 16, 3, stride=(1, 1))
    kernels = [launch.kernel for launch in KERNELS["inverted_residual"].plan(*large)]
    assert kernels == [panel_kernel, separable_kernel]
    strided = inverted((1, 16, 56, 56), 160, 16, 3)
    kernels = [launch.kernel for launch in KERNELS["inverted_residual"].plan(*strided)]
    assert kernels == [inverted_residual_kernel]


def test_no_bias_at_all():
    arguments = inverted((1, 16, 6, 5), 32, 8, 3)
    for place in (2, 4, 6):
        arguments[place] = None
    agree("inverted_residual", *arguments)
    arguments = separable((1, 16, 6, 5), 8, 3)
    arguments[2] = arguments[4] = None
    agree("separable_conv2d", *arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_infinite_expansion_meets_no_padding(layout):
    arguments = inverted((1, 16, 6, 5), 32, 8, 3, layout=layout, activation=None)
    arguments[1][0, 0] = float("inf")
    arguments[0][0, 0] = 1.0
    arguments[3][0] = 1.0  # so that its hidden channel is infinite, and never NaN
    assert expect("inverted_residual", *arguments).isinf().all()
    agree("inverted_residual", *arguments)


def test_nothing_in():
    assert KERNELS["separable_conv2d"](*separable((0, 16, 6, 5), 8, 3)).shape == (0, 8, 6, 5)
    assert KERNELS["inverted_residual"](*inverted((0, 16, 6, 6), 32, 8, 3)).shape == (0, 8, 3, 3)


def test_bad_input():
    arguments = separable((1, 16, 6, 5), 8, 3)
    arguments[3] = arguments[3][:, :7]
    with pytest.raises(RuntimeError, match="weight of shape"):
        KERNELS["separable_conv2d"](*arguments)
    arguments = inverted((1, 16, 6, 5), 32, 8, 3, residual=True)
    with pytest.raises(RuntimeError, match="residual of shape"):
        KERNELS["inverted_residual"](*arguments)
