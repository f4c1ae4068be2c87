"""fastconv.explain: which kernel ran for every op of a call, and why where it was not ours."""

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fastconv import _C
from fastconv.dispatch import (
    GPUS,
    BackendError,
    Call,
    Choice,
    Machine,
    choose,
    forced,
    listen,
    measured_rows,
)
from fastconv.gpu import WAYS, missing, plan
from fastconv.ops.conv2d import is_depthwise, is_pointwise, no_kernel
from fastconv.ops.stem_conv2d import MOST_STEM_CHANNELS

# torch's convolutions: the layers a user may expect to see served by a kernel of ours. In inference
# mode, as within optimize, they come by their public names: conv2d, conv_transpose2d, ...
_TORCH_CONVOLUTIONS = ("aten::conv", "aten::mkldnn_convolution", "mkldnn::_convolution")


def _counts() -> dict[tuple[str, str, str, str], int]:
    """How often each kernel ran, the CPU's and the GPU's."""
    kernels = {"cpu": _C.variants(), "gpu": _C.gpu.kernels()}
    return {(where, *kernel[:3]): kernel[3] for where in kernels for kernel in kernels[where]}


def _why_torch(op: str, arguments: dict[str, Any]) -> str:
    """Why torch runs the convolution of these arguments, in the words of its shape."""
    # oneDNN's fused convolution calls the weight W; the others follow aten's names.
    weight: Tensor = arguments["weight"] if "weight" in arguments else arguments["W"]
    shape = tuple(weight.shape)
    groups, padding = arguments.get("groups", 1), arguments.get("padding", 0)
    window = "x".join(str(size) for size in shape[2:])
    if arguments.get("transposed") or "transpose" in op:
        return f"transposed {window}: no kernel of ours"
    if len(shape) == 4 and is_depthwise(shape, groups):
        return f"depthwise {window} called by torch's name: fastconv.swap_ or ops.conv2d calls ours"
    if len(shape) == 4 and is_pointwise(shape, groups, padding):
        return f"{window} called by torch's name: fastconv.swap_ or ops.conv2d calls ours"
    if len(shape) == 4 and groups == 1 and window != "1x1" and shape[1] <= MOST_STEM_CHANNELS:
        return f"dense {window}: of an image, fastconv.optimize or ops.stem_conv2d calls ours"
    return no_kernel(shape, groups)


def _launches(op: str, arguments: Sequence[Any], machine: Machine, backend: str) -> str:
    """The kernels that a call launches on a GPU, in their order."""
    if backend in WAYS:
        device = _C.gpu.Device(architecture=machine.arch, compiles=backend == "nvrtc")
        expressions = (launch.expression for launch in plan(op, arguments, device))
        return ", ".join(name.removeprefix(f"fastconv::cuda::{op}_") for name in expressions)
    if backend != "triton" or find_spec("triton") is None:
        return ""
    kernels = importlib.import_module("fastconv.triton_kernels").KERNELS
    launches = kernels[op].plan(*arguments, architecture=machine.arch)
    return ", ".join(launch.kernel.fn.__name__.removesuffix("_kernel") for launch in launches)


def layout_name(tensor: Tensor) -> str:
    """'contiguous', 'channels_last', or 'strided', which kernels copy into one of these."""
    if tensor.layout != torch.strided or tensor.is_contiguous():
        return "contiguous" if tensor.layout == torch.strided else "opaque"
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return "channels_last" if last else "strided"


class Recorder(TorchDispatchMode):
    """A row for each op of ours and each convolution of torch.

    Told of a machine, it writes down what would run there.
    """

    def __init__(self, machine: Machine | None = None) -> None:
        super().__init__()
        self.machine = machine
        self.rows: list[dict[str, Any]] = []

    def add(self, op: str, input: Tensor, backend: str | None, variant: str, reason: str) -> None:
        row = {"op": op, "input": list(input.shape), "dtype": str(input.dtype)}
        row["layout"] = layout_name(input)
        self.rows.append(row | {"backend": backend, "variant": variant, "reason": reason})

    def add_choice(self, op: str, input: Tensor, choice: Choice) -> None:
        self.add(op, input, choice.backend, "", choice.reason)

    def plan(self, op: str, arguments: Sequence[Any], machine: Machine) -> None:
        call = Call.of(op, arguments, device="cuda")
        try:
            choice = choose(call, machine, forced(), measured_rows())
        except BackendError as error:
            choice = Choice("none", str(error))
        variant = _launches(op, arguments, machine, choice.backend)
        self.add(op, arguments[0], choice.backend, variant, choice.reason)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = _counts()
        output = func(*args, **(kwargs or {}))
        namespace, _, op = func._schema.name.partition("::")
        if namespace == "fastconv" and self.machine is not None:
            self.plan(op, args, self.machine)
        elif namespace == "fastconv":
            for key, count in _counts().items():
                if count > before[key]:
                    where, _, variant, when = key
                    backend = f"cpu ({_C.isa()})" if where == "cpu" else _C.gpu.way()
                    self.add(op, args[0], backend, variant, when)
        elif func._schema.name.startswith(_TORCH_CONVOLUTIONS):
            names = (argument.name for argument in func._schema.arguments)
            arguments = dict(zip(names, args, strict=False)) | (kwargs or {})
            self.add(op, args[0], "torch", "", _why_torch(op, arguments))
        return output


def explain(
    function: Callable[..., Any], *inputs: Any, device: str | None = None
) -> list[dict[str, Any]]:
    """Runs function(*inputs), a model or any callable, and tells which kernel served each op.

    Args:
        device: 'meta-a100', 'meta-h100', 'meta-h200' or 'meta-b200': tells instead what of this
            build would serve them on that GPU. Nothing is computed and no GPU needed; the tensors
            of a function that is no module must be on the meta device.

    Returns:
        One dictionary for each of our ops and each of torch's convolutions, in the order they ran:
        op, shape and dtype of its first argument, backend, variant (a row of csrc/kernels/*.def, or
        the kernels that would be launched on a GPU) and the reason: when the variant is chosen, or
        why another backend, the reference or torch served the op.

    Raises:
        ValueError: no GPU of that name is known.
    """
    if device is not None:
        function, inputs = _on_meta(function), tree_map_only(Tensor, _to_meta, inputs)
    recorder = Recorder(None if device is None else machine_named(device))
    with torch.no_grad(), listen(recorder.add_choice), recorder:
        function(*inputs)
    return recorder.rows


def machine_named(device: str) -> Machine:
    """The machine to plan for: 'meta-h100' and its like."""
    kind, _, gpu = device.partition("-")
    if kind != "meta" or gpu not in GPUS:
        names = ", ".join(f"meta-{name}" for name in GPUS)
        raise ValueError(f"expected a device of {names}, got {device!r}")
    ways = [way for way in WAYS if missing(way) is None]
    return GPUS[gpu]._replace(way=ways[0] if ways else None, cuda_ops=frozenset(_C.gpu.ops()))


def _on_meta(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same module with its parameters and buffers on the meta device, or function itself."""
    if not isinstance(function, nn.Module):
        return function
    state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
    state = {name: _to_meta(tensor) for name, tensor in state.items()}
    return lambda *inputs: torch.func.functional_call(function, state, inputs)


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")
