"""The backend of torch.compile(model, backend="fastconv").

Inference goes through the passes of :func:`fastconv.optimize`, training and whatever those cannot
take runs the graph as it came, on our functions.
"""

import logging
import weakref
from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._dynamo.backends.registry import lookup_backend

from fastconv import ops
from fastconv.optimize import OptimizedModule, optimize

# Sizes of images that one compiled graph is optimized for; it runs as it came for the others.
MOST_SIZES = 8
MOST_CHANGES = 3  # of the weights; those of a network in training change at every evaluation

_log = logging.getLogger("fastconv")


def backend(
    graph: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """What torch.compile calls with each graph; `options={"then": "inductor"}` compiles the result.

    Without gradients the graph is optimized at its first call, for any batch and for each size of
    images: batch norms are folded and weights packed, as by :func:`fastconv.optimize`. Weights that
    change in place, or are others, are folded again, three times; after that the graph runs as it
    came. A tensor given to `weight.data` is seen; writing into it is not, for nothing counts that.
    Where a gradient is wanted, under autocast and on GPUs the graph runs as it came, on our
    functions where they have a kernel.

    Args:
        graph: of torch's functions, as dynamo captured it.
        example_inputs: its weights and inputs.
        options: `then`, the backend of torch.compile to run the result: 'eager' or another; and
            `winograd`, as in :func:`fastconv.optimize`: True or False.

    Raises:
        RuntimeError: an option is unknown.
    """
    options = {"then": "eager", "winograd": True, **(options or {})}
    if unknown := options.keys() - {"then", "winograd"}:
        wanted = "expected the options 'then' and 'winograd'"
        raise RuntimeError(f"backend 'fastconv': {wanted}, got {sorted(unknown)}")
    _use_our_functions(graph)
    with_gradient = torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in example_inputs
    )
    if with_gradient or any(n.target is torch._C._set_grad_enabled for n in graph.graph.nodes):
        return lookup_backend(options["then"])(graph, list(example_inputs))
    return _Inference(graph, example_inputs, **options)


_OUR_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.conv1d: ops.conv1d,
    torch.conv2d: ops.conv2d,
    F.batch_norm: ops.batch_norm,
    F.local_response_norm: ops.local_response_norm,
}


def _use_our_functions(graph: fx.GraphModule) -> None:
    """Ours in place of torch's for images and sequences, in place; they take the same arguments."""
    for node in graph.graph.nodes:
        value = node.meta.get("example_value")
        rank = 3 if node.target is torch.conv1d else 4
        if node.target in _OUR_FUNCTIONS and isinstance(value, Tensor) and value.dim() == rank:
            node.target = _OUR_FUNCTIONS[node.target]
    graph.recompile()


