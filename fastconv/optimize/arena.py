"""Runs an optimized graph with its intermediates in memory that was planned for their shapes."""

import functools
import operator
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fastconv import _C
from fastconv.ops._op import OPS
from fastconv.optimize.conv import arguments_of
from fastconv.optimize.join import joined, runs
from fastconv.optimize.plan_memory import Life, lives, place

aten = torch.ops.aten

MOST_PLANS = 16  # of as many input shapes; the oldest goes, and is made again when needed

# Torch's own ops that write large intermediates of the networks here and come with out=.
_TORCH_OPS = (
    aten.add.Tensor,
    aten.cat.default,
    aten.mul.Tensor,
    aten.relu.default,
    aten.silu.default,
)
_COPIES = (aten.contiguous.default, aten.to.dtype)  # or the input itself, where it fits already


class Slot(NamedTuple):
    """One intermediate in the block: where it begins, in bytes, and what it is."""

    offset: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def of(self, block: Tensor) -> Tensor:
        whole = block[self.offset :].view(self.dtype)
        return whole.as_strided(self.shape, self.stride)


class Plan(NamedTuple):
    """The slots of the intermediates, None for one that takes no memory, and all bytes."""

    slots: list[Slot | None]
    bytes: int


class Arena:
    """A block of memory for one call at a time, and the tensors of each plan in it."""

    def __init__(self, size: int) -> None:
        self.block = torch.empty(size, dtype=torch.uint8)
        _C.advise_huge_pages(self.block.data_ptr(), size)
        self.tensors: dict[Hashable, list[Tensor | None]] = {}

    def tensors_of(self, key: Hashable, plan: Plan) -> list[Tensor | None]:
        if key not in self.tensors:
            # Not inference tensors, which calls outside of inference mode could not write to.
            with torch.inference_mode(False), torch.no_grad():
                views = [slot and slot.of(self.block) for slot in plan.slots]
            self.tensors = {key: views, **dict(list(self.tensors.items())[: MOST_PLANS - 1])}
        return self.tensors[key]


class Arenas:
    """The plans of a graph and the arenas that no call is using: as many as calls ran at once.

    Nothing here is locked: lists and dictionaries are replaced or changed by one operation, so any
    number of threads may run the graph, and a process may fork while they do. Copies and pickles
    start empty.
    """

    def __init__(self, code: tuple[Callable[..., Any], dict[fx.Node, Life]] | None = None) -> None:
        self.plans: dict[Hashable, Plan | None] = {}
        self.free: list[Arena] = []
        self._code = code

    def __reduce__(self) -> tuple[type, tuple]:
        return Arenas, ()

    def release(self) -> None:
        self.free = []

    def run(self, graph: fx.GraphModule, key: Hashable, leaves: Sequence[Any]) -> Any:
        """graph(*leaves), for leaves that key tells apart from others in shape, stride and dtype.

        The first call with a key takes memory as it comes and plans it for the others.
        """
        if key not in self.plans:
            return self._first_run(graph, key, leaves)
        plan = self.plans.get(key)
        if plan is None or self._code is None:
            return graph(*leaves)
        free = self.free
        try:
            arena = free.pop()
        except IndexError:
            arena = Arena(plan.bytes)
        if arena.block.numel() < plan.bytes:
            arena = Arena(plan.bytes)
        try:
            return self._code[0](graph, *leaves, graph._buffers, arena.tensors_of(key, plan))
        finally:
            free.append(arena)

    def _first_run(self, graph: fx.GraphModule, key: Hashable, leaves: Sequence[Any]) -> Any:
        self._code = self._code or with_slots(graph)
        recorder = _Recorder(graph, self._code[1])
        outputs = recorder.run(*leaves)
        kept = list(self.plans.items())[1 - MOST_PLANS :]
        self.plans = {**dict(kept), key: recorder.plan()}
        return outputs


