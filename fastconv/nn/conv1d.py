"""nn.Conv1d with an activation, on our kernels where the shape has one."""

from typing import Any

from torch import Tensor, nn

from fastconv import ops, reference


class Conv1d(nn.Conv1d):
    """torch.nn.Conv1d: same constructor, parameters, keys and initialisation, plus `activation`.

    Depthwise kernels and those of one step run on our kernels, all others on torch's own; see
    :func:`fastconv.ops.conv1d`.
    """

    activation: str | None = None

    def __init__(self, *args: Any, activation: str | None = None, **kwargs: Any) -> None:
        reference.check_activation(activation)
        super().__init__(*args, **kwargs)
        self.activation = activation

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            return reference.activate(super()._conv_forward(input, weight, bias), self.activation)
        window = (self.stride, self.padding, self.dilation)
        return ops.conv1d(input, weight, bias, *window, self.groups, self.activation)

    def extra_repr(self) -> str:
        activation = f", activation={self.activation!r}" if self.activation else ""
        return super().extra_repr() + activation
