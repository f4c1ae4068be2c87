"""conv2d: torch's signature plus an activation; our kernel where the shape has one."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._window import IntPair, edges, pair
from fastconv.ops.depthwise_conv2d import depthwise_conv2d
from fastconv.ops.pointwise_conv2d import pointwise_conv2d
from fastconv.reference import activate


def is_depthwise(weight_shape: Sequence[int], groups: int) -> bool:
    """Whether every output channel reads a single input channel of several."""
    return groups > 1 and weight_shape[1] == 1


def is_pointwise(
    weight_shape: Sequence[int], groups: int, padding: str | int | Sequence[int]
) -> bool:
    """Whether the kernel is one pixel over all channels and the input is not padded."""
    if groups != 1 or weight_shape[2] != 1 or weight_shape[3] != 1:
        return False
    if isinstance(padding, str):
        return padding in ("same", "valid")  # one pixel needs none
    return not any(padding) if isinstance(padding, (tuple, list)) else padding == 0


def no_kernel(weight_shape: Sequence[int], groups: int) -> str:
    """Why a convolution of this shape, neither depthwise nor pointwise, has no kernel of ours."""
    window = "x".join(str(size) for size in weight_shape[2:])
    if len(weight_shape) != 4:
        return f"{len(weight_shape) - 2}d: our kernels are 2d"
    if groups > 1:
        return f"{groups} groups, {window}: neither depthwise nor 1x1 over all channels"
    if window == "1x1":
        return "dense 1x1 with padding: our 1x1 has none"
    return f"dense {window}: ours, ops.dense_conv2d, is called by fastconv.optimize where it wins"


def _check_ignored(stride: IntPair, padding: str | IntPair, dilation: IntPair) -> None:
    """Raises what torch raises for arguments that a kernel of one pixel has no use for."""
    dilation = pair("conv2d", "dilation", dilation)
    edges("conv2d", padding, (1, 1), pair("conv2d", "stride", stride), dilation)
    if min(dilation) < 1:
        raise RuntimeError(f"conv2d: expected dilation of 1 or more, got {dilation}")


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """activation(torch.nn.functional.conv2d(...)): same arguments, shapes and errors.

    Depthwise and pointwise shapes run on our kernels, all others on torch's own.
    """
    tensors = isinstance(input, Tensor) and isinstance(weight, Tensor)
    if tensors and weight.dim() == 4 and isinstance(groups, int):  # else torch refuses
        shape = weight.shape
        if is_depthwise(shape, groups) and input.dim() > 2 and input.shape[-3] == groups:
            return depthwise_conv2d(input, weight, bias, stride, padding, dilation, activation)
        if is_pointwise(shape, groups, padding):
            if type(padding) is not int or type(dilation) is not int or dilation < 1:
                _check_ignored(stride, padding, dilation)
            return pointwise_conv2d(input, weight, bias, None, stride, activation)
    return activate(F.conv2d(input, weight, bias, stride, padding, dilation, groups), activation)
