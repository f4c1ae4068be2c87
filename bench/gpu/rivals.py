"""Ways to do what a case asks, on a GPU."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import DTYPES, Case, Function, cases_of, layers_of
from bench.gpu import cudnn
from bench.shapes import Shape
from fastconv import reference

NETWORKS = ["mobilenet_v2", "efficientnet_b0", "convnext_t"]
# Of these only what the others lack: normalisations and additions.
MORE_NETWORKS = ["alexnet_lrn", "googlenet_lrn", "resnet50"]
COMPILE = "max-autotune-no-cudagraphs"  # every variant is captured in a graph of ours


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


def in_both_layouts(name: str, function: Function) -> dict[str, Rival]:
    return {f"{name} {layout}": Rival(function, layout) for layout in ("nchw", "nhwc")}


def oracle_of(case: Case) -> Function:
    """What is right, in float64: torch itself, but for a gradient that it has no function for."""
    if case.op == "local_response_norm" and case.direction != "forward":
        return lambda g, x, y: reference.local_response_norm_backward(g, x, case.layer.kernel)
    return case.theirs


def rivals_of(case: Case) -> dict[str, Rival]:
    """All but torch.compile."""
    if case.op == "local_response_norm":
        return rivals_of_norm(case)
    rivals = in_both_layouts("torch", case.theirs)
    if case.direction == "forward with residual":
        rivals["cuDNN add relu nhwc"] = fused_convolution_and_sum(case.layer)
    if case.op in ("pointwise_conv2d", "depthwise_conv2d") and case.direction == "forward":
        rivals["cuDNN relu nhwc"] = fused_convolution(case)
        if case.op == "pointwise_conv2d" and case.layer.stride == 1:
            rivals["cuBLASLt relu nhwc"] = matrix_product(case.layer)
    return rivals


def compiled_of(case: Case) -> dict[str, Rival]:
    """torch.compile, which searches for ten seconds and more where the others start at once."""
    # Inductor too calls cuDNN for a depthwise one in half precision, after minutes of search.
    halved = case.op == "depthwise_conv2d" and case.dtype != torch.float32
    if not case.direction.startswith("forward") or halved:
        return {}
    layout = "nchw" if case.op == "local_response_norm" else "nhwc"
    return {f"compile {layout}": Rival(torch.compile(case.theirs, mode=COMPILE), layout)}


def fused_convolution(case: Case) -> Rival:
    """cuDNN's convolution with bias and ReLU in one call; it has no relu6."""
    layer = case.layer
    groups = layer.channels if case.op == "depthwise_conv2d" else 1
    window = ([layer.stride] * 2, [layer.kernel // 2] * 2, [1, 1], groups)
    return Rival(
        lambda x, w, b: torch.cudnn_convolution_relu(x, w, b, *window),
        "nhwc",
        oracle=lambda x, w, b: F.relu(F.conv2d(x, w, b, *window)),
    )


def fused_convolution_and_sum(layer: Shape) -> Rival:
    """cuDNN's 1x1 convolution with bias, residual and ReLU in one call."""
    window = ([layer.stride] * 2, [0, 0], [1, 1], 1)
    return Rival(
        lambda x, w, b, r: torch.cudnn_convolution_add_relu(x, w, r, 1, b, *window), "nhwc"
    )


def matrix_product(layer: Shape) -> Rival:
    """cuBLASLt's product with bias and ReLU; it has no relu6."""

    def product(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1).reshape(-1, layer.channels)
        result = torch._addmm_activation(b, rows, w.flatten(1).t())
        return result.view(len(x), layer.height, layer.width, -1).permute(0, 3, 1, 2)

    return Rival(product, "nhwc", oracle=lambda x, w, b: F.relu(F.conv2d(x, w, b)))


def rivals_of_norm(case: Case) -> dict[str, Rival]:
    size, has_cudnn = case.layer.kernel, cudnn.has_local_response_norm(case.dtype)
    if case.direction != "forward":
        backward: Function = lambda g, x, y: cudnn.local_response_norm_backward(g, x, y, size)  # noqa: E731
        return in_both_layouts("cuDNN", backward) if has_cudnn else {}
    rivals = in_both_layouts("torch", case.theirs)
    if has_cudnn:
        rivals |= in_both_layouts("cuDNN", lambda x: cudnn.local_response_norm(x, size))
    return rivals


def all_cases(batches: list[int], networks: list[str], dtypes: list[str]) -> Iterator[Case]:
    more = layers_of(MORE_NETWORKS)
    few = [x for x in more if x.op in ("local_response_norm", "residual_add")]
    yield from cases_of(few + layers_of(networks), batches, dtypes)
    added = {(x.channels, x.height, x.width) for x in few if x.op == "residual_add"}
    for layer in more:
        joins = (layer.out_channels, layer.height, layer.width) in added
        if layer.op == "pointwise_conv2d" and layer.stride == 1 and joins:
            for dtype, batch in itertools.product(dtypes, batches):
                yield Case(layer, batch, DTYPES[dtype], "forward with residual")
