"""Depthwise convolutions: forward, both gradients, and half precision beside float32."""

from typing import NamedTuple

import torch
from torch import Tensor

from bench.goals.figures import Figure, Row, worst
from bench.goals.timing import check, in_turn, share, speedup
from fastconv import ops, probe
from fastconv.ops._op import OPS

# As autograd calls them: the raw ops have a kernel in Python for gradients of their own, 4 us.
BACKWARD_INPUT = OPS["depthwise_conv2d_backward_input"]
BACKWARD_WEIGHT = OPS["depthwise_conv2d_backward_weight"]


class Case(NamedTuple):
    batch: int
    channels: int
    size: int
    kernel: int
    stride: int = 1

    def __str__(self) -> str:
        text = f"{self.batch}x{self.channels}x{self.size}x{self.size} k{self.kernel}"
        return text if self.stride == 1 else f"{text} s{self.stride}"

    @property
    def outputs(self) -> int:
        return self.batch * self.channels * (-(-self.size // self.stride)) ** 2

    @property
    def flops(self) -> float:
        return 2.0 * self.outputs * self.kernel**2

    @property
    def bytes(self) -> int:
        """Input and output, in float32."""
        return 4 * (self.outputs + self.batch * self.channels * self.size**2)

    @property
    def window(self) -> tuple[list[int], list[int], list[int]]:
        return [self.stride] * 2, [self.kernel // 2] * 4, [1, 1]


class Tensors:
    """The tensors of a case in one layout and dtype, and the calls that are timed on them."""

    def __init__(
        self, case: Case, layout: torch.memory_format, dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(0)
        self.case = case
        size = -(-case.size // case.stride)
        x = torch.randn(case.batch, case.channels, case.size, case.size)
        grad = torch.randn(case.batch, case.channels, size, size)
        self.x = x.to(dtype).contiguous(memory_format=layout)
        self.grad = grad.to(dtype).contiguous(memory_format=layout)
        self.weight = torch.randn(case.channels, 1, case.kernel, case.kernel).to(dtype)
        self.packed = ops.pack_depthwise_weight(self.weight)
        self.bias = torch.randn(case.channels).to(dtype)

    def forward(self) -> Tensor:
        weight = self.weight if self.x.is_contiguous() else self.packed
        stride, padding = self.case.stride, self.case.kernel // 2
        return ops.depthwise_conv2d(self.x, weight, self.bias, stride, padding)

    def kernel_alone(self, output: Tensor) -> probe.Probe:
        return probe.depthwise_conv2d(self.x, self.packed, self.bias, self.case.stride, output)

    def input_gradient(self) -> Tensor:
        return BACKWARD_INPUT(self.grad, self.x, self.weight, *self.case.window)

    def weight_gradient(self) -> Tensor:
        return BACKWARD_WEIGHT(self.grad, self.x, self.weight, *self.case.window)[0]

    def torch_forward(self) -> Tensor:
        stride, pads, dilation = self.case.window
        return torch.conv2d(
            self.x, self.weight, self.bias, stride, pads[:2], dilation, self.case.channels
        )

    def torch_gradient(self, *mask: bool) -> Tensor:
        stride, pads, dilation = self.case.window
        arguments = (stride, pads[:2], dilation, False, [0, 0], self.case.channels, mask)
        gradients = torch.ops.aten.convolution_backward(
            self.grad, self.x, self.weight, None, *arguments
        )
        return next(g for g, wanted in zip(gradients, mask, strict=True) if wanted)

    def torch_input_gradient(self) -> Tensor:
        return self.torch_gradient(True, False, False)

    def torch_weight_gradient(self) -> Tensor:
        return self.torch_gradient(False, True, False)


NCHW, NHWC = torch.contiguous_format, torch.channels_last
CACHED_3 = [Case(1, 192, 28, 3), Case(1, 384, 14, 3), Case(1, 240, 28, 3, 2)]
CACHED_5_7 = [Case(1, 672, 14, 5), Case(1, 240, 28, 5), Case(1, 384, 14, 7)]
LARGE = [Case(16, 144, 56, 3), Case(16, 96, 112, 3, 2)]
HUGE_KERNEL = Case(4, 64, 56, 31)


def kernel_share(case: Case, seconds: float) -> float:
    """The kernel alone, its data in L2, as a share of peak: no call, no hand-off."""
    peak, tensors = probe.multiply_add(), Tensors(case, NHWC)
    output = torch.full_like(tensors.torch_forward(), float("nan"))
    kernel = tensors.kernel_alone(output)
    kernel.run()
    check(output, tensors.torch_forward())
    return share(in_turn(seconds, ours=kernel.run, probe=peak.run), kernel.work, peak)


def measure_forward(seconds: float) -> list[Figure]:
    peak = probe.multiply_add()
    small, medium, large, layouts = {}, {}, {}, {}
    for case in CACHED_3 + CACHED_5_7 + LARGE:
        last, first = Tensors(case, NHWC), Tensors(case, NCHW)
        check(last.forward(), last.torch_forward())
        check(first.forward(), last.torch_forward())
        bound = probe.stream_copy(case.bytes) if case in LARGE else peak
        times = in_turn(seconds, ours=last.forward, nchw=first.forward, probe=bound.run)
        shares = large if case in LARGE else small if case in CACHED_3 else medium
        shares[str(case)] = share(times, case.bytes if case in LARGE else case.flops, bound)
        layouts[str(case)] = speedup(times, "ours", "nchw")
    last, first = Tensors(HUGE_KERNEL, NHWC), Tensors(HUGE_KERNEL, NCHW)
    check(first.forward(), last.forward())
    times = in_turn(seconds, nhwc=last.forward, nchw=first.forward)
    alone = {str(case): kernel_share(case, seconds) for case in CACHED_3 + CACHED_5_7}
    return [
        worst("3x3 in L2", small, 0.65, "of peak"),
        worst("3x3 in L2, kernel alone", {c: alone[c] for c in small}, 0.65, "of peak"),
        worst("5x5, 7x7", medium, 0.75, "of peak"),
        worst("5x5, 7x7, kernel alone", {c: alone[c] for c in medium}, 0.75, "of peak"),
        worst("large", large, 0.85, "of copy"),
        worst("NCHW", layouts, 0.8, "x NHWC"),
        Figure("k = 31 NCHW", speedup(times, "nchw", "nhwc"), 1.3, "x NHWC's time", at_most=True),
    ]


INPUT_GRADIENT = [Case(1, 192, 28, 3), Case(1, 672, 14, 5), Case(16, 384, 14, 3)]
INPUT_GRADIENT += [Case(16, 144, 56, 3), Case(16, 672, 14, 5), Case(16, 384, 14, 7)]
STRIDED = [Case(1, 96, 112, 3, 2), Case(16, 96, 112, 3, 2), Case(16, 240, 28, 5, 2)]


def measure_input_gradient(seconds: float) -> list[Figure]:
    of_forward, of_torch = {}, {}
    for case in INPUT_GRADIENT:
        ours = Tensors(case, NHWC)
        check(ours.input_gradient(), ours.torch_input_gradient())
        times = in_turn(seconds, ours=ours.input_gradient, forward=ours.forward)
        of_forward[str(case)] = speedup(times, "ours", "forward")
    for case in STRIDED:
        last, first = Tensors(case, NHWC), Tensors(case, NCHW)
        check(last.input_gradient(), first.torch_input_gradient())
        times = in_turn(
            seconds,
            ours=last.input_gradient,
            nhwc=last.torch_input_gradient,
            nchw=first.torch_input_gradient,
        )
        of_torch[str(case)] = min(speedup(times, "nhwc"), speedup(times, "nchw"))
    return [
        worst("stride 1", of_forward, 1.1, "x forward's time", at_most=True),
        worst("stride 2", of_torch, 4.0),
    ]


WEIGHT_GRADIENT = [Case(16, 672, 14, 5), Case(16, 240, 28, 5), Case(16, 96, 56, 7)]
WEIGHT_GRADIENT += [Case(16, 384, 14, 7)]


def measure_weight_gradient(seconds: float) -> list[Figure]:
    by_layout: dict[torch.memory_format, dict[str, float]] = {NHWC: {}, NCHW: {}}
    for case in WEIGHT_GRADIENT:
        for layout, ratios in by_layout.items():
            t = Tensors(case, layout)
            check(t.weight_gradient(), t.torch_weight_gradient(), 1e-3)
            times = in_turn(seconds, ours=t.weight_gradient, torch=t.torch_weight_gradient)
            ratios[str(case)] = speedup(times, "torch")
    return [worst("NHWC", by_layout[NHWC], 15.0), worst("NCHW", by_layout[NCHW], 30.0)]


HALF = [Case(16, 144, 56, 3), Case(16, 384, 14, 3), Case(16, 240, 28, 5), Case(1, 672, 14, 5)]


def measure_half(seconds: float) -> list[Figure]:
    return [
        _half(what, name, dtype, seconds)
        for what, name in (
            ("forward", "forward"),
            ("input gradient", "input_gradient"),
            ("weight gradient", "weight_gradient"),
        )
        for dtype in (torch.bfloat16, torch.float16)
    ]


def _half(what: str, name: str, dtype: torch.dtype, seconds: float) -> Figure:
    ratios = {}
    for case in HALF:
        for layout, label in ((NHWC, "NHWC"), (NCHW, "NCHW")):
            full, half = Tensors(case, layout), Tensors(case, layout, dtype)
            check(getattr(half, name)(), getattr(full, name)(), 2e-2)
            times = in_turn(seconds, full=getattr(full, name), half=getattr(half, name))
            ratios[f"{case} {label}"] = speedup(times, "half", "full")
    label = f"{what} {str(dtype).removeprefix('torch.')}"
    return worst(label, ratios, 1.0, "x float32's time", at_most=True)


ROWS = [
    Row(
        "depthwise",
        "depthwise forward NHWC, in L2 / large",
        ">= 0.65 (3x3), 0.75 (5x5, 7x7) of peak / >= 0.85 of non-temporal copy; "
        "NCHW >= 0.8x of that; k = 31 NCHW within 1.3x of NHWC",
        measure_forward,
    ),
    Row(
        "depthwise-input-gradient",
        "depthwise input gradient; stride 2",
        "the time of forward; >= 4x torch",
        measure_input_gradient,
    ),
    Row(
        "depthwise-weight-gradient",
        "depthwise weight gradient 5x5, 7x7",
        ">= 15x torch NHWC, >= 30x torch NCHW",
        measure_weight_gradient,
    ),
    Row(
        "depthwise-half",
        "float16 and bfloat16 depthwise, forward and both gradients",
        "no slower than our float32",
        measure_half,
    ),
]
