"""Charges every operation of a run to the module that called it."""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fastconv.cost.figures import LayerCost


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Meter(TorchDispatchMode):
    """Enter it within `flops`, run the model, then take `layers()` and `peak_bytes`."""

    def __init__(self, model: nn.Module, flops: FlopCounterMode) -> None:
        super().__init__()
        self.flops = flops
        self.costs = {
            module: LayerCost(name=name, type=type(module).__name__)
            for name, module in model.named_modules()
        }
        self.order: dict[nn.Module, None] = {}
        self.running = [model]
        self.charged_flops = 0
        self.live_bytes = self.peak_bytes = 0
        self._count_parameters()

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for module in self.costs:
                hooks.callback(module.register_forward_pre_hook(self._enter).remove)
                hooks.callback(module.register_forward_hook(self._leave).remove)
            yield

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        self._charge_flops()
        self.running.append(module)
        self.order[module] = None
        self.costs[module].calls += 1

    def _leave(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self._charge_flops()
        self.running.pop()
        if isinstance(output, Tensor):
            self.costs[module].output_shape = tuple(output.shape)

    def _charge_flops(self) -> None:
        total = self.flops.get_total_flops()
        self.costs[self.running[-1]].multiplications += (total - self.charged_flops) // 2
        self.charged_flops = total

    def hold(self, tensor: Tensor) -> None:
        """Counts the tensor's memory as taken until it is freed."""
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        layer = self.costs[self.running[-1]]
        read, written = tensors((args, kwargs)), tensors(result)
        known = {tensor.untyped_storage()._cdata for tensor in read}
        for tensor in written:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                known.add(storage._cdata)
                layer.activation_bytes += storage.nbytes()
                self.hold(tensor)
        layer.moved_bytes += sum(tensor.nbytes for tensor in (*read, *written))
        return result

    def layers(self) -> list[LayerCost]:
        """One for each module that did work of its own or has parameters of its own."""
        called = list(self.order)
        rest = [module for module in self.costs if module not in self.order]
        leaves = {module for module in called if next(module.children(), None) is None}
        found = []
        for module in (*called, *rest):
            layer = self.costs[module]
            if module in leaves or layer.moved_bytes or layer.parameters:
                found.append(layer)
        return found

    def _count_parameters(self) -> None:
        """Charges each parameter to the first module that has it."""
        seen = set()
        for module, layer in self.costs.items():
            for parameter in module.parameters(recurse=False):
                if parameter not in seen:
                    seen.add(parameter)
                    layer.parameters += parameter.numel()
                    layer.trainable_parameters += parameter.numel() * parameter.requires_grad
                    layer.parameter_bytes += parameter.nbytes