class _Inference:
    """A graph without gradients, optimized for what it is called with."""

    def __init__(
        self, graph: fx.GraphModule, inputs: Sequence[Any], then: str, winograd: bool
    ) -> None:
        self.graph = graph
        self.then, self.winograd = then, winograd
        placeholders = graph.graph.find_nodes(op="placeholder")
        read = [i for i, node in enumerate(placeholders) if node.users]
        self.weights = [i for i in read if _is_weight(inputs[i])]
        self.numbers = [i for i in read if _is_number(placeholders[i])]
        sizes = _sizes(placeholders)
        self.sizes = {i: sizes[placeholders[i]] for i in read if placeholders[i] in sizes}
        self.images = sorted({*read} - {*self.weights, *self.numbers, *self.sizes})
        self.changes = -1
        self.tries = 0
        self.seen: list[tuple[weakref.ref, tuple[int, int]]] = []
        self.optimized: list[tuple[OptimizedModule, list[float], Callable[..., Any]]] = []
        self.serving: dict[Hashable, Callable[..., Any] | None] = {}
        self.as_it_came = _then(graph, then)

    def __call__(self, *inputs: Any) -> Any:
        if self.changes >= MOST_CHANGES or torch.is_autocast_enabled("cpu"):
            return self.as_it_came(*inputs)
        if not self._has_same_weights(inputs):
            self.changes += 1
            self.tries, self.optimized, self.serving = 0, [], {}
            weights = (inputs[i] for i in self.weights)
            self.seen = [(weakref.ref(weight), _version(weight)) for weight in weights]
            if self.changes == MOST_CHANGES:
                _log.info("the weights of a compiled graph keep changing: they are folded no more")
                return self.as_it_came(*inputs)
        images = tuple(inputs[i] for i in self.images)
        numbers = [inputs[i].item() for i in self.numbers]
        key = *map(_shape, images), *numbers
        if key not in self.serving:
            self.serving[key] = self._find(images, numbers) or self._optimize(inputs, numbers)
        fast = self.serving[key]
        return self.as_it_came(*inputs) if fast is None else fast(*images)

    def _has_same_weights(self, inputs: Sequence[Any]) -> bool:
        if self.changes < 0:
            return False
        for i, (weight, version) in zip(self.weights, self.seen, strict=True):
            if weight() is not inputs[i] or _version(inputs[i]) != version:
                return False
        return True

    def _find(self, images: tuple[Any, ...], numbers: list[float]) -> Callable[..., Any] | None:
        """What was optimized for images that differ from these in nothing but their number."""
        for fast, with_numbers, run in self.optimized:
            if with_numbers == numbers and fast.takes(images):
                return run
        return None

    def _optimize(self, inputs: Sequence[Any], numbers: list[float]) -> Callable[..., Any] | None:
        """The graph for images of these sizes, None where it is to run as it came."""
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        if self.tries == MOST_SIZES or not all(map(_is_plain, tensors)):
            return None
        self.tries += 1
        images = tuple(_copy(inputs[i]) for i in self.images)
        try:
            with torch.random.fork_rng(devices=[]):  # optimize runs the graph once, for its errors
                # What another backend makes of the result is not known here.
                measure = None if self.then == "eager" else False
                settings: Any = {"measure": measure, "winograd": self.winograd}
                fast = optimize(self._bound(inputs, numbers), images, **settings)
        except Exception as error:  # the graph as it came raises the model's own
            _log.info("a compiled graph runs as it came: %s", error)
            return None
        if not isinstance(fast, OptimizedModule) or _outputs(fast.graph) != _outputs(self.graph):
            return None  # more outputs than it has would be what it writes to its inputs
        run = _then(fast, self.then)
        self.optimized.append((fast, numbers, run))
        return run

    def _bound(self, inputs: Sequence[Any], numbers: list[float]) -> nn.Module:
        """The graph as a function of its images, all else held."""
        placeholders = self.graph.graph.find_nodes(op="placeholder")
        graph = fx.Graph()
        held: dict[str, Any] = {}
        new: dict[fx.Node, Any] = dict.fromkeys(placeholders)
        for i in self.images:
            new[placeholders[i]] = graph.placeholder(placeholders[i].name)
        for i in self.weights:
            name = f"weight_{i}"
            held[name] = inputs[i].detach().clone()
            new[placeholders[i]] = graph.get_attr(name)
        for i, number in zip(self.numbers, numbers, strict=True):
            new |= dict.fromkeys(placeholders[i].users, number)
        for i, (image, dim) in self.sizes.items():
            new[placeholders[i]] = graph.call_method("size", (new[image], dim))
        graph.output(graph.graph_copy(self.graph.graph, new))
        graph.eliminate_dead_code()
        for node in graph.nodes:
            if node.op in ("get_attr", "call_module") and node.target not in held:
                held[node.target] = attrgetter(node.target)(self.graph)
        return fx.GraphModule(held, graph).eval()


def _then(module: nn.Module, then: str) -> Callable[..., Any]:
    return module if then == "eager" else torch.compile(module, backend=then)


def _is_weight(value: Any) -> bool:
    return isinstance(value, nn.Parameter) or hasattr(value, "_dynamo_static_input_type")


def _is_number(placeholder: fx.Node) -> bool:
    """Whether it is a float of the model's that dynamo took out of the graph."""
    return all((n.op, n.target) == ("call_method", "item") for n in placeholder.users)


def _is_plain(value: Tensor) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.is_cpu


def _sizes(placeholders: Sequence[fx.Node]) -> dict[fx.Node, tuple[fx.Node, int]]:
    """The placeholders that are open sizes, each with an image and the dimension that has it."""
    places: dict[str, tuple[fx.Node, int]] = {}
    values = {node: node.meta.get("example_value") for node in placeholders}
    for node, value in values.items():
        if isinstance(value, Tensor) and not _is_weight(value):
            for dim, size in enumerate(value.shape):
                places.setdefault(str(size), (node, dim))
    symbols = {n: str(value) for n, value in values.items() if isinstance(value, torch.SymInt)}
    return {node: places[symbol] for node, symbol in symbols.items() if symbol in places}


def _version(weight: Tensor) -> tuple[int, int]:
    """Where a weight lies and how often it was written to; 0.1 us a weight and call."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else value


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _outputs(module: fx.GraphModule) -> int:
    return len(module.graph.output_node().args[0])  # type: ignore[arg-type]
