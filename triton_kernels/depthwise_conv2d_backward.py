"""depthwise_conv2d_backward: all gradients, each by the kernels of its own."""

from collections.abc import Sequence

from torch import Tensor

from fastconv.triton_kernels._kernel import kernel
from fastconv.triton_kernels.depthwise_conv2d import depthwise_conv2d_backward_input
from fastconv.triton_kernels.depthwise_conv2d_backward_weight import (
    depthwise_conv2d_backward_weight,
)


@kernel
def depthwise_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (grad_output, input, weight, stride, padding, dilation)
    of_weight = depthwise_conv2d_backward_weight.function(*arguments)
    return depthwise_conv2d_backward_input.function(*arguments), *of_weight
