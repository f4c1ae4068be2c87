"""A model is asked questions without a trace: by a copy that shares its weights."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn

_CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def trial_of(model: nn.Module) -> nn.Module:
    """A copy of model with its parameters and without hooks that observe it.

    What a call writes, to buffers, attributes or lists, it writes to the copy. A model that cannot
    be copied stands for itself.
    """
    memo: dict[int, Tensor] = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:  # which deepcopy refuses
                memo[id(value)] = value.detach()
    try:
        trial = copy.deepcopy(model, memo)
    except Exception:
        return model
    for module in trial.modules():
        for name in _CALL_HOOKS:
            hooks = getattr(module, name)
            for key in [key for key, hook in hooks.items() if _observes(hook)]:
                del hooks[key]
    return trial


def observed(model: nn.Module) -> Iterator[str]:
    """The names of modules with hooks that somebody waits for, '' for the model itself."""
    for name, module in model.named_modules():
        hooks = (hook for kind in _CALL_HOOKS for hook in getattr(module, kind).values())
        if any(_observes(hook) for hook in hooks):
            yield name


def _observes(hook: object) -> bool:
    """Not torch's own: weight norm, spectral norm and pruning compute a weight before a call. Not
    ours, which casts."""
    kind = getattr(hook, "__self__", hook)
    return not type(kind).__module__.startswith(("torch.nn.utils.", "fastconv.optimize."))
