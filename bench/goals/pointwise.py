"""Pointwise convolutions of MobileNetV2, bias and ReLU6 fused."""

from typing import NamedTuple

import torch
from torch import Tensor

from bench.goals.figures import Figure, Row, worst
from bench.goals.timing import Times, check, in_turn, nhwc, share, speedup
from fastconv import ops, probe, reference


class Case(NamedTuple):
    channels: int
    out_channels: int
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.size}x{self.size}-{self.out_channels}"

    @property
    def flops(self) -> float:
        return 2.0 * self.batch * self.size**2 * self.channels * self.out_channels

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(self.batch, self.channels, self.size, self.size)
        weight = torch.randn(self.out_channels, self.channels, 1, 1) * self.channels**-0.5
        return nhwc(x), weight, torch.randn(self.out_channels)


DEEP = [(32, 192, 28), (192, 32, 28), (64, 384, 14), (384, 64, 14), (96, 576, 14)]
DEEP += [(576, 96, 14), (160, 960, 7), (960, 160, 7), (320, 1280, 7)]
THIN = [(16, 96, 112), (96, 24, 56), (24, 144, 56), (144, 24, 56)]  # 16 or 24 channels


def measure(seconds: float) -> list[Figure]:
    peak = probe.multiply_add()
    deep = {batch: {} for batch in (1, 16)}
    thin, rival = {}, {}
    for shape in DEEP + THIN:
        for batch in (1, 16):
            case = Case(*shape, batch)
            times = time(case, peak, seconds)
            shares = thin if shape in THIN else deep[batch]
            shares[str(case)] = share(times, case.flops, peak)
            if batch == 1:
                rival[str(case)] = speedup(times, "onednn")
    return [
        worst("K >= 32, batch 1", deep[1], 0.92, "of peak"),
        worst("batch 16", deep[16], 0.92, "of peak"),
        worst("K or N of 16 or 24", thin, 0.82, "of peak"),
        worst("oneDNN fused, batch 1", rival, 2.0),
    ]


def time(case: Case, peak: probe.Probe, seconds: float) -> Times:
    x, weight, bias = case.tensors()
    packed = ops.pack_pointwise_panels(weight)
    window = ([0, 0], [1, 1], [1, 1], 1)
    reordered = torch.ops.mkldnn._reorder_convolution_weight(weight, *window, list(x.shape))

    def ours() -> Tensor:
        return ops.pointwise_conv2d(x, packed, bias, activation="relu6")

    def onednn() -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, reordered, bias, *window, "hardtanh", [0.0, 6.0], ""
        )

    expected = reference.pointwise_conv2d(x, weight, bias, None, [1, 1], "relu6")
    check(ours(), expected)
    check(onednn(), expected)
    return in_turn(seconds, ours=ours, onednn=onednn, probe=peak.run)


ROWS = [
    Row(
        "pointwise",
        "pointwise, K >= 32, N a multiple of 16 / K = 16, 24 or N = 24",
        ">= 0.92 / 0.82 of peak on 2 cores; >= 2x oneDNN fused at batch 1",
        measure,
    )
]
