"""What a captured graph takes for granted of its inputs, and the check that a call keeps to it."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

_IMAGES = "NCHW"


class Inputs:
    """The example inputs by their tree, sizes and other values; some sizes are open.

    guards are conditions on the open sizes that the model asked on its way, as torch.export writes
    them: expressions of `L`, the arguments by name.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sizes: Sequence[tuple[int | None, ...] | None],
        guards: Sequence[str],
    ) -> None:
        self.signature = _plain_signature(model)
        self.guards = list(guards)
        self._holds = _compiled(self.guards)
        leaves, self.tree = pytree.tree_flatten((args, kwargs))
        self.expected = [
            leaf if size is None else _named(size) for leaf, size in zip(leaves, sizes, strict=True)
        ]
        self.tensors_only = not kwargs and all(type(value) is Tensor for value in args)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "_holds": None}
        return _restored, (state,)

    def bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the examples were given, whichever of them came by name."""
        return bind(self.signature, args, kwargs) if kwargs else (args, kwargs)

    def guards_broken_by(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
        """The conditions that do not hold for these arguments."""
        arguments = self.signature.bind(*args, **kwargs).arguments
        return [guard for guard in self.guards if not _compiled([guard])(arguments)]

    def without(self, guards: Sequence[str]) -> "Inputs":
        """The same with fewer conditions."""
        return _restored({**self.__dict__, "guards": [g for g in self.guards if g not in guards]})

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises RuntimeError for arguments that are not like the examples."""
        leaves, tree = pytree.tree_flatten((args, kwargs))
        fits = tree == self.tree and all(
            _is_like(leaf, expected) for leaf, expected in zip(leaves, self.expected, strict=True)
        )
        came = [tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if not fits:
            raise RuntimeError(
                f"optimized module: expected inputs like {self.expected}, the example inputs, "
                f"got {came}; call fastconv.optimize again for other sizes or values"
            )
        if self.guards and not self._holds(self.signature.bind(*args, **kwargs).arguments):
            raise RuntimeError(
                f"optimized module: inputs of the sizes {came} take another way through the model "
                f"than the example inputs, which kept to {' and '.join(self.guards)}; call "
                "fastconv.optimize again for them"
            )


def bind(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with as many by position as can be, the others in the order of names."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"forward(): {error}") from None
    return bound.args, dict(sorted(bound.kwargs.items()))


def _restored(state: dict[str, Any]) -> Inputs:
    inputs = Inputs.__new__(Inputs)
    inputs.__dict__.update(state, _holds=_compiled(state["guards"]))
    return inputs


def _plain_signature(model: nn.Module) -> inspect.Signature:
    """The names that model takes, without annotations and defaults, which may not be copied."""
    parameters = inspect.signature(model.forward).parameters.values()
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            parameter.replace(
                annotation=empty, default=empty if parameter.default is empty else None
            )
            for parameter in parameters
        ]
    )


def _compiled(guards: Sequence[str]) -> Callable[[Any], bool]:
    condition = " and ".join(f"({guard})" for guard in guards) or "True"
    return eval(f"lambda L: {condition}", {"math": math})


def _named(size: tuple[int | None, ...]) -> tuple[int | str, ...]:
    names = _IMAGES if len(size) == len(_IMAGES) else "N" + "*" * (len(size) - 1)
    return tuple(name if n is None else n for n, name in zip(size, names, strict=True))


def _is_like(leaf: Any, expected: Any) -> bool:
    if not isinstance(leaf, Tensor):
        return bool(type(leaf) is type(expected) and leaf == expected)
    return (
        isinstance(expected, tuple)
        and leaf.dim() == len(expected)
        and all(
            isinstance(wanted, str) or size == wanted
            for size, wanted in zip(leaf.shape, expected, strict=True)
        )
    )
