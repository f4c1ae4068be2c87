"""Export to ONNX: our ops as LRN, Conv, Add, pooling, and activations.

>>> import fastconv.onnx
>>> fastconv.onnx.export(model, (images,), "model.onnx")  # swapped, optimized or plain
"""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn

from fastconv.packed_weights import PARABOLA, panels_of
from fastconv.reference import shortcut_stride

try:
    from onnxscript import opset18
except ImportError as error:
    raise ImportError(
        "fastconv.onnx needs the ONNX packages: pip install onnx onnxscript"
    ) from error

op: Any = opset18
END = 2**63 - 1  # of a Slice that goes as far as there is


def export(
    model: nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...],
    path: str | PathLike | None = None,
    **options: Any,
) -> torch.onnx.ONNXProgram:
    """torch.onnx.export with our ops translated.

    Args:
        model: in eval mode; swapped, optimized, built of fastconv.nn or none of these.
        args: the example inputs; the exported sizes are theirs where `dynamic_shapes` leaves none
            open, e.g. ``dynamic_shapes=({0: "batch"},)``.
        path: the file to write, or None.
        options: further arguments of torch.onnx.export.

    Returns:
        The program, also where it was written to path.

    Raises:
        torch.onnx.OnnxExporterError: the model cannot be captured or an op has no translation, as
            batch norms by the statistics of the batch have none.
    """
    table = {**translation_table(), **options.pop("custom_translation_table", {})}
    options = {"verbose": False, **options}
    program = torch.onnx.export(
        model, args, path, dynamo=True, custom_translation_table=table, **options
    )
    assert program is not None
    return program


def translation_table() -> dict[Callable, Callable]:
    """Our ops with their translations: custom_translation_table of torch.onnx.export."""
    translations = (
        batch_norm,
        dense_conv2d,
        depthwise_conv2d,
        global_avg_pool2d,
        inverted_residual,
        local_response_norm,
        max_pool2d,
        pointwise_conv2d,
        residual_add,
        separable_conv2d,
        stem_conv2d,
    )
    return {getattr(torch.ops.fastconv, f.__name__).default: f for f in translations}


# The arguments of each are those of the op of its name; the types of all but tensors tell the
# exporter what is an attribute.


def dense_conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    residual: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    activation: str | None = None,
) -> Any:
    shape = list(weight.shape)
    if len(shape) == 6 and shape[2] == 3:  # for Winograd's products
        weight, shape = op.Reshape(weight, shape[1:]), shape[1:]
    elif len(shape) == 6:  # 1, 6, 6, panels, channels, columns: at their points
        back = op.Reshape(op.Constant(value_floats=sum(PARABOLA, ())), [3, 6])
        flat = op.Reshape(weight, shape[1:])
        weight = op.Einsum(back, back, flat, equation="hi,wj,ijpcn->phwcn")
        shape = [shape[3], 3, 3, *shape[4:]]
    if len(shape) == 5:  # panels, kh, kw, channels, columns
        panels, rows, columns, channels, width = shape
        turned = op.Transpose(weight, perm=[0, 4, 3, 1, 2])
        weight = op.Reshape(turned, [panels * width, channels, rows, columns])
        if bias is not None:
            weight = op.Slice(weight, [0], [bias.shape[0]], [0])
    z = op.Conv(input, weight, _as(input, bias), strides=stride, pads=padding, dilations=dilation)
    return _activate(z if residual is None else op.Add(z, residual), activation)


def depthwise_conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    activation: str | None = None,
) -> Any:
    window = (stride, padding, dilation)
    return _depthwise(input, input.shape[1], weight, bias, window, activation)


def stem_conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    activation: str | None = None,
) -> Any:
    z = op.Conv(input, weight, _as(input, bias), strides=stride, pads=padding)
    return _activate(z, activation)


def pointwise_conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    residual: Any = None,
    stride: Sequence[int] = (1, 1),
    activation: str | None = None,
) -> Any:
    if weight.dtype.name == "INT32":
        raise NotImplementedError("bfloat16 weights in pairs; export the model before optimize")
    z = op.Conv(input, _unpacked(weight), _as(input, bias), strides=stride)
    return _activate(z if residual is None else op.Add(z, residual), activation)


def residual_add(input: Any, residual: Any, activation: str | None = None) -> Any:
    size, wanted = residual.shape, input.shape
    if list(size[1:]) != list(wanted[1:]):
        stride = shortcut_stride(size[2:], wanted[2:])
        every = op.Slice(residual, [0, 0], [END, END], [2, 3], [stride, stride])
        residual = op.Pad(every, [0, 0, 0, 0, 0, wanted[1] - size[1], 0, 0])
    return _activate(op.Add(input, residual), activation)


