"""Small networks, each written as somebody writes networks: the styles that a tool must take.

STYLES maps a name to a module in training mode; its `example(batch)` gives the positional and the
named arguments of a call.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

Example = tuple[tuple[Any, ...], dict[str, Any]]


class Style(nn.Module):
    """A network of images of 3 x 16 x 16."""

    def example(self, batch: int = 2) -> Example:
        return (torch.randn(batch, 3, 16, 16),), {}


def conv_norm(
    c: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: Any = nn.ReLU
) -> nn.Sequential:
    conv = nn.Conv2d(c, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), *([] if act is None else [act(inplace=True)]))


class Functional(Style):
    """No layer: parameters and buffers of its own, and calls of torch.nn.functional."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(shape) / 3)
            for shape in [(8, 3, 3, 3), (8, 1, 3, 3), (12, 8, 1, 1), (10, 12)]
        )
        self.gamma, self.beta = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        stem, depthwise, pointwise, head = self.weights
        x = F.conv2d(x, stem, stride=2, padding=1)
        statistics = (self.mean, self.var, self.gamma, self.beta)
        x = F.relu(F.batch_norm(x, *statistics, training=self.training))
        x = torch.conv2d(x, depthwise, None, 1, 1, 1, 8).clamp(min=0, max=6)
        x = torch.clamp_min(F.conv2d(x, pointwise), 0)
        return F.linear(x.mean(dim=[2, 3]), head)


class Chain(Style, nn.Sequential):
    """Nothing but nn.Sequential within nn.Sequential, with names."""

    def __init__(self) -> None:
        block = nn.Sequential(conv_norm(8, 8, 3, groups=8), conv_norm(8, 16, act=nn.ReLU6))
        end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0), nn.Linear(16, 5))
        parts = [("stem", conv_norm(3, 8, 3, 2)), ("block", block), ("end", end)]
        super().__init__(OrderedDict(parts))


class Shared(Style):
    """One convolution and one norm at two places, and a weight tied between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.norm = conv_norm(3, 8, 3), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.tied = nn.Conv2d(8, 8, 1)
        self.tied.weight = self.mix.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.norm(self.mix(x)))
        return self.tied(F.max_pool2d(F.relu(self.norm(self.mix(x))), 2)).flatten(1)


class InPlace(Style):
    """Writes into its intermediates: augmented assignment, trailing underscores, slices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 8, 1) for c in (3, 8, 8))
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu_()
        y = self.one(x)
        y += x
        y = F.relu6(y, inplace=True)
        z = self.two(y).mul_(0.5).add_(y)
        z[:, :4] = z[:, :4] + 1
        z[:, 4:].clamp_(0, 6)
        return z.sigmoid_()


class Shuffle(Style):
    """Splits the channels, works on half of them, joins and shuffles (ShuffleNet v2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16, 3, 2)
        self.branches = nn.ModuleList(
            nn.Sequential(conv_norm(8, 8), conv_norm(8, 8, 3, 1, 8, None), conv_norm(8, 8))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            left, right = x.chunk(2, dim=1)
            x = torch.cat((left, branch(right)), dim=1)
            n, c, h, w = x.size()
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return x.mean([2, 3])


class SqueezeExcite(Style):
    """Conv, norm, Hardswish and a squeeze-and-excitation with a hard sigmoid (MobileNet v3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, 3, 2, act=nn.Hardswish)
        self.expand = conv_norm(8, 24, act=nn.Hardswish)
        self.depthwise = conv_norm(24, 24, 5, groups=24, act=nn.Hardswish)
        self.reduce, self.excite = nn.Linear(24, 8), nn.Linear(8, 24)
        self.project = conv_norm(24, 8, act=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = self.depthwise(self.expand(x))
        gates = F.adaptive_avg_pool2d(hidden, 1).flatten(1)
        gates = F.hardsigmoid(self.excite(F.relu(self.reduce(gates))))
        return x + self.project(hidden * gates[:, :, None, None])


class ByHand(Style):
    """Activations spelled out, as networks had them before torch did."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.last = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x * F.relu6(x + 3) / 6
        x = self.depthwise(x)
        x = x * torch.sigmoid(x)
        x = self.last(x)
        return torch.max(x, torch.zeros_like(x)) * (F.relu6(x + 3.0) / 6.0)


class PreActivation(Style):
    """Norm and activation before the convolution; features joined as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(c),
                nn.ReLU(),
                nn.Conv2d(c, 8, 1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 4, 3, padding=1, bias=False),
            )
            for c in (8, 12)
        )
        self.norm, self.bare = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.transition = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        x = self.transition(self.bare(torch.cat(features, 1)))
        return F.avg_pool2d(x, 2)


