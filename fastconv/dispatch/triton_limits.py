"""What the Triton kernels can do, told without Triton, so that a plan needs none."""

from collections.abc import Callable

import torch

from fastconv.dispatch.call import Call

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
LARGEST = 31  # of a filter


def why_not(call: Call) -> str:
    """Why no Triton kernel can do call, '' where one can."""
    if call.op not in LIMITS:
        return f"no Triton kernel for {call.op}"
    if call.dtype not in DTYPES:
        return f"no Triton kernel for {call.dtype}"
    return LIMITS[call.op](call)


def no_limit(call: Call) -> str:
    return ""


def window(call: Call) -> str:
    name = "weight" if call.op.startswith("depthwise_conv2d") else "depthwise_weight"
    rows, columns = call.argument(name)[2:]
    if max(rows, columns) > LARGEST:
        return f"no Triton kernel for filters of {rows}x{columns}: {LARGEST}x{LARGEST} at most"
    return ""


def packed(call: Call) -> str:
    """A weight in pairs for a CPU has half the channels, rounded up, and one in panels a shape of
    its own."""
    weight = call.argument("weight")
    if len(weight) == 3:
        return "its weight is packed in panels, for a CPU"
    in_pairs = weight[1] != call.argument("input")[1]
    return "its weight is packed in pairs, for a CPU" if in_pairs else ""


def block(call: Call) -> str:
    names = ["expand_weight", "project_weight"] if call.op == "inverted_residual" else []
    if any(len(call.argument(name)) == 3 for name in names or ["pointwise_weight"]):
        return "a weight is packed in panels, for a CPU"
    return window(call)


LIMITS: dict[str, Callable[[Call], str]] = {
    "depthwise_conv2d": window,
    "depthwise_conv2d_backward": window,
    "depthwise_conv2d_backward_input": window,
    "depthwise_conv2d_backward_weight": window,
    "pointwise_conv2d": packed,
    "pointwise_conv2d_backward": no_limit,
    "local_response_norm": no_limit,
    "local_response_norm_backward": no_limit,
    "residual_add": no_limit,
    "residual_add_with_mask": no_limit,
    "activation_backward": no_limit,
    "activation_backward_from_mask": no_limit,
    "separable_conv2d": block,
    "inverted_residual": block,
}
