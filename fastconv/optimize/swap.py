"""swap_ and restore_: our layers in place of torch's by class replacement, nothing else touched."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

import fastconv.nn as fast
from fastconv import reference
from fastconv.ops.conv1d import has_kernel
from fastconv.ops.conv2d import is_depthwise, is_pointwise

M = TypeVar("M", bound=nn.Module)

_CHAIN = nn.Sequential.forward
_ORIGINAL = "_fastconv_original_class"
_DERIVED = "_fastconv_derived_class"
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}


class Absorbed(nn.Module):
    """An activation that the batch norm before it computes: gives its input back.

    It keeps its place, so that names, keys and indices stay what they were.
    """

    def forward(self, input: Tensor) -> Tensor:
        return input


_OURS = (
    fast.Conv1d,
    fast.Conv2d,
    fast.BatchNorm2d,
    fast.LocalResponseNorm,
    fast.ResidualAdd,
    Absorbed,
)


def _own_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, beneath the one that a parametrization puts on top of it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _rebased(kind: type, old: type, new: type) -> type:
    """kind, or new where it is old itself, with old replaced among the classes it derives from.

    Parametrizations and FSDP derive a class from that of a module and give it to the module.
    """
    if kind is old:
        return new
    bases = (_rebased(base, old, new) if issubclass(base, old) else base for base in kind.__bases__)
    members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    return type(kind.__name__, tuple(bases), members)


def _replacement(module: nn.Module) -> type[nn.Module] | None:
    kind = _own_class(module)
    if kind is nn.Conv2d:
        assert isinstance(module, nn.Conv2d)
        if module.padding_mode != "zeros":
            return None
        # Not the weight itself, which a parametrization computes.
        weight = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        if is_depthwise(weight, module.groups) or is_pointwise(
            weight, module.groups, module.padding
        ):
            return fast.Conv2d
    if kind is nn.Conv1d:
        assert isinstance(module, nn.Conv1d)
        weight = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        served = has_kernel(weight, module.groups, module.padding)
        return fast.Conv1d if served and module.padding_mode == "zeros" else None
    if kind is nn.BatchNorm2d and "activation" not in module.__dict__:
        return fast.BatchNorm2d
    if kind is nn.LocalResponseNorm:
        return fast.LocalResponseNorm
    if kind is reference.ResidualAdd:
        return fast.ResidualAdd
    return None


def swap_(model: M, filter_fn: Callable[[str, nn.Module], bool] | None = None) -> M:
    """Gives model our layers where they have a kernel, in place, for training and inference.

    Only the class of a layer changes: parameters, buffers, hooks, names and state_dict keys stay
    the very same objects, so optimizers and checkpoints go on working. restore_ undoes it.
    An activation that follows a batch norm in an nn.Sequential is computed by the batch norm, where
    neither is called from elsewhere or has hooks; the batch norm's own output is then not seen.
    Nor is, where a batch norm follows a 1x1 convolution so, the gradient between the two.

    Args:
        model: any module; depthwise and 1x1 nn.Conv2d and nn.Conv1d, nn.BatchNorm2d,
            nn.LocalResponseNorm and the residual adds of fastconv.models are swapped.
        filter_fn: called with each candidate's qualified name and module; False leaves it alone.

    Returns:
        model itself.

    Raises:
        TypeError: model is no nn.Module.
    """
    _check_module("swap_", model)
    swapped = set()
    for name, module in model.named_modules():
        replacement = _replacement(module)
        if replacement is None or (filter_fn is not None and not filter_fn(name, module)):
            continue
        _replace(module, replacement)
        swapped.add(module)
    for first, second in _private_neighbours(model):
        if type(second) is fast.BatchNorm2d and type(first) is fast.Conv2d and first in swapped:
            first.feeds_norm = first.activation is None
        kind = _ACTIVATIONS.get(type(second))
        if type(first) is fast.BatchNorm2d and first in swapped and kind:
            first.activation = kind
            _replace(second, Absorbed)
    return model


def _check_module(function: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{function}(): argument 'model' must be nn.Module, not {type(model).__name__}"
        )


def _replace(module: nn.Module, replacement: type[nn.Module]) -> None:
    original = _own_class(module)
    before, after = type(module), _rebased(type(module), original, replacement)
    if after is not replacement:  # made for this module, whose very class restore_ gives back
        setattr(after, _DERIVED, before)
    setattr(module, _ORIGINAL, original)
    module.__class__ = after


def _private_neighbours(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Modules of which the second of a chain is sure to take what the first gives, unseen."""
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    places = Counter(modules)

    def private(module: nn.Module) -> bool:
        hooks = (name for name in module.__dict__ if name.endswith("_hooks"))
        of_calls = (name for name in hooks if "state_dict" not in name)
        return places[module] == 1 and not any(module.__dict__[name] for name in of_calls)

    return [
        pair
        for chain in places
        if isinstance(chain, nn.Sequential) and type(chain).forward is _CHAIN
        for pair in pairwise(chain)
        if all(map(private, pair))
    ]


def restore_(model: M) -> M:
    """Undoes swap_ in place: every swapped layer gets its own class back. Returns model.

    Raises TypeError for what is no nn.Module.
    """
    _check_module("restore_", model)
    for module in model.modules():
        if _ORIGINAL in module.__dict__:
            if isinstance(module, fast.BatchNorm2d):
                module.__dict__.pop("activation", None)
            module.__dict__.pop("feeds_norm", None)
            kind, original = type(module), module.__dict__.pop(_ORIGINAL)
            ours = next(base for base in kind.__mro__ if base in _OURS)
            module.__class__ = vars(kind).get(_DERIVED) or _rebased(kind, ours, original)
    return model
