"""Each op in a few lines of eager torch: the specification, the tests' oracle, the last fallback.

Arguments are those of the raw ops, torch.ops.fastconv.*; the public functions are in fastconv.ops.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv.layout import memory_format_of
from fastconv.packed_weights import unpack_dense, unpack_pointwise

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}

RECTIFIERS = ("relu", "relu6")  # of an element, their gradient needs a bit

GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": F.sigmoid, "hardsigmoid": F.hardsigmoid}


def activate(z: Tensor, activation: str | None) -> Tensor:
    """The named activation of z."""
    check_activation(activation)
    return ACTIVATIONS[activation](z)


def check_activation(activation: str | None) -> None:
    """Raises RuntimeError for a name that is not in ACTIVATIONS."""
    if not isinstance(activation, str | None) or activation not in ACTIVATIONS:
        raise RuntimeError(
            "expected activation to be None, 'relu', 'relu6', 'silu' or 'hardswish', "
            f"got {activation!r}"
        )


def check_gate(gate: str) -> None:
    """Raises RuntimeError for a name that is not in GATES."""
    if not isinstance(gate, str) or gate not in GATES:
        raise RuntimeError(f"expected gate to be 'sigmoid' or 'hardsigmoid', got {gate!r}")


def activation_backward(grad_output: Tensor, z: Tensor, activation: str | None = None) -> Tensor:
    """grad_output times the derivative of the activation at z."""
    return torch.func.vjp(lambda z: activate(z, activation), z)[1](grad_output)[0]


MASK_BLOCK = 8192  # elements whose bits make whole kilobytes: as in csrc/kernels


def mask_bytes(elements: int) -> int:
    """Bytes of a mask of a bit an element."""
    return -(-elements // MASK_BLOCK) * (MASK_BLOCK // 8)


def _as_in_memory(tensor: Tensor, channels_last: bool) -> Tensor:
    """The same elements, the first dimension the slowest in memory."""
    return tensor.movedim(1, -1) if channels_last else tensor


def activation_backward_from_mask(grad_output: Tensor, mask: Tensor, channels_last: bool) -> Tensor:
    """grad_output where mask has a bit set, else zero; bit i % 8 of byte i / 8 is of element i.

    The elements are counted in the order of memory, the result's memory format.
    """
    bits = (mask.unsqueeze(1) >> torch.arange(8, device=mask.device, dtype=torch.uint8)) & 1
    kept = bits.flatten()[: grad_output.numel()].bool()
    kept = kept.view(_as_in_memory(grad_output, channels_last).shape)
    return torch.where(kept.movedim(-1, 1) if channels_last else kept, grad_output, 0)


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    """activation(conv2d with groups = C); padding is (top, left, bottom, right)."""
    top, left, bottom, right = padding
    if (top, left) != (bottom, right):
        input = F.pad(input, (left, right, top, bottom))
        top = left = 0
    z = F.conv2d(input, weight, bias, stride, (top, left), dilation, groups=input.shape[1])
    return activate(z, activation)


def depthwise_conv2d_backward_input(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The gradient of depthwise_conv2d, without activation, for its input."""

    def of_input(input: Tensor) -> Tensor:
        return depthwise_conv2d(input, weight, None, stride, padding, dilation)

    return torch.func.vjp(of_input, input)[1](grad_output)[0]


