"""inverted_residual: expand, depthwise and project of a mobile block in one pass, for inference."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.ops._check import check_bools
from fastconv.ops._op import FusedOp
from fastconv.ops._window import IntPair, edges, pair
from fastconv.ops.pointwise_conv2d import fake as fake_pointwise
from fastconv.ops.pointwise_conv2d import pointwise_conv2d
from fastconv.ops.separable_conv2d import fake as fake_separable
from fastconv.ops.separable_conv2d import parts as separable_parts
from fastconv.ops.squeeze_excitation import NO_SQUEEZE, SqueezeExcitation, check_squeeze


def inverted_residual(
    input: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    activation: str | None = "relu6",
    residual: bool = False,
    squeeze: SqueezeExcitation | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """project(act(depthwise(act(expand(input))))) + input, batch norms folded into the weights.

    The inverted residual with linear bottleneck of Sandler et al. 2018 (arXiv 1801.04381, figure
    3). At inference, for channels_last float32 or bfloat16 and a square kernel of 3, 5 or 7 with
    stride 1 or 2, the expanded activations never reach memory; where a gradient is wanted, and for
    all other calls, the three convolutions run one after the other.

    Args:
        input: (N, C, H, W) or (C, H, W).
        expand_weight: (E, C, 1, 1); see :func:`pack_pointwise_weight` for the order read fastest.
        depthwise_weight: (E, 1, kh, kw); see :func:`pack_depthwise_weight`.
        project_weight: (O, E, 1, 1).
        expand_bias, depthwise_bias, project_bias: (E), (E), (O), or None. Beside a bfloat16 input
            they and depthwise_weight may be float32, the fastest on the CPU; on CUDA, and where the
            convolutions run one after the other, they are rounded at each call.
        stride, padding: of the depthwise convolution, as in :func:`depthwise_conv2d`.
        activation: after expand and depthwise; None, 'relu', 'relu6', 'silu' or 'hardswish'.
        residual: whether the input is added, which wants stride 1 and O = C.
        squeeze: the squeeze-and-excitation between depthwise and project, if any, as in the MBConv
            block of Tan and Le 2019 (arXiv 1905.11946).
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, O, H', W') in input's memory format, unbatched where input is.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: as :func:`pointwise_conv2d` and :func:`depthwise_conv2d`, of the part whose
            arguments do not fit.
    """
    if squeeze is not None:
        check_squeeze("inverted_residual", squeeze)
    check_bools("inverted_residual", residual=residual)  # elsewhere a residual is a tensor
    reduce, reduce_bias, excite, excite_bias, middle, gate = squeeze or NO_SQUEEZE
    stride = pair("inverted_residual", "stride", stride)
    padding = edges("inverted_residual", padding, depthwise_weight, stride, (1, 1))
    return _op.run(  # one by one: taking tuples apart costs 0.2 us
        input,
        expand_weight,
        expand_bias,
        depthwise_weight,
        depthwise_bias,
        project_weight,
        project_bias,
        reduce,
        reduce_bias,
        excite,
        excite_bias,
        stride,
        padding,
        activation,
        residual,
        middle,
        gate,
        out=out,
    )


def parts(
    input: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    squeeze_reduce_weight: Tensor | None,
    squeeze_reduce_bias: Tensor | None,
    squeeze_expand_weight: Tensor | None,
    squeeze_expand_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str | None,
    residual: bool,
    *squeeze_names: str | None,
) -> Tensor:
    hidden = pointwise_conv2d(input, expand_weight, expand_bias, activation=activation)
    weights = (depthwise_weight, depthwise_bias, project_weight, project_bias)
    added = input if residual else None
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    block = (*weights, added, *squeeze, *excite, stride, padding, (1, 1), activation, None)
    return separable_parts(hidden, *block, *squeeze_names)


def fake(
    input: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    squeeze_reduce_weight: Tensor | None,
    squeeze_reduce_bias: Tensor | None,
    squeeze_expand_weight: Tensor | None,
    squeeze_expand_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str | None = None,
    residual: bool = False,
    squeeze_activation: str | None = None,
    squeeze_gate: str = "sigmoid",
) -> Tensor:
    hidden = fake_pointwise(input, expand_weight, expand_bias, None, (1, 1), activation)
    weights = (depthwise_weight, depthwise_bias, project_weight, project_bias)
    added = input if residual else None
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    window = (stride, padding, (1, 1), activation, None)
    block = (*weights, added, *squeeze, *excite, *window)
    return fake_separable(hidden, *block, squeeze_activation, squeeze_gate)


_op = FusedOp(
    "inverted_residual",
    tensors=11,
    reference=reference.inverted_residual,
    parts=parts,
    fake=fake,
    batched=(0,),
)


@register_flop_formula(torch.ops.fastconv.inverted_residual)
def flops(
    input_shape: Sequence[int],
    _expand_shape: Sequence[int],
    _expand_bias: object,
    depthwise_shape: Sequence[int],
    *_args: object,
    out_shape: Sequence[int],
    **_kwargs: object,
) -> int:
    """Those of its three convolutions, as torch counts them."""
    batch, channels, height, width = input_shape
    hidden, taps = depthwise_shape[0], depthwise_shape[2] * depthwise_shape[3]
    outputs = out_shape[2] * out_shape[3]
    expand = channels * height * width
    return 2 * batch * hidden * (expand + outputs * taps + outputs * out_shape[1])
