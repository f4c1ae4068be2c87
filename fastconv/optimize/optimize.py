"""fastconv.optimize: a new module for inference from a model that stays as it is."""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from fastconv.optimize.capture import Captured, capture
from fastconv.optimize.dense import DenseConv2d, prefer_onednn, prefer_winograd
from fastconv.optimize.fuse_blocks import fuse_blocks
from fastconv.optimize.inputs import bind
from fastconv.optimize.layout import channels_last_pays, in_layout
from fastconv.optimize.linear import lower_linear
from fastconv.optimize.lower import lower
from fastconv.optimize.measure import SECONDS
from fastconv.optimize.measure import measure as choose_ways
from fastconv.optimize.module import OptimizedModule
from fastconv.optimize.passes import CANONICAL
from fastconv.optimize.passes.lower_batch_norm import lower_batch_norm
from fastconv.optimize.passes.pool import pool
from fastconv.optimize.trial import observed, trial_of
from fastconv.optimize.whole import Example, cast, never_slower, swapped, unchanged


class _OnFirstCall(nn.Module):
    """Optimizes its model for the inputs of the first call."""

    def __init__(self, model: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.optimized: nn.Module | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimized is None:
            self.optimized = optimize(self.model, args, example_kwargs=kwargs, **self.settings)
        return self.optimized(*args, **kwargs)

    @property
    def receipt(self) -> list[dict[str, Any]]:
        return [] if self.optimized is None else self.optimized.receipt  # type: ignore


def optimize(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | Tensor | None = None,
    dtype: torch.dtype | None = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    any_size: bool = False,
    measure: bool | float | None = None,
    winograd: bool = True,
) -> nn.Module:
    """A new module that computes what model computes at inference, on our kernels.

    The model is captured by torch.export; batch norms are folded, activations, residual adds and
    zero padding fused into the convolutions, chains of them into blocks, weights packed, and one
    layout kept from end to end: channels_last where there are layers enough to pay for it. The
    model itself is not changed and shares no weights with the result.

    Args:
        model: in eval mode, on one device.
        example_inputs: the tuple of its positional arguments (a lone tensor may stand for a tuple
            of one). The batch may differ at a call, the other sizes may not. None: those of the
            first call.
        dtype: float32, bfloat16, ...: computes in it and takes inputs of any float dtype; None
            keeps the model's own.
        example_kwargs: its named arguments; a call may then name them too.
        any_size: leaves height and width open as well, where the model allows that. Padding that
            the model computes from the sizes is then computed at every call.
        measure: None: the whole is raced against the model as it is, on the examples, where these
            are on the CPU. That ends after a turn or two where it clearly wins; where it clearly
            loses, also in another order of memory, the model's own way is taken. True or seconds
            (10): before that the ways there are for each part are raced: a block in one op, in
            parts or in torch's convolutions, each convolution, pool and linear layer in ours or
            torch's. False: no race, and the same plan on every machine. Another plan may differ in
            its last digits.
        winograd: lets float32 3x3 convolutions on the CPU that are the faster for it use Winograd's
            products (:func:`fastconv.ops.pack_winograd_weight`: some two more bits of rounding,
            and infinities that spread as NaN); for batches their weights take four times the
            memory. False: only the sums of the definition.

    Returns:
        An :class:`OptimizedModule`. A model that torch.export cannot capture, or with forward hooks
        (other than torch's own, as weight_norm has), which a fused layer would not call, comes back
        as a copy with its layers swapped (:func:`fastconv.swap_`), and one that would gain nothing
        as a mere copy; the receipt says why. Its outputs lie in memory as the model's own did on
        the examples, contiguous or channels_last.

    Raises:
        TypeError: model is no nn.Module or dtype no floating-point dtype.
        RuntimeError: model is in training mode, on several devices, or not initialised; or with
            dtype its parameters are of several.
    """
    _check_model(model)
    _check_dtype(model, dtype)
    if example_inputs is None and example_kwargs is None:
        settings = {"dtype": dtype, "any_size": any_size, "measure": measure, "winograd": winograd}
        return _OnFirstCall(model, settings)
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs or ()
    args, kwargs = bind(inspect.signature(model.forward), given, example_kwargs or {})
    if dtype is not None:
        args, kwargs = cast(_dtype_of(model), (args, kwargs))
    example = Example(model, args, kwargs, dtype)
    trial = trial_of(model)
    with torch.no_grad():
        expected = trial(*args, **kwargs)  # an error of the model's own is raised as it raises it
    if names := list(observed(model)):
        return swapped(example, measure, f"forward hooks observe {_listed(names)}")
    try:
        captured = capture(trial, args, kwargs, any_size)
    except Exception as error:  # export names no common base for what it cannot capture
        return swapped(example, measure, f"torch.export could not capture the model: {error}")
    for transform in CANONICAL:
        transform(captured.graph)
    leaves = pytree.tree_leaves((args, kwargs))
    images = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() == 4)
    batch = next((len(leaf) for leaf in images), 1)
    if winograd:
        prefer_winograd(captured.graph, batch, dtype)
    if measure:
        choose_ways(captured.graph, leaves, dtype, SECONDS if measure is True else measure)
    prefer_onednn(captured.graph, batch)
    fuse_blocks(captured.graph, dtype)
    lower_batch_norm(captured.graph, dtype)
    pool(captured.graph)
    lower_linear(captured.graph)
    receipt = lower(captured.graph, dtype)
    if not any(_gains(captured.graph, node) for node in captured.graph.graph.nodes):
        return unchanged(example, "no layer has a kernel of ours, nor a convolution to fuse")
    outputs = pytree.tree_leaves(expected)
    plans = _in_both_layouts(captured, receipt, dtype, outputs)
    first = next(plans)
    difference = _difference(first, leaves, outputs)
    if difference is not None:
        return swapped(example, measure, difference)
    return never_slower(example, itertools.chain([first], plans), measure)