def depthwise_conv2d_backward_weight(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The gradients of depthwise_conv2d, without activation, for its weight and bias."""

    def of_weight(weight: Tensor) -> Tensor:
        return depthwise_conv2d(input, weight, None, stride, padding, dilation)

    return torch.func.vjp(of_weight, weight)[1](grad_output)[0], grad_output.sum((0, 2, 3))


def depthwise_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of depthwise_conv2d, without activation, for its input, weight and bias."""

    def of_both(input: Tensor, weight: Tensor) -> Tensor:
        return depthwise_conv2d(input, weight, None, stride, padding, dilation)

    return *torch.func.vjp(of_both, input, weight)[1](grad_output), grad_output.sum((0, 2, 3))


def stem_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    """activation(conv2d), padding (top, left, bottom, right); the result is channels_last."""
    top, left, bottom, right = padding
    padded = F.pad(input, (left, right, top, bottom))
    z = F.conv2d(padded, weight, narrowed(bias, input), tuple(stride))
    return activate(z, activation).contiguous(memory_format=torch.channels_last)


def dense_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    """activation(conv2d + residual), padding (top, left, bottom, right), channels_last."""
    top, left, bottom, right = padding
    padded = F.pad(input, (left, right, top, bottom))
    plain = unpack_dense(weight, bias) if weight.dim() > 4 else weight
    z = F.conv2d(padded, plain, narrowed(bias, input), tuple(stride), 0, tuple(dilation))
    z = activate(z if residual is None else z + residual, activation)
    return z.contiguous(memory_format=torch.channels_last)


def max_pool2d(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool = False,
) -> Tensor:
    """The largest value of each window of pixels."""
    window = (tuple(kernel_size), tuple(stride), tuple(padding))
    return F.max_pool2d(input, *window, ceil_mode=ceil_mode)


def global_avg_pool2d(input: Tensor) -> Tensor:
    """The mean over all pixels of each channel, (N, C, 1, 1)."""
    return input.mean((2, 3), keepdim=True).contiguous()


def global_avg_pool2d_backward(grad_output: Tensor, input: Tensor) -> Tensor:
    """The gradient of global_avg_pool2d for its input."""
    return grad_output.expand_as(input) / (input.shape[2] * input.shape[3])


def shortcut_stride(size: Sequence[int], wanted: Sequence[int]) -> int:
    """The smallest stride that takes (height, width) to the wanted one, 0 where none does."""
    pairs = list(zip(size, wanted, strict=True))
    # Any stride takes one pixel to one: there the other axis decides.
    stride = max(-(-have // want) if want else 1 for have, want in pairs)
    return stride if stride and all(-(-have // stride) == want for have, want in pairs) else 0


def residual_add(input: Tensor, residual: Tensor, activation: str | None = None) -> Tensor:
    """activation(input + residual), the residual subsampled and zero-padded to fit."""
    if residual.shape != input.shape:
        residual = zero_padded_shortcut(input, residual)
    return activate(input + residual, activation)


def residual_add_with_mask(
    input: Tensor, residual: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """residual_add, and the mask with which activation_backward_from_mask gives its gradient."""
    check_mask_serves(input, residual, activation)
    output = residual_add(input, residual, activation)
    return output, mask_of(output, activation)


def mask_of(output: Tensor, activation: str) -> Tensor:
    """A bit an element of the rectifier's output: where it lets a gradient pass, as at NaN."""
    passes = ~(output <= 0)
    if activation == "relu6":
        passes &= ~(output >= 6)
    channels_last = memory_format_of(output) is torch.channels_last
    bits = _as_in_memory(passes, channels_last).flatten().to(torch.uint8)
    bits = F.pad(bits, (0, 8 * mask_bytes(bits.numel()) - bits.numel())).view(-1, 8)
    weights = 1 << torch.arange(8, device=bits.device, dtype=torch.uint8)
    return (bits * weights).sum(1, dtype=torch.uint8)


def check_mask_serves(input: Tensor, residual: Tensor, activation: str) -> None:
    """Raises RuntimeError where the gradient of residual_add needs more than a bit an element."""
    if activation not in RECTIFIERS or input.shape != residual.shape:
        raise RuntimeError(
            "residual_add_with_mask: expected activation to be 'relu' or 'relu6' and residual of "
            f"input's shape, got {activation!r} and {tuple(residual.shape)} for input "
            f"{tuple(input.shape)}"
        )


class ResidualAdd(nn.Module):
    """residual_add as a layer, for torch.nn has none."""

    def __init__(self, activation: str | None = "relu") -> None:
        super().__init__()
        check_activation(activation)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:
        return residual_add(input, residual, self.activation)

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


def zero_padded_shortcut(input: Tensor, residual: Tensor) -> Tensor:
    """residual at the size of input: every stride-th pixel, the missing channels zero."""
    fits = input.dim() == 4 and residual.dim() == 4 and residual.shape[0] == input.shape[0]
    stride = shortcut_stride(residual.shape[2:], input.shape[2:]) if fits else 0
    channels = input.shape[1] - residual.shape[1] if fits else -1
    if stride == 0 or channels < 0:
        raise RuntimeError(
            "residual_add: expected residual of input's shape, or with fewer channels and a whole "
            f"stride more pixels, got {tuple(residual.shape)} for input {tuple(input.shape)}"
        )
    return F.pad(residual[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, channels))


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """input / (k + alpha / size * sum of squares over the window of channels)^beta."""
    # torch pools no 16-bit numbers on the CPU, and the square of a float16 soon overflows.
    wide = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
    return F.local_response_norm(wide, size, alpha, beta, k).to(input.dtype)


def local_response_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Tensor:
    """The gradient of local_response_norm for its input."""
    forward = partial(local_response_norm, size=size, alpha=alpha, beta=beta, k=k)
    return torch.func.vjp(forward, input)[1](grad_output)[0]


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """activation(batch norm) by mean and var; without them by the batch's own, which follow."""
    check_batch_norm(input, weight, bias, mean, var)
    training = mean is None
    wide = torch.promote_types(input.dtype, torch.float32)
    if training:
        others = [d for d in range(input.dim()) if d != 1]
        batch_var, batch_mean = torch.var_mean(input.detach().to(wide), others, correction=0)
    else:
        batch_mean, batch_var = (input.new_empty(0, dtype=wide) for _ in range(2))
    # As in torch, given statistics have no gradient.
    mean, var = (None if t is None else t.detach() for t in (mean, var))
    z = F.batch_norm(input, mean, var, weight, bias, training, 0.0, eps)
    return activate(z, activation), batch_mean, batch_var


def check_batch_norm(input: Tensor, *of_channels: Tensor | None) -> None:
    """Raises RuntimeError unless each tensor has a number for each channel of input."""
    if input.dim() < 2:
        raise RuntimeError(
            "batch_norm: expected input with 2 dimensions or more, got "
            f"{input.dim()} in shape {tuple(input.shape)}"
        )
    for name, tensor in zip(("weight", "bias", "mean", "var"), of_channels, strict=True):
        if tensor is not None and tensor.shape != input.shape[1:2]:
            raise RuntimeError(
                f"batch_norm: expected {name} of shape ({input.shape[1]}), "
                f"got {tuple(tensor.shape)}"
            )


def batch_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of batch_norm for input, weight and bias; the latter two always of numbers.

    In training mean and var are functions of input, which its derivative takes into account.
    """
    one = torch.ones_like(mean) if weight is None else weight
    zero = torch.zeros_like(mean) if bias is None else bias

    def of_parameters(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = (None, None) if training else (mean, var)
        return batch_norm(input, weight, bias, given[0], given[1], eps, activation)[0]

    gradients = torch.func.vjp(of_parameters, input, one, zero)[1](grad_output)
    return gradients if output_mask[0] else (input.new_empty(0), *gradients[1:])


def pointwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    activation: str | None = None,
) -> Tensor:
    """activation(conv1x1(input, weight, bias) + residual)."""
    weight = unpack_pointwise(input, weight)
    check_pointwise_conv2d(input, weight, bias, residual, stride)
    z = F.conv2d(input, weight, narrowed(bias, input), tuple(stride))
    return activate(z if residual is None else z + residual, activation)


def narrowed(tensor: Any, input: Tensor) -> Any:
    """A float32 tensor beside a bfloat16 input in bfloat16, any other, or None, as it is."""
    wide = tensor is not None and tensor.dtype == torch.float32 and input.dtype == torch.bfloat16
    return tensor.bfloat16() if wide else tensor


def check_pointwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
) -> tuple[int, ...]:
    """The shape of the output; raises RuntimeError where the arguments' shapes do not fit."""
    if input.dim() != 4 or weight.dim() != 4 or weight.shape[1:] != (input.shape[1], 1, 1):
        raise RuntimeError(
            "pointwise_conv2d: expected weight of shape (out_channels, in_channels, 1, 1), "
            f"got {tuple(weight.shape)} for input {tuple(input.shape)}"
        )
    if len(stride) != 2 or min(stride) < 1:
        raise RuntimeError(
            "pointwise_conv2d: expected stride to be a positive int or a pair of them, "
            f"got {tuple(stride)}"
        )
    batch, _, height, width = input.shape
    shape = (batch, weight.shape[0], -(-height // stride[0]), -(-width // stride[1]))
    for name, tensor, wanted in (("bias", bias, shape[1:2]), ("residual", residual, shape)):
        if tensor is not None and tensor.shape != wanted:
            raise RuntimeError(
                f"pointwise_conv2d: expected {name} of shape {wanted}, got {tuple(tensor.shape)}"
            )
    return shape


def pointwise_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias; an empty tensor for what output_mask leaves out."""
    for_input, for_weight, for_bias = (input.new_empty(0) for _ in range(3))
    if output_mask[0]:
        sizes = zip(input.shape[2:], grad_output.shape[2:], stride, strict=True)
        unread = [size - 1 - (read - 1) * step for size, read, step in sizes]
        for_input = F.conv_transpose2d(
            grad_output, weight, stride=tuple(stride), output_padding=unread
        )
    if output_mask[1]:
        read = input[:, :, :: stride[0], :: stride[1]]
        for_weight = torch.einsum("nohw,nchw->oc", grad_output, read)[..., None, None]
    if output_mask[2]:
        for_bias = grad_output.sum((0, 2, 3))
    return for_input, for_weight, for_bias


def squeeze_excitation(
    input: Tensor,
    reduce_weight: Tensor | None,
    reduce_bias: Tensor | None,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    activation: str | None = None,
    gate: str = "sigmoid",
) -> Tensor:
    """input * gate(expand(activation(reduce(mean)))); input itself where there are no weights."""
    check_gate(gate)
    if reduce_weight is None or expand_weight is None:
        check_squeeze(reduce_weight, expand_weight)
        return input
    mean = input.mean((2, 3), keepdim=True)
    squeezed = pointwise_conv2d(mean, reduce_weight, reduce_bias, None, (1, 1), activation)
    excited = pointwise_conv2d(squeezed, expand_weight, expand_bias, None, (1, 1))
    return input * GATES[gate](excited)


def check_squeeze(reduce_weight: Tensor | None, expand_weight: Tensor | None) -> None:
    """Raises RuntimeError where only one of the two is given."""
    if (reduce_weight is None) != (expand_weight is None):
        raise RuntimeError("expected squeeze_reduce_weight and squeeze_expand_weight together")


def separable_conv2d(
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
    """Depthwise, squeeze-and-excitation if any, pointwise; each with bias and activation."""
    filters = (narrowed(depthwise_weight, input), narrowed(depthwise_bias, input))
    hidden = depthwise_conv2d(input, *filters, stride, padding, dilation, activation)
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    gated = squeeze_excitation(hidden, *squeeze, *excite, squeeze_activation, squeeze_gate)
    return pointwise_conv2d(
        gated, pointwise_weight, pointwise_bias, residual, (1, 1), pointwise_activation
    )


def inverted_residual(
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
    """Expand and the block of separable_conv2d behind it, without activation at the end."""
    hidden = pointwise_conv2d(input, expand_weight, expand_bias, None, (1, 1), activation)
    weights = (depthwise_weight, depthwise_bias, project_weight, project_bias)
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    window = (stride, padding, (1, 1), activation, None)
    added = input if residual else None
    block = (*weights, added, *squeeze, *excite, *window)
    return separable_conv2d(hidden, *block, squeeze_activation, squeeze_gate)
