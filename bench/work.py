"""What the op of a case does: ours and torch's function, their tensors, what they must move."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.shapes import Shape
from fastconv import ops
from fastconv.layout import memory_format_of
from fastconv.ops._op import OPS  # use_backend acts on these, not on torch.ops

if TYPE_CHECKING:
    from bench.cases import Case

Tensors = list[Tensor]
Function = Callable[..., Tensor]
# Of a value of the output: five squares, a power, a product; the gradient has two powers.
NORM_FLOPS = {"forward": 20, "grad_input": 40}
EPS = 1e-5


@dataclass(frozen=True)
class Work:
    """What a case does; moved: elements that must pass memory."""

    sizes: list[tuple[int, ...]]
    moved: int
    flops: int
    theirs: Function
    ours: Function
    derive: Callable[[Tensors], Tensors] = list
    forms: dict[str, Function] = field(default_factory=dict)


class Packed:
    """A function of image, weight and bias that packs the weight once, as optimize does."""

    def __init__(self, function: Function, pack: Callable[[Tensor], Tensor]) -> None:
        self.function, self.pack = function, pack
        self.held: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if self.held is None or self.held[0] is not w:
            self.held = (w, self.pack(w))
        return self.function(x, self.held[1], b)


def elements(size: tuple[int, ...]) -> int:
    return torch.Size(size).numel()


def output_size(s: Shape, batch: int) -> tuple[int, ...]:
    return (batch, s.out_channels, (s.height - 1) // s.stride + 1, (s.width - 1) // s.stride + 1)


def convolution(case: "Case") -> Work:
    s, depthwise = case.layer, case.op == "depthwise_conv2d"
    groups, padding = (s.channels if depthwise else 1), s.kernel // 2
    x = (case.batch, s.channels, s.height, s.width)
    w = (s.out_channels, s.channels // groups, s.kernel, s.kernel)
    y = output_size(s, case.batch)
    moved, flops = elements(x) + elements(y), 2 * elements(y) * w[1] * s.kernel**2

    def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.relu6(F.conv2d(x, w, b, s.stride, padding, 1, groups))

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if depthwise:
            return ops.depthwise_conv2d(x, w, b, s.stride, padding, activation="relu6")
        return ops.pointwise_conv2d(x, w, b, stride=s.stride, activation="relu6")

    if case.direction == "forward":
        pack = ops.pack_depthwise_weight if depthwise else ops.pack_pointwise_weight
        if not depthwise and case.dtype == torch.bfloat16:
            pack = ops.pack_pointwise_pairs
        forms = {"packed": Packed(ours, pack)}
        return Work([x, w, (s.out_channels,)], moved, flops, theirs, ours, forms=forms)

    if case.direction == "forward with residual":  # and ReLU: the end of a residual block
        return Work(
            *([x, w, (s.out_channels,), y], moved + elements(y), flops),
            lambda x, w, b, r: F.relu(F.conv2d(x, w, b, s.stride) + r),
            lambda x, w, b, r: ops.pointwise_conv2d(x, w, b, r, s.stride, "relu"),
        )

    arguments = ([s.stride] * 2, [padding] * 2, [1] * 2, False, [0, 0], groups)
    mask = [case.direction == "grad_input", case.direction == "grad_weight"]

    def their_gradient(g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        backward = torch.ops.aten.convolution_backward
        return backward(g, x, w, None, *arguments, [*mask, False])[mask.index(True)]

    def our_gradient(g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        if not depthwise:
            gradients = OPS["pointwise_conv2d_backward"](g, x, w, [s.stride] * 2, [*mask, False])
            return gradients[mask.index(True)]
        window = ([s.stride] * 2, [padding] * 4, [1, 1])
        if mask[0]:
            return OPS["depthwise_conv2d_backward_input"](g, x, w, *window)
        return OPS["depthwise_conv2d_backward_weight"](g, x, w, *window)[0]

    return Work([y, x, w], moved, flops, their_gradient, our_gradient)


def normalisation(case: "Case") -> Work:
    s = case.layer
    x = (case.batch, s.channels, s.height, s.width)
    flops = NORM_FLOPS[case.direction] * elements(x)
    if case.direction == "forward":
        return Work(
            *([x], 2 * elements(x), flops),
            lambda x: F.local_response_norm(x, s.kernel),
            lambda x: ops.local_response_norm(x, s.kernel),
        )
    gradient = Gradient(lambda x: F.local_response_norm(x, s.kernel))
    return Work(
        *([x, x], 3 * elements(x), flops, lambda g, x, y: gradient(g, x)),
        lambda g, x, y: OPS["local_response_norm_backward"](g, x, s.kernel),
        lambda tensors: [*tensors, F.local_response_norm(tensors[1], s.kernel)],  # cuDNN reads it
    )


class Gradient:
    """That of a function's first tensor by autograd; its forward pass runs in the first call."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.graph: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, g: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            if self.graph is None or self.graph[0] is not x:
                leaf = x.detach().clone().requires_grad_()
                rest = [t.detach().clone().requires_grad_() for t in others]
                self.graph = (x, leaf, self.function(leaf, *rest))
            _, leaf, output = self.graph
            return torch.autograd.grad(output, leaf, g, retain_graph=True)[0]


