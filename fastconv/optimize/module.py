"""The module that fastconv.optimize returns."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from fastconv.dispatch import state
from fastconv.ops._op import OPS
from fastconv.optimize.arena import Arenas, with_slots
from fastconv.optimize.capture import Captured
from fastconv.optimize.pack import unpack_elsewhere


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

    def __init__(self, captured: Captured, receipt: list[dict[str, Any]]) -> None:
        super().__init__()
        self.lowered = captured.graph
        self.receipt = receipt
        self._inputs = captured.inputs
        self._output_tree = captured.output_tree
        self._one_output = captured.output_tree == pytree.tree_structure(0)
        self._arenas = Arenas()
        self.eval()

    @property
    def graph(self) -> torch.fx.GraphModule:
        """The graph; as a module it is `lowered`, for torch.export calls its own by this name."""
        return self.lowered

    def takes(self, inputs: tuple[Any, ...]) -> bool:
        """Whether a call with these inputs is like the example, but for sizes that are open."""
        try:
            self._inputs.check(inputs, {})
        except RuntimeError:
            return False
        return True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._inputs.bind(args, kwargs)
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            self._inputs.check(args, kwargs)
            outputs = self.graph(*pytree.tree_leaves((args, kwargs)))
        else:
            with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
                outputs = self._run(args, kwargs)
        return outputs[0] if self._one_output else pytree.tree_unflatten(outputs, self._output_tree)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        plain = (
            self._inputs.tensors_only
            and not kwargs
            and all(type(value) is Tensor for value in args)
        )
        leaves = args if plain else pytree.tree_leaves((args, kwargs))
        if state.choosing:
            graph = _ByChoice(self.graph)
            graph.extra_traceback = False  # or an error would name every frame of the capture
            return graph.run(*leaves)
        key = _key(leaves)
        if key not in self._arenas.plans:
            self._inputs.check(args, kwargs)
        return self.graph(*leaves) if key is None else self._arenas.run(self.graph, key, leaves)

    def release_memory(self) -> None:
        """Frees the memory kept for intermediates; the next call takes it anew."""
        self._arenas.release()

    @property
    def memory_kept(self) -> int:
        """Bytes kept for intermediates while no call runs."""
        return sum(arena.block.numel() for arena in self._arenas.free)

    def marked(self, after: Callable[[str], None]) -> "OptimizedModule":
        """A twin on the same weights, in memory of its own, that tells where its calls are.

        It calls after("") when the graph begins, and after with the name of each of its nodes when
        that is computed; not at the first call of a shape, which plans the memory.
        """
        twin = copy.copy(self)
        twin._arenas = Arenas(with_slots(self.graph, after))
        return twin

    def _apply(self, fn: Any, recurse: bool = True) -> "OptimizedModule":
        self._arenas = Arenas()  # planned for the dtype and device that the weights had
        super()._apply(fn, recurse)
        unpack_elsewhere(self.lowered)
        return self

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
