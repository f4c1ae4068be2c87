"""swap_ and restore_: our layers in place of torch's by class replacement, nothing else touched."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

import fastconv.nn as fast
from fastconv import reference
from fastconv.ops.conv2d import is_depthwise, is_pointwise

M = TypeVar("M", bound=nn.Module)

_ORIGINAL = "_fastconv_original_class"


def _replacement(module: nn.Module) -> type[nn.Module] | None:
    if type(module) is nn.Conv2d and module.padding_mode == "zeros":
        weight = tuple(module.weight.shape)
        if is_depthwise(weight, module.groups) or is_pointwise(
            weight, module.groups, module.padding
        ):
            return fast.Conv2d
    if type(module) is nn.LocalResponseNorm:
        return fast.LocalResponseNorm
    if type(module) is reference.ResidualAdd:
        return fast.ResidualAdd
    return None


def swap_(model: M, filter_fn: Callable[[str, nn.Module], bool] | None = None) -> M:
    """Gives model our layers where they have a kernel, in place, for training and inference.

    Only the class of a layer changes: parameters, buffers, hooks, names and state_dict keys stay
    the very same objects, so optimizers and checkpoints go on working. restore_ undoes it.

    Args:
        model: any module; depthwise and 1x1 nn.Conv2d, nn.LocalResponseNorm and the residual
            adds of fastconv.models are swapped.
        filter_fn: called with each candidate's qualified name and module; False leaves it alone.

    Returns:
        model itself.
    """
    for name, module in model.named_modules():
        replacement = _replacement(module)
        if replacement is None or (filter_fn is not None and not filter_fn(name, module)):
            continue
        setattr(module, _ORIGINAL, type(module))
        module.__class__ = replacement
    return model


def restore_(model: M) -> M:
    """Undoes swap_ in place: every swapped layer gets its own class back. Returns model."""
    for module in model.modules():
        if _ORIGINAL in module.__dict__:
            module.__class__ = module.__dict__.pop(_ORIGINAL)
    return model
