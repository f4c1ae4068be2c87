"""squeeze_excitation: channels weighed by what all of them hold, from torch's ops and ours."""

from typing import NamedTuple

from torch import Tensor

from fastconv import reference
from fastconv.ops._check import check_tensors
from fastconv.ops.pointwise_conv2d import fake as fake_pointwise
from fastconv.ops.pointwise_conv2d import pointwise_conv2d


class SqueezeExcitation(NamedTuple):
    """The weights of a squeeze-and-excitation, S channels within, and what follows each.

    reduce_weight is (S, C, 1, 1), expand_weight (C, S, 1, 1), the biases (S) and (C) or None;
    activation is that of the reduction, gate 'sigmoid' or 'hardsigmoid'.
    """

    reduce_weight: Tensor
    reduce_bias: Tensor | None
    expand_weight: Tensor
    expand_bias: Tensor | None
    activation: str | None = "relu"
    gate: str = "sigmoid"


# What the raw ops take in its place where there is none.
NO_SQUEEZE = (None, None, None, None, None, "sigmoid")


def squeeze_excitation(input: Tensor, squeeze: SqueezeExcitation) -> Tensor:
    """input * gate(expand(activation(reduce(mean over the pixels)))), a gate a channel.

    Hu, Shen and Sun 2018 (arXiv 1709.01507, section 3). Within a block,
    :func:`inverted_residual` and :func:`separable_conv2d` do it in the same pass.

    Args:
        input: (N, C, H, W); float32, float64, bfloat16 or float16.
        squeeze: the weights of its two 1x1 convolutions, of input's dtype.

    Returns:
        (N, C, H, W) in input's memory format.

    Raises:
        TypeError: an argument is of the wrong Python type.
        RuntimeError: shapes, dtypes or devices do not fit, or activation or gate is unknown.
    """
    check_tensors("squeeze_excitation", input=input)
    check_squeeze("squeeze_excitation", squeeze)
    if input.dim() != 4:
        raise RuntimeError(
            f"squeeze_excitation: expected input with 4 dimensions, got {tuple(input.shape)}"
        )
    mean = input.mean((2, 3), keepdim=True)
    squeezed = pointwise_conv2d(mean, *squeeze[:2], activation=squeeze.activation)
    excited = pointwise_conv2d(squeezed, *squeeze[2:4])
    return input * reference.GATES[squeeze.gate](excited)


def check_squeeze(op: str, squeeze: SqueezeExcitation) -> None:
    """Raises TypeError for what is no tensor, RuntimeError for an unknown gate."""
    if not isinstance(squeeze, SqueezeExcitation):
        raise TypeError(
            f"{op}(): argument 'squeeze' must be SqueezeExcitation, not {type(squeeze).__name__}"
        )
    weights = {"reduce_weight": squeeze[0], "expand_weight": squeeze[2]}
    biases = {"reduce_bias": squeeze[1], "expand_bias": squeeze[3]}
    named = {f"squeeze.{name}": value for name, value in {**weights, **biases}.items()}
    check_tensors(op, [f"squeeze.{name}" for name in biases], **named)
    reference.check_gate(squeeze.gate)


def fake(
    input: Tensor,
    reduce_weight: Tensor | None,
    reduce_bias: Tensor | None,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    activation: str | None,
    gate: str,
) -> None:
    """Checks the arguments of a raw op; the output is like input."""
    reference.check_gate(gate)
    if reduce_weight is None or expand_weight is None:
        return reference.check_squeeze(reduce_weight, expand_weight)
    pooled = input.new_empty((*input.shape[:2], 1, 1))
    squeezed = fake_pointwise(pooled, reduce_weight, reduce_bias, None, (1, 1), activation)
    fake_pointwise(squeezed, expand_weight, expand_bias, None, (1, 1))
    return None