def with_slots(
    module: fx.GraphModule, after: Callable[[str], None] | None = None
) -> tuple[Callable[..., Any], dict[fx.Node, Life]]:
    """The graph as a function of (module, *inputs, buffers, slots); the node and life of each slot.

    It reads weights from the dictionary of buffers, 0.3 us less than from an attribute each, and
    joins calls of ours that follow one another; but with `after` it makes each of them alone, and
    calls that with "" when it begins and with the name of each node that it has computed.
    """
    writers = {node: writer for node in module.graph.nodes if (writer := _writer(node))}
    owners = lives(module.graph, writers)
    slot_of = {node: index for index, node in enumerate(owners)}
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node in inputs:
        copies[node] = graph.node_copy(node)
    buffers, slots = graph.placeholder("buffers"), graph.placeholder("slots")
    if after is not None:
        graph.call_function(after, ("",))
    run_of = {} if after else {node: run for run in runs(module.graph, owners) for node in run}
    for node in module.graph.nodes:
        run = run_of.get(node, [])
        if node.op == "get_attr" and node.target in module._buffers:
            if not all(user in run_of for user in node.users):
                copies[node] = graph.call_function(operator.getitem, (buffers, node.target))
        elif run:
            if node in owners:
                copies[node] = graph.call_function(operator.getitem, (slots, slot_of[node]))
            if node is run[-1]:
                call, given = joined(run, module._buffers)
                results = [copies[member] for member in run if member in owners]
                values = [copies[source] for source in given]
                result = graph.call_function(call, (buffers, results, *values))
                copies.setdefault(node, result)
        elif node in owners:
            slot = graph.call_function(operator.getitem, (slots, slot_of[node]))
            full = _in_full(node) if _is_ours(node.target) else (node.args, node.kwargs)
            args, kwargs = fx.map_arg(full, copies.__getitem__)
            copies[node] = graph.call_function(writers[node], args, {**kwargs, "out": slot})
        elif node.op != "placeholder":
            copies[node] = graph.node_copy(node, copies.__getitem__)
        if after is not None and node.op.startswith("call"):
            graph.call_function(after, (node.name,))
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(_BY_ATTRIBUTES.sub(functools.partial(_by_name, scope), code.src), scope)
    return scope["forward"], owners


_BY_ATTRIBUTES = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)\(")


def _by_name(scope: dict[str, Any], call: re.Match[str]) -> str:
    """The call by a global, put into scope, instead of by four attributes: 0.5 us less a call.

    Ours go round the dispatcher (csrc/ops/direct.h), for 1.3 us of the 4.3 that it takes.
    """
    name = "_".join(call.groups())
    namespace, op, overload = call.groups()
    if namespace == "fastconv" and overload == "out":
        scope[name] = OPS[op].direct
    else:
        scope[name] = operator.attrgetter(".".join(call.groups()))(torch.ops)._op
    return f"{name}("


def _in_full(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an op of ours by place, defaults too, as direct calls want them."""
    return tuple(arguments_of(node).values()), {}


def _is_ours(op: Any) -> bool:
    return isinstance(op, torch._ops.OpOverload) and op.namespace == "fastconv"


def _writer(node: fx.Node) -> Callable[..., Any] | None:
    """What computes a node into a tensor given as out, None where there is no such function."""
    op: Any = node.target
    if op in _COPIES:
        return _contiguous if op is aten.contiguous.default else _to
    if not _is_ours(op) and op not in _TORCH_OPS:
        return None
    return getattr(op.overloadpacket, "out", None)


def _contiguous(input: Tensor, *, memory_format: Any = torch.contiguous_format, out: Any) -> Tensor:
    return input.contiguous(memory_format=memory_format) if out is None else out.copy_(input)


def _to(input: Tensor, dtype: torch.dtype, *, out: Any) -> Tensor:
    return input.to(dtype) if out is None else out.copy_(input)


class _Recorder(fx.Interpreter):
    """Runs a graph and notes what the nodes that get a slot gave."""

    def __init__(self, module: fx.GraphModule, owners: dict[fx.Node, Life]) -> None:
        super().__init__(module)
        self.owners = owners
        self.results: dict[fx.Node, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        passed_on = node.target in _COPIES and result is self.env[node.all_input_nodes[0]]
        if node in self.owners and not passed_on:
            self.results[node] = torch.empty_strided(
                result.shape, result.stride(), dtype=result.dtype, device="meta"
            )
        return result

    def plan(self) -> Plan | None:
        """None where an intermediate is not dense, which none of the ops here gives."""
        results = self.results
        if not all(_is_dense(result) for result in results.values()):
            return None
        sizes = [result.numel() * result.element_size() for result in results.values()]
        offsets, size = place(sizes, [self.owners[node] for node in results])
        slots = {
            node: Slot(offset, result.shape, result.stride(), result.dtype)
            for (node, result), offset in zip(results.items(), offsets, strict=True)
        }
        return Plan([slots.get(node) for node in self.owners], size)


def _is_dense(t: Tensor) -> bool:
    reach = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.numel() in (0, reach + 1)
