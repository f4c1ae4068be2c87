"""What is compared: an op on a layer of a network, in one dtype and direction, ours and torch's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.shapes import Shape, read
from fastconv import ops
from fastconv.layout import memory_format_of
from fastconv.ops._op import OPS  # use_backend acts on these, not on torch.ops

Tensors = list[Tensor]
Function = Callable[..., Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DIRECTIONS = {
    "depthwise_conv2d": ("forward", "grad_input", "grad_weight"),
    "pointwise_conv2d": ("forward", "grad_input", "grad_weight"),
    "local_response_norm": ("forward", "grad_input"),
    "residual_add": ("forward", "forward and grad_input"),
    "inverted_residual": ("forward",),
}
# Of a value of the output: five squares, a power, a product; the gradient has two powers.
NORM_FLOPS = {"forward": 20, "grad_input": 40}


@dataclass(frozen=True)
class Case:
    """One row of one op: `ours` and `theirs`, which is torch, take the same tensors."""

    layer: Shape
    batch: int
    dtype: torch.dtype
    direction: str = "forward"

    @property
    def op(self) -> str:
        return self.layer.op

    @property
    def shape(self) -> str:
        return f"{self.batch}x{self.layer}"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.op} {self.direction} {self.shape} {self.dtype_name}"

    @cached_property
    def _work(self) -> "Work":
        return WORK[self.op](self)

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Of the inputs."""
        return self._work.sizes

    @property
    def ours(self) -> Function:
        return self._work.ours

    @property
    def theirs(self) -> Function:
        return self._work.theirs

    @property
    def forms(self) -> dict[str, Function]:
        """Other ways to call ours on channels_last tensors, each served by another kernel."""
        return self._work.forms

    def function(self, name: str) -> Function:
        return {"ours": self.ours, "theirs": self.theirs, **self.forms}[name]

    @property
    def flops(self) -> int:
        return self._work.flops

    @property
    def bytes(self) -> int:
        """That must pass memory: the activations, each once. Weights are few."""
        return self._work.moved * self.dtype.itemsize

    def inputs(self, device: torch.device | str = "cpu") -> Tensors:
        """Random tensors in float32 that hold values of this dtype; outputs are near 1."""
        tensors = [torch.randn(size, device=device) for size in self.sizes]
        for i, size in enumerate(self.sizes):
            if len(size) == 4 and i > 0 and size[0] != self.sizes[0][0]:  # a weight
                tensors[i] /= (size[1] * size[2] * size[3]) ** 0.5
        return self.derive([t.to(self.dtype).float() for t in tensors])

    def derive(self, tensors: Tensors) -> Tensors:
        """The inputs with what is computed from them."""
        return self._work.derive(tensors)


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


def convolution(case: Case) -> Work:
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


def normalisation(case: Case) -> Work:
    s = case.layer
    x = (case.batch, s.channels, s.height, s.width)
    flops = NORM_FLOPS[case.direction] * elements(x)
    if case.direction == "forward":
        return Work(
            *([x], 2 * elements(x), flops),
            lambda x: F.local_response_norm(x, s.kernel),
            lambda x: ops.local_response_norm(x, s.kernel),
        )
    return Work(
        *([x, x], 3 * elements(x), flops, NormGradient(s.kernel)),
        lambda g, x, y: OPS["local_response_norm_backward"](g, x, s.kernel),
        lambda tensors: [*tensors, F.local_response_norm(tensors[1], s.kernel)],  # cuDNN reads it
    )


class NormGradient:
    """torch's gradient of a normalisation; the forward pass it needs runs in the first call."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.graph: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, g: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            if self.graph is None or self.graph[0] is not x:
                leaf = x.detach().clone().requires_grad_()
                self.graph = (x, leaf, F.local_response_norm(leaf, self.size))
            _, leaf, output = self.graph
            return torch.autograd.grad(output, leaf, g, retain_graph=True)[0]


def addition(case: Case) -> Work:
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


def block(case: Case) -> Work:
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


WORK: dict[str, Callable[[Case], Work]] = {
    "depthwise_conv2d": convolution,
    "pointwise_conv2d": convolution,
    "local_response_norm": normalisation,
    "residual_add": addition,
    "inverted_residual": block,
}


def cases_of(layers: list[Shape], batches: list[int], dtypes: list[str]) -> Iterator[Case]:
    for dtype in (DTYPES[name] for name in dtypes):
        for batch in batches:
            for layer in layers:
                for direction in DIRECTIONS[layer.op]:
                    yield Case(layer, batch, dtype, direction)


def layers_of(networks: list[str]) -> list[Shape]:
    """The layers of these networks, equal ones once, in their order."""
    layers = (layer._replace(count=1) for network in networks for layer in read(network))
    return list(dict.fromkeys(layers))
