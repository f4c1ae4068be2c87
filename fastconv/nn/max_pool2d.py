"""Max pooling as a layer."""

from torch import Tensor, nn

from fastconv import ops


class MaxPool2d(nn.MaxPool2d):
    """torch.nn.MaxPool2d; see :func:`fastconv.ops.max_pool2d`. Torch's own where it dilates or
    returns indices."""

    def forward(self, input: Tensor) -> Tensor:
        if self.return_indices or self.dilation not in (1, (1, 1)):
            return super().forward(input)
        return ops.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode)
