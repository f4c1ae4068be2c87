"""What is compared: an op on a shape, in one dtype and direction, by ours and by its rivals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu import cudnn
from bench.shapes import Shape, read
from fastconv import ops, reference
from fastconv.layout import memory_format_of
from fastconv.ops._op import OPS  # use_backend acts on these, not on torch.ops

Tensors = list[Tensor]
Function = Callable[..., Tensor | tuple[Tensor, ...]]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NETWORKS = ["mobilenet_v2", "efficientnet_b0", "convnext_t"]
# Channels, height: of AlexNet and of GoogLeNet.
LRN = [(96, 55), (256, 27), (64, 56), (192, 56)]
# Channels, height: ResNet-50's four stages.
ADD = [(256, 56), (512, 28), (1024, 14), (2048, 7)]


@dataclass(frozen=True)
class Rival:
    """A way to do what the case asks.

    layout: of the 4-dimensional inputs it is given; backend: forced through use_backend or
    fastconv.gpu.use, None for what is not ours.
    """

    function: Function
    layout: str
    backend: str | None = None
    oracle: Function | None = None  # where it is not the case's


@dataclass(frozen=True)
class Case:
    op: str
    direction: str
    shape: str
    dtype: torch.dtype
    sizes: list[tuple[int, ...]]  # of the inputs
    moved: int  # elements that must pass memory
    flops: int
    oracle: Function  # in float64
    ours: Function
    rivals: dict[str, Rival] = field(default_factory=dict)
    derive: Callable[[Tensors], Tensors] = list  # the inputs with what is computed from them

    @property
    def bytes(self) -> int:
        return self.moved * self.dtype.itemsize

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.op} {self.direction} {self.shape} {dtype}"


def in_both_layouts(name: str, function: Function) -> dict[str, Rival]:
    return {f"{name} {layout}": Rival(function, layout) for layout in ("nchw", "nhwc")}


def convolution(s: Shape, batch: int, dtype: torch.dtype) -> Iterator[Case]:
    """Forward and both gradients of a depthwise layer; forward and backward of a pointwise one."""
    depthwise = s.op == "depthwise_conv2d"
    groups, padding = (s.channels if depthwise else 1), s.kernel // 2
    height, width = ((size - 1) // s.stride + 1 for size in (s.height, s.width))
    x = (batch, s.channels, s.height, s.width)
    w = (s.out_channels, s.channels // groups, s.kernel, s.kernel)
    y = (batch, s.out_channels, height, width)
    inputs, outputs = (torch.Size(size).numel() for size in (x, y))
    flops = 2 * outputs * w[1] * s.kernel**2
    name = f"{batch}x{s}"

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.relu6(F.conv2d(x, w, b, s.stride, padding, 1, groups))

    def forward_relu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, w, b, s.stride, padding, 1, groups))

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if depthwise:
            return ops.depthwise_conv2d(x, w, b, s.stride, padding, activation="relu6")
        return ops.pointwise_conv2d(x, w, b, stride=s.stride, activation="relu6")

    sizes = [x, w, (s.out_channels,)]
    rivals = in_both_layouts("torch", forward)
    if s.kernel == 1 or dtype == torch.float32:  # else it calls cuDNN too, after minutes of search
        rivals["compile nhwc"] = Rival(torch.compile(forward, mode=COMPILE), "nhwc")
    if not depthwise and s.stride == 1:

        def matrix_relu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            rows = x.permute(0, 2, 3, 1).reshape(-1, s.channels)
            result = torch._addmm_activation(b, rows, w.flatten(1).t())
            return result.view(len(x), height, width, -1).permute(0, 3, 1, 2)

        # It has no relu6.
        rivals["cuBLASLt relu nhwc"] = Rival(matrix_relu, "nhwc", oracle=forward_relu)
    yield Case(s.op, "forward", name, dtype, sizes, inputs + outputs, flops, forward, ours, rivals)

    arguments = ([s.stride] * 2, [padding] * 2, [1] * 2, False, [0, 0], groups)
    for direction, mask in {"grad_input": (True, False), "grad_weight": (False, True)}.items():

        def theirs(g: Tensor, x: Tensor, w: Tensor, mask: tuple = mask) -> Tensor:
            gradients = torch.ops.aten.convolution_backward(
                g, x, w, None, *arguments, [*mask, False]
            )
            return gradients[0] if mask[0] else gradients[1]

        def our_gradient(g: Tensor, x: Tensor, w: Tensor, mask: tuple = mask) -> Tensor:
            if not depthwise:
                backward = OPS["pointwise_conv2d_backward"]
                gradients = backward(g, x, w, [s.stride] * 2, [*mask, False])
                return gradients[0] if mask[0] else gradients[1]
            window = ([s.stride] * 2, [padding] * 4, [1, 1])
            if mask[0]:
                return OPS["depthwise_conv2d_backward_input"](g, x, w, *window)
            return OPS["depthwise_conv2d_backward_weight"](g, x, w, *window)[0]

        yield Case(
            *(s.op, direction, name, dtype, [y, x, w], inputs + outputs, flops),
            *(theirs, our_gradient, in_both_layouts("torch", theirs)),
        )


COMPILE = "max-autotune-no-cudagraphs"  # every variant is captured in a graph of ours


def normalisation(channels: int, height: int, batch: int, dtype: torch.dtype) -> Iterator[Case]:
    x = (batch, channels, height, height)
    elements, name = torch.Size(x).numel(), f"{batch}x{channels}x{height}x{height}"
    rivals = in_both_layouts("torch", lambda x: F.local_response_norm(x, 5))
    rivals["compile nchw"] = Rival(
        torch.compile(lambda x: F.local_response_norm(x, 5), mode=COMPILE), "nchw"
    )
    op = "local_response_norm"
    if cudnn.has_local_response_norm(dtype):
        rivals |= in_both_layouts("cuDNN", lambda x: cudnn.local_response_norm(x, 5))
    yield Case(
        *(op, "forward", name, dtype, [x], 2 * elements, 20 * elements),
        *(lambda x: reference.local_response_norm(x, 5), lambda x: ops.local_response_norm(x, 5)),
        rivals,
    )
    rivals = {}
    if cudnn.has_local_response_norm(dtype):
        rivals = in_both_layouts(
            "cuDNN", lambda g, x, y: cudnn.local_response_norm_backward(g, x, y, 5)
        )
    yield Case(
        *(op, "grad_input", name, dtype, [x, x], 3 * elements, 40 * elements),
        lambda g, x, y: reference.local_response_norm_backward(g, x, 5),
        lambda g, x, y: OPS["local_response_norm_backward"](g, x, 5),
        rivals,
        derive=lambda tensors: [*tensors, F.local_response_norm(tensors[1], 5)],  # cuDNN reads it
    )


def addition(channels: int, height: int, batch: int, dtype: torch.dtype) -> Iterator[Case]:
    x = (batch, channels, height, height)
    elements, name = torch.Size(x).numel(), f"{batch}x{channels}x{height}x{height}"

    def add(x: Tensor, r: Tensor) -> Tensor:
        return torch.relu(x + r)

    def trained(x: Tensor, r: Tensor, g: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(g, add(x, r), 0)

    def trained_by_mask(x: Tensor, r: Tensor, g: Tensor) -> Tensor:
        y, mask = OPS["residual_add_with_mask"](x, r, "relu")
        channels_last = memory_format_of(y) is torch.channels_last
        return OPS["activation_backward_from_mask"](g, mask, channels_last)

    for direction, theirs, ours, inputs, moved in (
        ("forward", add, ops.residual_add, 2, 3),
        ("forward and grad_input", trained, trained_by_mask, 3, 5),
    ):
        rivals = in_both_layouts("torch", theirs)
        rivals["compile nhwc"] = Rival(torch.compile(theirs, mode=COMPILE), "nhwc")
        yield Case(
            *("residual_add", direction, name, dtype, [x] * inputs, moved * elements, elements),
            *(theirs, ours, rivals),
        )


def block(hidden: int, s: Shape, batch: int, dtype: torch.dtype) -> Case:
    """An inverted residual: s.channels -> hidden -> s.out_channels."""
    height = (s.height - 1) // s.stride + 1
    x = (batch, s.channels, s.height, s.width)
    sizes = [x, (hidden, s.channels, 1, 1), (hidden,), (hidden, 1, s.kernel, s.kernel), (hidden,)]
    sizes += [(s.out_channels, hidden, 1, 1), (s.out_channels,)]
    adds = s.stride == 1 and s.channels == s.out_channels

    def parts(x: Tensor, *weights: Tensor) -> Tensor:
        a, a_bias, b, b_bias, c, c_bias = weights
        y = F.relu6(F.conv2d(x, a, a_bias))
        y = F.relu6(F.conv2d(y, b, b_bias, s.stride, s.kernel // 2, 1, hidden))
        y = F.conv2d(y, c, c_bias)
        return y + x if adds else y

    def ours(x: Tensor, *weights: Tensor) -> Tensor:
        return ops.inverted_residual(
            x,
            *weights,
            stride=s.stride,
            padding=s.kernel // 2,
            activation="relu6",
            residual=adds,
        )

    outputs = batch * s.out_channels * height * height
    pixels = batch * s.height * s.width
    flops = 2 * hidden * (s.channels * pixels + s.kernel**2 * batch * height * height)
    flops += 2 * hidden * outputs
    rivals = in_both_layouts("torch", parts)
    rivals["compile nhwc"] = Rival(torch.compile(parts, mode=COMPILE), "nhwc")
    return Case(
        *("inverted_residual", "forward", f"{batch}x{s}h{hidden}", dtype, sizes),
        *(torch.Size(x).numel() + outputs, flops, parts, ours, rivals),
    )


# MobileNet v2: hidden channels, and the block from its input to its output.
BLOCKS = [
    (96, Shape("inverted_residual", 16, 24, 112, 112, 3, 2)),
    (144, Shape("inverted_residual", 24, 24, 56, 56, 3, 1)),
    (192, Shape("inverted_residual", 32, 32, 28, 28, 3, 1)),
    (384, Shape("inverted_residual", 64, 64, 14, 14, 3, 1)),
    (960, Shape("inverted_residual", 160, 160, 7, 7, 3, 1)),
]


def all_cases(batches: list[int], networks: list[str], dtypes: list[str]) -> Iterator[Case]:
    for dtype in (DTYPES[name] for name in dtypes):
        for batch in batches:
            for hidden, shape in BLOCKS:
                yield block(hidden, shape, batch, dtype)
            for channels, height in LRN:
                yield from normalisation(channels, height, batch, dtype)
            for channels, height in ADD:
                yield from addition(channels, height, batch, dtype)
            for network in networks:
                for shape in read(network):
                    if shape.height == 1:
                        continue  # of a squeeze-and-excitation
                    yield from convolution(shape, batch, dtype)
