"""dense_conv2d: a convolution over all channels at once, channels_last; for inference."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import packed_weights, reference
from fastconv.ops._check import check_bias, check_like_input, check_weight, check_windows
from fastconv.ops._op import DerivedOp
from fastconv.ops._window import IntPair, edges, output_sizes, pair

PANEL = 32  # output channels of a panel of packed weights


def dense_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    dilation: IntPair = 1,
    activation: str | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """activation(torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation)
    + residual), channels_last.

    A window's products are those of a matrix whose rows overlap in memory (the implicit product of
    Chetlur et al. 2014, arXiv 1410.0759): no copy of every window is made.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, bfloat16 or float16.
        weight: (O, C, kh, kw), or in panels by :func:`pack_dense_weight`; then it needs no packing
            at each call. Or by :func:`pack_winograd_weight`, which chooses another arithmetic.
        bias: (O) or None; beside a bfloat16 input it may be float32.
        residual: added before the activation; the output's shape, or None.
        stride: an integer or (rows, columns).
        padding: an integer, (rows, columns), 'same', 'valid', or (top, left, bottom, right).
        dilation: an integer or (rows, columns).
        activation: None, 'relu', 'relu6', 'silu' or 'hardswish'.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        (N, O, H', W'), channels_last whatever the input is, or without N as input.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: shapes, dtypes or devices do not fit, the kernel is larger than the padded
            input, stride or dilation is below 1, padding is negative or 'same' with a stride, or
            the activation is unknown.
    """
    stride = pair("dense_conv2d", "stride", stride)
    dilation = pair("dense_conv2d", "dilation", dilation)
    kernel: Tensor | tuple[int, ...] = weight
    if isinstance(padding, str) and isinstance(weight, Tensor) and weight.dim() in (5, 6):
        kernel = tuple(_window_of(weight.shape))
    padding = edges("dense_conv2d", padding, kernel, stride, dilation)
    return _op.run(input, weight, bias, residual, stride, padding, dilation, activation, out=out)


def pack_dense_weight(weight: Tensor) -> Tensor:
    """weight, of shape (O, C, kh, kw), in panels: (O / 32 rounded up, kh, kw, C, 32), or with O
    below 32 in one of O channels.

    The last panel is filled up with zeros; where that is so, only a bias tells the op how many
    channels there are.

    Raises:
        TypeError: weight is not a tensor.
        RuntimeError: it has other dimensions, or no output channels.
    """
    check_weight("pack_dense_weight", weight, "(out_channels, in_channels, kh, kw)")
    columns = min(PANEL, weight.shape[0])
    rows = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, -weight.shape[0] % columns))
    return rows.unflatten(0, (-1, columns)).permute(0, 3, 4, 2, 1).contiguous()


def pack_winograd_weight(weight: Tensor, at_points: bool = True) -> Tensor:
    """weight, of shape (O, C, 3, 3) and float32, as dense_conv2d by Winograd's products reads it.

    The op then makes 4x4 outputs from 36 products a pair of channels in place of 144 (Lavin and
    Gray 2015, arXiv 1509.09308), for stride and dilation 1, in float32 on the CPU: in about half
    the time. The result is that of the same sums with more rounding: errors of 1.1e-6 to 4.0e-6 of
    the largest output, where the sums of the definition have 0.6e-6 to 2.1e-6 (layers of 64 to 512
    channels). An infinity or NaN makes NaN of all outputs of the 4x4 tiles that read it, and
    inputs beyond 1e36 may overflow.

    Args:
        weight: (O, C, 3, 3).
        at_points: transforms the weight here, which then takes four times the memory; False: at
            each call, the faster way for images alone, whose tiles are few.

    Returns:
        (1, 6, 6, panels, C, columns), or else (1, panels, 3, 3, C, columns), with panels and
        columns as :func:`pack_dense_weight` has them.

    Raises:
        TypeError: weight is not a tensor.
        RuntimeError: it is not (O, C, 3, 3).
    """
    check_weight("pack_winograd_weight", weight, "(out_channels, in_channels, 3, 3)", (3, 3))
    if not at_points:
        return pack_dense_weight(weight)[None]
    columns = min(PANEL, weight.shape[0])
    points = packed_weights.at_winograd_points(weight)
    rows = F.pad(points, (0, 0, 0, -weight.shape[0] % columns))
    return rows.unflatten(2, (-1, columns)).transpose(3, 4).contiguous()[None]


def _window_of(weight_shape: Sequence[int]) -> Sequence[int]:
    """(kh, kw) of a weight as torch has it, in panels, or at Winograd's points."""
    of_dim = {4: weight_shape[2:], 5: weight_shape[1:3], 6: (3, 3)}
    return of_dim[len(weight_shape)]


def fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    check_like_input("dense_conv2d", input, weight=weight, residual=residual)
    check_bias("dense_conv2d", input, bias)
    reference.check_activation(activation)
    plain = packed_weights.unpack_dense(weight, bias) if weight.dim() > 4 else weight
    check_windows("dense_conv2d", input, plain, bias)
    size, kernel = input.shape[2:], plain.shape[2:]
    rows, columns = output_sizes("dense_conv2d", size, kernel, stride, padding, dilation)
    shape = (input.shape[0], rows, columns, plain.shape[0])
    output = input.new_empty(shape).permute(0, 3, 1, 2)
    if residual is not None and residual.shape != output.shape:
        raise RuntimeError(
            f"dense_conv2d: expected residual of shape {tuple(output.shape)}, got "
            f"{tuple(residual.shape)}"
        )
    return output


_op = DerivedOp(
    "dense_conv2d",
    tensors=4,
    reference=reference.dense_conv2d,
    fake=fake,
    batched=(0, 3),
    autocast=True,
    unbatched=True,
)


@register_flop_formula(torch.ops.fastconv.dense_conv2d)
def flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *_args: object,
    out_shape: Sequence[int],
    **_kwargs: object,
) -> int:
    """A multiplication and an addition for each tap, as torch counts."""
    window = _window_of(weight_shape)
    return 2 * torch.Size(out_shape).numel() * input_shape[1] * torch.Size(window).numel()
