"""The squeeze-and-excitations that optimize finds within blocks, and those it leaves alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv


class Block(nn.Module):
    """A mobile block with the squeeze-and-excitation of torchvision, and knobs for what differs."""

    def __init__(self, expands=True, gate=F.sigmoid, inner=F.silu):
        super().__init__()
        self.expand = nn.Conv2d(8, 24, 1) if expands else None
        channels = 24 if expands else 8
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.project = nn.Conv2d(channels, 8, 1)
        self.gate, self.inner = gate, inner

    def hide(self, x: Tensor) -> Tensor:
        x = x if self.expand is None else F.silu(self.expand(x))
        return F.silu(self.depthwise(x))

    def pool(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1)

    def weigh(self, x: Tensor) -> Tensor:
        return self.gate(self.fc2(self.inner(self.fc1(self.pool(x))))) * x

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.weigh(self.hide(x)))


class WithInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class OtherOrder(Block):
    def weigh(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.inner(self.fc1(x.mean((2, 3), keepdim=True)))))


class Maximum(Block):
    def pool(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, 1)


class TwoPixels(Block):
    def pool(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (1, 2))[..., :1]


class MeanOfInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hide(x)
        gates = self.gate(self.fc2(self.inner(self.fc1(self.pool(hidden.abs())))))
        return self.project(hidden * gates)


class GatesTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hide(x)
        gates = self.gate(self.fc2(self.inner(self.fc1(self.pool(hidden)))))
        return self.project(hidden * gates) + gates.mean()


class HiddenTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hide(x)
        return self.project(self.weigh(hidden)) + hidden.mean()


class ActivatedGates(Block):
    def weigh(self, x: Tensor) -> Tensor:
        return x * self.gate(F.relu(self.fc2(self.inner(self.fc1(self.pool(x))))))


@pytest.mark.parametrize(
    ("model", "kernel"),
    [
        (Block(), "inverted_residual"),
        (Block(gate=F.hardsigmoid, inner=F.relu), "inverted_residual"),
        (WithInput(), "inverted_residual"),
        (OtherOrder(), "inverted_residual"),
        (Block(expands=False), "separable_conv2d"),
        (Block(gate=F.tanh), None),
        (Block(inner=F.tanh), None),
        (Maximum(), None),
        (TwoPixels(), None),
        (MeanOfInput(), None),
        (GatesTwice(), None),
        (HiddenTwice(), None),
        (ActivatedGates(), None),
    ],
)
def test_what_is_fused(model, kernel):
    x = torch.randn(2, 8, 13, 12)
    fast = fastconv.optimize(model.eval(), (x,))
    blocks = [row["kernel"] for row in fast.receipt if "squeeze" in row]
    assert blocks == ([] if kernel is None else [kernel])
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_receipt_names_the_parts():
    fast = fastconv.optimize(Block(gate=F.hardsigmoid).eval(), (torch.randn(1, 8, 9, 9),))
    (row,) = fast.receipt
    assert row["parts"] == ["expand", "depthwise", "project"]
    assert row["squeeze"] == {
        "parts": ["fc1", "fc2"],
        "activation": "silu",
        "gate": "hardsigmoid",
    }


def test_other_dtypes_are_not_fused():
    x = torch.randn(1, 8, 9, 9)
    for dtype in (torch.bfloat16, torch.float64):
        fast = fastconv.optimize(Block().eval(), (x,), dtype=dtype)
        assert not any("squeeze" in row for row in fast.receipt)


def test_all_blocks_of_efficientnet_b0():
    model = fastconv.models.efficientnet_b0().eval()
    fast = fastconv.optimize(model, (torch.randn(1, 3, 64, 64),))
    kernels = [row["kernel"] for row in fast.receipt if "squeeze" in row]
    assert kernels == ["separable_conv2d", *["inverted_residual"] * 15]
