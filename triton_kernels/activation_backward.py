"""activation_backward: the gradient of an activation, from its input or from a bit an element."""

import triton
import triton.language as tl
from torch import Tensor

from fastconv import reference
from fastconv.ops.activation_backward import fake
from fastconv.triton_kernels._kernel import (
    cdiv,
    check_shape,
    dense,
    empty_in,
    is_channels_last,
    kernel,
    wrap_triton,
)
from fastconv.triton_kernels._language import activate_backward, load, store
from fastconv.triton_kernels._settings import Space
from fastconv.triton_kernels._tuned import settings_for
from fastconv.triton_kernels.residual_add import OTHERS, Settings

# Settings: those of residual_add, for its reasons.
SPACE = Space("activation_backward", Settings(), OTHERS)


@triton.jit
def backward_block(grad_output, z, grad_input, index, mask, ACTIVATION: tl.constexpr):
    grad = activate_backward(load(grad_output + index, mask), load(z + index, mask), ACTIVATION)
    store(grad_input + index, grad, mask)


@triton.jit
def activation_backward_kernel(
    grad_output, z, grad_input, elements, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    index = tl.arange(0, BLOCK)
    grad_output += first
    z += first
    grad_input += first
    if first + BLOCK <= elements:
        backward_block(grad_output, z, grad_input, index, None, ACTIVATION)
    else:
        mask = index < elements - first
        backward_block(grad_output, z, grad_input, index, mask, ACTIVATION)


@triton.jit
def from_mask_block(grad_output, bits, grad_input, group, lane, mask):
    index = group[:, None] * 8 + lane[None, :]
    passed = (tl.load(bits + group).to(tl.int32)[:, None] >> lane[None, :]) & 1
    store(grad_input + index, tl.where(passed == 1, load(grad_output + index, mask), 0.0), mask)


@triton.jit
def from_mask_kernel(grad_output, bits, grad_input, elements, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    group = tl.arange(0, BLOCK // 8)
    lane = tl.arange(0, 8)
    grad_output += first
    bits += first // 8
    grad_input += first
    if first + BLOCK <= elements:
        from_mask_block(grad_output, bits, grad_input, group, lane, None)
    else:
        mask = group[:, None] * 8 + lane[None, :] < elements - first
        from_mask_block(grad_output, bits, grad_input, group, lane, mask)


@kernel
def activation_backward(grad_output: Tensor, z: Tensor, activation: str | None = None) -> Tensor:
    check_shape("activation_backward", "grad_output", grad_output, z.shape)
    grad_input = fake(grad_output, z, activation)
    elements = z.numel()
    if elements == 0:
        return grad_input
    channels_last = is_channels_last(z)
    settings = settings_for(SPACE, z, (elements,), activation=activation)
    block = settings.block(z.element_size())
    wrap_triton(activation_backward_kernel, z.device)[cdiv(elements, block),](
        dense(grad_output, channels_last),
        dense(z, channels_last),
        grad_input,
        elements,
        ACTIVATION=activation,
        BLOCK=block,
        num_warps=settings.warps,
    )
    return grad_input


@kernel
def activation_backward_from_mask(grad_output: Tensor, mask: Tensor, channels_last: bool) -> Tensor:
    """grad_output where mask, as residual_add_with_mask wrote it for that layout, has a bit set."""
    elements = grad_output.numel()
    check_shape("activation_backward_from_mask", "mask", mask, (reference.mask_bytes(elements),))
    grad_input = empty_in(grad_output, grad_output.shape, channels_last)
    if elements == 0:
        return grad_input
    settings = settings_for(SPACE, grad_output, (elements,), activation="mask")
    block = settings.block(grad_output.element_size())
    wrap_triton(from_mask_kernel, grad_output.device)[cdiv(elements, block),](
        dense(grad_output, channels_last),
        mask,
        grad_input,
        elements,
        BLOCK=block,
        num_warps=settings.warps,
    )
    return grad_input
