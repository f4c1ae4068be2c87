"""fastconv.explain: which kernel ran for every op of a call, and why where it was not ours."""

import copy
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fastconv import _C
from fastconv.cost.meter import tensors
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
    open_ways,
)
from fastconv.gpu import WAYS, plan
from fastconv.layout import memory_format_of
from fastconv.optimize.module import OptimizedModule
from fastconv.peers.turns import run
from fastconv.profiling.align import steps_of
from fastconv.profiling.roofline import measure_roofs, share_of_copy
from fastconv.profiling.steps import marked, marked_modules
from fastconv.why_torch import TORCH_CONVOLUTIONS, why_torch

TIMED_CALLS = 9  # of each op, of which the median counts


def _counts() -> dict[tuple[str, str, str, str], int]:
    """How often each kernel ran, the CPU's and the GPU's."""
    kernels = {"cpu": _C.variants(), "gpu": _C.gpu.kernels()}
    return {(where, *kernel[:3]): kernel[3] for where in kernels for kernel in kernels[where]}


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


def count_subnormal(weights: Iterable[Tensor]) -> int | None:
    """How many values are nearer to zero than a normal number; None where there are no values."""
    total = 0
    for weight in weights:
        if weight.is_meta:
            return None
        sizes = (weight.to_dense() if weight.is_mkldnn else weight).detach().abs()
        total += int(((sizes > 0) & (sizes < torch.finfo(sizes.dtype).tiny)).sum())
    return total