class StochasticDepth(Style):
    """Drops whole branches in training (Huang et al. 2016); none here, so that runs agree."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.stem, self.drop = conv_norm(3, 8, 3, 2), drop
        self.blocks = nn.ModuleList(conv_norm(8, 8, 3, groups=8, act=None) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            y = block(x)
            if self.training:
                kept = torch.rand(len(x), 1, 1, 1) >= self.drop
                y = y * kept / (1 - self.drop)
            x = F.relu(x + y)
        return F.dropout(x, 0.0, self.training)


class Outputs(NamedTuple):
    classes: Tensor
    auxiliary: Tensor | None


class Structures(Style):
    """A dictionary of lists and named tuples comes out; in training there is more in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_norm(3, 8, 3, 2), nn.Linear(8, 4)
        self.levels = nn.ModuleDict({name: conv_norm(8, 8, 3, 2, 8) for name in ("low", "high")})

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.stem(x)
        levels = [x := level(x) for level in self.levels.values()]
        classes = self.head(x.mean((2, 3)))
        return {
            "out": Outputs(classes, classes.mean() if self.training else None),
            "levels": levels,
        }


class Counting(Style):
    """Writes to its buffers in evaluation too: a counter and a moving mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = conv_norm(3, 8, 3), conv_norm(8, 8)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.calls += 1
        self.mean.lerp_(x.detach().mean((0, 2, 3)), 0.5)
        return self.mix(x - self.mean[:, None, None])


class Standardize(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


class Parametrized(Style):
    """Weights that are computed: weight norm, spectral norm, a parametrization of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = parametrizations.weight_norm(nn.Conv2d(3, 8, 3, 2, 1))
        self.depthwise = parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, 1, 1, groups=8))
        self.norm, self.pointwise = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        parametrize.register_parametrization(self.pointwise, "weight", Standardize())

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.pointwise(F.relu(self.norm(self.depthwise(self.stem(x))))))


class Branching(Style):
    """Python decides by what the numbers are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, 3, 2)
        self.blocks = nn.ModuleList(conv_norm(8, 8, 3, groups=8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
            if x.mean().item() > 1e6:
                return x
        return x.float().flatten(1)


class Arguments(Style):
    """Takes a pair, a number and named arguments, one of which may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 8, 3), conv_norm(3, 8, 3)
        self.mix = conv_norm(8, 8)

    def forward(
        self, pair: tuple[Tensor, Tensor], scale: float, *, bias: Tensor, mask: Any = None
    ) -> Tensor:
        x = self.one(pair[0]) + scale * self.two(pair[1])
        x = self.mix(x + bias)
        return x if mask is None else x * mask

    def example(self, batch: int = 2) -> Example:
        images = torch.randn(2, batch, 3, 16, 16)
        return ((images[0], images[1]), 0.5), {"bias": torch.randn(batch, 8, 1, 1)}


class UNet(Style):
    """Down, up, skips; transposed convolution, interpolation to a size that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv_norm(3, 8, 3, 2), conv_norm(8, 16, 3, 2)])
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.join, self.last = conv_norm(16, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.up(self.down[1](first))
        y = self.join(torch.cat([first, second], 1))
        return self.last(F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False))


class ConvNext(Style):
    """Permutes to the last dimension for LayerNorm and linear layers, and back (ConvNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.depthwise, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.mlp(y)).permute(0, 3, 1, 2)


class Sequence(Style):
    """One dimension: a causal depthwise convolution, then a 1x1, over (N, C, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv1d(6, 6, 4, groups=6), nn.BatchNorm1d(6)
        self.pointwise = nn.Conv1d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(F.silu(self.norm(self.depthwise(F.pad(x, (3, 0))))))

    def example(self, batch: int = 2) -> Example:
        return (torch.randn(batch, 6, 20),), {}


class Foreign(Style):
    """Nothing of ours is in it: attention over patches, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).unfold(2, 16, 16).flatten(1, 2)
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + y)).mean(1)


STYLES: dict[str, type[Style]] = {
    style.__name__: style
    for style in (
        Functional,
        Chain,
        Shared,
        InPlace,
        Shuffle,
        SqueezeExcite,
        ByHand,
        PreActivation,
        StochasticDepth,
        Structures,
        Counting,
        Parametrized,
        Branching,
        Arguments,
        UNet,
        ConvNext,
        Sequence,
        Foreign,
    )
}


def build(name: str) -> Style:
    """The network of that name with statistics and scales that an error cannot hide behind."""
    model = STYLES[name]()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model
