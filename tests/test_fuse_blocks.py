"""What optimize makes of chains of pointwise and depthwise convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv


class Block(nn.Module):
    """Expand, depthwise, project with knobs for what may keep it from being fused."""

    def __init__(self, kernel=3, stride=1, dilation=1, first=F.relu6, second=F.relu6):
        super().__init__()
        self.expand = nn.Conv2d(8, 24, 1)
        padding = dilation * (kernel - 1) // 2
        self.depthwise = nn.Conv2d(24, 24, kernel, stride, padding, dilation, groups=24)
        self.project = nn.Conv2d(24, 8, 1)
        self.first, self.second = first, second

    def hide(self, x: Tensor) -> Tensor:
        return self.second(self.depthwise(self.first(self.expand(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.hide(x))


class WithInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.hide(x))


class WithOther(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.project(self.hide(x)) + x.flip(3))


class HiddenTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hide(x)
        return self.project(hidden) + hidden.mean()


class ExpandedTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        expanded = self.first(self.expand(x))
        return self.project(self.second(self.depthwise(expanded))) + expanded.mean()


class Computed(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.hide(x), self.project.weight * x.mean())


def kernels_of(fast: nn.Module) -> list[str]:
    return [row["kernel"] for row in fast.receipt if row["weight"]]


PARTS = ["pointwise_conv2d", "depthwise_conv2d", "pointwise_conv2d"]
SEPARABLE = ["pointwise_conv2d", "separable_conv2d"]
BLOCK = ["inverted_residual"]


@pytest.mark.parametrize(
    ("model", "kernels"),
    [
        (Block(), BLOCK),
        (Block(5, 2), BLOCK),
        (Block(7, first=F.silu, second=F.silu), BLOCK),
        (WithInput(), BLOCK),
        (WithOther(), SEPARABLE),
        (Block(first=F.relu), SEPARABLE),
        (ExpandedTwice(), SEPARABLE),
        (HiddenTwice(), PARTS),
        (Computed(), [*PARTS[:2], "torch"]),
        (Block(9), PARTS),
        (Block(3, 3), PARTS),
        (Block(dilation=2), PARTS),
        (Block().double(), PARTS),
        (Block().half(), PARTS),
        (Block().bfloat16(), BLOCK),
    ],
)
def test_what_is_fused(model, kernels):
    model = model.eval()
    x = torch.randn(2, 8, 13, 12).to(model.expand.weight.dtype)
    fast = fastconv.optimize(model, (x,))
    if "torch" not in kernels:
        assert kernels_of(fast) == kernels
    with torch.no_grad():
        expected = model(x)
        eps = torch.finfo(x.dtype).eps
        assert (fast(x) - expected).abs().max() <= 64 * eps * expected.abs().max()


def test_the_receipt_names_the_parts():
    fast = fastconv.optimize(WithInput().eval(), (torch.randn(1, 8, 9, 9),))
    assert fast.receipt == [
        {
            "layer": "project",
            "weight": [8, 24, 1, 1],
            "kernel": "inverted_residual",
            "activation": "relu6",
            "residual": True,
            "parts": ["expand", "depthwise", "project"],
        }
    ]


def test_the_dtype_of_the_result_decides():
    x = torch.randn(1, 8, 9, 9)
    for dtype, kernels in ((torch.float16, PARTS), (torch.bfloat16, BLOCK)):
        fast = fastconv.optimize(Block().eval(), (x,), dtype=dtype)
        assert kernels_of(fast) == kernels
    fast = fastconv.optimize(Block().double().eval(), (x.double(),), dtype=torch.float32)
    assert kernels_of(fast) == BLOCK


def test_batch_norms_and_asymmetric_padding_are_folded_first():
    model = nn.Sequential(
        nn.Conv2d(4, 16, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(16, 16, 3, 2, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 6, 1, bias=False),
        nn.BatchNorm2d(6),
    )
    for norm in (model[1], model[5], model[8]):
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.running_mean)
    x = torch.randn(2, 4, 10, 10)
    fast = fastconv.optimize(model.eval(), (x,))
    assert kernels_of(fast) == BLOCK
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
