"""local_response_norm: each value divided by a power of the squares in nearby channels."""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fastconv import reference
from fastconv.ops._check import check_numbers, check_tensors
from fastconv.ops._layout import empty_as
from fastconv.ops._op import BackwardOp, Op


def local_response_norm(
    input: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """b[c] = a[c] / (k + alpha / size * sum of a[j]^2)^beta, j in [c - size//2, c + (size-1)//2].

    As torch.nn.functional.local_response_norm. Krizhevsky et al. 2012, section 3.3, where alpha is
    not divided by size; :func:`arguments_from_paper` and :func:`arguments_from_tensorflow`
    translate.

    Args:
        input: (N, C, *) with 3 dimensions or more; float32, float64, bfloat16 or float16, computed
            in float32 (float64 in float64), so float16 squares do not overflow.
        size: channels of the window, even sizes too; channels off either end count as zero.
        out: a tensor to write the result to, of its shape, dtype and memory format, apart from the
            inputs in memory; not where a gradient is wanted.

    Returns:
        A tensor of the shape, dtype and memory format of input.

    Raises:
        TypeError: input is not a tensor, size is not an int, or alpha, beta or k is not a number.
        ValueError: input has fewer than 3 dimensions.
        RuntimeError: size is below 1.
    """
    check_tensors("local_response_norm", input=input)
    _check_shape(input, size)
    check_numbers("local_response_norm", alpha=alpha, beta=beta, k=k)
    return _op.run(input, int(size), float(alpha), float(beta), float(k), out=out)


def arguments_from_paper(
    n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> dict[str, Any]:
    """This function's arguments for those of Krizhevsky et al. 2012, which does not divide alpha.

    The defaults are AlexNet's: ``local_response_norm(x, **arguments_from_paper())``.
    """
    return {"size": n, "alpha": alpha * n, "beta": beta, "k": k}


def arguments_from_tensorflow(
    depth_radius: int = 5, bias: float = 1.0, alpha: float = 1.0, beta: float = 0.5
) -> dict[str, Any]:
    """This function's arguments for those of tf.nn.local_response_normalization, whose window is
    2 depth_radius + 1 wide and whose alpha is not divided. The defaults are TensorFlow's.
    """
    return arguments_from_paper(2 * depth_radius + 1, alpha, beta, bias)


def _check_shape(input: Tensor, size: int) -> None:
    if input.dim() < 3:
        raise ValueError(
            "local_response_norm: expected input with 3 dimensions or more, "
            f"got {input.dim()} in shape {tuple(input.shape)}"
        )
    if type(size) is not int and (not isinstance(size, Integral) or isinstance(size, bool)):
        raise TypeError(
            f"local_response_norm(): argument 'size' must be int, not {type(size).__name__}"
        )
    if size < 1:
        raise RuntimeError(f"local_response_norm: expected size greater than zero, got {size}")


def fake(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    _check_shape(input, size)
    return empty_as(input, input.shape)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, *ctx.arguments = inputs
    ctx.save_for_backward(input)


def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
    return _backward_op(grad_output, *ctx.saved_tensors, *ctx.arguments), None, None, None, None


def fake_backward(grad_output: Tensor, input: Tensor, *_arguments: object) -> Tensor:
    return empty_as(input, input.shape)


_backward_op = BackwardOp(
    "local_response_norm_backward",
    tensors=2,
    reference=reference.local_response_norm_backward,
    fake=fake_backward,
    batched=(0, 1),
)
_op = Op(
    "local_response_norm",
    tensors=1,
    reference=reference.local_response_norm,
    fake=fake,
    setup_context=setup_context,
    backward=backward,
    batched=(0,),
)


@register_flop_formula(torch.ops.fastconv.local_response_norm)
def flops(input_shape: tuple[int, ...], size: int, *_args: object, **_kwargs: object) -> int:
    """A multiplication and an addition a channel of the window, the power not counted."""
    return 2 * size * torch.Size(input_shape).numel()
