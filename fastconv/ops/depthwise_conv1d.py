"""depthwise_conv1d: the depthwise convolution of sequences, by the kernels of depthwise_conv2d."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastconv.ops._check import check_tensors
from fastconv.ops._window import edges, integer, pair
from fastconv.ops.depthwise_conv2d import depthwise_conv2d


def depthwise_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int = 1,
    activation: str | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """activation(torch.nn.functional.conv1d(..., groups=C) + bias).

    The short convolution of audio and state-space models: Fu et al., "Hungry Hungry Hippos"
    (arXiv 2212.14052), Gu and Dao, "Mamba" (arXiv 2312.00752).

    Args:
        input: (N, C, L) or (C, L), in the order of its strides: rows of L, or of C as a transposed
            (N, L, C) has them; float32, float64, bfloat16 or float16.
        weight: (C * m, 1, k), m >= 1: output channel k reads input channel k // m.
        bias: (C * m) or None.
        stride, dilation: integers.
        padding: an integer, (left, right), 'same', 'valid', or 'causal', which pads the left by
            dilation * (k - 1): an output then depends on nothing after it.
        activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.
        out: a tensor to write the result to, as in :func:`depthwise_conv2d`.

    Returns:
        (N, C * m, L'), or without N as input, in the order of the input's strides;
        L' = (L + left + right - dilation * (k - 1) - 1) // stride + 1.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: as :func:`depthwise_conv2d` does, for the same reasons.
    """
    op = "depthwise_conv1d"
    check_tensors(op, ("bias", "out"), input=input, weight=weight, bias=bias, out=out)
    if input.dim() not in (2, 3) or weight.dim() != 3:
        raise RuntimeError(
            f"{op}: expected input with 2 or 3 dimensions and weight with 3, got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    stride, dilation = integer(op, "stride", stride), integer(op, "dilation", dilation)
    result = depthwise_conv2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        (1, stride),
        sides(op, padding, weight.shape[2], stride, dilation),
        (1, dilation),
        activation,
        out=None if out is None else out.unsqueeze(-2),
    )
    return result.squeeze(-2) if out is None else out


def sides(
    op: str, padding: Any, kernel: int, stride: int, dilation: int
) -> tuple[int, int, int, int]:
    """As :func:`edges`, of one row, from any form of padding."""
    if padding == "causal":
        return 0, dilation * (kernel - 1), 0, 0
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(
                f"{op}: expected padding 'same', 'valid' or 'causal', got {padding!r}"
            )
        return edges(op, padding, (1, kernel), (1, stride), (1, dilation))
    left, right = pair(op, "padding", padding)
    return 0, left, 0, right
