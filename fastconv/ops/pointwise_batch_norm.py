"""A 1x1 convolution and the batch norm behind it in training: one pass for both gradients."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.dispatch import state
from fastconv.ops._layout import empty_as
from fastconv.ops._op import OPS, BackwardOp

# From so many bytes of the convolution's output on, and where it widens: then its gradient, which
# does not pass memory, is most of what would. Backward of both, one Zen 5 core, float32, in one
# pass against two: 16 -> 96, 112x112 (77 MB) 1.54; 24 -> 144, 56x56 (29 MB) 1.20; 32 -> 192, 28x28
# (10 MB) 1.09; 64 -> 384, 14x14 (5 MB) 1.01; narrowing 144 -> 24, 56x56: 0.94, 32 -> 16: 0.87.
LEAST_BYTES = 8 << 20
_MADE_OF = "_fastconv_made_of"


def remember(output: Tensor, input: Tensor, weight: Tensor) -> None:
    """Notes on the output of a convolution without bias what it is of, for the norm that follows.

    Only where nobody else sees the output: its gradient is then never there to be seen.
    """
    if not torch.compiler.is_compiling():
        setattr(output, _MADE_OF, (input, weight))


def forget(output: Tensor) -> None:
    """Undoes `remember`."""
    if not torch.compiler.is_compiling():
        output.__dict__.pop(_MADE_OF, None)


def convolution_behind(output: Tensor, *of_channels: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Input and weight of the 1x1 convolution that gave output, where one pass is to serve both.

    of_channels: weight and bias of the norm.
    """
    if torch.compiler.is_compiling():
        return None
    made_of = output.__dict__.pop(_MADE_OF, None) if type(output) is Tensor else None
    if made_of is None or not torch.is_grad_enabled() or not output.is_cpu:
        return None
    input, weight = made_of
    if state.choosing or forward_ad._current_level >= 0:
        return None
    if torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state():
        return None
    tensors = (input, weight, *of_channels)
    if any(type(t) not in (Tensor, nn.Parameter) or not t.requires_grad for t in tensors):
        return None
    widens = weight.shape[0] > input.shape[1] > 1 and weight.shape[2:] == (1, 1)
    large = output.numel() * output.element_size() >= LEAST_BYTES
    if not (widens and large and weight.shape[1] == input.shape[1]):
        return None
    if input.dtype != output.dtype or input.shape[2:] != output.shape[2:]:
        return None
    ordered = (t.is_contiguous(memory_format=torch.channels_last) for t in (input, output))
    return (input, weight.to(output.dtype)) if all(ordered) else None


class NormOfPointwise(torch.autograd.Function):
    """batch_norm in training of a convolution's output, differentiated past the convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        conv_weight: Tensor,
        weight: Tensor,
        bias: Tensor,
        conv_output: Tensor,
        eps: float,
        activation: str | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            norm = torch.ops.fastconv.batch_norm.default
            output, mean, var = norm(conv_output, weight, bias, None, None, eps, activation)
        ctx.mark_non_differentiable(mean, var)
        ctx.save_for_backward(conv_output, input, conv_weight, weight, bias, mean, var)
        ctx.eps, ctx.activation = eps, activation
        return output, mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        conv_output, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # of a gradient that is differentiated again
            conv_output = OPS["pointwise_conv2d"](*saved[:2], None, None, (1, 1), None)
            parts = OPS["batch_norm_backward"], OPS["pointwise_conv2d_backward"]
            arguments = (grad_output, conv_output, *saved, ctx.eps, ctx.activation)
            gradients = _in_two(*parts, *arguments)
        else:
            gradients = _op(grad_output, conv_output, *saved, ctx.eps, ctx.activation)
        return *gradients, None, None, None


def _in_two(norm: Any, convolution: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """By the backward passes of the parts."""
    grad_output, conv_output, input, conv_weight, *of_norm = arguments
    all_three = [True, True, True]
    weight, bias, mean, var, eps, activation = of_norm
    settings = True, eps, activation, all_three  # in training
    between, *of_channels = norm(grad_output, conv_output, weight, bias, mean, var, *settings)
    grad_input, grad_conv_weight, _ = convolution(
        between, input, conv_weight, (1, 1), [True, True, False]
    )
    return grad_input, grad_conv_weight, *of_channels


def _reference(*arguments: Any) -> tuple[Tensor, ...]:
    parts = reference.batch_norm_backward, reference.pointwise_conv2d_backward
    return _in_two(*parts, *arguments)


def fake(
    grad_output: Tensor,
    conv_output: Tensor,
    input: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_channels = torch.empty_like(mean), torch.empty_like(mean)
    return empty_as(input, input.shape), torch.empty_like(conv_weight), *of_channels


_op = BackwardOp("pointwise_batch_norm_backward", tensors=8, reference=_reference, fake=fake)


@register_flop_formula(torch.ops.fastconv.pointwise_batch_norm_backward)
def flops(
    grad_shape: tuple[int, ...],
    _output_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    *_args: object,
    **_kwargs: object,
) -> int:
    """The convolution's product once for each of its two gradients."""
    return 4 * torch.Size(grad_shape).numel() * input_shape[1]
