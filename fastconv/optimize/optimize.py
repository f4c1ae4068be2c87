"""fastconv.optimize: a new module for inference from a model that stays as it is."""

import copy
import functools
import inspect
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from fastconv.optimize.capture import capture
from fastconv.optimize.dense import DenseConv2d
from fastconv.optimize.fuse_blocks import fuse_blocks
from fastconv.optimize.inputs import bind
from fastconv.optimize.linear import lower_linear
from fastconv.optimize.lower import lower
from fastconv.optimize.measure import MARGIN, SECONDS
from fastconv.optimize.measure import measure as choose_ways
from fastconv.optimize.module import OptimizedModule
from fastconv.optimize.passes import CANONICAL
from fastconv.optimize.passes.lower_batch_norm import lower_batch_norm
from fastconv.optimize.passes.pool import pool
from fastconv.optimize.race import race
from fastconv.optimize.receipt import of_model
from fastconv.optimize.swap import swap_
from fastconv.optimize.trial import observed, trial_of

WHOLE_SECONDS = 1.0  # of the last race, of the whole network against the model


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
    measure: bool | float = False,
) -> nn.Module:
    """A new module that computes what model computes at inference, on our kernels.

    The model is captured by torch.export; batch norms are folded, activations, residual adds and
    zero padding fused into the convolutions, chains of them into blocks, weights packed, and one
    layout (channels_last) kept from end to end. The model itself is not changed and shares no
    weights with the result.

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
        measure: seconds to spend, or True for 10, on races between the ways there are: a block in
            one op, in parts or in torch's convolutions, each layer in ours or torch's, and at the
            end the whole against the model as it is. What wins on the examples stays; numbers may
            differ in their last digits where it does not win every time.

    Returns:
        An :class:`OptimizedModule`. A model that torch.export cannot capture, or with forward hooks
        (other than torch's own, as weight_norm has), which a fused layer would not call, comes back
        as a copy with its layers swapped (:func:`fastconv.swap_`), and one that would gain nothing
        as a mere copy; the receipt says why.

    Raises:
        TypeError: model is no nn.Module or dtype no floating-point dtype.
        RuntimeError: model is in training mode, on several devices, or not initialised; or with
            dtype its parameters are of several.
    """
    _check_model(model)
    _check_dtype(model, dtype)
    if example_inputs is None and example_kwargs is None:
        return _OnFirstCall(model, {"dtype": dtype, "any_size": any_size, "measure": measure})
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs or ()
    args, kwargs = bind(inspect.signature(model.forward), given, example_kwargs or {})
    if dtype is not None:
        args, kwargs = _cast(_dtype_of(model), (args, kwargs))
    trial = trial_of(model)
    with torch.no_grad():
        expected = trial(*args, **kwargs)  # an error of the model's own is raised as it raises it
    if names := list(observed(model)):
        return _swapped(model, dtype, f"forward hooks observe {_listed(names)}")
    try:
        captured = capture(trial, args, kwargs, any_size)
    except Exception as error:  # export names no common base for what it cannot capture
        return _swapped(model, dtype, f"torch.export could not capture the model: {error}")
    for transform in CANONICAL:
        transform(captured.graph)
    leaves = pytree.tree_leaves((args, kwargs))
    if measure:
        choose_ways(captured.graph, leaves, dtype, SECONDS if measure is True else measure)
    fuse_blocks(captured.graph, dtype)
    lower_batch_norm(captured.graph, dtype)
    pool(captured.graph)
    lower_linear(captured.graph)
    receipt = lower(captured.graph, dtype)
    if not any(_gains(captured.graph, node) for node in captured.graph.graph.nodes):
        return _unchanged(model, dtype, "no layer has a kernel of ours, nor a convolution to fuse")
    fast = OptimizedModule(captured, receipt)
    difference = _difference(fast, leaves, expected)
    if difference is not None:
        return _swapped(model, dtype, difference)
    return _winner(fast, model, dtype, args, kwargs) if measure else fast


def _winner(
    fast: OptimizedModule, model: nn.Module, dtype: torch.dtype | None, args: Any, kwargs: Any
) -> nn.Module:
    """The optimized network, or a mere copy of the model where that is faster."""
    plain = _unchanged(model, dtype, "")
    with torch.no_grad():
        rivals = [lambda: fast(*args, **kwargs), lambda: plain(*args, **kwargs)]
        ours, torchs = race(rivals, WHOLE_SECONDS)
    if torchs >= MARGIN * ours:
        return fast
    plain.receipt = of_model(  # type: ignore[assignment]
        "torch", f"torch takes {1e3 * torchs:.3g} ms here, the optimized one {1e3 * ours:.3g} ms"
    )
    return plain


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


def _difference(fast: OptimizedModule, leaves: list[Any], expected: Any) -> str | None:
    """Why the optimized module must not stand for the model, None where it may.

    Half of the digits must agree with the model's own results on the examples. In 16 bits few agree
    anyway, and only that it runs is asked.
    """
    try:
        with torch.no_grad():
            actual = fast.graph(*leaves)
    except Exception as error:
        return f"the optimized graph does not run: {error}"
    for result, wanted in zip(actual, pytree.tree_leaves(expected), strict=True):
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


def _swapped(model: nn.Module, dtype: torch.dtype | None, reason: str) -> nn.Module:
    return _by_modules(swap_(copy.deepcopy(model)), dtype, "swapped", reason)


def _unchanged(model: nn.Module, dtype: torch.dtype | None, reason: str) -> nn.Module:
    return _by_modules(copy.deepcopy(model), dtype, "torch", reason)


def _by_modules(body: nn.Module, dtype: torch.dtype | None, kernel: str, reason: str) -> nn.Module:
    """A copy of a model as what optimize returns, where no graph is better."""
    if dtype is not None:
        cast = functools.partial(_cast_inputs, dtype)
        body.to(dtype).register_forward_pre_hook(cast, with_kwargs=True)
    body.receipt = of_model(kernel, reason)  # type: ignore[assignment]
    return body


def _dtype_of(model: nn.Module) -> torch.dtype | None:
    """The dtype of the model's first floating-point parameter, None where it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def _cast_inputs(
    dtype: torch.dtype, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return _cast(dtype, (args, kwargs))


def _cast(dtype: torch.dtype | None, inputs: Any) -> Any:
    def cast(value: Any) -> Any:
        floats = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floats and dtype is not None else value

    return pytree.tree_map(cast, inputs)