class Recorder(TorchDispatchMode):
    """A row for each op of ours and each convolution of torch.

    Told of a machine, it writes down what would run there. Timed, it repeats each of these ops.
    """

    def __init__(
        self, machine: Machine | None = None, state: Iterable[Tensor] = (), timed: bool = False
    ) -> None:
        super().__init__()
        self.machine, self.timed = machine, timed
        self.weights = {tensor.data_ptr() for tensor in state if not tensor.is_mkldnn}
        self.rows: list[dict[str, Any]] = []
        self.told = 0  # of the rows, those with their layer

    def add(self, op: str, input: Tensor, backend: str | None, variant: str, reason: str) -> None:
        row = {"layer": "", "op": op, "input": list(input.shape), "dtype": str(input.dtype)}
        row["layout"] = layout_name(input)
        self.rows.append(row | {"backend": backend, "variant": variant, "reason": reason})

    def end_of(self, layer: str) -> None:
        """The rows since the last call of this are those of a layer."""
        for row in self.rows[self.told :]:
            row["layer"] = layer
        self.told = len(self.rows)

    def is_weight(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point():
            return False
        return tensor.is_mkldnn or tensor.is_meta or tensor.data_ptr() in self.weights

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
        kwargs, before = kwargs or {}, len(self.rows)
        output = self.run(func, args, kwargs)
        found = self.rows[before:]
        if not found:
            return output
        more: dict[str, Any] = {}
        given = filter(self.is_weight, tensors((args[1:], kwargs)))
        more["subnormal_weights"] = count_subnormal(given)
        if self.timed:
            more["ms"] = 1e3 * median(run(lambda: func(*args, **kwargs), TIMED_CALLS, 1))
            more["bytes"] = sum(tensor.nbytes for tensor in tensors((args, kwargs, output)))
        for row in found:
            row |= more
        self.rows[before:] = found  # without those that a repetition told of
        return output

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = _counts()
        output = func(*args, **kwargs)
        namespace, _, op = func._schema.name.partition("::")
        if namespace == "fastconv" and self.machine is not None:
            self.plan(op, args, self.machine)
        elif namespace == "fastconv":
            for key, count in _counts().items():
                if count > before[key]:
                    where, _, variant, when = key
                    backend = f"cpu ({_C.isa()})" if where == "cpu" else _C.gpu.way()
                    self.add(op, args[0], backend, variant, when)
        elif func._schema.name.startswith(TORCH_CONVOLUTIONS):
            if self.machine is not None:
                output = _as_on_a_gpu(output, args)
            names = (argument.name for argument in func._schema.arguments)
            arguments = dict(zip(names, args, strict=False)) | kwargs
            self.add(op, args[0], "torch", "", why_torch(op, arguments))
        return output


def explain(
    function: Callable[..., Any], *inputs: Any, device: str | None = None, timed: bool = False
) -> list[dict[str, Any]]:
    """Runs function(*inputs), a model or any callable, and tells which kernel served each op.

    Args:
        device: 'meta-a100', 'meta-h100', 'meta-h200' or 'meta-b200': tells instead what of this
            build would serve them on that GPU. Nothing is computed and no GPU needed; the tensors
            of a function that is no module must be on the meta device.
        timed: runs each of the ops again, alone and on the same tensors, and times it.

    Returns:
        One dictionary for each of our ops and each of torch's convolutions, in the order they ran:
        layer (the module that called it), op, shape, dtype and layout of its first argument,
        backend, variant (a row of csrc/kernels/*.def, or the kernels that would be launched on a
        GPU) and the reason: when the variant is chosen, or why another backend, the reference or
        torch served the op; subnormal_weights, of its parameters and buffers (None where they hold
        no values). Timed also ms, bytes of its tensors, and share_of_copy: bytes a second over
        those of a copy of as many, tensors being in the caches that hold them.

    Raises:
        ValueError: no GPU of that name is known, or what would run there is to be timed.
    """
    if device is not None and timed:
        raise ValueError(f"nothing runs on {device}, so nothing can be timed")
    machine = None if device is None else machine_named(device)
    module = function if isinstance(function, nn.Module) else None
    recorder = Recorder(machine, () if module is None else state_of(module), timed)
    with ExitStack() as watching:
        if module is not None and (device is not None or not isinstance(module, OptimizedModule)):
            watching.enter_context(marked_modules(module, recorder.end_of))
        elif module is not None:
            function = watching.enter_context(marked(module, recorder.end_of))
        if device is not None:
            function, inputs = _on_meta(function), tree_map_only(Tensor, _to_meta, inputs)
        for context in (torch.no_grad(), listen(recorder.add_choice), recorder):
            watching.enter_context(context)
        function(*inputs)
    if isinstance(module, OptimizedModule):
        names = {step.key: step.name for step in steps_of(module, module, ())}
        for row in recorder.rows:
            row["layer"] = names.get(row["layer"], row["layer"])
    if timed:
        _add_share_of_copy(recorder.rows)
    return recorder.rows


def state_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _add_share_of_copy(rows: list[dict[str, Any]]) -> None:
    roofs = measure_roofs(torch.float32)
    for row in rows:
        if row.get("ms"):
            row["share_of_copy"] = share_of_copy(roofs, row["bytes"], row["ms"] / 1e3)


def machine_named(device: str) -> Machine:
    """The machine to plan for: 'meta-h100' and its like."""
    kind, _, gpu = device.partition("-")
    if kind != "meta" or gpu not in GPUS:
        names = ", ".join(f"meta-{name}" for name in GPUS)
        raise ValueError(f"expected a device of {names}, got {device!r}")
    ways = open_ways()
    way = next(filter(ways.__contains__, WAYS), None)
    return GPUS[gpu]._replace(way=way, ways=ways, cuda_ops=frozenset(_C.gpu.ops()))


def _as_on_a_gpu(output: Tensor, arguments: Sequence[Any]) -> Tensor:
    """A convolution's result, channels_last where image or weight is, as from cuDNN.

    On the meta device torch gives what its CPU would give without oneDNN.
    """
    formats = [memory_format_of(tensor) for tensor in tensors(arguments[:2])]
    last = output.dim() == 4 and torch.channels_last in formats
    return output.contiguous(memory_format=torch.channels_last) if last else output


def _on_meta(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same module with its parameters and buffers on the meta device, or function itself."""
    if not isinstance(function, nn.Module):
        return function
    if any(isinstance(module, OptimizedModule) for module in function.modules()):
        function = copy.deepcopy(function).to("meta")  # its weights lie as a CPU reads them
    state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
    state = {name: _to_meta(tensor) for name, tensor in state.items()}
    return lambda *inputs: torch.func.functional_call(function, state, inputs)


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")