def local_response_norm(
    input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    images = input if len(input.shape) == 4 else op.Reshape(input, [0, 0, -1, 1])
    if size % 2:
        output = op.LRN(images, alpha=alpha, beta=beta, bias=k, size=size)
    else:  # ONNX puts the odd channel of an even window after the pixel, torch before it
        before, after = size // 2, (size - 1) // 2
        mean = op.AveragePool(
            op.Unsqueeze(op.Mul(images, images), [1]),
            kernel_shape=[size, 1, 1],
            pads=[before, 0, 0, after, 0, 0],
            count_include_pad=1,
        )
        sums = op.Add(op.Mul(op.Squeeze(mean, [1]), alpha), k)
        output = op.Div(images, op.Pow(sums, beta))
    return output if images is input else op.Reshape(output, op.Shape(input))


def batch_norm(
    input: Any,
    weight: Any = None,
    bias: Any = None,
    mean: Any = None,
    var: Any = None,
    eps: float = 1e-5,
    activation: str | None = None,
) -> Any:
    if mean is None:
        raise NotImplementedError("a batch norm by the batch's own statistics: call model.eval()")
    scale = op.Div(var, var) if weight is None else weight
    shift = op.Sub(mean, mean) if bias is None else bias
    z = op.BatchNormalization(input, scale, shift, mean, var, epsilon=eps)
    return _activate(z, activation), op.Identity(mean), op.Identity(var)  # of which none is read


def max_pool2d(
    input: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool = False,
) -> Any:
    window = {"kernel_shape": kernel_size, "strides": stride, "pads": [*padding, *padding]}
    return op.MaxPool(input, **window, ceil_mode=int(ceil_mode))[0]


def global_avg_pool2d(input: Any) -> Any:
    return op.GlobalAveragePool(input)


def separable_conv2d(
    input: Any,
    depthwise_weight: Any,
    depthwise_bias: Any,
    pointwise_weight: Any,
    pointwise_bias: Any,
    residual: Any,
    squeeze_reduce_weight: Any,
    squeeze_reduce_bias: Any,
    squeeze_expand_weight: Any,
    squeeze_expand_bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None = None,
    pointwise_activation: str | None = None,
    squeeze_activation: str | None = None,
    squeeze_gate: str = "sigmoid",
) -> Any:
    window = (stride, padding, dilation)
    hidden = _depthwise(input, input.shape[1], depthwise_weight, depthwise_bias, window, activation)
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    hidden = _excite(hidden, *squeeze, *excite, squeeze_activation, squeeze_gate)
    return pointwise_conv2d(
        hidden, pointwise_weight, pointwise_bias, residual, (1, 1), pointwise_activation
    )


def inverted_residual(
    input: Any,
    expand_weight: Any,
    expand_bias: Any,
    depthwise_weight: Any,
    depthwise_bias: Any,
    project_weight: Any,
    project_bias: Any,
    squeeze_reduce_weight: Any,
    squeeze_reduce_bias: Any,
    squeeze_expand_weight: Any,
    squeeze_expand_bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str | None = None,
    residual: bool = False,
    squeeze_activation: str | None = None,
    squeeze_gate: str = "sigmoid",
) -> Any:
    hidden = pointwise_conv2d(input, expand_weight, expand_bias, None, (1, 1), activation)
    channels, window = depthwise_weight.shape[0], (stride, padding, (1, 1))
    hidden = _depthwise(hidden, channels, depthwise_weight, depthwise_bias, window, activation)
    squeeze = (squeeze_reduce_weight, squeeze_reduce_bias)
    excite = (squeeze_expand_weight, squeeze_expand_bias)
    hidden = _excite(hidden, *squeeze, *excite, squeeze_activation, squeeze_gate)
    return pointwise_conv2d(hidden, project_weight, project_bias, input if residual else None)


def _unpacked(weight: Any) -> Any:
    """A weight in panels as (O, C, 1, 1) again, any other as it is."""
    if len(weight.shape) != 3:
        return weight
    _, out_channels, channels = weight.shape
    *_, last = panels_of(out_channels)
    whole, flat = out_channels - last, op.Reshape(weight, [-1])
    tail = op.Slice(flat, [whole * channels], [END], [0])
    rows = op.Transpose(op.Reshape(tail, [channels, last]), perm=[1, 0])
    if whole > 0:
        head = op.Reshape(op.Slice(flat, [0], [whole * channels], [0]), [-1, channels, 32])
        panels = op.Reshape(op.Transpose(head, perm=[0, 2, 1]), [-1, channels])
        rows = op.Concat(panels, rows, axis=0)
    return op.Reshape(rows, [out_channels, channels, 1, 1])


def _as(input: Any, bias: Any) -> Any:
    """A bias in the dtype of input: Conv takes no float32 beside bfloat16."""
    return bias if bias is None or bias.dtype == input.dtype else op.CastLike(bias, input)


def _depthwise(
    input: Any,
    channels: int,
    weight: Any,
    bias: Any,
    window: tuple[Sequence[int], Sequence[int], Sequence[int]],
    activation: str | None,
) -> Any:
    """With the channels of input, whose shape the exporter does not know within a block."""
    stride, padding, dilation = window
    z = op.Conv(
        input, weight, bias, strides=stride, pads=padding, dilations=dilation, group=channels
    )
    return _activate(z, activation)


def _excite(
    input: Any,
    reduce_weight: Any,
    reduce_bias: Any,
    expand_weight: Any,
    expand_bias: Any,
    activation: str | None,
    gate: str,
) -> Any:
    if reduce_weight is None:
        return input
    squeezed = _activate(
        op.Conv(op.GlobalAveragePool(input), reduce_weight, reduce_bias), activation
    )
    excited = op.Conv(squeezed, expand_weight, expand_bias)
    sigmoid = gate == "sigmoid"
    scale = op.Sigmoid(excited) if sigmoid else op.HardSigmoid(excited, alpha=1 / 6, beta=0.5)
    return op.Mul(input, scale)


def _activate(z: Any, activation: str | None) -> Any:
    match activation:
        case "relu":
            return op.Relu(z)
        case "relu6":
            return op.Clip(z, 0.0, 6.0)
        case "silu":
            return op.Mul(z, op.Sigmoid(z))
        case "hardswish":
            return op.HardSwish(z)
    return z
