"""nn.Conv2d with an activation, on our kernels where the shape has one."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastconv import ops, reference
from fastconv.ops.pointwise_batch_norm import remember


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d: same constructor, parameters, keys and initialisation, plus `activation`.

    Depthwise and pointwise shapes run on our kernels, all others on torch's own; see
    :func:`fastconv.ops.conv2d`.
    """

    activation: str | None = None
    feeds_norm = False  # a batch norm, which alone sees the output; set by swap_

    def __init__(self, *args: Any, activation: str | None = None, **kwargs: Any) -> None:
        reference.check_activation(activation)
        super().__init__(*args, **kwargs)
        self.activation = activation

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            return reference.activate(super()._conv_forward(input, weight, bias), self.activation)
        output = ops.conv2d(
            input,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.activation,
        )
        hooked = self._forward_hooks or self._backward_hooks or _has_any_global_hook()
        if self.feeds_norm and self.training and bias is None and not hooked:
            remember(output, input, weight)
        return output

    def extra_repr(self) -> str:
        activation = f", activation={self.activation!r}" if self.activation else ""
        return super().extra_repr() + activation
