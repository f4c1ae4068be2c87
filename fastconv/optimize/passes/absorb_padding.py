"""Zero padding before a convolution."""

import torch
from torch import fx

from fastconv.optimize.conv import is_conv

aten = torch.ops.aten


def absorb_padding(module: fx.GraphModule) -> None:
    """Zero padding before a conv becomes the conv's own, which may be asymmetric."""
    for conv in [node for node in module.graph.nodes if is_conv(node)]:
        pad = conv.kwargs["input"]
        if pad.target not in (aten.pad.default, aten.constant_pad_nd.default):
            continue
        widths = list(pad.args[1])
        mode = pad.args[2] if pad.target is aten.pad.default and len(pad.args) > 2 else "constant"
        value = pad.args[3] if len(pad.args) > 3 else pad.kwargs.get("value")
        if pad.target is aten.constant_pad_nd.default:
            mode, value = "constant", pad.args[2] if len(pad.args) > 2 else 0
        if mode != "constant" or value not in (None, 0) or len(widths) > 4:
            continue
        if not all(isinstance(width, int) and width >= 0 for width in widths):
            continue  # computed from open sizes, or cropping
        left, right, top, bottom = [*widths, 0, 0][:4]
        own = conv.kwargs["padding"]
        padding = [p + q for p, q in zip(own, (top, left, bottom, right), strict=True)]
        conv.kwargs = {**conv.kwargs, "input": pad.args[0], "padding": padding}
    module.graph.eliminate_dead_code()
