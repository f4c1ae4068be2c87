"""separable_conv2d: a depthwise and a pointwise convolution in one pass, for inference."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.ops._op import FusedOp
from fastconv.ops._window import IntPair, edges, pair
from fastconv.ops.depthwise_conv2d import depthwise_conv2d
from fastconv.ops.depthwise_conv2d import fake as fake_depthwise
from fastconv.ops.pointwise_conv2d import fake as fake_pointwise
from fastconv.ops.pointwise_conv2d import pointwise_conv2d
from fastconv.ops.squeeze_excitation import (
    NO_SQUEEZE,
    SqueezeExcitation,
    check_squeeze,
    squeeze_excitation,
)
from fastconv.ops.squeeze_excitation import fake as fake_squeeze
from fastconv.reference import narrowed


def separable_conv2d(
    input: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    residual: Tensor | None = None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    dilation: IntPair = 1,
    activation: str | None = "relu",
    pointwise_activation: str | None = "relu",
    squeeze: SqueezeExcitation | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """act'(pointwise(act(depthwise(input))) + residual), batch norms folded into the weights.

    The depthwise separable convolution of Howard et al. 2017 (arXiv 1704.04861, figure 3). At
    inference, for channels_last float32 or bfloat16 and a square kernel of 3, 5 or 7 with stride 1
    or 2, what the depthwise convolution gives never reaches memory; where a gradient is wanted, and
    for all other calls, the two convolutions run one after the other.

    Args:
        input: (N, C, H, W) or (C, H, W).
        depthwise_weight: (C * m, 1, kh, kw); see :func:`pack_depthwise_weight` for the order read
            fastest.
        pointwise_weight: (O, C * m, 1, 1); see :func:`pack_pointwise_weight`.
        depthwise_bias, pointwise_bias: (C * m), (O), or None. Beside a bfloat16 input they and
            depthwise_weight may be float32, as in :func:`inverted_residual`.
        residual: the shape of the output.
        stride, padding, dilation: of the depthwise convolution, as in :func:`depthwise_conv2d`.
        activation, pointwise_activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.
        squeeze: the squeeze-and-excitation between the two convolutions, if any.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, O, H', W') in input's memory format, unbatched where input is.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: as :func:`depthwise_conv2d` and :func:`pointwise_conv2d`, of the part whose
            arguments do not fit.
    """
    if squeeze is not None:
        check_squeeze("separable_conv2d", squeeze)
    reduce, reduce_bias, excite, excite_bias, middle, gate = squeeze or NO_SQUEEZE
    stride = pair("separable_conv2d", "stride", stride)
    dilation = pair("separable_conv2d", "dilation", dilation)
    padding = edges("separable_conv2d", padding, depthwise_weight, stride, dilation)
    return _op.run(  # one by one: taking tuples apart costs 0.2 us
        input,
        depthwise_weight,
        depthwise_bias,
        pointwise_weight,
        pointwise_bias,
        residual,
        reduce,
        reduce_bias,
        excite,
        excite_bias,
        stride,
        padding,
        dilation,
        activation,
        pointwise_activation,
        middle,
        gate,
        out=out,
    )


def parts(
    input: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    residual: Tensor | None,
    squeeze_reduce_weight: Tensor | None,
    squeeze_reduce_bias: Tensor | None,
    squeeze_expand_weight: Tensor | None,
    squeeze_expand_bias: Tensor | None,
    stride: IntPair,
    padding: IntPair,
    dilation: IntPair,
    activation: str | None,
    pointwise_activation: str | None,
    *squeeze_names: str | None,
) -> Tensor:
    window = (stride, padding, dilation)
    filters = (narrowed(depthwise_weight, input), narrowed(depthwise_bias, input))
    hidden = depthwise_conv2d(input, *filters, *window, activation)
    if squeeze_reduce_weight is not None:
        reduce = (squeeze_reduce_weight, squeeze_reduce_bias)
        expand = (squeeze_expand_weight, squeeze_expand_bias)
        squeeze = SqueezeExcitation(*reduce, *expand, *squeeze_names)  # type: ignore[arg-type]
        hidden = squeeze_excitation(hidden, squeeze)
    weights = (pointwise_weight, pointwise_bias)
    return pointwise_conv2d(hidden, *weights, residual, activation=pointwise_activation)


def fake(
    input: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    residual: Tensor | None,
    squeeze_reduce_weight: Tensor | None,
    squeeze_reduce_bias: Tensor | None,
    squeeze_expand_weight: Tensor | None,
    squeeze_expand_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
    pointwise_activation: str | None = None,
    squeeze_activation: str | None = None,
    squeeze_gate: str = "sigmoid",
) -> Tensor:
    filters = (narrowed(depthwise_weight, input), narrowed(depthwise_bias, input))
    hidden = fake_depthwise(input, *filters, stride, padding, dilation, activation)
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    fake_squeeze(hidden, *squeeze, *excite, squeeze_activation, squeeze_gate)
    return fake_pointwise(
        hidden, pointwise_weight, pointwise_bias, residual, (1, 1), pointwise_activation
    )


_op = FusedOp(
    "separable_conv2d",
    tensors=10,
    reference=reference.separable_conv2d,
    parts=parts,
    fake=fake,
    batched=(0, 5),
)


@register_flop_formula(torch.ops.fastconv.separable_conv2d)
def flops(
    input_shape: Sequence[int],
    depthwise_shape: Sequence[int],
    *_args: object,
    out_shape: Sequence[int],
    **_kwargs: object,
) -> int:
    """Those of its two convolutions, as torch counts them."""
    batch, out_channels, height, width = out_shape
    taps = depthwise_shape[2] * depthwise_shape[3]
    return 2 * batch * height * width * depthwise_shape[0] * (taps + out_channels)
