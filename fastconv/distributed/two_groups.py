"""AlexNet on two processes, as Krizhevsky et al. 2012 trained it on two GPUs (figure 2).

Each process holds half of the kernels of every layer and computes half of its maps. The processes
communicate where the paper has them do so: the third convolution and the fully connected layers
read the maps of both. The paper does not say how a normalisation treats the first and last maps of
a process; here it reads the two maps beyond the border too, as it does in one process.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastconv.models.alexnet import AlexNet

GROUPS = [1, 2, 1, 2, 2]  # of the five convolutions


class HalfOfAlexNet(nn.Module):
    """The half of a two-group AlexNet that one of two processes computes.

    Both processes build it of the same weights and call it with the same images; both get the
    whole output, and gradients of their own weights, so an optimizer a process is all that training
    takes. A weight has the key it has in model, and is ``weight.chunk(2)[rank]``.

    Args:
        model: of :func:`fastconv.models.alexnet_lrn`, swapped or not, with an even number of
            classes. Its layers are taken and halved: it is of no use afterwards.
        group: two processes; None: the default group.

    Raises:
        ValueError: the group has not two processes, or model is no AlexNet in two groups or has an
            odd number of classes.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        if dist.get_world_size(group) != 2:
            raise ValueError(f"expected two processes, got {dist.get_world_size(group)}")
        convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        if not isinstance(model, AlexNet) or [conv.groups for conv in convs] != GROUPS:
            raise ValueError("expected an AlexNet in two groups, as fastconv.models.alexnet_lrn")
        if model.num_classes % 2:
            raise ValueError(f"expected an even number of classes, got {model.num_classes}")
        self.group = group
        self.rank = dist.get_rank(group)
        self.features = model.features
        self.avgpool = model.avgpool
        self.classifier = model.classifier
        self._third_conv = [convs[2]]  # in a list: it is a layer of features
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                _halve(layer, self.rank)

    def forward(self, input: Tensor) -> Tensor:
        maps = input
        for layer in self.features:  # type: ignore[attr-defined]  # an nn.Sequential
            if layer in self._third_conv:
                maps = _Both.apply(maps, self.group)
            is_norm = isinstance(layer, nn.LocalResponseNorm)
            maps = self._normalise(layer, maps) if is_norm else layer(maps)
        rows = self.avgpool(maps).flatten(1)
        for layer in self.classifier:  # type: ignore[attr-defined]
            rows = layer(_Both.apply(rows, self.group) if isinstance(layer, nn.Linear) else rows)
        return _Whole.apply(rows, self.group)

    def _normalise(self, norm: nn.LocalResponseNorm, maps: Tensor) -> Tensor:
        """norm of maps with the nearest of the other process beside them."""
        near, own = norm.size // 2, maps.shape[1]
        border = maps[:, -near:] if self.rank == 0 else maps[:, :near]
        first, second = _Both.apply(border, self.group).chunk(2, dim=1)
        if self.rank == 0:
            return norm(torch.cat([maps, second], dim=1))[:, :own]
        return norm(torch.cat([first, maps], dim=1))[:, -own:]

    def whole_state_dict(self) -> dict[str, Tensor]:
        """The state dict of the network in one process; to be called by both processes."""
        return {key: _halves(value, self.group, 0) for key, value in self.state_dict().items()}


def _halve(layer: nn.Conv2d | nn.Linear, rank: int) -> None:
    for name, parameter in list(layer.named_parameters()):
        half = parameter.detach().chunk(2)[rank].clone()
        setattr(layer, name, nn.Parameter(half, parameter.requires_grad))
    if isinstance(layer, nn.Linear):
        layer.out_features //= 2
        return
    layer.out_channels //= 2
    if layer.groups == 2:
        layer.in_channels //= 2
        layer.groups = 1


def _halves(half: Tensor, group: dist.ProcessGroup | None, dim: int) -> Tensor:
    """What both processes have, one behind the other along dim."""
    both = [torch.empty_like(half, memory_format=torch.contiguous_format) for _ in range(2)]
    dist.all_gather(both, half.contiguous(), group)
    return torch.cat(both, dim)


class _Both(torch.autograd.Function):
    """The maps of both processes, each of which goes on with them in its own way: a map's gradient
    is the sum of what it is on the two."""

    @staticmethod
    def forward(ctx: Any, half: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _halves(half, group, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(2, dim=1)[dist.get_rank(ctx.group)], None


class _Whole(_Both):
    """The output of both processes, of which both compute the same loss: its gradient is the one
    that each has."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.chunk(2, dim=1)[dist.get_rank(ctx.group)], None
