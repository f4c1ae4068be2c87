"""Batch normalisation of images as a layer."""

from typing import Any

from torch import Tensor, nn

from fastconv import ops, reference
from fastconv.ops.pointwise_batch_norm import forget


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d: same constructor, parameters, buffers and keys, plus `activation`.

    See :func:`fastconv.ops.batch_norm`.
    """

    activation: str | None = None

    def __init__(self, *args: Any, activation: str | None = None, **kwargs: Any) -> None:
        reference.check_activation(activation)
        super().__init__(*args, **kwargs)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Tensor):  # and no proxy of torch.fx, which has no dimensions yet
            self._check_input_dim(input)
            if self._forward_pre_hooks:  # they have seen it
                forget(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the mean of all batches so far
                momentum = 1.0 / float(self.num_batches_tracked)
        of_batch = self.training or (self.running_mean is None and self.running_var is None)
        tracks = not self.training or self.track_running_stats
        return ops.batch_norm(
            input,
            self.running_mean if tracks else None,
            self.running_var if tracks else None,
            self.weight,
            self.bias,
            of_batch,
            momentum,
            self.eps,
            self.activation,
        )

    def extra_repr(self) -> str:
        activation = f", activation={self.activation!r}" if self.activation else ""
        return super().extra_repr() + activation
