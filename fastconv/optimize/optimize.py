"""fastconv.optimize: a new module for inference from a model that stays as it is."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from fastconv.dispatch import state
from fastconv.ops._op import OPS
from fastconv.optimize.arena import Arenas
from fastconv.optimize.capture import Captured, capture
from fastconv.optimize.conv import canonicalize
from fastconv.optimize.fuse_blocks import fuse_blocks
from fastconv.optimize.linear import lower_linear
from fastconv.optimize.lower import lower
from fastconv.optimize.passes import (
    absorb_padding,
    drop_identities,
    fold_batch_norm,
    fuse_residual_and_activation,
    pool,
)
from fastconv.optimize.swap import swap_

PASSES = (
    drop_identities,
    canonicalize,
    fold_batch_norm,
    absorb_padding,
    fuse_residual_and_activation,
)


class OptimizedModule(nn.Module):
    """What :func:`optimize` returns: the captured graph on our kernels, for inference only.

    From the second call with inputs of one shape on, what passes from layer to layer lies in memory
    that the module keeps until the next call: no allocation, no page fault. The outputs are new
    memory at every call. Any number of threads may call the module at once, each with memory of its
    own; :meth:`release_memory` gives back what no call is using.

    Attributes:
        receipt: one dictionary a layer: its weight, the kernel that serves it, what was fused in;
            where the model could not be captured, one row that says why.
    """

    def __init__(
        self, captured: Captured, example_inputs: tuple[Any, ...], receipt: list[dict[str, Any]]
    ) -> None:
        super().__init__()
        self.lowered = captured.graph
        self.receipt = receipt
        self._output_tree = captured.output_tree
        self._any_batch = captured.any_batch
        self._expected = self._describe(example_inputs)
        self._tensors_only = all(type(value) is Tensor for value in example_inputs)
        self._one_output = captured.output_tree == pytree.tree_structure(0)
        self._arenas = Arenas()
        self.eval()

    @property
    def graph(self) -> torch.fx.GraphModule:
        """The graph; as a module it has another name, for torch.export uses this one itself."""
        return self.lowered

    def forward(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            self._check(inputs)
            outputs = self.graph(*pytree.tree_leaves(inputs))
        else:
            with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
                outputs = self._run(inputs)
        return outputs[0] if self._one_output else pytree.tree_unflatten(outputs, self._output_tree)

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        plain = self._tensors_only and all(type(value) is Tensor for value in inputs)
        leaves = inputs if plain else pytree.tree_leaves(inputs)
        if state.choosing:
            graph = _ByChoice(self.graph)
            graph.extra_traceback = False  # or an error would name every frame of the capture
            return graph.run(*leaves)
        key = _key(leaves)
        if key not in self._arenas.plans:
            self._check(inputs)
        return self.graph(*leaves) if key is None else self._arenas.run(self.graph, key, leaves)

    def _check(self, inputs: tuple[Any, ...]) -> None:
        if (came := self._describe(inputs)) != self._expected:
            raise RuntimeError(
                f"optimized module: expected inputs like {self._expected[0]}, the example inputs, "
                f"got {came[0]}; call fastconv.optimize again for other sizes or values"
            )

    def takes(self, inputs: tuple[Any, ...]) -> bool:
        """Whether a call with these inputs is like the example, but for a batch that is open."""
        return self._describe(inputs) == self._expected

    def _describe(self, inputs: tuple[Any, ...]) -> tuple[list[Any], pytree.TreeSpec]:
        """What the graph takes for granted of its inputs: sizes, other values, and the tree."""
        leaves, tree = pytree.tree_flatten(inputs)
        return [self._describe_leaf(leaf) for leaf in leaves], tree

    def _describe_leaf(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return ("N", *leaf.shape[1:]) if self._any_batch and leaf.dim() else tuple(leaf.shape)

    def release_memory(self) -> None:
        """Frees the memory kept for intermediates; the next call takes it anew."""
        self._arenas.release()

    @property
    def memory_kept(self) -> int:
        """Bytes kept for intermediates while no call runs."""
        return sum(arena.block.numel() for arena in self._arenas.free)

    def _apply(self, fn: Any, recurse: bool = True) -> "OptimizedModule":
        self._arenas = Arenas()  # planned for the dtype and device that the weights had
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "OptimizedModule":
        if mode:
            raise RuntimeError(
                "an optimized module is for inference only: train the model it was made from, "
                "with fastconv.swap_ for our kernels"
            )
        return super().train(False)


class _ByChoice(torch.fx.Interpreter):
    """Runs a graph with our ops on the backends chosen, which the dispatcher knows nothing of."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        namespace, _, name = str(target).partition(".")
        if namespace == "fastconv":
            return OPS[name.removesuffix(".default")](*args, **kwargs)
        return super().call_function(target, args, kwargs)


