"""fastconv.cost: one inference of a model, counted but not computed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fastconv.ops  # noqa: F401  registers the formulas of our ops
from fastconv.cost.figures import Cost, Figures
from fastconv.cost.meter import Meter

# torch has formulas for convolutions and matrix products alone, so these two of ours are left out:
# a network then costs the same with our layers as with torch's.
ELEMENTWISE = (torch.ops.fastconv.local_response_norm, torch.ops.fastconv.residual_add)


def cost(
    model: nn.Module,
    input_shape: Sequence[int] | Sequence[Sequence[int]],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "meta",
) -> Cost:
    """Counts what one inference of a model costs; it may be plain or hold our layers.

    Args:
        model: counted in eval mode; its own mode, parameters and buffers stay as they are.
        input_shape: as (1, 3, 224, 224), or several such for a model of several inputs.
        dtype: of the inputs; if not given, that of the model's first floating-point parameter.
        device: "meta" works out shapes and computes nothing; parameters stay where they are. A
            model that decides by values it computed must be run on the device it is on.

    Returns:
        The report. Print it for a table, or take its to_markdown(), to_json() or to_dict().

    Raises:
        TypeError: model is no nn.Module, or input_shape holds something other than integers.
        RuntimeError: a size is negative, or the model refuses such an input.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"cost: expected model to be a torch.nn.Module, got {type(model).__name__}")
    shapes = check_shapes(input_shape)
    if dtype is None:
        floating = (p.dtype for p in model.parameters() if p.is_floating_point())
        dtype = next(floating, torch.float32)
    inputs = tuple(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes)

    none = {op: lambda *_args, **_kwargs: 0 for op in ELEMENTWISE}
    flops = FlopCounterMode(display=False, custom_mapping=none)
    meter = Meter(model, flops)
    for input in inputs:
        meter.hold(input)
    tensors = meta_tensors(model) if torch.device(device).type == "meta" else nullcontext()
    with eval_mode(model), tensors, torch.no_grad(), meter.watching_modules(), flops, meter:
        model(*inputs)

    layers = meter.layers()
    by_operation = flops.get_flop_counts()["Global"]
    return Cost(
        model=type(model).__name__,
        input_shape=shapes[0] if len(shapes) == 1 else tuple(shapes),
        peak_activation_bytes=meter.peak_bytes,
        operations={str(op): count // 2 for op, count in by_operation.items() if count},
        layers=layers,
        **{f.name: sum(getattr(layer, f.name) for layer in layers) for f in fields(Figures)},
    )


def check_shapes(input_shape: Any) -> list[tuple[int, ...]]:
    """The shapes of the inputs, of which there is one where input_shape holds numbers."""
    sizes = tuple(input_shape)
    several = bool(sizes) and isinstance(sizes[0], Sequence)
    shapes = [tuple(shape) for shape in sizes] if several else [sizes]
    for shape in shapes:
        if not shape or not all(isinstance(size, int) for size in shape):
            raise TypeError(f"cost: expected input_shape of integers, got {shape}")
        if min(shape, default=0) < 0:
            raise RuntimeError(f"cost: expected no negative size in input_shape, got {shape}")
    return shapes


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def meta_tensors(model: nn.Module) -> Iterator[None]:
    """Has the model work on the meta device; its own tensors come back at the end.

    torch.func.functional_call would do, but it leaves a meta tensor behind in a model that has the
    same layer twice and its weight in a third (torch 2.13).
    """
    tables: list[dict[str, Any]] = []
    for module in model.modules():
        tables += [module._parameters, module._buffers]
    kept = [dict(table) for table in tables]
    on_meta: dict[Any, Any] = {None: None}
    try:
        for table in tables:
            for name, tensor in table.items():
                if tensor not in on_meta:
                    on_meta[tensor] = tensor.to("meta")
                table[name] = on_meta[tensor]
        yield
    finally:
        for table, tensors in zip(tables, kept, strict=True):
            table.update(tensors)
