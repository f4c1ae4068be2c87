"""Convolutions over all channels: which are ours, and the others on torch's kernels, fused."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from fastconv.ops.conv2d import no_kernel
from fastconv.ops.dense_conv2d import PANEL
from fastconv.optimize.conv import is_conv, is_dense_node, shape_of
from fastconv.reference import activate

# oneDNN's names for our activations, with their scalars.
_ONEDNN_ACTIVATIONS: dict[str | None, tuple[str, list[float]]] = {
    None: ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
    "silu": ("swish", []),
    "hardswish": ("hardswish", []),
}


def prefer_winograd(module: fx.GraphModule, batch: int, dtype: torch.dtype | None) -> None:
    """Marks the dense convolutions that dense_conv2d is to compute by Winograd's products.

    Single images have their weights transformed at each call, batches beforehand, which takes four
    times the memory. ResNet-50's layers so and so, us: 300 and 285, 313 and 351, 577 and 627; batch
    16, ms: 5.6 and 4.9, 5.2 and 4.4, 5.8 and 4.6, 5.8 and 4.6. 512 channels at 14x14, one image:
    2.64 and 2.28 (two threads of an Intel Xeon with AMX).
    """
    for node in module.graph.nodes:
        is_ours = dtype in (None, torch.float32) and is_conv(node) and is_dense_node(node)
        if is_ours and _pays_by_winograd(node, batch):
            node.meta["winograd"] = "in panels" if batch == 1 else "at points"


def _pays_by_winograd(node: fx.Node, batch: int) -> bool:
    """Whether the window is 3x3 at stride 1 and its map has tiles of 4x4 enough for the weights.

    By oneDNN's time, its weights packed too. Batch 16, ResNet-50: 64 channels at 56x56 2.2, 128 at
    28x28 2.6, 256 at 14x14 2.3, 512 at 7x7 2.4. Batch 1: 2.4, 2.4, 1.4 and, at 7x7 with 4 tiles,
    0.71 (ours by the definition's sums 1.03, 0.99, 1.06 and 1.45); GoogLeNet's 1.4 to 2.5 but at
    7x7; AlexNet's at 13x13 1.2 to 1.4; 16 -> 32 at 28x28 2.5. In 8 tiles, 2 images of 7x7: 256
    channels 1.5, 512: 1.7; in 9, one of 12x12: 64 channels 2.3, 256: 1.7, one of 9x9: 1.8 and 1.1,
    the sums 1.9 and 1.1 (two threads of an Intel Xeon with AMX).
    """
    fewest_tiles, fewest_in, fewest_out = 8, 16, 32
    shape = shape_of(node.kwargs["weight"])
    if list(shape[2:]) != [3, 3] or not node.kwargs["stride"] == node.kwargs["dilation"] == [1, 1]:
        return False
    # Without a bias to count them, a last panel must be full.
    is_counted = node.kwargs["bias"] is not None or shape[0] % PANEL == 0
    if not is_counted or shape[1] < fewest_in or shape[0] < fewest_out:
        return False
    size = shape_of(node)[2:]
    if not all(isinstance(edge, int) for edge in size):
        return False  # not known before the call
    return batch * math.prod(math.ceil(edge / 4) for edge in size) >= fewest_tiles


def prefer_onednn(module: fx.GraphModule, batch: int) -> None:
    """Leaves to torch the dense convolutions that dense_conv2d is not known to run faster.

    By oneDNN's time, its weights packed too, alone and at batch 1: ResNet-50's 3x3 layers 0.99 to
    1.13, GoogLeNet's 0.94 to 2.2, VGG's 0.94 to 1.04; one after the other in ResNet-50, where
    oneDNN reads weights from the third cache without having asked for them, 15.3 ms against 12.5.
    64 -> 192, 5x5: 0.95; 32 -> 32, 7x7: 0.53; 256 -> 16, 3x3: 0.72. At batch 16 ResNet-50's take
    194 and 192 ms, GoogLeNet's 0.72 to 1.41, AlexNet's 0.89 to 0.93 (two threads of an Intel Xeon
    with AMX).
    """
    for node in module.graph.nodes:
        if not is_conv(node) or not is_dense_node(node) or "way" in node.meta:
            continue
        if node.meta.get("winograd"):
            continue
        shape = shape_of(node.kwargs["weight"])
        if batch > 1 or shape[0] < 32 or max(shape[2:]) > 3:
            node.meta |= {"way": "torch", "why": no_kernel(shape, 1)}


class DenseConv2d(nn.Module):
    """activation(conv2d(padded input, weight) + bias) with padding (top, left, bottom, right).

    The weight is here once: as it came, or from the first call on in oneDNN's own order. That can
    be neither copied nor pickled nor exported, so that all who look at it here, by any walk over a
    network's modules, find it as it came until the next call.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        activation: str | None,
    ) -> None:
        super().__init__()
        top, left, bottom, right = padding
        self.symmetric = (top, left) == (bottom, right)
        self.pad = (left, right, top, bottom)
        padding = [top, left] if self.symmetric else [0, 0]
        self.arguments: tuple[Any, ...] = (stride, padding, dilation, groups)
        self.activation = activation
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, bias: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """weight is given where it is computed, at every call."""
        if not self.symmetric:
            input = F.pad(input, self.pad)
        stride, padding, dilation, groups = self.arguments
        plain = type(input) is Tensor or torch.compiler.is_compiling()  # no DTensor, for one
        fused = plain and input.is_cpu and input.dtype in (torch.float32, torch.bfloat16)
        held = weight if self.weight is None else self.weight
        assert held is not None
        # An exported program is for any machine.
        if not fused or not torch.backends.mkldnn.is_available() or torch.compiler.is_exporting():
            held = held.to_dense() if held.is_mkldnn else held
            output = F.conv2d(input, held, bias, stride, padding, dilation, groups)
            return activate(output, self.activation)
        name, scalars = _ONEDNN_ACTIVATIONS[self.activation]
        if weight is None and not held.is_mkldnn and not torch.compiler.is_compiling():
            held = self._pack(input, held)
        return torch.ops.mkldnn._convolution_pointwise(
            input, held, bias, padding, stride, dilation, groups, name, scalars, ""
        )

    def _pack(self, input: Tensor, weight: Tensor) -> Tensor:
        """weight in oneDNN's own order, from now on in its place.

        A plain weight is brought to that order at every call: 512 -> 512, 3x3, 7x7 pixels took 844
        us, packed 477; the 3x3 layers of ResNet-50 10 to 14 % less at 56x56 and 28x28, 18 % at
        14x14, 43 % at 7x7 (batch 1, 2 threads, Zen 5, minimum of 14 turns).
        """
        stride, padding, dilation, groups = self.arguments
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, dilation, groups, list(input.shape)
        )
        self._buffers["weight"] = packed  # one step: other threads may be calling
        return packed

    def _unpack(self) -> None:
        self._buffers["weight"] = self._plain()

    def _plain(self) -> Tensor | None:
        held = self.weight
        if held is None or not held.is_mkldnn:
            return held
        return held.to_dense().contiguous(memory_format=torch.channels_last)

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        self._unpack()
        return super().named_modules(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> "DenseConv2d":
        self._unpack()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *args: Any) -> None:
        self._unpack()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._unpack()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_buffers": {"weight": self._plain()}}


if torch.backends.mkldnn.is_available():

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
    def flops(
        input_shape: list[int],
        weight_shape: list[int],
        *_args: object,
        out_shape: list[int],
        **_kwargs: object,
    ) -> int:
        """Those of the convolution, as torch counts it where nothing is fused."""
        return conv_flop_count(input_shape, weight_shape, out_shape)