def _key(leaves: Sequence[Any]) -> tuple[Any, ...] | None:
    """What the shapes of all intermediates follow from; None where memory is not to be planned.

    That is for anything but plain tensors on the CPU, and while torch watches the ops of a call.
    """
    if torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state():
        return None
    key: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if type(leaf) not in (Tensor, nn.Parameter) or not leaf.is_cpu:
                return None
            key += (leaf.shape, leaf.stride(), leaf.dtype)
        elif isinstance(leaf, (int, float, str, type(None))):
            key += (type(leaf), leaf)
        else:
            return None
    return tuple(key)


class _OnFirstCall(nn.Module):
    """Optimizes its model for the inputs of the first call."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.optimized: nn.Module | None = None

    def forward(self, *inputs: Any) -> Any:
        if self.optimized is None:
            self.optimized = optimize(self.model, inputs, self.dtype)
        return self.optimized(*inputs)

    @property
    def receipt(self) -> list[dict[str, Any]]:
        return [] if self.optimized is None else self.optimized.receipt  # type: ignore


def optimize(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A new module that computes what model computes at inference, on our kernels.

    The model is captured by torch.export; batch norms are folded, activations, residual adds and
    zero padding fused into the convolutions, chains of them into blocks, weights packed, and one
    layout (channels_last) kept from end to end. The model itself is not changed and shares no
    weights with the result.

    Args:
        model: in eval mode, on the CPU.
        example_inputs: the tuple of its positional arguments (a lone tensor may stand for a tuple
            of one). The batch may differ at a call, the other sizes may not. None: those of the
            first call.
        dtype: float32, bfloat16, ...: computes in it and takes inputs of any float dtype; None
            keeps the model's own.

    Returns:
        An :class:`OptimizedModule`. A model that torch.export cannot capture comes back as a copy
        with its layers swapped (:func:`fastconv.swap_`), and the receipt says why.

    Raises:
        TypeError: model is no nn.Module or dtype no floating-point dtype.
        RuntimeError: model is in training mode.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"optimize(): argument 'model' must be nn.Module, not {type(model).__name__}"
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"optimize(): argument 'dtype' must be a floating-point dtype, got {dtype}")
    if any(module.training for module in model.modules()):
        raise RuntimeError("optimize(): expected a model in eval mode; call model.eval() first")
    if example_inputs is None:
        return _OnFirstCall(model, dtype)
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    if dtype is not None:
        example_inputs = _cast_inputs(_dtype_of(model), model, example_inputs)
    with torch.no_grad():
        model(*example_inputs)  # an error of the model's own is raised as the model raises it
    try:
        captured = capture(model, example_inputs)
    except Exception as error:  # export names no common base for what it cannot capture
        return _swapped(model, dtype, error)
    for transform in PASSES:
        transform(captured.graph)
    fuse_blocks(captured.graph, dtype)
    pool(captured.graph)
    lower_linear(captured.graph)
    return OptimizedModule(captured, example_inputs, lower(captured.graph, dtype))


def _swapped(model: nn.Module, dtype: torch.dtype | None, error: Exception) -> nn.Module:
    reason = f"torch.export could not capture the model: {error}".splitlines()[0]
    body = swap_(copy.deepcopy(model))
    if dtype is not None:
        body.to(dtype).register_forward_pre_hook(functools.partial(_cast_inputs, dtype))
    body.receipt = [{"layer": "model", "kernel": "swapped", "reason": reason}]  # type: ignore
    return body


def _dtype_of(model: nn.Module) -> torch.dtype | None:
    """The dtype of the model's first floating-point parameter, None where it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def _cast_inputs(
    dtype: torch.dtype | None, _module: nn.Module, inputs: tuple[Any, ...]
) -> tuple[Any, ...]:
    def cast(value: Any) -> Any:
        floats = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floats and dtype is not None else value

    return pytree.tree_map(cast, inputs)
