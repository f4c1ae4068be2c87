"""Why torch runs a convolution, and no kernel of ours."""

from typing import Any

from torch import Tensor

from fastconv.ops.conv2d import is_depthwise, is_pointwise, no_kernel
from fastconv.ops.stem_conv2d import MOST_STEM_CHANNELS

# torch's convolutions: the layers a user may expect to see served by a kernel of ours. In inference
# mode, as within optimize, they come by their public names: conv2d, conv_transpose2d, ...
TORCH_CONVOLUTIONS = ("aten::conv", "aten::mkldnn_convolution", "mkldnn::_convolution")


def why_torch(op: str, arguments: dict[str, Any]) -> str:
    """Why torch runs the convolution of these arguments, in the words of its shape."""
    # oneDNN's fused convolution calls the weight W; the others follow aten's names.
    weight: Tensor = arguments["weight"] if "weight" in arguments else arguments["W"]
    shape = tuple(weight.shape)
    sequences = len(shape) == 3
    if sequences:  # images of one row
        shape = (*shape[:2], 1, *shape[2:])
    groups, padding = arguments.get("groups", 1), arguments.get("padding", 0)
    window = "x".join(str(size) for size in shape[2:])
    by_name = (
        f"called by torch's name: fastconv.swap_ or ops.conv{1 if sequences else 2}d calls ours"
    )
    if arguments.get("transposed") or "transpose" in op:
        return f"transposed {window}: no kernel of ours"
    if len(shape) == 4:
        if is_depthwise(shape, groups):
            return f"depthwise {window} {by_name}"
        if is_pointwise(shape, groups, padding):
            return f"{window} {by_name}"
        if groups == 1 and window != "1x1" and shape[1] <= MOST_STEM_CHANNELS and not sequences:
            return f"dense {window}: of an image, fastconv.optimize or ops.stem_conv2d calls ours"
    return no_kernel(shape, groups)