def addition(case: "Case") -> Work:
    s = case.layer
    x = (case.batch, s.channels, s.height, s.width)

    def theirs(x: Tensor, r: Tensor) -> Tensor:
        return torch.relu(x + r)

    if case.direction == "forward":
        return Work([x, x], 3 * elements(x), elements(x), theirs, ops.residual_add)

    def trained(x: Tensor, r: Tensor, g: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(g, theirs(x, r), 0)

    def ours(x: Tensor, r: Tensor, g: Tensor) -> Tensor:
        if x.is_cpu:
            return OPS["activation_backward"](g, ops.residual_add(x, r), "relu")
        y, mask = OPS["residual_add_with_mask"](x, r, "relu")
        channels_last = memory_format_of(y) is torch.channels_last
        return OPS["activation_backward_from_mask"](g, mask, channels_last)

    return Work([x, x, x], 5 * elements(x), elements(x), trained, ours)


def block(case: "Case") -> Work:
    """An inverted residual: channels -> hidden -> out_channels."""
    s, hidden, padding = case.layer, case.layer.hidden, case.layer.kernel // 2
    x, y = (case.batch, s.channels, s.height, s.width), output_size(s, case.batch)
    sizes = [x, (hidden, s.channels, 1, 1), (hidden,), (hidden, 1, s.kernel, s.kernel), (hidden,)]
    sizes += [(s.out_channels, hidden, 1, 1), (s.out_channels,)]
    adds = s.stride == 1 and s.channels == s.out_channels

    def theirs(x: Tensor, *weights: Tensor) -> Tensor:
        a, a_bias, b, b_bias, c, c_bias = weights
        y = F.relu6(F.conv2d(x, a, a_bias))
        y = F.relu6(F.conv2d(y, b, b_bias, s.stride, padding, 1, hidden))
        y = F.conv2d(y, c, c_bias)
        return y + x if adds else y

    def ours(x: Tensor, *weights: Tensor) -> Tensor:
        window = {"stride": s.stride, "padding": padding}
        return ops.inverted_residual(x, *weights, **window, activation="relu6", residual=adds)

    def parts(x: Tensor, *weights: Tensor) -> Tensor:
        a, a_bias, b, b_bias, c, c_bias = weights
        y = ops.pointwise_conv2d(x, a, a_bias, activation="relu6")
        y = ops.depthwise_conv2d(y, b, b_bias, s.stride, padding, activation="relu6")
        return ops.pointwise_conv2d(y, c, c_bias, residual=x if adds else None)

    outputs = elements(y) // s.out_channels
    flops = 2 * hidden * (elements(x) + s.kernel**2 * outputs + elements(y))
    moved = elements(x) + elements(y)
    return Work(sizes, moved, flops, theirs, ours, forms={"parts": parts})


def stem(case: "Case") -> Work:
    s, padding = case.layer, case.layer.kernel // 2
    x, y = (case.batch, s.channels, s.height, s.width), output_size(s, case.batch)
    w = (s.out_channels, s.channels, s.kernel, s.kernel)

    def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.relu6(F.conv2d(x, w, b, s.stride, padding))

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.stem_conv2d(x, w, b, s.stride, padding, "relu6")

    flops = 2 * elements(y) * s.channels * s.kernel**2
    forms = {"packed": Packed(ours, ops.pack_stem_weight)}
    moved = elements(x) + elements(y)
    return Work([x, w, (s.out_channels,)], moved, flops, theirs, ours, forms=forms)


def max_pool(case: "Case") -> Work:
    s, padding = case.layer, case.layer.kernel // 2
    x, y = (case.batch, s.channels, s.height, s.width), output_size(s, case.batch)
    return Work(
        *([x], elements(x) + elements(y), elements(y) * s.kernel**2),
        lambda x: F.max_pool2d(x, s.kernel, s.stride, padding),
        lambda x: ops.max_pool2d(x, s.kernel, s.stride, padding),
    )


def average_pool(case: "Case") -> Work:
    s = case.layer
    x, y = (case.batch, s.channels, s.height, s.width), (case.batch, s.channels, 1, 1)

    def theirs(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1)

    if case.direction == "forward":
        return Work([x], elements(x), elements(x), theirs, ops.global_avg_pool2d)
    functions = Gradient(theirs), Gradient(ops.global_avg_pool2d)
    return Work([y, x], elements(x), elements(x), *functions)


def batch_normalisation(case: "Case") -> Work:
    """Over the statistics of the batch, with ReLU6 behind."""
    s = case.layer
    x, c = (case.batch, s.channels, s.height, s.width), (s.channels,)

    def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.relu6(F.batch_norm(x, None, None, w, b, True, eps=EPS))

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.batch_norm(x, None, None, w, b, True, eps=EPS, activation="relu6")

    if case.direction == "training":
        return Work([x, c, c], 2 * elements(x), 6 * elements(x), theirs, ours)
    functions = Gradient(theirs), Gradient(ours)
    return Work([x, x, c, c], 3 * elements(x), 12 * elements(x), *functions)


WORK: dict[str, Callable[["Case"], Work]] = {
    "depthwise_conv2d": convolution,
    "pointwise_conv2d": convolution,
    "local_response_norm": normalisation,
    "residual_add": addition,
    "inverted_residual": block,
    "stem_conv2d": stem,
    "max_pool2d": max_pool,
    "global_avg_pool2d": average_pool,
    "batch_norm": batch_normalisation,
}
