"""Which way each region of a graph goes, decided by a race on this machine."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fastconv.optimize.arena import Arenas
from fastconv.optimize.conv import (
    is_conv,
    is_dense_node,
    is_depthwise_node,
    is_pointwise_node,
    is_stem_node,
)
from fastconv.optimize.fuse_blocks import block_ending_in, fuse_blocks
from fastconv.optimize.linear import is_linear, lower_linear
from fastconv.optimize.lower import keep_used_buffers, lower_layers
from fastconv.optimize.passes.pool import is_pool, pool
from fastconv.optimize.race import race

SECONDS = 10.0  # for all regions, if not said: MobileNet v2 has 28 different ones
MARGIN = 0.95  # of the planned way's time: what comes closer may be noise

_SETTINGS = ("stride", "padding", "dilation", "groups", "activation")


class Region(NamedTuple):
    """Nodes that one op may serve, or its parts, or torch; only the last is read from outside."""

    nodes: list[fx.Node]
    convs: list[fx.Node]  # or the one layer of another kind
    ways: tuple[str, ...]  # the first is the planned one


def measure(
    module: fx.GraphModule, leaves: list[Any], dtype: torch.dtype | None, seconds: float
) -> None:
    """Races the ways of each region of a canonical graph and notes the winner in node.meta["way"].

    Regions of the same shapes are raced once, those of the largest outputs first; where the time
    is over, the planned way stays. Of a raced region the last node has the milliseconds of each way
    in meta["measured"].
    """
    end = time.perf_counter() + seconds
    sizes = _Sizes(module).of(leaves)
    regions: dict[Any, list[Region]] = {}
    for region in _regions(module, dtype):
        regions.setdefault(_signature(region, sizes), []).append(region)
    order = sorted(regions.values(), key=lambda alike: -sizes[alike[0].nodes[-1]].numel())
    for i, alike in enumerate(order):
        left = end - time.perf_counter()
        if left <= 0:
            return
        region = alike[0]
        inputs = [_input(node, sizes[node], dtype) for node in _sources(region)]
        rivals = [_prepared(module, region, way, inputs, dtype) for way in region.ways]
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            times = race(rivals, left / (len(order) - i))
        fastest = min(range(len(times)), key=times.__getitem__)
        best = fastest if times[fastest] < MARGIN * times[0] else 0
        measured = {
            way: round(1e3 * spent, 4) for way, spent in zip(region.ways, times, strict=True)
        }
        for each in alike:
            _choose(each, region.ways[best])
            each.nodes[-1].meta["measured"] = measured


def _choose(region: Region, way: str) -> None:
    for conv in region.convs:
        conv.meta["way"] = way


def _regions(module: fx.GraphModule, dtype: torch.dtype | None) -> Iterator[Region]:
    taken: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        block = block_ending_in(module, node, dtype)
        if block is not None:
            nodes = _between(block.convs[0], node)
            taken.update(nodes)
            yield Region(nodes, block.convs, ("block", "parts", "torch"))
        elif node not in taken and _has_kernel(module, node):
            yield Region([node], [node], ("ours", "torch"))


def _has_kernel(module: fx.GraphModule, node: fx.Node) -> bool:
    if is_conv(node):
        kinds = (is_depthwise_node, is_pointwise_node, is_stem_node, is_dense_node)
        return any(kind(node) for kind in kinds)
    return is_pool(node) or is_linear(module, node)


def _between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """The nodes from first to last, in their order; a residual comes from elsewhere."""
    found, open_nodes = {first}, [last]
    while open_nodes:
        node = open_nodes.pop()
        if node not in found:
            found.add(node)
            read = [n for n in node.all_input_nodes if n.op != "get_attr"]
            open_nodes += [n for n in read if n is not node.kwargs.get("residual")]
    return [node for node in first.graph.nodes if node in found]


def _sources(region: Region) -> list[fx.Node]:
    """What a region reads from outside, weights apart."""
    read = (source for node in region.nodes for source in node.all_input_nodes)
    outside = (n for n in read if n not in region.nodes and n.op != "get_attr")
    return list(dict.fromkeys(outside))


class _Sizes(fx.Interpreter):
    """What each node gives, on the meta device, for real inputs."""

    def of(self, leaves: list[Any]) -> dict[fx.Node, Any]:
        self.found: dict[fx.Node, Any] = {}
        with torch.no_grad():
            self.run(*leaves)
        return self.found

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        self.found[node] = result.to("meta") if isinstance(result, Tensor) else result
        return result


def _signature(region: Region, sizes: dict[fx.Node, Any]) -> Any:
    """Equal for regions that take the same time."""
    of_nodes = [
        (str(node.target), *(str(node.kwargs.get(name)) for name in _SETTINGS))
        for node in region.nodes
    ]
    shapes = [
        tuple(sizes[source].shape) for node in region.nodes for source in node.all_input_nodes
    ]
    added = [node.kwargs.get("residual") is not None for node in region.convs]
    given = [[arg for arg in node.args if not isinstance(arg, fx.Node)] for node in region.nodes]
    return str((of_nodes, shapes, added, given))


def _input(node: fx.Node, like: Tensor, dtype: torch.dtype | None) -> Tensor:
    images = node.op != "placeholder" and like.dim() == 4
    layout = torch.channels_last if images else torch.contiguous_format
    return torch.randn(like.shape).to(dtype or like.dtype).contiguous(memory_format=layout)


def _prepared(
    module: fx.GraphModule,
    region: Region,
    way: str,
    inputs: list[Tensor],
    dtype: torch.dtype | None,
) -> Callable[[], Any]:
    """A call of the region alone, lowered in this way, in planned memory as in the network."""
    _choose(region, way)
    graph, copies = fx.Graph(), {}
    for source in _sources(region):
        copies[source] = graph.placeholder(source.name)
        copies[source].meta = dict(source.meta)
    for node in region.nodes:
        for read in node.all_input_nodes:
            if read.op == "get_attr" and read not in copies:
                copies[read] = graph.node_copy(read)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output((copies[region.nodes[-1]],))
    alone = fx.GraphModule(module, graph)
    fuse_blocks(alone, dtype)
    pool(alone)
    lower_linear(alone)
    lower_layers(alone, dtype)
    keep_used_buffers(alone, dtype)
    alone.recompile()
    arenas = Arenas()
    return lambda: arenas.run(alone, "", inputs)