def _in_both_layouts(
    captured: Captured, receipt: list[dict[str, Any]], dtype: torch.dtype | None, outputs: list[Any]
) -> Iterator[OptimizedModule]:
    """The lowered graph in the order of memory that its layers speak for, then in the other."""
    pays = channels_last_pays(captured.graph)
    for channels_last in (pays, not pays):
        graph = in_layout(captured.graph, dtype, outputs, channels_last)
        yield OptimizedModule(captured._replace(graph=graph), list(receipt))


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"optimize(): argument 'model' must be nn.Module, not {type(model).__name__}"
        )
    if any(module.training for module in model.modules()):
        raise RuntimeError("optimize(): expected a model in eval mode; call model.eval() first")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise RuntimeError(
            "optimize(): expected a model whose lazy layers are initialised; call it once first"
        )
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise RuntimeError(
            "optimize(): expected the parameters on one device that holds them, got "
            + " and ".join(sorted(devices))
        )


def _check_dtype(model: nn.Module, dtype: torch.dtype | None) -> None:
    if dtype is None:
        return
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"optimize(): argument 'dtype' must be a floating-point dtype, got {dtype}")
    dtypes = {str(p.dtype) for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) > 1:
        raise RuntimeError(
            f"optimize(): expected parameters of one dtype to compute in {dtype}, got "
            f"{' and '.join(sorted(dtypes))}; without argument 'dtype' each layer keeps its own"
        )


def _gains(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may pay for the graph.

    Linear layers alone do not: a block of attention over 3 x 16 x 16 took 1.3 times as long as
    eager, which has a fused path of its own (one core of a Zen 5, `pytest tests/test_styles.py`).
    """
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), DenseConv2d)
    return str(node.target).startswith("fastconv.")


def _difference(fast: OptimizedModule, leaves: list[Any], expected: list[Any]) -> str | None:
    """Why the optimized module must not stand for the model, None where it may.

    Half of the digits must agree with the model's own results on the examples. In 16 bits few agree
    anyway, and only that it runs is asked.
    """
    try:
        with torch.no_grad():
            actual = fast.graph(*leaves)
    except Exception as error:
        return f"the optimized graph does not run: {error}"
    for result, wanted in zip(actual, expected, strict=True):
        if isinstance(wanted, Tensor) and result.shape != wanted.shape:
            return f"the optimized graph gave {tuple(result.shape)} for {tuple(wanted.shape)}"
        if not isinstance(wanted, Tensor) or wanted.dtype not in (torch.float32, torch.float64):
            continue
        if result.dtype != wanted.dtype or wanted.numel() == 0:
            continue
        share = (result - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)
        if share.isfinite() and share > torch.finfo(wanted.dtype).eps ** 0.5:
            return f"the optimized graph gave other results, by {share.item():.2g} of the largest"
    return None


def _listed(names: list[str]) -> str:
    shown = [repr(name) if name else "the model" for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _dtype_of(model: nn.Module) -> torch.dtype | None:
    """The dtype of the model's first floating-point parameter, None where it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
