"""The network as a whole: in which layout, as modules where no graph is, or as torch's own."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from fastconv.optimize.module import OptimizedModule
from fastconv.optimize.race import race
from fastconv.optimize.receipt import row
from fastconv.optimize.swap import swap_
from fastconv.optimize.trial import trial_of

SECONDS = 1.0  # of a race of the whole network against the model, where it was asked for
SHORT_SECONDS = 0.2  # where it was not: MobileNet v2 is done after one turn
CLEAR = 0.8  # of the model's time: no need to look closer
LOST = 1.05  # times the model's time: what is nearer may be noise


class Example(NamedTuple):
    """The model, what it is called with, and the dtype it is to compute in."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtype: torch.dtype | None

    def call(self, network: nn.Module) -> Callable[[], Any]:
        return lambda: network(*self.args, **self.kwargs)

    @property
    def on_cpu(self) -> bool:
        leaves = pytree.tree_leaves((self.args, self.kwargs, list(self.model.parameters())))
        return all(leaf.is_cpu for leaf in leaves if isinstance(leaf, Tensor))


def never_slower(
    example: Example, plans: Iterator[nn.Module], measure: bool | float | None
) -> nn.Module:
    """The fastest of the plans, or a mere copy of the model where that is faster by far.

    Another plan is looked at only where those before it have not clearly won. What stays has the
    milliseconds of its race in its receipt. With measure None the races are short and end as soon
    as a plan has clearly won; with measure False or 0 there are none, and the first plan stays.
    """
    seconds = SHORT_SECONDS if measure is None else SECONDS * bool(measure)
    if not seconds or not example.on_cpu:
        return next(plans)
    rival = trial_of(example.model) if example.dtype is None else unchanged(example, "")
    found: list[tuple[float, float, nn.Module]] = []
    for plan in plans:
        calls = [example.call(_without_a_trace(plan)), example.call(rival)]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            ours, torchs = race(calls, seconds, CLEAR if measure is None else 0.0)
        found.append((ours / torchs, ours, plan))
        if ours <= CLEAR * torchs:
            break
    ratio, ours, plan = min(found, key=lambda entry: entry[0])
    measured = {"optimized": round(1e3 * ours, 4), "torch": round(1e3 * ours / ratio, 4)}
    if ratio > LOST:
        return unchanged(example, "torch is faster here", measured)
    receipt: Any = plan.receipt
    if isinstance(plan, OptimizedModule):
        receipt.append(row("model", "optimized", measured=measured))
    else:
        receipt[0]["measured"] = measured
    return plan


def swapped(example: Example, measure: bool | float | None, reason: str) -> nn.Module:
    """A copy of the model with its layers swapped, where no graph can stand for it."""
    body = swap_(copy.deepcopy(example.model))
    plan = _by_modules(body, example.dtype, row("model", "swapped", reason=_first_line(reason)))
    return never_slower(example, iter([plan]), measure)


def unchanged(example: Example, reason: str, measured: dict[str, float] | None = None) -> nn.Module:
    """A mere copy of the model."""
    rows = row("model", "torch", reason=reason, measured=measured)
    return _by_modules(copy.deepcopy(example.model), example.dtype, rows)


def cast(dtype: torch.dtype | None, inputs: Any) -> Any:
    """inputs with the floating-point tensors among them in dtype, as they are for None."""

    def one(value: Any) -> Any:
        floats = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floats and dtype is not None else value

    return pytree.tree_map(one, inputs)


class _Cast:
    """The hook that casts what a module is called with."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return cast(self.dtype, (args, kwargs))


def _by_modules(body: nn.Module, dtype: torch.dtype | None, of_model: dict[str, Any]) -> nn.Module:
    """A copy of a model as what optimize returns, where no graph is better."""
    if dtype is not None:
        body.to(dtype).register_forward_pre_hook(_Cast(dtype), with_kwargs=True)
    body.receipt = [of_model]  # type: ignore[assignment]
    return body


def _without_a_trace(plan: nn.Module) -> nn.Module:
    """What a race may call instead of plan: modules may write to themselves."""
    return plan if isinstance(plan, OptimizedModule) else trial_of(plan)


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
